"""conf/gpu without a GPU: every value in it is read, and everything that is trained trains with it for two steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from tests.pipelines.test_budgets import CONF, read
from wm_pipelines.errors import UserError, validate
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.fitting import Assignment, fit_variant
from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines.checks import check_accelerator
from wm_pipelines.registry import families, tasks
from wm_pipelines.worlds.making import WorldConfig, ingest

GPU = CONF / "gpu"
OWN = sorted(path.stem.removeprefix("parameters_") for path in GPU.glob("parameters_*.yml"))
LISTS = deep_merge(*(yaml.safe_load((CONF / name / "globals.yml").read_text())["tasks"] for name in ("base", "gpu")))
FEW = {"schedule": {"steps": 2, "warmup": 1, "batch_size": 4}}


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for name, own in tree.items() for leaf in leaves(own, (*path, name))]


def value_at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def changed(value: Any) -> Any:
    """Another value that may stand in its place."""
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]]
    return value * 2 if isinstance(value, int) else value / 2


def configurations(parameters: FamilyParameters, family: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(task, world, variant) -> settings, of all that are listed."""
    return {
        (task, world, variant): parameters.resolve(task, variant, world)
        for task, listed in LISTS.items()
        if family in listed["families"]
        for world in listed["worlds"]
        for variant in parameters.variants_for(task, world)
    }


@pytest.mark.parametrize("family", OWN)
def test_every_value_decides_something(family):
    base = yaml.safe_load((CONF / f"base/parameters_{family}.yml").read_text())[family]
    gpu = yaml.safe_load((GPU / f"parameters_{family}.yml").read_text())[family]
    stands = configurations(FamilyParameters(**deep_merge(base, gpu)), family)
    for own in stands.values():
        validate(families.get(family).Config, own, family)  # which refuses names that it does not know
    unread = []
    for path in leaves(gpu):
        other: Any = changed(value_at(gpu, path))
        for name in reversed(path):
            other = {name: other}
        moved = configurations(FamilyParameters(**deep_merge(deep_merge(base, gpu), other)), family)
        unread += [".".join(path)] if moved == stands else []
    assert unread == []


def test_there_is_nothing_but_what_was_looked_at():
    assert {path.name for path in GPU.iterdir()} == {"globals.yml", *(f"parameters_{name}.yml" for name in OWN)}
    assert {path[1] for path in leaves(yaml.safe_load((GPU / "globals.yml").read_text())["tasks"], ("tasks",))} == set(
        tasks.names()
    )
    for name in OWN:
        assert list(yaml.safe_load((GPU / f"parameters_{name}.yml").read_text())) == [name]


@cache
def training_episodes(world: str) -> Any:
    """A few episodes of a world, of its own sizes."""
    entry = yaml.safe_load((CONF / f"base/parameters_{world}.yml").read_text())[world]
    smoke = CONF / f"smoke/parameters_{world}.yml"
    entry = deep_merge(entry, yaml.safe_load(smoke.read_text())[world] if smoke.exists() else {})
    if "splits" in entry:
        entry["splits"] = {name: {**entry["splits"][name], "episodes": 4} for name in ("train", "test")}
    return ingest(validate(WorldConfig, entry, world), world)["train"]


def settings(family: str) -> FamilyParameters:
    """Of the environment gpu; where that says nothing of a family, of sizes that are quickly trained."""
    return read(family, "base", "gpu" if family in OWN else "smoke")


PAIRS = [
    (task, family)
    for task, listed in LISTS.items()
    for family in listed["families"]
    if "schedule" in families.get(family).Config.model_fields
]


def configured(task: str, family: str) -> Iterator[tuple[Assignment, str, dict[str, Any]]]:
    """Who trains what with which settings: a variant on the first world that it can model, or on all that change it."""
    learning = validate(
        LearningConfig, {**LISTS[task]["learning"], "accelerator": "cpu", "progress": False}, "learning"
    )
    parameters, seen = settings(family), []
    for world in LISTS[task]["worlds"]:
        for variant in parameters.variants_for(task, world):
            resolved = parameters.resolve(task, variant, world)
            what = (variant, resolved if family in OWN else None)
            if what in seen:
                continue
            train = training_episodes(world)
            a = Assignment(task, family, world, tasks.get(task).shows, train, learning, LISTS[task]["seeds"][:2])
            if a.unsuitable(resolved, variant) is None:
                seen.append(what)
                yield a, variant, resolved


@pytest.mark.slow
@pytest.mark.parametrize(("task", "family"), PAIRS)
def test_it_trains(task, family):
    trained = 0
    for assignment, variant, resolved in configured(task, family):
        fitted = fit_variant(assignment, variant, deep_merge(resolved, FEW), None)
        # Closed forms stand at step 0, what a family finishes with after the last one: neither has a loss.
        steps = fitted.curve[fitted.curve["step"].between(1, FEW["schedule"]["steps"])]
        assert steps["loss"].map(math.isfinite).all() if "loss" in steps else True
        trained += 1
    assert trained


def test_learning_is_as_the_file_says():
    told = yaml.safe_load((GPU / "globals.yml").read_text())
    for task, own in told["tasks"].items():
        learning = validate(LearningConfig, LISTS[task]["learning"], task).model_dump()
        assert own["learning"].items() <= learning.items()
        assert LISTS[task]["seeds"] == own["seeds"] == [0, 1, 2, 3, 4]
        assert learning["precision"] == {"physics": "64-true", "fields": "64-true", "control": "32-true"}.get(
            task, "bf16-mixed"
        )


def test_without_a_gpu_it_is_one_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="this machine has no 'cuda'"):
        check_accelerator(LearningConfig(**LISTS["images"]["learning"]), "images")
