"""A Hamiltonian that is a sum of terms, Hamilton's equations, and their symplectic roll-out.

What the families that learn an ``H`` have in common, however they fit it. Roll-outs are by Kahan & Li (1997) where
``H`` is separable, by Gauss-Legendre collocation where it is not (Hairer, Lubich, Wanner, *Geometric Numerical
Integration*, 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wm_pipelines.blocks.hamiltonian_terms import Term
from wm_pipelines.blocks.implicit_stages import WatchedField
from wm_pipelines.blocks.units import state_units
from wm_pipelines.integrators import (
    IntegrationError,
    gauss_legendre,
    hamiltonian_field,
    prolonged_slopes,
    rollout_separable,
)
from wm_pipelines.spec import Spec

_DRIFT = 100  # largest drift of the learned energy over a roll-out, in units of the tolerance of a step
_FINE = 1e-7  # tolerance below which the roll-out pays for order 8


class HamiltonianFlow:
    """A mix-in for families whose model is ``H = amplitude * sum of live terms``.

    The family owns `terms`, `amplitude` and ``config.tolerance``, ``config.max_substeps``.
    """

    config: Any
    spec: Spec
    seeds: tuple[int, ...]
    terms: list[Term]
    amplitude: Tensor  # [1], unit of H's terms
    rates: Tensor  # [2d], unit of dz/dt
    units: Tensor  # [2d], unit of z: thresholds hold for z / units, never for q and p as they come

    @property
    def live(self) -> list[Term]:
        """The terms that H is made of."""
        return self.terms

    @property
    def separable(self) -> bool:
        """Whether ``H = T(p) + V(q)``, declared or found."""
        return all(term.part != "z" for term in self.live)

    def hamiltonian(self, z: Tensor) -> Tensor:
        """The learned energy, up to a constant: ``[S, ..., 2d] -> [S, ...]``."""
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        return (self.amplitude * sum(term(term.of(flat)) for term in self.live)).reshape(z.shape[:-1])

    def gradient(self, z: Tensor) -> Tensor:
        """``dH/dz``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        return self._gradient_function()(z)

    def _gradient_function(self) -> Callable[[Tensor], Tensor]:
        """`gradient` of the H of now: faster where it is called often."""
        amplitude, parts = self.amplitude, self._gradients_by_part()

        def gradient(z: Tensor) -> Tensor:
            flat = z.reshape(z.shape[0], -1, z.shape[-1])
            halves = [
                sum((term(x) for term in parts[part]), start=torch.zeros_like(x))
                for part, x in zip("qp", flat.chunk(2, dim=-1), strict=True)
                if parts["q"] or parts["p"]
            ]
            total = sum((term(flat) for term in parts["z"]), start=torch.cat(halves, dim=-1) if halves else 0.0)
            return (amplitude * total).reshape(z.shape)

        return gradient

    def _gradients_by_part(self) -> dict[str, list[Callable[[Tensor], Tensor]]]:
        return {p: [term.gradient_function() for term in self.live if term.part == p] for p in ("z", "q", "p")}

    def _part_gradient(self, part: str) -> Callable[[Tensor], Tensor]:
        """``dH/dp`` as a function of ``p``, or ``dH/dq`` of ``q``, of a separable H."""
        amplitude, terms = self.amplitude, self._gradients_by_part()[part]

        def gradient(x: Tensor) -> Tensor:
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            return (amplitude * sum(term(flat) for term in terms)).reshape(x.shape)

        return gradient

    def _force_function(self) -> Callable[[Tensor], Tensor]:
        gradient = self._part_gradient("q")
        return lambda q: -gradient(q)

    def field(self, z: Tensor) -> Tensor:
        """Hamilton's equations ``(dH/dp, -dH/dq)``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        return self.field_function()(z)

    def field_function(self) -> Callable[[Tensor], Tensor]:
        """`field` of the H of now: faster where it is called often."""
        return hamiltonian_field(self._gradient_function())

    # ------------------------------------------------ units, from the data

    def _set_rates(self, targets: Tensor) -> None:
        """Units of the equations: one for all ``dq/dt``, one for all ``dp/dt``."""
        halves = targets.chunk(2, dim=-1)
        rates = torch.stack([h.square().mean().sqrt() for h in halves])
        self.rates.copy_(torch.where(rates > 0, rates, 1.0).repeat_interleave(self.spec.dof))

    def _calibrate(self, nodes: Tensor) -> None:
        """Unit of the states, centre and scale of every term's inputs."""
        flat = nodes.reshape(len(self.seeds), -1, nodes.shape[-1])
        self.units.copy_(state_units(flat[0]))
        for term in self.terms:
            term.inputs.calibrate(term.calibrated(flat), term.calibrated(self.units))

    # ------------------------------------------------ roll-out

    def rolled_out(self, start: Tensor, steps: int, step: float) -> Tensor:
        """Symplectic roll-out of the learned H: starts ``[E, 2d] -> [S, E, steps + 1, 2d]``, float64.

        Kahan-Li of order 6 (8 for fine tolerances) if H is separable, Gauss-Legendre of order 6 if not. The sub-steps
        are chosen by the local error at the starts and shortened where the learned energy drifts. Episodes that diverge
        are NaN from there on.
        """
        start = start.to(torch.float64).expand(len(self.seeds), -1, -1)
        with torch.no_grad():
            substeps = self._substeps(start, step)
            states = self._roll(start, step, steps, substeps)
            drift = self._energy_drift(states)
            limit = _DRIFT * self.config.tolerance
            while substeps < self.config.max_substeps and bool((drift > limit).any()):
                bad = drift > limit
                # By the order of the scheme, the error asks for so many times smaller steps.
                wanted = substeps * float(drift.max() / limit) ** (1 / 6)
                substeps = min(self.config.max_substeps, max(2 * substeps, math.ceil(wanted)))
                states[:, bad] = self._roll(start[:, bad], step, steps, substeps)
                before, drift = drift, self._energy_drift(states)
                drift = torch.where(drift < before / 4, drift, 0.0)  # the rest is rounding: finer steps would only cost
        return torch.where(torch.isfinite(states), states, math.nan)

    def _substeps(self, start: Tensor, step: float) -> int:
        """Smallest power of two whose first step agrees with the next finer one to the tolerance, at all starts."""
        scale = self.spread(start[0]) + self.units * (start / self.units).abs().mean()
        substeps = 1
        coarse = self._roll(start, step, 1, substeps)[:, :, 1]
        while substeps < self.config.max_substeps:
            fine = self._roll(start, step, 1, 2 * substeps)[:, :, 1]
            error = ((fine - coarse).abs() / scale).amax(dim=(0, 2))
            error = error[torch.isfinite(error)]  # a start that is beyond help does not set the pace of the others
            if len(error) == 0 or float(error.max()) <= self.config.tolerance:
                break
            coarse, substeps = fine, 2 * substeps
        return substeps

    def _energy_drift(self, states: Tensor) -> Tensor:
        """Largest relative drift of the learned energy, of all seeds: ``[S, E, K, 2d] -> [E]``; 0 where diverged."""
        energy = self.hamiltonian(states)
        start = states[:, :, 0]
        unit = (start * self.gradient(start)).abs().sum(-1).nanmean(dim=1)
        drift = (energy - energy[:, :, :1]).abs().amax(dim=-1) / unit[:, None]
        return torch.where(torch.isfinite(drift), drift, 0.0).amax(dim=0)

    def _roll(self, start: Tensor, step: float, steps: int, substeps: int) -> Tensor:
        """``[S, E, 2d] -> [S, E, steps + 1, 2d]``."""
        if self.separable:
            velocity = self._part_gradient("p")
            scheme = "kahan_li8" if self.config.tolerance < _FINE else "kahan_li6"
            return rollout_separable(start, step, steps, velocity, self._force_function(), scheme, substeps)
        return self._roll_implicit(start, step, steps, substeps)

    def _roll_implicit(self, start: Tensor, step: float, steps: int, substeps: int) -> Tensor:
        """Gauss-Legendre; an episode whose stage equations have no solution rests, and is NaN from then on."""
        alive = torch.isfinite(start).all(-1, keepdim=True)
        y = torch.where(alive, start, 0.0) / self.units
        field, output = self._field_in_units(), [torch.where(alive, y, math.nan)]
        slopes: Tensor | None = None
        for _ in range(steps):
            for _ in range(substeps):
                y, slopes, alive = self._step_or_rest(field, y, step / substeps, alive, slopes)
            output.append(torch.where(alive, y, math.nan))
        return torch.stack(output, dim=2) * self.units

    def _field_in_units(self) -> Callable[[Tensor], Tensor]:
        """``dy/dt`` of ``y = z / units``: implicit steps are solved for ``y``, as one tolerance serves q and p."""
        field, units = self.field_function(), self.units
        return lambda y: field(y * units) / units

    @property
    def _solver_tolerance(self) -> float:
        """For the stage equations: far below the error of a step, above the rounding of a sum of large coefficients."""
        return min(1e-10, 1e-2 * self.config.tolerance)

    def _step_or_rest(
        self, field: Callable[[Tensor], Tensor], y: Tensor, step: float, alive: Tensor, slopes: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """One step, from the last one's slopes if there was one.

        Rows whose stage equations do not contract are told by their last change, and taken out.
        """
        guess = None if slopes is None else prolonged_slopes(slopes)
        while bool(alive.any()):
            watched = WatchedField(field, y, alive)
            try:
                return *gauss_legendre(y, step, watched, 3, self._solver_tolerance, guess=guess), alive
            except IntegrationError:
                if guess is not None:  # perhaps the guess was bad, not the step
                    guess = None
                    continue
                solved = abs(step) * watched.change <= 100 * self._solver_tolerance * (1 + y.abs().amax())
                alive = alive & solved if bool((alive & ~solved).any()) else torch.zeros_like(alive)
        return y, None, alive

    def spread(self, states: Tensor) -> Tensor:
        """Standard deviation of each coordinate and momentum over all rows, never zero: ``[..., 2d] -> [2d]``."""
        spread = (states / self.units).flatten(0, -2).std(dim=0, unbiased=False)
        return self.units * torch.maximum(spread, 1e-3 * spread.max().clamp_min(1e-9))
