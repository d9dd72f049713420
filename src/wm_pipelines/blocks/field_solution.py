"""What every family is that solves for fields: fields and derivatives anywhere, residuals, coefficients found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_pipelines.blocks.unknown_coefficients import UnknownCoefficients
from wm_pipelines.equations import Equation, Problem


class FieldSolution(ABC):
    """A mix-in: the family owns the problem and its unknown coefficients, and gives `derivatives`."""

    seeds: tuple[int, ...]
    problem: Problem
    unknown: UnknownCoefficients

    @abstractmethod
    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> dict[str, Tensor]:
        """Fields and derivatives, e.g. ``u_xx``, at ``points [N, d]``: each ``[S, N]``."""

    @torch.no_grad()
    def predict(
        self,
        past: Mapping[str, Tensor],
        steps: int = 0,  # noqa: ARG002
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Fields at points: ``past["points"] [N, d]`` -> ``fields [S, N, F]``."""
        values = self.derivatives(past["points"], self.problem.fields)
        return {"fields": torch.stack([values[name] for name in self.problem.fields], -1)}

    @torch.no_grad()
    def evaluate(self, equation: Equation, points: Tensor, about: str = "equation") -> Tensor:
        """Any equation's residual (or a divergence, an energy density) at ``points [N, d]``: ``[S, N]``."""
        values = self.derivatives(points, self.problem.symbols_of(equation))
        unknown = self.unknown.values[:, None].expand(-1, len(points), -1)
        return self.problem.pointwise(equation, points, about)(values, unknown)

    def residual_rms(self, points: Tensor) -> Tensor:
        """Root mean square of the residuals of all equations at ``points [N, d]``: ``[S]``."""
        residuals = [self.evaluate(equation, points, name) for name, equation in self.problem.equations.items()]
        return torch.stack([r.square().mean(1) for r in residuals]).mean(0).sqrt()

    def found(self) -> dict[str, dict[str, Tensor]]:
        """Unknown coefficients, see `UnknownCoefficients.found`."""
        return self.unknown.found()

    def extra_summary(self) -> dict[str, Any]:
        """Coefficients found with their intervals, and the noise of the measurements."""
        found = {name: {k: v.tolist() for k, v in entry.items()} for name, entry in self.found().items()}
        return {"coefficients": found, "noise": self.unknown.noise.tolist()} if found else {}


def only_episode(episodes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The views of the only episode, without the leading axis; empty measurements where there are none."""
    data = {name: view[0] for name, view in episodes.items()}
    nowhere = data["interior"][:0]
    index = torch.zeros(0, dtype=torch.long)
    return {"measurement_points": nowhere, "measurement_values": nowhere[:, 0], "measurement_index": index} | data
