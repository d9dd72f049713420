"""Viscous Burgers equation, ``u_t + u u_x = nu u_xx`` on [-1, 1]: a wave that steepens into a thin layer.

Reference: the Cole-Hopf transform (Hopf 1950; Cole 1951), ``u = ∫ u_0(y) w(y) dy / ∫ w(y) dy`` with
``w = exp(-(phi_0(y) + (x - y)² / 2 t) / 2 nu)`` and ``phi_0' = u_0``, its integrals by the trapezoidal rule, which
converges faster than any power for integrands that decay. The default setting is that of Raissi, Perdikaris,
Karniadakis, *Physics-informed neural networks* (2019), section 2.1.1.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator
from scipy.fft import dst

from wm_pipelines.equations import Balance, Coefficient, Condition, Equation, Problem
from wm_pipelines.formulas import Formula
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, WorldParameters
from wm_pipelines.worlds.parts.fields import FieldParameters, FieldWorld
from wm_pipelines.worlds.parts.quantities import Quantity

_POINTS_AT_ONCE = 4096


class BurgersParameters(FieldParameters):
    """A wave between two walls."""

    viscosity: Annotated[float, Quantity("m^2/s"), Field(gt=0)] = 0.01 / np.pi
    duration: Annotated[float, Quantity("s"), Field(gt=0)] = 1.0
    initial: str = Field("-sin(pi*x)", description="velocity at t = 0, a formula odd in x")
    modes: int = Field(64, ge=1, description="terms of the initial velocity's sine series, for the reference")
    nodes: int = Field(400, ge=16, description="nodes of the reference's quadrature")

    @field_validator("initial")
    @classmethod
    def _odd(cls, text: str) -> str:
        u, x = Formula(text, ["x"]), np.linspace(0.0, 1.0, 33)[:, None]
        scale = np.abs(u(x)).max()
        if not np.allclose(u(-x), -u(x), atol=1e-9 * scale):
            raise ValueError(f"the initial velocity must be odd, u(-x) = -u(x), so that it vanishes at x = 0: '{text}'")
        return text


@register
class Burgers(FieldWorld):
    """A wave that steepens, then decays."""

    name: ClassVar[str] = "burgers_1d"
    Parameters: ClassVar[type[WorldParameters]] = BurgersParameters
    parameters: BurgersParameters

    @cached_property
    def initial(self) -> Formula:
        """Velocity at the start, a function of ``[..., 1]``."""
        return Formula(self.parameters.initial, ["x"])

    def problem(self) -> Problem:
        """Transport of momentum by itself, and its diffusion."""
        p = self.parameters
        return Problem(
            name=self.entry,
            coordinates=("x", "t"),
            fields=("u",),
            domain={"x": (-1.0, 1.0), "t": (0.0, p.duration)},
            equations={"burgers": Equation("u_t + u*u_x - nu*u_xx")},
            conditions=(
                Condition("initial", "u", {"t": 0.0}, lambda points: self.initial(points[:, :1])),
                Condition("left wall", "u", {"x": -1.0}, lambda points: np.zeros(len(points))),
                Condition("right wall", "u", {"x": 1.0}, lambda points: np.zeros(len(points))),
            ),
            coefficients={"nu": Coefficient(p.viscosity, "m^2/s")},
            units={"x": "m", "t": "s", "u": "m/s"},
            observed=("u",),
            time="t",
        )

    def balances(self) -> dict[str, Balance]:
        """Between walls the transport only moves energy about, and friction takes it away."""
        return {"energy": Balance(Equation("u**2/2"), Equation("-nu*u_x**2"))}

    @cached_property
    def _amplitudes(self) -> Float:
        """Sine coefficients ``b_k``, k = 1 … modes, of the initial velocity."""
        modes = self.parameters.modes
        x = np.arange(1, modes + 1) / (modes + 1)
        amplitudes = dst(self.initial(x[:, None]), type=1) / (modes + 1)
        return np.where(np.abs(amplitudes) > 1e-14 * np.abs(amplitudes).max(), amplitudes, 0.0)

    def _series(self, y: Float) -> tuple[Float, Float]:
        """Initial velocity and its potential at ``y``."""
        used = np.flatnonzero(self._amplitudes)
        wave, b = np.pi * (used + 1), self._amplitudes[used]
        phase = wave * y[..., None]
        return np.sin(phase) @ b, -np.cos(phase) @ (b / wave)

    def reference(self, points: Float) -> Float:
        """``u(x, t)``: ``[N, 2] -> [N, 1]``."""
        parts = [
            self._cole_hopf(part) for part in np.split(points, range(_POINTS_AT_ONCE, len(points), _POINTS_AT_ONCE))
        ]
        return np.concatenate(parts)[:, None]

    def _cole_hopf(self, points: Float) -> Float:
        nu = self.parameters.viscosity
        _, potential = self._series(np.linspace(-1.0, 1.0, 257))
        # Beyond this the Gaussian is below rounding, however the potential pulls.
        reach = np.sqrt(np.ptp(potential) / (2 * nu) + 40.0)
        z = np.linspace(-reach, reach, self.parameters.nodes)
        x, t = points[:, :1], points[:, 1:]
        u0, phi0 = self._series(x - z * np.sqrt(4 * nu * t))
        exponent = -phi0 / (2 * nu) - z**2
        weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return (weight * u0).sum(axis=1) / weight.sum(axis=1)

    def describe(self) -> str:
        """One English sentence."""
        p = self.parameters
        return f"Burgers' equation, viscosity {p.viscosity:.4g} m²/s: a wave {p.initial} steepens between two walls."
