"""Incompressible flow in two dimensions, ``u_t + (u · ∇) u = -∇p + nu ∇²u``, ``∇ · u = 0``, with two exact solutions.

``kovasznay``: the steady flow behind a grid (Kovasznay 1948). ``taylor_green``: an array of vortices that decays
(Taylor & Green 1937). Velocities are given at the start and on the boundary, the pressure at one point only: the
equations know it up to a constant. Density one; units of the flow's own length and speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from wm_pipelines.equations import Balance, Coefficient, Condition, Equation, Problem
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, WorldParameters
from wm_pipelines.worlds.parts.fields import FieldParameters, FieldWorld


class NavierStokesParameters(FieldParameters):
    """Which flow, how viscous, for how long."""

    flow: Literal["kovasznay", "taylor_green"] = "kovasznay"
    reynolds: float = Field(20.0, gt=0, allow_inf_nan=False, description="Re = 1 / nu")
    duration: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the decaying vortices")


_X = "u*u_x + v*u_y + p_x - nu*(u_xx + u_yy)"
_Y = "u*v_x + v*v_y + p_y - nu*(v_xx + v_yy)"
_CONTINUITY = Equation("u_x + v_y")
_STEADY = {"momentum_x": Equation(_X), "momentum_y": Equation(_Y), "continuity": _CONTINUITY}
_UNSTEADY = {
    "momentum_x": Equation(f"u_t + ({_X})"),
    "momentum_y": Equation(f"v_t + ({_Y})"),
    "continuity": _CONTINUITY,
}
# Work of all forces on the steady flow, -u · (u · ∇u + ∇p - nu ∇²u), per volume.
_POWER = Balance(None, Equation(f"-u*({_X}) - v*({_Y})"))
# In a periodic box friction takes kinetic energy |u|²/2 at the rate nu |∇u|² and, with the vorticity omega = v_x - u_y,
# enstrophy omega²/2 at the rate nu |∇omega|².
_ENERGY = Balance(Equation("(u**2 + v**2)/2"), Equation("-nu*(u_x**2 + u_y**2 + v_x**2 + v_y**2)"))
_ENSTROPHY = Balance(Equation("(v_x - u_y)**2/2"), Equation("-nu*((v_xx - u_xy)**2 + (v_xy - u_yy)**2)"))


@register
class NavierStokes(FieldWorld):
    """Kovasznay's flow, or Taylor and Green's vortices."""

    name: ClassVar[str] = "navier_stokes_2d"
    Parameters: ClassVar[type[WorldParameters]] = NavierStokesParameters
    parameters: NavierStokesParameters
    divergence: ClassVar[Equation | None] = _CONTINUITY

    @property
    def steady(self) -> bool:
        """Whether the flow is Kovasznay's."""
        return self.parameters.flow == "kovasznay"

    def problem(self) -> Problem:
        """Conservation of momentum and of volume."""
        if self.steady:
            initial, gauge = [], {"x": 0.25, "y": 0.5}
            domain = {"x": (-0.5, 1.0), "y": (-0.5, 1.5)}
        else:
            initial = [Condition(f"initial {c}", c, {"t": 0.0}, self._given(i)) for i, c in enumerate("uv")]
            gauge = {"x": math.pi, "y": math.pi}
            domain = {"x": (0.0, 2 * math.pi), "y": (0.0, 2 * math.pi), "t": (0.0, self.parameters.duration)}
        return Problem(
            name=self.entry,
            coordinates=tuple(domain),
            fields=("u", "v", "p"),
            domain=domain,
            equations=_STEADY if self.steady else _UNSTEADY,
            conditions=(*initial, *self._walls(domain), Condition("pressure gauge", "p", gauge, self._given(2))),
            coefficients={"nu": Coefficient(1.0 / self.parameters.reynolds)},
            observed=("u", "v"),
            time=None if self.steady else "t",
        )

    def balances(self) -> dict[str, Balance]:
        """Of energy, and of enstrophy where the flow decays."""
        return {"energy": _POWER} if self.steady else {"energy": _ENERGY, "enstrophy": _ENSTROPHY}

    def _walls(self, domain: dict[str, tuple[float, float]]) -> list[Condition]:
        """Velocities on the four sides."""
        return [
            Condition(f"{field} at {side} = {end:.4g}", field, {side: end}, self._given(i))
            for side in "xy"
            for end in domain[side]
            for i, field in enumerate("uv")
        ]

    def _given(self, field: int) -> Callable[[Any], Any]:
        """One field of the exact solution as a condition's values."""
        return lambda points: self.reference(points)[:, field]

    def reference(self, points: Float) -> Float:
        """``u, v, p``: ``[N, d] -> [N, 3]``."""
        return self.kovasznay(points) if self.steady else self.taylor_green(points)

    def kovasznay(self, points: Float) -> Float:
        """``u, v, p`` at ``[N, 2]``: ``[N, 3]``, with ``lambda = Re/2 - sqrt(Re²/4 + 4 pi²)``."""
        half = self.parameters.reynolds / 2
        rate = half - math.sqrt(half**2 + 4 * math.pi**2)
        x, y = points.T
        wake = np.exp(rate * x)
        u = 1 - wake * np.cos(2 * math.pi * y)
        v = rate / (2 * math.pi) * wake * np.sin(2 * math.pi * y)
        return np.stack([u, v, (1 - wake**2) / 2], axis=1)

    def taylor_green(self, points: Float) -> Float:
        """``u, v, p`` at ``[N, 3]``: ``[N, 3]``."""
        x, y, t = points.T
        decay = np.exp(-2 * t / self.parameters.reynolds)
        u = -np.cos(x) * np.sin(y) * decay
        v = np.sin(x) * np.cos(y) * decay
        return np.stack([u, v, -(np.cos(2 * x) + np.cos(2 * y)) / 4 * decay**2], axis=1)

    def describe(self) -> str:
        """One English sentence."""
        re = self.parameters.reynolds
        if self.steady:
            return f"Kovasznay's steady flow behind a grid at Reynolds number {re:g}."
        return f"Taylor and Green's decaying vortices at Reynolds number {re:g}, for {self.parameters.duration:g} s."
