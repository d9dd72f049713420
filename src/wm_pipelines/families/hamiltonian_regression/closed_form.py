"""Fit a Hamiltonian that is linear in its coefficients: least squares in its equations, a choice among hypotheses.

Steepness of the features, ridge and hypothesis are judged by held-out episodes. Where the states are noisy and their
derivatives are not, the offsets of the trajectories are unknowns as well and eliminated episode by episode.

Sources: Rahma, Datar, Dietrich 2024, arXiv 2411.17511 (random features and least squares); Golub & Pereyra 1973
(variable projection, for the offsets).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm_pipelines.blocks.features import LeastSquares
from wm_pipelines.blocks.hamiltonian_flow import HamiltonianFlow
from wm_pipelines.blocks.hamiltonian_terms import Forms, Term
from wm_pipelines.blocks.units import state_units
from wm_pipelines.families.hamiltonian_regression.input_noise import about_mean, integrate_samples
from wm_pipelines.families.hamiltonian_regression.symmetry import forms_of, invariant_forms

_ROWS_PER_CHUNK = 16_384  # rows of a design matrix in memory at a time
_REFINEMENTS = 10  # Gauss-Newton rounds for the offsets, at most
_EARNED = 0.8  # a more general hypothesis must lower the held-out error at least by this factor
_EARNED_BY_SINGULARITY = 1e-2  # likewise for steeper close forces: all of them may fit where data are
WIDEST_SYMMETRY = 12  # state size up to which symmetries are looked for
_SETTLED = 1e-6  # offsets move by less than this share of their uncertainty: done


@dataclass(frozen=True)
class _Fit:
    """A fit of all seeds under one hypothesis: settings ``[S, 2]``, coefficients ``[S, K]``, errors ``[S]``."""

    hypothesis: tuple[int, ...]
    held_out: Tensor
    settings: Tensor
    coefficients: Tensor
    residual: Tensor

    def better_of(self, other: _Fit) -> _Fit:
        """Seed by seed the fit with the smaller held-out error."""
        first = self.held_out <= other.held_out

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(first if a.ndim == 1 else first[:, None], a, b)

        return _Fit(
            self.hypothesis,
            pick(self.held_out, other.held_out),
            pick(self.settings, other.settings),
            pick(self.coefficients, other.coefficients),
            pick(self.residual, other.residual),
        )


class ClosedForm(HamiltonianFlow):
    """The closed-form fit of a model whose H is a sum of terms with random features, for all seeds at once.

    A mix-in: the model owns the terms and the buffers named here.
    """

    config: Any  # rows to use, steepness and ridges to choose from
    structure: frozenset[str]
    hypotheses: list[tuple[int, ...]]
    active: Tensor  # [terms], which of them H consists of
    noise_level: Tensor  # [2d], standard deviation of noise on the states
    chosen: Tensor  # [S, 2], steepness and ridge

    @property
    def live(self) -> list[Term]:
        """The terms that H is made of, under the hypothesis that was chosen."""
        return [term for term, on in zip(self.terms, self.active.tolist(), strict=True) if on]

    def _fit_equations(self, nodes: Tensor, weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Fit ``sum_g w_g J grad H(z_g) = target``: nodes ``[E, T, G, 2d]``, weights ``[G]``, targets alike."""
        inputs = self.terms[0].inputs
        forms = None
        sought = self.config.offers and nodes.shape[2] == 1 and nodes.shape[-1] <= WIDEST_SYMMETRY
        if sought and isinstance(inputs, Forms):
            units = state_units(nodes)
            forms = invariant_forms(nodes.flatten(0, 2) / units, targets.flatten(0, 1) / units)
        nodes = nodes.expand(len(self.seeds), *nodes.shape)
        self._set_rates(targets)
        self._calibrate(nodes)
        if forms is not None:
            self._adopt(*forms, nodes.flatten(1, 3))
        return self._choose(nodes, weights, targets), nodes[:, :, :, 0]

    def _adopt(self, linear: Tensor, quadratic: Tensor, z: Tensor) -> None:
        """Let H depend on the forms that share the symmetries of the data, a term of one part on those of that part.

        Args:
            linear, quadratic: forms of ``z / units``. z: states ``[S, N, 2d]``.
        """
        d = self.spec.dof
        for term in self.terms:
            part = {"z": slice(0, 2 * d), "q": slice(0, d), "p": slice(d, 2 * d)}[term.part]
            forms = (linear, quadratic) if term.part == "z" else forms_of(part, linear, quadratic)
            if isinstance(term.inputs, Forms) and 0 < len(forms[0]) <= term.inputs.inputs:
                unit = term.of(self.units)
                term.inputs.adopt(forms[0] / unit, forms[1] / (unit[:, None] * unit), term.of(z))

    def _fit_with_offsets(self, time: Tensor, state: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
        """Fit H and the offsets of the trajectories, whose shapes are the integrals of the clean derivatives."""
        observed = state.mean(dim=1)
        states = observed[:, None] + about_mean(integrate_samples(time, derivative))
        states = states.expand(len(self.seeds), *states.shape).clone()
        self._set_rates(derivative)
        self._calibrate(states)
        self.chosen[:, 0], self.chosen[:, 1] = max(self.config.steepness), min(1e-8, max(self.config.ridges))
        self._draw(states)
        self._suppose(self.hypotheses[-1])
        states = self._refine_offsets(states, observed, derivative)
        if (
            len(self.hypotheses) * len(self.config.steepness) * len(self.config.ridges) > 1
        ):  # held-out episodes judge only by now
            self._choose(states[:, :, :, None], torch.ones(1, dtype=torch.float64), derivative)
            states = self._refine_offsets(states, observed, derivative)
        states = self._recentre(states, observed)
        return self._equation_error(states, derivative), states

    def _thin(
        self, time: Tensor, state: Tensor, derivative: Tensor | None, whole: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """About ``rows`` states, evenly spread: whole episodes, or few rows of as many episodes as possible."""
        count, length = state.shape[:2]
        keep = min(count, max(2, math.ceil(self.config.rows / (length if whole else 1))))
        episode = torch.linspace(0, count - 1, keep).round().long()
        rows = length if whole else min(length, math.ceil(self.config.rows / keep))
        # Another first row in every episode: starts alone would show no close encounter.
        first = torch.arange(keep)[:, None] * (0 if whole else 1)
        row = (first + (torch.arange(rows) * length) // rows) % length
        thin = [None if x is None else x[episode[:, None], row] for x in (time, state, derivative)]
        assert thin[0] is not None
        assert thin[1] is not None
        return thin[0], thin[1], thin[2]

    def _draw(self, nodes: Tensor) -> None:
        """Draw every term's features among the data, with the steepness chosen for each seed."""
        flat = nodes.reshape(len(self.seeds), -1, nodes.shape[-1])
        for term in self.terms:
            term.features.draw(term.inputs(term.calibrated(flat)).flatten(1, 2), self.chosen[:, 0].tolist())

    def _equations(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """``sum_g w_g J grad phi_k(z_g)`` in units of the rates: ``[S, R, G, 2d] -> [S, R, 2d, K]``."""
        flat = nodes.flatten(1, 2)
        gradients = torch.cat([term.embed(term.design(term.of(flat))) for term in self.live], dim=-1)
        dq, dp = gradients.chunk(2, dim=2)
        slopes = torch.cat([dp, -dq], dim=2) / self.rates[:, None]
        return torch.einsum("g,srgdk->srdk", weights, slopes.unflatten(1, nodes.shape[1:3]))

    def _accumulate(self, nodes: Tensor, weights: Tensor, targets: Tensor) -> LeastSquares:
        """Least squares of all equations of ``nodes [S, E, T, G, 2d]``, ``targets [E, T, 2d]``."""
        rows, right = nodes.flatten(1, 2), (targets / self.rates).flatten(0, 1)
        # Between absolute and relative accuracy: fast motion must not drown what happens far out.
        relative = 1 / (1 + right.square().mean(dim=-1, keepdim=True).sqrt())
        chunk = max(1, _ROWS_PER_CHUNK // (nodes.shape[-1] * nodes.shape[-2]))
        system = LeastSquares()
        for start in range(0, rows.shape[1], chunk):
            part = slice(start, start + chunk)
            design = (self._equations(rows[:, part], weights) * relative[part, :, None]).flatten(1, 2)
            target = (right[part] * relative[part]).flatten()
            system.add(design, target.expand(len(self.seeds), -1))
        return system

    def _choose(self, nodes: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
        """Choose steepness and ridge per seed on held-out episodes, then fit on all; returns the residual ``[S]``."""
        held = torch.arange(nodes.shape[1]) % 5 == 4 if nodes.shape[1] >= 5 else torch.arange(nodes.shape[1]) == 1
        if not bool(held.any()):  # one episode: hold out its last fifth
            cut = max(1, nodes.shape[2] * 4 // 5)
            parts = ((nodes[:, :, :cut], targets[:, :cut]), (nodes[:, :, cut:], targets[:, cut:]))
        else:
            parts = ((nodes[:, ~held], targets[~held]), (nodes[:, held], targets[held]))
        chosen: _Fit | None = None
        for hypothesis in self.hypotheses:
            self._suppose(hypothesis)
            fit = self._best_fit(nodes, weights, parts)
            # The later, more general hypothesis has to earn its freedom.
            earned = _EARNED if "pairwise" not in self.structure else _EARNED_BY_SINGULARITY
            if chosen is None or float(fit.held_out.mean()) < earned * float(chosen.held_out.mean()):
                chosen = fit
        assert chosen is not None
        self._suppose(chosen.hypothesis)
        self.chosen.copy_(chosen.settings)
        self._draw(nodes)
        self._set_coefficients(chosen.coefficients)
        return chosen.residual

    def _suppose(self, hypothesis: tuple[int, ...]) -> None:
        self.active.copy_(torch.tensor([k in hypothesis for k in range(len(self.terms))]))

    def _best_fit(
        self,
        nodes: Tensor,
        weights: Tensor,
        parts: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> _Fit:
        """Per seed, the steepness and ridge that predict the held-out part best; refitted on everything."""
        seeds = len(self.seeds)
        best: _Fit | None = None
        for steepness in self.config.steepness:
            self.chosen[:, 0] = steepness
            self._draw(nodes)
            train, test = (self._accumulate(n, weights, t) for n, t in parts)
            held_out, which = test.residual(train.solve(self.config.ridges)).min(dim=0)
            whole = train.merge(test)
            solutions = whole.solve(self.config.ridges)
            every = torch.arange(seeds)
            settings = torch.stack(
                [torch.full_like(held_out, steepness), held_out.new_tensor(self.config.ridges)[which]], dim=1
            )
            fit = _Fit(
                tuple(k for k, on in enumerate(self.active.tolist()) if on),
                held_out,
                settings,
                solutions[which, every],
                whole.residual(solutions)[which, every],
            )
            best = fit if best is None else best.better_of(fit)
        assert best is not None
        return best

    def _set_coefficients(self, solution: Tensor) -> None:
        sizes = [term.size for term in self.live]
        for term, part in zip(self.live, solution.split(sizes, dim=-1), strict=True):
            term.coefficients.copy_(part)

    def _equation_error(self, states: Tensor, targets: Tensor) -> Tensor:
        return ((self.field(states) - targets) / self.rates).square().mean(dim=(1, 2, 3)).sqrt()

    # ------------------------------------------------ offsets of noisy trajectories

    def _refine_offsets(self, states: Tensor, observed: Tensor, targets: Tensor) -> Tensor:
        """Gauss-Newton in the coefficients of H and the trajectories' offsets together.

        The offsets are eliminated episode by episode (variable projection), with a prior that keeps each
        trajectory's mean within the noise of the ``observed`` mean ``[E, 2d]``.

        Returns:
            The shifted states ``[S, E, T, 2d]``.
        """
        length = states.shape[2]
        level = self.noise_level / self.units
        sigma = level.clamp_min(1e-9 * float(level.max())) / math.sqrt(length) * self.units
        for term in self.terms:
            term.coefficients.zero_()
        error = torch.ones(len(self.seeds), dtype=torch.float64)
        y = (targets / self.rates).flatten(1)
        for rounds in range(_REFINEMENTS):
            prior = (error[:, None, None] / (sigma / self.units)).clamp_min(1e-9) / self.units  # [S, 1, 2d]
            pull = prior * (observed - states.mean(dim=2))  # [S, E, 2d]
            basis, upper = torch.linalg.qr(
                torch.cat(
                    [self._offset_jacobian(states), torch.diag_embed(prior.expand(-1, states.shape[1], -1))], dim=2
                )
            )
            system = LeastSquares()
            chunk = max(1, _ROWS_PER_CHUNK // y.shape[1])
            for start in range(0, states.shape[1], chunk):
                part = slice(start, start + chunk)
                design = self._equations(states[:, part].flatten(1, 2)[:, :, None], torch.ones(1, dtype=torch.float64))
                design = design.reshape(len(self.seeds), -1, y.shape[1], design.shape[-1])
                right = y[part].expand(len(self.seeds), -1, -1)
                rows = torch.cat(
                    [torch.cat([design, right[..., None]], -1), _prior_rows(pull[:, part], design.shape[-1])], 2
                )
                rows = rows - basis[:, part] @ (basis[:, part].mT @ rows)
                system.add(rows[..., :-1].flatten(1, 2), rows[..., -1].flatten(1, 2))
            ridges = self.chosen[:, 1].tolist()
            solutions = system.solve(ridges)
            self._set_coefficients(torch.stack([solutions[s, s] for s in range(len(self.seeds))]))
            left = y - (self.field(states) / self.rates).flatten(2)
            shift = torch.linalg.solve_triangular(
                upper, basis.mT @ torch.cat([left, pull], dim=2)[..., None], upper=True
            )[..., 0]
            states = states + shift[:, :, None]
            error = self._equation_error(states, targets)
            if rounds > 0 and bool(((shift / sigma).square().mean(dim=(1, 2)) < _SETTLED**2).all()):
                break
        return states

    def _offset_jacobian(self, states: Tensor) -> Tensor:
        """Derivative of the equations' right-hand side with respect to a shift of the episode: ``[S, E, T 2d, 2d]``."""
        columns = []
        for j in range(states.shape[-1]):
            tangent = torch.zeros_like(states)
            tangent[..., j] = 1.0
            columns.append((torch.func.jvp(self.field, (states,), (tangent,))[1] / self.rates).flatten(2))
        return torch.stack(columns, dim=-1)

    def _recentre(self, states: Tensor, observed: Tensor) -> Tensor:
        """Move H and all trajectories together so that the mean offset is what was observed.

        Where no centre is declared, Hamilton's equations do not tell the place of the origin: only the means do.
        """
        shift = (observed - states.mean(dim=2)).mean(dim=1)[:, None]  # [S, 1, 2d]
        movable = torch.zeros_like(shift)
        for term in self.live:
            if term.inputs.centred:
                term.inputs.centre += term.calibrated(shift)
                movable[..., term.span(self.spec.dof)] = 1.0
        return states + (shift * movable)[:, None]


def _prior_rows(pull: Tensor, width: int) -> Tensor:
    """The offsets' prior as equations without coefficients: ``[S, E, 2d] -> [S, E, 2d, K + 1]``."""
    return torch.cat([pull.new_zeros(*pull.shape, width), pull[..., None]], dim=-1)
