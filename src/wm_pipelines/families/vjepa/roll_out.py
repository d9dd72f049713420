"""A JEPA whose latents are whole frames, and whose dynamics is applied to its own predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.encoders import FrameEncoder
from wm_pipelines.blocks.latent_transition import LatentTransition
from wm_pipelines.families.vjepa.config import ERRORS, VJEPAConfig


class RollOut(nn.Module):
    """Frame encoder, dynamics and target encoder of one seed, for ``predict: rollout``."""

    def __init__(self, config: VJEPAConfig, shape: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.encoder = FrameEncoder(shape, config.widths, config.latent)
        self.predictor = LatentTransition(config.latent, config.memory, config.hidden, config.layers)
        self.target = EMA(self.encoder, config.tau, config.schedule.steps) if config.anti_collapse == "ema" else None

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of ``z`` after 1 … K steps from every time of the clip; K grows during the first part of training."""
        memory, steps = self.config.memory, self.config.rollout
        if progress < self.config.ramp:
            steps = 1 + int(progress / self.config.ramp * (steps - 1))
        z = self._each(self.encoder, x)
        target = z if self.target is None else self._each(self.target, x)
        starts = range(x.shape[1] - memory - steps + 1)
        past = torch.stack([z[:, i : i + memory] for i in starts], 1)
        future = torch.stack([target[:, i + memory : i + memory + steps] for i in starts], 1)
        return {"prediction": ERRORS[self.config.error](self.predictor.roll_out(past, steps), future)}, z

    @staticmethod
    def _each(encoder: nn.Module, x: Tensor) -> Tensor:
        return encoder(x.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, x.shape[:2])

    def encode(self, frames: Tensor) -> tuple[Tensor, None]:
        """Frame by frame."""
        return self._each(self.encoder if self.target is None else self.target, frames), None

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Step after step."""
        return self.predictor.roll_out(self._each(self.encoder, context), steps)
