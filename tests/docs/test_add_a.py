"""The pages docs/add-a-*.md, taken at their word: their files are all it takes."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.pipelines.conftest import ROOT, Project
from wm_pipelines import families, registry, tasks, worlds
from wm_pipelines.datasets.local import ModelsDataset
from wm_pipelines.mappings import deep_merge

pytestmark = pytest.mark.pipeline

PLACES = {families: registry.families, worlds: registry.worlds, tasks: registry.tasks}
SMALL = {"train": {"episodes": 8, "steps": 20}, "validation": {"episodes": 4, "steps": 20}}
CLIPS = {"frame_size": 16, "splits": {**SMALL, "test": {"episodes": 4, "steps": 24}}}
FLOAT64 = {"seeds": [0, 1], "learning": {"progress": False, "precision": "64-true"}}
FLOAT32 = {"seeds": [0, 1], "learning": {"progress": False, "precision": "32-true"}}


def files_of(page: str) -> dict[str, str]:
    """Files that a page names in bold, with the code block below each."""
    blocks = re.findall(r"^\*\*`([^`]+)`\*\*[^\n]*\n+```\w+\n(.*?)```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    assert blocks
    return dict(blocks)


@contextlib.contextmanager
def added(page: str, folder: Path, listed: dict, **parameters) -> Iterator[Project]:
    """A project with the files of a page; its modules are found beside those of the package for as long as it takes."""
    project, names = Project(folder, env="docs"), []
    for name, text in files_of(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = yaml.safe_load(text) if name.startswith("conf/") else None
        if name == "conf/base/globals.yml":
            path.write_text(yaml.safe_dump(deep_merge(yaml.safe_load(path.read_text()), content)))
        else:
            path.write_text(text)
            names += [path] if path.suffix == ".py" else []
    project.list_only(listed)
    project.configure("parameters.yml", parameters)
    with pytest.MonkeyPatch.context() as patch:
        for package in PLACES:
            patch.setattr(
                package, "__path__", [*package.__path__, str(folder / "src" / package.__name__.replace(".", "/"))]
            )
        try:
            yield project
        finally:
            for path in names:
                module = f"wm_pipelines.{path.parent.name}.{path.stem}"
                sys.modules.pop(module, None)
                for package, known in PLACES.items():
                    vars(package).pop(path.stem, None)
                    known._known.pop(path.stem, None)


def test_the_families_of_the_page_train_and_are_judged(tmp_path):
    listed = {
        "physics": {
            "worlds": ["mass_spring"],
            "families": ["damped_oscillator", "linear_step", "linear_latents"],
            **FLOAT64,
        },
        "videos": {"worlds": ["pendulum_video"], "families": ["linear_latents"], **FLOAT32},
    }
    small = {
        "mass_spring": {"splits": {**SMALL, "test": {"episodes": 4, "steps": 40}}},
        "pendulum_video": CLIPS,
        "linear_latents": {"schedule": {"steps": 20}, "tasks": {"physics": {"schedule": {"steps": 400}}}},
        "videos": {"context": 4, "steps": 4},
        "physics": {"animation_frames": 3, "animation_size": 32},
    }
    with added("add-a-family.md", tmp_path, listed, **small) as project:
        project.run()
        table = project.leaderboard()
        shown = table[["task", "family", "view", "knows"]].drop_duplicates().set_index(["task", "family"])
        assert shown["view"].to_dict() == {
            ("physics", "damped_oscillator"): "states+derivatives",
            ("physics", "linear_step"): "states",
            ("physics", "linear_latents"): "states",
            ("videos", "linear_latents"): "frames",
        }
        assert set(shown["knows"]) == {""}
        # The world has no friction, a mass of 1 kg and a stiffness of 4 N/m, and the family finds that out.
        path = project.data / "06_models/physics/damped_oscillator/mass_spring"
        found = ModelsDataset(filepath=str(path)).load().variants["plain"].tensors
        assert (found["friction"].abs() < 1e-2).all()
        assert (found["stiffness"] - 4).abs().max() < 2e-2
        assert (found["inverse_mass"] - 1).abs().max() < 1e-2
        own = table[(table["task"] == "physics") & (table["split"] == "test")]
        assert own.query("family == 'damped_oscillator' and metric == 'energy_error'")["value"].max() < 0.1
        assert own.query("family == 'linear_step' and metric == 'mse'")["value"].max() < 1e-20  # a linear world
        assert {"mse", "horizon"} <= set(own.query("family == 'linear_latents'")["metric"])
        videos = table[table["task"] == "videos"]
        assert {"mse", "r2_position_probed", "rankme"} <= set(videos["metric"])
        assert {"plain", "plain_untrained"} == set(videos["variant"])


def test_the_worlds_of_the_page_are_simulated_solved_and_drawn(tmp_path):
    listed = {
        "physics": {"worlds": ["tossed_ball"], "families": ["persistence", "oracle", "mlp"], **FLOAT64},
        "fields": {"worlds": ["transport_1d"], "families": ["random_feature_collocation"], **FLOAT64},
    }
    small = {
        "physics": {"animation_frames": 3, "animation_size": 32},
        "mlp": {"schedule": {"steps": 100}},
        "random_feature_collocation": {"features": 200, "steepness": [3.0]},
    }
    with added("add-a-world.md", tmp_path, listed, **small) as project:
        project.run()
        table = project.leaderboard().query("split == 'test'")
        oracle = table.query("family == 'oracle'").set_index("metric")["value"]
        assert oracle["energy_error"].max() < 1e-12
        assert oracle["mse"].max() < 1e-20
        mse = table.query("metric == 'mse' and step == -1").groupby("family")["value"].mean()
        assert mse["mlp"] < mse["persistence"]
        field = table.query("task == 'fields'").set_index("metric")["value"]
        assert field["relative_l2_u"].max() < 5e-3
        assert field["coefficient_covered"].min() == 1
        assert "A ball leaves a height of" in (project.reports / "physics.html").read_text()
        assert "A wave that travels and decays." in (project.reports / "fields.html").read_text()


def test_the_task_of_the_page_runs_from_the_world_to_the_page(tmp_path):
    small = {
        "mass_spring": {"splits": {**SMALL, "test": {"episodes": 4, "steps": 40}}},
        "mlp": {"schedule": {"steps": 20}},
        "hnn": {"variants": {name: {"schedule": {"steps": 10}} for name in ("gradient", "pairs")}},
    }
    with added("add-a-task.md", tmp_path, {}, **small) as project:
        said = project.run("--pipeline=composition_eval").stdout
        table = project.leaderboard()
        assert set(table["task"]) == {"composition"}
        error = table.query("metric == 'composition_error'").groupby("family")["value"].max()
        assert set(error.index) == {"oracle", "mlp", "hnn"}
        assert error["oracle"] < 1e-10
        page = (project.reports / "composition.html").read_text()
        assert "mass_spring" in page
        assert "composition error" in page.lower()
        assert "composition.html" in said
        assert 'href="composition.html"' in (project.reports / "index.html").read_text()


def test_every_code_block_of_the_pages_is_a_file_or_commands():
    for page in ("add-a-family.md", "add-a-world.md", "add-a-task.md"):
        blocks = re.findall(r"```(\w+)\n", (ROOT / "docs" / page).read_text())
        assert len(blocks) == len(files_of(page)), page
