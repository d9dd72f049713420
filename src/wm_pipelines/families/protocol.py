"""What every world-model family is: a configuration, networks, a loss, a prediction.

The training loop, the evaluation and the planners know a family through this file alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from wm_pipelines.fields import FieldSystem
from wm_pipelines.pixels import FrameSystem
from wm_pipelines.system import System


class Schedule(BaseModel):
    """How a family is fitted by gradient: the part of the recipe that the training loop reads."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(2000, ge=1, description="optimiser steps")
    batch_size: int = Field(512, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    final_learning_rate: float = Field(1e-5, ge=0, description="end of the cosine")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm, per seed")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed before one optimiser step")


class FamilyConfig(BaseModel):
    """Base of every family's configuration. Unknown keys are an error."""

    model_config = ConfigDict(extra="forbid")

    schedule: Schedule = Schedule()


@dataclass(frozen=True)
class Prediction:
    """What a family says will happen; whichever of the views it can give.

    ``S`` seeds, ``E`` episodes, ``K`` steps (the start included, so ``K = steps + 1``).
    """

    states: Tensor | None = None  # [S, E, K, 2d]
    frames: Tensor | None = None  # [S, E, K, H, W, C], in [0, 1]
    latents: Tensor | None = None  # [S, E, K, L], to be compared with the pooled encoding of what came
    fields: Tensor | None = None  # [S, N, F] at N points, from families that solve for fields


class Family(nn.Module, ABC):
    """One world model, or a batch of ``S`` of them that differ in their seed alone.

    The seeds are the leading axis ``S`` of every parameter and of every batch: ``S`` small models train as one.
    Subclasses set `name` and `Config`, and read like their paper.
    """

    name: ClassVar[str]
    Config: ClassVar[type[FamilyConfig]] = FamilyConfig
    dtype: ClassVar[torch.dtype] = torch.float64  # of the trained weights, in which they are kept and judged
    system: Any  # what it is told of the world: a System, or a FieldSystem (solves for fields), a FrameSystem (sees)

    def __init__(self, config: FamilyConfig, system: System | FieldSystem | FrameSystem, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config, self.system, self.seeds = config, system, tuple(seeds)

    @classmethod
    def unsuitable(cls, system: Any) -> str | None:
        """Why this family cannot model that system, in a few words; None if it can."""
        return None

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Cut training episodes into examples.

        Args:
            episodes: ``state [E, T+1, 2d]``, ``time [E, T+1]``, and where they exist ``derivative [E, T+1, 2d]``,
                ``action``, ``reward``, ``frames``. float64.

        Returns:
            Tensors of equal first length N. The loop draws from them, for every seed alone, batches ``[S, B, …]``.
            A family without anything to train returns an empty mapping.
        """
        return {}

    def fit(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Fit in closed form, for all seeds; return named final losses ``[S]``, or None to be trained by gradient."""
        return None

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss.

        Args:
            batch: what `examples` named, each ``[S, B, …]``. progress: share of training done, 0 … 1.

        Returns:
            The loss ``[S]`` (one per seed, not summed) and its named terms, each ``[S]`` and detached.
        """
        raise TypeError(f"family {self.name} has nothing to train by gradient")

    def parameters_by_seed(self) -> Sequence[Sequence[nn.Parameter]] | None:
        """Every seed's own parameters, where they are kept apart; None where the seeds are the leading axis of each."""
        return None

    def monitor(self) -> Mapping[str, Tensor]:
        """Hook at each logged step: named numbers ``[S]`` for the learning curve that tell a training gone wrong."""
        return {}

    def after_step(self, progress: float) -> None:
        """Hook after each optimiser step: a target network's moving average, a schedule, a codebook reset."""

    def finish(self) -> Mapping[str, Tensor] | None:
        """Hook after the last optimiser step, in `dtype` on the CPU: a second-order finish, an uncertainty.

        Returns:
            Named terms ``[S]`` for the last point of the learning curve, or None (here) where nothing is done.
        """
        return None

    @abstractmethod
    def predict(
        self, context: Tensor, steps: int, step: float | None = None, actions: Tensor | None = None
    ) -> Prediction:
        """Roll out.

        Args:
            context: past states ``[E, C, 2d]``, the last one is where the prediction starts. float64.
            steps: how many steps to predict. step: seconds between them (default: the system's).
            actions: ``[E, steps, A]`` where the family takes actions.

        Returns:
            Predictions for every seed, the start included: ``states [S, E, steps + 1, 2d]`` float64.
        """

    def extra_summary(self) -> dict[str, Any]:
        """Numbers worth keeping beside the checkpoint (a fitted noise level, an offset); JSON types only."""
        return {}
