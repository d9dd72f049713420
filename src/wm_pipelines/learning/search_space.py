"""What a search for parameters may vary: dimensions, and the configuration of a study, checked before it begins."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from pydantic import BaseModel, Field, field_validator, model_validator

from wm_pipelines.errors import UserError, validate
from wm_pipelines.mappings import Settings, deep_merge, nested

logger = logging.getLogger(__name__)

Parameters = Mapping[str, Any]


class Dimension(Settings):
    """One parameter of the search space."""

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(None, gt=0)
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Dimension:
        if self.type == "categorical":
            if not self.choices or self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("a categorical parameter takes a non-empty list `choices` and nothing else")
            return self
        if self.choices is not None or self.low is None or self.high is None:
            raise ValueError(f"type {self.type} takes `low` and `high`, and no `choices`")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: true needs low > 0 and no step")
        if self.type == "int" and any(v is not None and v != int(v) for v in (self.low, self.high, self.step)):
            raise ValueError("type int takes whole numbers")
        return self

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Draw a value."""
        if self.choices is not None:
            # Optuna keeps scalars only; a list or a mapping travels as JSON.
            kept = {_scalar(choice): choice for choice in self.choices}
            return kept[trial.suggest_categorical(name, list(kept))]
        assert self.low is not None
        assert self.high is not None
        if self.type == "int":
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the value lies in the range, or is one of the choices."""
        if self.choices is not None:
            return _scalar(value) in [_scalar(choice) for choice in self.choices]
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high

    def examples(self) -> list[Any]:
        """Values at the edges of the range, or all choices: what a family must accept."""
        if self.type == "categorical":
            return list(self.choices or [])
        return [int(v) if self.type == "int" else v for v in (self.low, self.high) if v is not None]


def _scalar(choice: Any) -> Any:
    """A choice as Optuna keeps it."""
    return json.dumps(choice, sort_keys=True) if isinstance(choice, list | dict) else choice


class TuningConfig(Settings):
    """The ``tuning`` parameters of one study."""

    family: str
    world: str
    variant: str = "plain"
    metric: str = "energy_error"
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: int = Field(20, ge=1, description="trials that end well or are pruned, over all runs together")
    processes: int = Field(1, ge=1, description="of this machine, that work on the study")
    storage: Path | None = Field(
        None, description="folder on a disk that several machines share, to work on one study; null: this machine alone"
    )
    sampler: Literal["tpe", "random", "cmaes"] = "tpe"
    pruner: Literal["none", "median", "hyperband"] = "none"
    seed: int = Field(0, ge=0)
    timeout: float | None = Field(None, gt=0, description="seconds after which no trial is begun")
    space: dict[str, Dimension] = Field(min_length=1)

    @field_validator("sampler")
    @classmethod
    def _installed(cls, sampler: str) -> str:
        if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
            raise ValueError("cmaes needs the package 'cmaes': pip install cmaes, or use tpe")
        return sampler

    @field_validator("space")
    @classmethod
    def _names(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        for name in space:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"'{name}' is not a dotted parameter name such as schedule.learning_rate")
            if clash := [other for other in space if other.startswith(f"{name}.")]:
                raise ValueError(f"'{name}' contains '{clash[0]}': search one of the two")
        return space

    @property
    def study_name(self) -> str:
        """Name of the study inside its storage."""
        return f"{self.family}/{self.world}/{self.variant}/{self.metric}"

    @property
    def shared(self) -> bool:
        """Whether others may be at work on the study at the same time."""
        return self.processes > 1 or self.storage is not None

    def place(self, folder: Path) -> Path:
        """The study's file: in this folder, or on the disk that machines share."""
        name = self.study_name.replace("/", ".")
        return folder / f"{name}.db" if self.storage is None else self.storage / f"{name}.journal"

    def fingerprint(self, context: str) -> str:
        """What may not change between two runs of one study (where it lies, who works on it and how long may)."""
        fixed = self.model_dump(mode="json", exclude={"trials", "processes", "timeout", "storage"})
        return json.dumps({**fixed, "context": context}, sort_keys=True)


def tuning_config(parameters: Parameters) -> TuningConfig:
    """The configuration of a study from plain parameters.

    Raises:
        UserError: the first key that is wrong, and why.
    """
    return validate(TuningConfig, parameters, "tuning")


def tuning_configs(parameters: Parameters) -> list[TuningConfig]:
    """One study, or all those listed under ``studies``, each of which changes what stands beside the list.

    Raises:
        UserError: the first key that is wrong, and why; two studies of one name.
    """
    common = {key: value for key, value in parameters.items() if key != "studies"}
    listed = parameters.get("studies")
    if listed is None:
        return [tuning_config(common)]
    if not isinstance(listed, list) or not listed or not all(isinstance(own, Mapping) for own in listed):
        raise UserError(f"parameter 'tuning.studies': a list of settings, each of one study, got {listed!r}")
    found = [validate(TuningConfig, {**common, **own}, f"tuning.studies.{i}") for i, own in enumerate(listed)]
    names = [config.study_name for config in found]
    if again := [name for name in names if names.count(name) > 1]:
        raise UserError(f"parameter 'tuning.studies': '{again[0]}' stands there twice")
    return found


def check_space(config: TuningConfig, family_config: type[BaseModel], base: Parameters | None = None) -> None:
    """Refuse names and ranges that the family's configuration does not take, before anything is trained.

    Args:
        config: the study. family_config: the family's `Config`. base: the parameters that the study starts from.

    Raises:
        UserError: an unknown parameter name, or a value in the range that the family refuses.
    """
    for name, dimension in config.space.items():
        for value in dimension.examples():
            try:
                validate(family_config, deep_merge(base or {}, nested({name: value})), config.family)
            except UserError as error:
                raise UserError(f"tuning.space.{name}: {error}") from None


def starting_point(config: TuningConfig, family_config: type[BaseModel], base: Parameters) -> dict[str, Any] | None:
    """The settings that stand in the parameter files, by dotted name, as Optuna keeps them: the first trial.

    Args:
        config: the study. family_config: the family's `Config`. base: the parameters that the study starts from.

    Returns:
        None where the space does not hold one of them; what the search gained cannot be said then.
    """
    resolved = validate(family_config, base, config.family).model_dump(mode="json")
    found = {}
    for name, dimension in config.space.items():
        value: Any = resolved
        for part in name.split("."):
            value = value[part]
        if not dimension.holds(value):
            logger.warning(
                "tuning.space.%s does not hold %r, the present setting: what the search of %s gains cannot be said.",
                name, value, config.study_name,
            )  # fmt: skip
            return None
        found[name] = _scalar(value)
    return found
