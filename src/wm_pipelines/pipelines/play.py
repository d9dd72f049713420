"""A page on which a person steers learned worlds: ``kedro run --pipeline=play``.

Which worlds and families there are is read from ``parameters_play.yml`` when pipelines are built, as the lists in
``globals.yml`` are; whatever else is said there is a parameter of the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.pipeline import Node, Pipeline
from pydantic import Field

from wm_pipelines.errors import UserError, did_you_mean
from wm_pipelines.mappings import Settings
from wm_pipelines.pipelines.combinations import combinations, stated

TASK = "control"
"""The task whose models are steered, unless an entry says another one."""


class PlayEntry(Settings):
    """One model of a world to be steered."""

    world: str | None = Field(None, description="null: what the entry is called")
    task: str = Field(TASK, description="that the model was trained for")
    family: str
    variant: str
    seed: int = Field(0, ge=0, description="of the model, one of those trained")
    starts: dict[str, list[float]] = Field(min_length=1, description="plant states by name, or episode and row")


class PlayConfig(Settings):
    """The parameters ``play``."""

    worlds: dict[str, PlayEntry | None] = Field(default_factory=dict, description="null: left out")

    @property
    def chosen(self) -> dict[str, PlayEntry]:
        """Those that are not left out."""
        return {world: entry for world, entry in self.worlds.items() if entry is not None}


def create_pipeline(everything: Pipeline) -> Pipeline:
    """``params:<world>`` → ``play_page``: its data, its training (gone on from checkpoints, as in any run), the page.

    Args:
        everything: holds the nodes that make data and models.
    """
    chosen = listed()
    if not chosen:
        return Pipeline([])
    inputs = {"play": "params:play"}
    for name, (task, world, family) in chosen.items():
        inputs |= {f"{name}_models": f"{task}.{family}.{world}_models", f"{name}_episodes": f"{world}_episodes"}
    made_by = {node for task, world, family in chosen.values() for node in _made_by(task, world, family)}
    page = Node(play, inputs=inputs, outputs="play_page", name="page", namespace="play", tags=["play"])
    return Pipeline([*(node for node in everything.nodes if node.name in made_by), page])


def _made_by(task: str, world: str, family: str) -> tuple[str, str]:
    """The nodes that make data and model."""
    return f"{world}.ingest", f"{task}.{family}.train_{world}"


def listed() -> dict[str, tuple[str, str, str]]:
    """Task, world and family of every entry in the parameter files of this environment that are trained there.

    Unreadable ones are left out: what is wrong with them is said by the check of all parameters.
    """
    worlds = stated("play").get("worlds")
    entries = worlds.items() if isinstance(worlds, Mapping) else ()
    found = {
        str(name): (str(entry.get("task", TASK)), str(entry.get("world") or name), str(entry["family"]))
        for name, entry in entries
        if isinstance(entry, Mapping) and "family" in entry
    }
    return {name: of for name, of in found.items() if _trained(*of)}


def _trained(task: str, world: str, family: str) -> bool:
    """Whether the task trains the family on the world in this environment."""
    c = combinations().get(task)
    return c is not None and world in c.worlds and family in c.families


def play(play: PlayConfig, **read: Any) -> str:
    """The page.

    Args:
        play: who is to be steered. read: models (``<entry>_models``) and episodes (``<entry>_episodes``) of each.

    Raises:
        UserError: the model that is asked for was not trained, or see `reporting.play.play_page`.
    """
    from wm_pipelines.laws import world_of
    from wm_pipelines.reporting.play import Playable, play_page
    from wm_pipelines.worlds.base import ControlledWorld

    playables = []
    for name, entry in play.chosen.items():
        if f"{name}_models" not in read:  # not of this environment
            continue
        variants, episodes = read[f"{name}_models"].variants, read[f"{name}_episodes"]
        where = f"parameter 'play.worlds.{name}"
        if entry.variant not in variants:
            near = did_you_mean(entry.variant, list(variants))
            raise UserError(
                f"{where}.variant': '{entry.variant}' was not trained{near}; there is {', '.join(variants)}"
            )
        model = variants[entry.variant]
        if model.card["family"] != entry.family or model.card["world"] != (entry.world or name):
            raise UserError(f"{where}.family': which models are read is said in the parameter files, not by --params")
        count, steps, world = len(episodes["train"]), episodes["train"].spec.rows - 1, world_of(model.spec)
        kept = ("view", "seeds", "data_hash", "fingerprint", "versions")
        playables.append(
            Playable(
                model.restore(),
                world,
                entry.variant,
                entry.seed,
                entry.starts,
                f"{count:,} episodes of {steps:,} steps",
                {fact: model.card[fact] for fact in kept},
                name.replace("_", " "),
                None if isinstance(world, ControlledWorld) else episodes["test"],
            )
        )
    return play_page(playables)
