"""Replications: every seed draws the data anew, and the table says how far apart the draws are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.conftest import Project
from wm_pipelines.errors import UserError
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.pipelines.replication import ReplicationConfig, over_draws, replicate
from wm_pipelines.worlds.making import WorldConfig, ingest

WORLD = {
    "world": "mass_spring",
    "step": 0.1,
    "splits": {name: {"episodes": 4, "steps": 20} for name in ("train", "test")},
}
NAMES = {"task_name": "physics", "family_name": "mlp", "world_name": "mass_spring"}
QUIET = LearningConfig(progress=False)


def drawn(tmp_path, first_seed, world=WORLD):
    family = FamilyParameters(schedule={"steps": 5, "batch_size": 16})
    replication = ReplicationConfig(draws=2, first_seed=first_seed)
    return replicate(WorldConfig(**world), family, QUIET, {"asked_episodes": 0}, replication, tmp_path, **NAMES)


def test_every_draw_has_its_own_episodes_and_weights_and_is_the_same_alone(tmp_path):
    both, one = drawn(tmp_path / "a", 3), drawn(tmp_path / "b", 4)
    measured = ["train_seconds", "step_ms", "peak_memory_mb"]
    values = [rows[(rows["seed"] == 4) & ~rows["metric"].isin(measured)].reset_index(drop=True) for rows in (both, one)]
    pd.testing.assert_frame_equal(*values)
    mse = both[(both["metric"] == "mse") & (both["step"] < 0)].set_index("seed")["value"]
    assert mse[3] != mse[4]
    hashes = [ingest(WorldConfig(**WORLD, seed=seed), "mass_spring")["train"].content_hash for seed in (3, 4)]
    assert hashes[0] != hashes[1]


def test_one_draw_is_no_replication_and_files_are_one_draw(tmp_path):
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        ReplicationConfig(draws=1)
    with pytest.raises(UserError, match="one draw of the data"):
        drawn(tmp_path, 1, {**WORLD, "paper_files": "somewhere"})


def test_median_and_range_are_over_draws():
    same = {"task": "physics", "world": "w", "family": "f", "variant": "v", "view": "states", "knows": ""}
    rows = [
        {**same, "split": "test", "metric": metric, "step": -1, "unit": "s", "seed": seed, "value": value}
        for metric, values in {"horizon": (1.0, 4.0, 2.0), "mse": (1.0, np.inf, 3.0)}.items()
        for seed, value in enumerate(values)
    ]
    table = over_draws(pd.DataFrame(rows)).set_index("metric")
    assert table.loc["horizon", ["median", "lowest", "highest", "draws"]].tolist() == [2.0, 1.0, 4.0, 3]
    assert table.loc["mse", ["median", "lowest", "highest", "draws"]].tolist() == [3.0, 1.0, np.inf, 3]


@pytest.mark.pipeline
def test_the_pipeline_writes_the_table_of_all_families_and_worlds(project: Project):
    project.list_only({"physics": {"worlds": ["mass_spring"], "families": ["persistence", "mlp"]}})
    done = project.run("--pipeline=replication", "--params=replication.draws=2")
    table = pd.read_csv(project.reports / "replications.csv")
    assert set(table["family"]) == {"persistence", "mlp"}
    assert set(table["draws"]) == {2}
    assert (table["lowest"] <= table["median"]).all()
    assert (table["median"] <= table["highest"]).all()
    assert "of 2 draws of data and weights" in done.output
    assert "replication.draws" in project.error_of("--pipeline=replication", "--params=replication.draws=1")


def test_files_of_which_there_is_one_draw_are_refused(tmp_path):
    time = 0.1 * np.arange(20)
    runs = [pd.DataFrame({"run": k, "t": time, "x": np.cos(time + k), "p": -np.sin(time + k)}) for k in range(4)]
    pd.concat(runs).to_csv(tmp_path / "table.csv", index=False)
    columns = {
        "episode": "run",
        "time": {"column": "t", "unit": "s"},
        "coordinates": [{"column": "x", "unit": "m"}],
        "momenta": [{"column": "p", "unit": "kg*m/s"}],
    }
    splits = {"train": [0, 1], "validation": [2], "test": [3]}
    parameters = {"path": str(tmp_path / "table.csv"), "columns": columns, "splits": splits}
    with pytest.raises(UserError, match="one draw"):
        drawn(tmp_path, 0, {"world": "table", "parameters": parameters})
