"""Incompressible flow in two dimensions, ``u_t + (u · ∇) u = -∇p + nu ∇²u``, ``∇ · u = 0``, with two exact solutions.

``kovasznay``: the steady flow behind a grid (Kovasznay 1948). ``taylor_green``: an array of vortices that decays
(Taylor & Green 1937). Velocities are given at the start and on the boundary, the pressure at one place only: the
equations know it up to a constant. Density one; units of the flow's own length and speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from wm_pipelines.fields import Balance, Coefficient, Condition, FieldSystem
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.fields import register
from wm_pipelines.worlds.fields.base import FieldParameters, FieldWorld


class NavierStokesParameters(FieldParameters):
    """Which flow, how viscous, for how long."""

    flow: Literal["kovasznay", "taylor_green"] = "kovasznay"
    reynolds: float = Field(20.0, gt=0, allow_inf_nan=False, description="Re = 1 / nu")
    duration: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the decaying vortices")


def momentum_x(d: Any) -> Any:
    """Steady momentum along x."""
    return d.u * d.u_x + d.v * d.u_y + d.p_x - d.nu * (d.u_xx + d.u_yy)


def momentum_y(d: Any) -> Any:
    """Steady momentum along y."""
    return d.u * d.v_x + d.v * d.v_y + d.p_y - d.nu * (d.v_xx + d.v_yy)


def unsteady_momentum_x(d: Any) -> Any:
    """Momentum along x."""
    return d.u_t + momentum_x(d)


def unsteady_momentum_y(d: Any) -> Any:
    """Momentum along y."""
    return d.v_t + momentum_y(d)


def continuity(d: Any) -> Any:
    """The flow neither starts nor ends anywhere."""
    return d.u_x + d.v_y


def power(d: Any) -> Any:
    """Work of all forces on the steady flow, ``-u · (u · ∇u + ∇p - nu ∇²u)``, per volume."""
    return -d.u * momentum_x(d) - d.v * momentum_y(d)


def kinetic_energy(d: Any) -> Any:
    """``|u|² / 2``."""
    return (d.u**2 + d.v**2) / 2


def dissipation(d: Any) -> Any:
    """Kinetic energy that friction takes in a periodic box, ``-nu |∇u|²``."""
    return -d.nu * (d.u_x**2 + d.u_y**2 + d.v_x**2 + d.v_y**2)


def enstrophy(d: Any) -> Any:
    """``omega² / 2`` with the vorticity ``omega = v_x - u_y``."""
    return (d.v_x - d.u_y) ** 2 / 2


def palinstrophy_loss(d: Any) -> Any:
    """Enstrophy that friction takes in a periodic box, ``-nu |∇omega|²``."""
    return -d.nu * ((d.v_xx - d.u_xy) ** 2 + (d.v_xy - d.u_yy) ** 2)


@register
class NavierStokes(FieldWorld):
    """Kovasznay's flow, or Taylor and Green's vortices."""

    name: ClassVar[str] = "navier_stokes_2d"
    Parameters: ClassVar[type[FieldParameters]] = NavierStokesParameters
    parameters: NavierStokesParameters

    def system(self) -> FieldSystem:
        """See `FieldWorld.system`."""
        steady = self.parameters.flow == "kovasznay"
        return self._kovasznay() if steady else self._taylor_green()

    def _kovasznay(self) -> FieldSystem:
        domain = {"x": (-0.5, 1.0), "y": (-0.5, 1.5)}
        return FieldSystem(
            name=self.name,
            coordinates=("x", "y"),
            fields=("u", "v", "p"),
            domain=domain,
            equations={"momentum_x": momentum_x, "momentum_y": momentum_y, "continuity": continuity},
            conditions=(*self._walls(domain), Condition("pressure gauge", "p", {"x": 0.25, "y": 0.5}, self._given(2))),
            coefficients={"nu": Coefficient(1.0 / self.parameters.reynolds)},
            observed=("u", "v"),
            reference=self.kovasznay,
            divergence=continuity,
            balances={"energy": Balance(None, power)},
        )

    def _taylor_green(self) -> FieldSystem:
        domain = {"x": (0.0, 2 * math.pi), "y": (0.0, 2 * math.pi), "t": (0.0, self.parameters.duration)}
        initial = [Condition(f"initial {c}", c, {"t": 0.0}, self._given(i)) for i, c in enumerate("uv")]
        return FieldSystem(
            name=self.name,
            coordinates=("x", "y", "t"),
            fields=("u", "v", "p"),
            domain=domain,
            equations={"momentum_x": unsteady_momentum_x, "momentum_y": unsteady_momentum_y, "continuity": continuity},
            conditions=(
                *initial,
                *self._walls(domain),
                Condition("pressure gauge", "p", {"x": math.pi, "y": math.pi}, self._given(2)),
            ),
            coefficients={"nu": Coefficient(1.0 / self.parameters.reynolds)},
            observed=("u", "v"),
            reference=self.taylor_green,
            divergence=continuity,
            balances={
                "energy": Balance(kinetic_energy, dissipation),
                "enstrophy": Balance(enstrophy, palinstrophy_loss),
            },
            time="t",
        )

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
        flow = self.kovasznay if self.parameters.flow == "kovasznay" else self.taylor_green
        return lambda points: flow(points)[:, field]

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
        if self.parameters.flow == "kovasznay":
            return f"Kovasznay's steady flow behind a grid at Reynolds number {re:g}."
        return f"Taylor and Green's decaying vortices at Reynolds number {re:g}, for {self.parameters.duration:g} s."
