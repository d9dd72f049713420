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
from wm_pipelines.pipelines.configuration import EvaluationConfig, FamilyParameters, VideoEvaluationConfig
from wm_pipelines.pipelines.pixels.nodes import evaluate_videos, train_pixels
from wm_pipelines.worlds.episodes import WorldConfig, ingest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-family.md"
FRICTION, AUTOENCODER = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
PARAMETERS, *_ = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
IMPORTS = """from torch import nn
from wm_pipelines.families import register
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.families.protocol import FamilyConfig
"""


@pytest.fixture
def friction(tmp_path, monkeypatch):
    """The page's file on the families' path, for the time of a test."""
    (tmp_path / "friction.py").write_text(FRICTION)
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
    parameters = FamilyParameters(**yaml.safe_load(PARAMETERS)["friction"])
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


def test_the_family_of_the_page_that_sees_trains_and_is_judged(tmp_path, monkeypatch):
    (tmp_path / "autoencoder.py").write_text(IMPORTS + AUTOENCODER)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    world = WorldConfig(
        world="pendulum",
        step=0.1,
        frame_size=16,
        splits={"train": {"episodes": 12, "steps": 12}, "test": {"episodes": 6, "steps": 12}},
    )
    episodes = ingest(world)
    schedule = {"steps": 200, "batch_size": 8, "learning_rate": 0.01}
    learning = LearningConfig(precision="32-true", progress=False)
    name = {"family_name": "autoencoder", "world_name": "pendulum"}
    try:
        models, curves, cost = train_pixels(
            episodes, FamilyParameters(schedule=schedule), learning, [0, 1], tmp_path, **name
        )
        scores, _ = evaluate_videos(models, episodes, world, cost, VideoEvaluationConfig(resamples=20), **name)
    finally:
        families._REGISTERED.pop("autoencoder", None)
        sys.modules.pop("wm_pipelines.families.autoencoder", None)
    assert curves["loss"].iloc[-1] < 0.5 * curves["loss"].iloc[0]
    assert {"feature_std", "effective_rank", "rankme"} <= set(curves.columns)
    read = scores.query("metric == 'r2_position_probed'").groupby("variant")["value"].min()
    assert read["plain"] > 0.6  # sixteen linear features; guessing the mean gives 0
    assert set(read.index) == {"plain", "plain_untrained"}
