"""The forces of a momentum-conserving graph network by one least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from wm_pipelines.blocks.ensemble import generators
from wm_pipelines.blocks.features import LeastSquares
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Views
from wm_pipelines.families.momentum_gnn.calibration import calibrate
from wm_pipelines.families.momentum_gnn.edge_networks import FeatureModel, per_row, solve_laws_first
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList
from wm_pipelines.families.momentum_gnn.pair_laws import (
    MOTION,
    Edges,
    envelope,
    force_columns,
    only_real,
    times_couplings,
)
from wm_pipelines.families.momentum_gnn.particles import Observations, observations, split_particles

if TYPE_CHECKING:
    from wm_pipelines.families.momentum_gnn.family import MomentumGNN

_CHUNK_NUMBERS = 4_000_000  # entries of the largest array while equations are assembled
_PLACES = 10_000  # pairs among which random features are placed


def fit_closed_form(gnn: MomentumGNN, episodes: Views) -> Views:
    """``dp/dt = sum_j f_ij`` is linear in the weights of features and pair laws: one least squares per seed, float64.

    Returns:
        ``force [S]``: root mean square of the equation error in units of the forces'.

    Raises:
        UserError: the data have no rows.
    """
    rows = observations(episodes, gnn.mass)
    calibrate(gnn, rows)
    state, target = _draw(gnn, rows)
    equations, size = LeastSquares(), _states_at_once(gnn)
    for chunk, slope in zip(state.split(size, dim=1), target.split(size, dim=1), strict=True):
        equations.add(_design(gnn, chunk, rows.weight), (slope / gnn.force_scale).flatten(1))
    solution = _solve(gnn, equations)
    _store(gnn, solution)
    return {"force": equations.residual(solution)}


def _draw(gnn: MomentumGNN, rows: Observations) -> tuple[Tensor, Tensor]:
    """Every seed's own rows ``[S, R, Q, 2d]``, their targets, and its random features placed among them."""
    pairs = gnn.particles * (gnn.particles - 1) // 2
    count = min(len(rows.state), max(1, gnn.config.equations // (gnn.particles * gnn.space)))
    chosen = torch.stack([torch.randperm(len(rows.state), generator=g)[:count] for g in generators(gnn.seeds, salt=9)])
    state = rows.state[chosen]
    q, p = split_particles(state[:, : max(1, _PLACES // pairs), 0], gnn.particles)
    edges = gnn.edges(q, NeighbourList(gnn.config.cutoff).graph(q))
    steepness = [gnn.config.steepness] * len(gnn.seeds)
    radial = gnn.pairs.radial(edges)[0]
    _linear(gnn, "potential").features.draw(radial.flatten(1, 2), steepness)
    if gnn.config.form == "dynamical":
        _linear(gnn, "motion").features.draw(gnn.frame(edges, p, None)[2].flatten(1, 2), steepness)
    return state, rows.target[chosen]


def _design(gnn: MomentumGNN, state: Tensor, weight: Tensor) -> Tensor:
    """Force components that each weight alone would make: ``[S, B, Q, 2d] -> [S, B D N, weights]``."""
    q, p = split_particles(state.flatten(1, 2), gnn.particles)
    edges = gnn.edges(q, NeighbourList(gnn.config.cutoff).graph(q))
    kept = edges.coupling[..., gnn.pairs.coupling_scale > 0]
    columns = [
        force_columns(edges.graph, times_couplings(kept, basis), direction, weight).flatten(1, 3)
        for basis, direction in _basis(gnn, edges, p)
    ]
    return torch.cat(columns, dim=-1)


def _basis(gnn: MomentumGNN, edges: Edges, p: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Scalars ``[S, X, M, K]`` that the models combine, each kind with its direction ``[S, X, D, M]``."""
    potential, fade = _linear(gnn, "potential"), gnn.fade(edges)[..., None]
    x, dx = gnn.pairs.radial(edges)
    basis = fade * per_row(potential.basis_slope, x, dx)
    if gnn.config.cutoff is not None:
        fade_slope = only_real(envelope(edges.distance, gnn.config.cutoff)[1], edges.graph)
        basis = basis + (fade_slope * gnn.length)[..., None] * per_row(potential.features, x)
    central = (-basis, edges.r / edges.distance[..., None, :])
    if gnn.config.form == "conservative":
        return [central]
    normal, slip, x = gnn.frame(edges, p, gnn.no_spin(p))
    basis = fade * per_row(_linear(gnn, "motion").features, x)
    return [central, (basis, normal), (basis, slip)] if gnn.config.spin else [central, (basis, normal)]


def _solve(gnn: MomentumGNN, equations: LeastSquares) -> Tensor:
    """Weights ``[S, P]``: where there are pair laws first those alone, then all features on what those leave."""
    if equations.factor is None:
        raise UserError(f"momentum_gnn: no training rows of '{gnn.spec.name}'")
    features, kept = _linear(gnn, "potential").features, int((gnn.pairs.coupling_scale > 0).sum())
    column = torch.arange(equations.factor.shape[-1] - 1, device=equations.factor.device)
    if not gnn.pairs.tail:
        return equations.solve([gnn.config.ridge])[0]
    laws = (column < features.size * kept) & (column % features.size >= features.counts["tanh"])
    return solve_laws_first(equations.factor, laws, gnn.config.ridge)


def _store(gnn: MomentumGNN, solution: Tensor) -> None:
    """Weights in the order of `_design` to the models, zero for couplings left out."""
    kept = gnn.pairs.coupling_scale > 0
    models = [_linear(gnn, "potential")] + ([_linear(gnn, "motion")] if gnn.config.form == "dynamical" else [])
    for model in models:
        size, outputs = model.features.size, model.coefficients.shape[-1]
        count = size * int(kept.sum()) * (outputs // len(kept))
        weights, solution = solution.split([count, solution.shape[1] - count], dim=1)
        weights = weights.reshape(len(gnn.seeds), outputs // len(kept), -1, size)
        full = weights.new_zeros(*weights.shape[:2], len(kept), size)
        full[:, :, kept] = weights
        model.coefficients.copy_(full.flatten(1, 2).mT)


def _linear(gnn: MomentumGNN, name: str) -> FeatureModel:
    """A model that is linear in its weights."""
    return cast("FeatureModel", getattr(gnn, name))


def _states_at_once(gnn: MomentumGNN) -> int:
    """States whose equations are assembled at once: some tens of megabytes."""
    pairs = gnn.particles * (gnn.particles - 1) // 2
    weights = len(gnn.pairs.coupling_scale) * (gnn.config.features + gnn.pairs.size + MOTION)
    return max(1, _CHUNK_NUMBERS // (len(gnn.seeds) * pairs * gnn.space * weights))
