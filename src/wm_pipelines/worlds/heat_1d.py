"""Heat conduction in a rod, ``u_t = alpha u_xx``, its ends held at fixed temperatures.

Reference: the Fourier sine series of what the initial temperature has above the steady state (Evans, *Partial
Differential Equations*, 2010, sec. 2.3). The default setting is DeepXDE's example of the heat equation.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.fft import dst

from wm_pipelines.equations import Balance, Coefficient, Condition, Equation, Problem
from wm_pipelines.formulas import Formula
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, WorldParameters
from wm_pipelines.worlds.parts.fields import FieldParameters, FieldWorld
from wm_pipelines.worlds.parts.quantities import Quantity


class HeatParameters(FieldParameters):
    """A rod of one material."""

    diffusivity: Annotated[float, Quantity("m^2/s"), Field(gt=0)] = 0.4
    length: Annotated[float, Quantity("m"), Field(gt=0)] = 1.0
    duration: Annotated[float, Quantity("s"), Field(gt=0)] = 1.0
    initial: str = Field("sin(pi*x/L)", description="temperature at t = 0, a formula in x and L")
    ends: tuple[float, float] = Field((0.0, 0.0), description="temperatures at x = 0 and x = L")
    modes: int = Field(256, ge=1, description="terms of the reference's sine series")


@register
class Heat(FieldWorld):
    """A rod that relaxes to its steady state."""

    name: ClassVar[str] = "heat_1d"
    Parameters: ClassVar[type[WorldParameters]] = HeatParameters
    parameters: HeatParameters

    @cached_property
    def initial(self) -> Formula:
        """Temperature at the start, a function of ``[..., 1]``."""
        return Formula(self.parameters.initial, ["x"], {"L": self.parameters.length})

    def problem(self) -> Problem:
        """Fourier's law and conservation of heat."""
        p = self.parameters
        left, right = p.ends
        return Problem(
            name=self.entry,
            coordinates=("x", "t"),
            fields=("u",),
            domain={"x": (0.0, p.length), "t": (0.0, p.duration)},
            equations={"heat": Equation("u_t - alpha*u_xx")},
            conditions=(
                Condition("initial", "u", {"t": 0.0}, lambda points: self.initial(points[:, :1])),
                Condition("left end", "u", {"x": 0.0}, lambda points: np.full(len(points), left)),
                Condition("right end", "u", {"x": p.length}, lambda points: np.full(len(points), right)),
            ),
            coefficients={"alpha": Coefficient(p.diffusivity, "m^2/s")},
            units={"x": "m", "t": "s", "u": "K"},
            observed=("u",),
            time="t",
        )

    def balances(self) -> dict[str, Balance]:
        """The flow of heat through the ends is inside ``u u_xx``: its integral is ``[u u_x] - ∫ u_x²``."""
        return {"energy": Balance(Equation("u**2/2"), Equation("alpha*u*u_xx"))}

    @cached_property
    def _amplitudes(self) -> Float:
        """Sine coefficients ``b_k``, k = 1 … modes, of the initial temperature above the steady state."""
        p = self.parameters
        x = p.length * np.arange(1, p.modes + 1) / (p.modes + 1)
        above = self.initial(x[:, None]) - self._steady(x)
        return dst(above, type=1) / (p.modes + 1)

    def _steady(self, x: Float) -> Float:
        left, right = self.parameters.ends
        return left + (right - left) * x / self.parameters.length

    def reference(self, points: Float) -> Float:
        """``u(x, t) = steady + sum_k b_k exp(-alpha k² pi² t / L²) sin(k pi x / L)``: ``[N, 2] -> [N, 1]``."""
        p = self.parameters
        used = np.flatnonzero(np.abs(self._amplitudes) > 1e-17 * np.abs(self._amplitudes).max(initial=1e-300))
        wave = np.pi * (used + 1) / p.length
        x, t = points[:, :1], points[:, 1:]
        terms = self._amplitudes[used] * np.exp(-p.diffusivity * wave**2 * t) * np.sin(wave * x)
        return self._steady(x) + terms.sum(axis=1, keepdims=True)

    def describe(self) -> str:
        """One English sentence."""
        p = self.parameters
        left, right = p.ends
        return (
            f"A rod of {p.length:g} m with diffusivity {p.diffusivity:g} m²/s starts at {p.initial}, its ends held at "
            f"{left:g} K and {right:g} K, for {p.duration:g} s."
        )
