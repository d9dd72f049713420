"""How training runs, and what is trained: parameters that every family has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings, deep_merge


class LearningConfig(Settings):
    """The ``learning`` parameters of a task, the same for every family.

    `workers` are processes of this machine; those of several machines are started by `torchrun`, whose environment
    then tells how many there are.

    The number of threads is part of the configuration and not of the machine, because sums over several threads round
    differently: with one thread the same seed gives the same bits on 2 cores and on 64.
    """

    accelerator: Literal["cpu", "cuda", "gpu", "mps", "auto"] = "cpu"
    strategy: str = Field("auto", description="Lightning Fabric strategy of several workers: auto, ddp, fsdp …")
    workers: int = Field(1, ge=1, description="processes of this machine that share every batch of one training")
    precision: Literal["64-true", "32-true", "bf16-mixed", "16-mixed"] = "64-true"
    threads: int = Field(1, ge=1, description="CPU threads of one training")
    checkpoint_every: int = Field(500, ge=1, description="optimiser steps between two checkpoints")
    log_every: int = Field(50, ge=1, description="optimiser steps between two points of the learning curve")
    resume: bool = Field(True, description="go on from a checkpoint of the very same training, if there is one")
    progress: bool = Field(True, description="show steps/s, time left and loss")


class Resources(Settings):
    """What a node asks of the machine that Ray runs it on."""

    num_cpus: float = Field(1.0, ge=0, allow_inf_nan=False)
    num_gpus: float = Field(0.0, ge=0, allow_inf_nan=False, description="a part of one is shared with others")
    resources: dict[str, float] = Field(default_factory=dict, description="of machines that declare such of their own")


class RayConfig(Settings):
    """The parameters ``ray``, of `wm_pipelines.runners.RayRunner`."""

    resources: dict[str, Resources] = Field(
        default_factory=dict, description="by a tag of the nodes (train, a world, a family); the last that fits counts"
    )
    retries: int = Field(3, ge=0, description="how often a node is tried again after its worker has died")
    storage: str | None = Field(None, description="URL where machines that share no disk exchange files")

    def asked(self, tags: Collection[str]) -> dict[str, Any]:
        """What a node with such tags asks for."""
        fitting = [own for tag, own in self.resources.items() if tag in tags]
        return (fitting[-1] if fitting else Resources()).model_dump()


class FamilyParameters(BaseModel):
    """One family's parameter file: defaults, and what its variants, single tasks and single worlds change in them.

    ``variants: {plain: {}, structured: {structure: declared}}``, ``tasks: {physics: {context: 1}}``,
    ``worlds: {two_body: {features: 300}}``; everything else is a default of the family's own `Config`.
    """

    model_config = ConfigDict(extra="allow")

    variants: dict[str, dict[str, Any] | None] = Field(default={"plain": {}}, description="null: left out")
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    worlds: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("variants")
    @classmethod
    def _named(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if all(settings is None for settings in variants.values()):
            raise ValueError("a family needs at least one variant that is not null")
        if bad := [name for name in variants if not name.isidentifier()]:
            raise ValueError(f"variant names become file names: letters, digits, underscore only, got {bad}")
        return variants

    @field_validator("tasks", "worlds")
    @classmethod
    def _single(cls, entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, entry in entries.items():
            own = entry.get("variants", {})
            if not isinstance(own, Mapping) or not all(s is None or isinstance(s, Mapping) for s in own.values()):
                raise ValueError(f"{name}.variants: expected settings by variant, got {own!r}")
        return entries

    def resolve(self, task: str, variant: str, world: str) -> dict[str, Any]:
        """The family's configuration for a variant on a world: defaults, then the variant, the task, the world.

        The entry of a task or a world may itself hold ``variants``, for what one variant needs there alone; a variant
        that is null there is not for it (`variants_for`).
        """
        merged: dict[str, Any] = deep_merge(self.model_extra or {}, self.variants[variant] or {})
        for place in (self.tasks.get(task, {}), self.worlds.get(world, {})):
            here = dict(place)
            of_both = here.pop("variants", {}).get(variant) or {}
            merged = deep_merge(deep_merge(merged, here), of_both)
        return merged

    def variants_for(self, task: str, world: str) -> list[str]:
        """The variants that run in a task on a world: all but those that are null, everywhere or there."""
        places = (place.get("variants", {}) for place in (self.tasks.get(task, {}), self.worlds.get(world, {})))
        last = {name: settings for place in places for name, settings in place.items()}
        return [name for name, own in self.variants.items() if own is not None and last.get(name, {}) is not None]

    def places(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Where single settings stand, with their dotted path below the family: for a check of every name."""
        yield "", self.model_extra or {}
        for name, variant in self.variants.items():
            yield f"variants.{name}", variant or {}
        for kind, entries in (("tasks", self.tasks), ("worlds", self.worlds)):
            for name, entry in entries.items():
                yield f"{kind}.{name}", {k: v for k, v in entry.items() if k != "variants"}
                for variant, settings in entry.get("variants", {}).items():
                    yield f"{kind}.{name}.variants.{variant}", settings or {}


def check_seeds(seeds: Any, where: str = "seeds") -> list[int]:
    """Seeds as a list of distinct non-negative integers, or a one-line error."""
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise UserError(f"parameter '{where}': a non-empty list of integers >= 0 (and below 2^63), got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"parameter '{where}': a seed stands there twice: {seeds}")
    return seeds
