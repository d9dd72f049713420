"""What a search for parameters may vary: dimensions, and the configuration of a study, checked before it begins."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import optuna
from pydantic import BaseModel, Field, field_validator, model_validator

from wm_pipelines.errors import UserError, validate
from wm_pipelines.mappings import Settings, deep_merge, nested

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
            kept = {json.dumps(c, sort_keys=True) if isinstance(c, list | dict) else c: c for c in self.choices}
            return kept[trial.suggest_categorical(name, list(kept))]
        assert self.low is not None
        assert self.high is not None
        if self.type == "int":
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> list[Any]:
        """Values at the edges of the range, or all choices: what a family must accept."""
        if self.type == "categorical":
            return list(self.choices or [])
        return [int(v) if self.type == "int" else v for v in (self.low, self.high) if v is not None]


class TuningConfig(Settings):
    """The ``tuning`` parameters of one study."""

    family: str
    world: str
    variant: str = "plain"
    metric: str = "energy_error"
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: int = Field(20, ge=1, description="trials that end well or are pruned, over all runs together")
    processes: int = Field(1, ge=1)
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

    def fingerprint(self, context: str) -> str:
        """What may not change between two runs of one study (their number of trials or processes may)."""
        fixed = self.model_dump(mode="json", exclude={"trials", "processes", "timeout"})
        return json.dumps({**fixed, "context": context}, sort_keys=True)


def tuning_config(parameters: Parameters) -> TuningConfig:
    """The configuration of a study from plain parameters.

    Raises:
        UserError: the first key that is wrong, and why.
    """
    return validate(TuningConfig, parameters, "tuning")


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
