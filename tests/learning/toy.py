"""A toy family with known gradients, for testing the loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.specs import LEARNING as QUIET
from tests.specs import spec
from wm_pipelines.families.base import Family, Prediction, Schedule, TrainedConfig, Views
from wm_pipelines.learning.loop import TrainingRun, train
from wm_pipelines.spec import Spec


class ToyConfig(TrainedConfig):
    dropout: bool = False
    explode_at: float = 2.0


class Toy(Family):
    """Learn the matrix of z' = A z."""

    name = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        size = spec.state_size
        draws = [torch.Generator().manual_seed(s) for s in seeds]
        self.A = nn.Parameter(torch.stack([torch.randn(size, size, generator=g, dtype=torch.float64) for g in draws]))
        self.register_buffer("ema", self.A.detach().clone())

    def examples(self, episodes: Views) -> Views:
        z = episodes["states"]
        return {"z": z[:, :-1].flatten(0, 1), "after": z[:, 1:].flatten(0, 1)}

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        z = batch["z"]
        if self.config.dropout:
            z = z * (torch.rand_like(z) > 0.1)
        if progress >= self.config.explode_at:
            z = z * torch.inf
        error = ((z @ self.A - batch["after"]) ** 2).mean((1, 2))
        return error, {"mse": error.detach()}

    def after_step(self, progress: float) -> None:
        self.ema.lerp_(self.A.detach(), 0.1)

    def predict(self, past: Views, steps: int, actions: Tensor | None = None, step: float | None = None) -> Prediction:
        z = [past["states"][:, -1].expand(len(self.seeds), -1, -1)]
        for _ in range(steps):
            z.append(z[-1] @ self.A)
        return Prediction(states=torch.stack(z, 2))


def toy_episodes(episodes: int = 8, steps: int = 20) -> dict[str, Tensor]:
    torch_draw = torch.Generator().manual_seed(0)
    z = torch.randn(episodes, 2, generator=torch_draw, dtype=torch.float64)
    turn = torch.tensor([[0.9, 0.4], [-0.4, 0.9]], dtype=torch.float64)
    path = [z]
    for _ in range(steps):
        path.append(path[-1] @ turn)
    return {"states": torch.stack(path, 1), "times": torch.arange(steps + 1.0).expand(episodes, -1)}


SPEC = spec(2, 1.0, name="turn")
LEARNING = QUIET.model_copy(update={"checkpoint_every": 7, "log_every": 5})


def fitted(seeds=(0, 1), store=None, learning=LEARNING, dropout=True, **schedule) -> tuple[Toy, TrainingRun]:
    defaults = {"steps": 60, "batch_size": 16, "learning_rate": 0.05}
    family = Toy(ToyConfig(schedule=Schedule(**{**defaults, **schedule}), dropout=dropout), SPEC, seeds)
    return family, train(family, toy_episodes(), learning, store, "toy", "data")
