"""The page docs/add-a-family.md, taken at its word: its file and its parameters are all it takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from wm_pipelines import families
from wm_pipelines.datasets.local import ModelsDataset
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.pipelines import combinations as lists
from wm_pipelines.pipelines import evaluation, training
from wm_pipelines.pipelines.configuration import EvaluationConfig, FamilyParameters
from wm_pipelines.worlds.episodes import WorldConfig, ingest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-family.md"
BLOCKS = dict(re.findall(r"```(python|yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture
def friction(tmp_path, monkeypatch):
    """The page's file on the families' path, for the time of a test."""
    (tmp_path / "friction.py").write_text(BLOCKS["python"])
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setattr(lists, "_environment", {"conf_source": tmp_path, "env": "local"})
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "globals.yml").write_text("worlds: [mass_spring]\nfamilies: [friction]\n")
    yield
    families._REGISTERED.pop("friction", None)
    sys.modules.pop("wm_pipelines.families.friction", None)


def test_the_family_of_the_page_trains_and_is_judged(friction, tmp_path):
    world = WorldConfig(
        world="mass_spring",
        step=0.1,
        splits={"train": {"episodes": 10, "steps": 20}, "test": {"episodes": 5, "steps": 50}},
    )
    parameters = FamilyParameters(**yaml.safe_load(BLOCKS["yaml"])["friction"])
    pipeline: Pipeline = training.create_pipeline() + evaluation.create_pipeline().only_nodes(
        "friction.evaluate_mass_spring"
    )
    catalog = DataCatalog(
        {
            "mass_spring_episodes": MemoryDataset(ingest(world), copy_mode="assign"),
            "params:mass_spring": MemoryDataset(world),
            "params:friction": MemoryDataset(parameters),
            "params:learning": MemoryDataset(LearningConfig(progress=False)),
            "params:evaluation": MemoryDataset(EvaluationConfig()),
            "params:seeds": MemoryDataset([0, 1]),
            "checkpoints": MemoryDataset(tmp_path),
            "friction.mass_spring_models": ModelsDataset(filepath=str(tmp_path / "models")),
        }
    )
    results = SequentialRunner().run(pipeline, catalog)
    scores = results["friction.mass_spring_scores"].load()
    assert set(scores["seed"]) == {0, 1}
    # The world has no friction, and the family finds that out.
    learned = catalog["friction.mass_spring_models"].load().variants["plain"].tensors["c"]
    assert learned.abs().max() < 1e-3
    assert scores.query("metric == 'energy_error'")["value"].max() < 1e-3
