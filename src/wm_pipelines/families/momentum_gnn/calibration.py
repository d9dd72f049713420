"""Units of a momentum-conserving graph network, from its training rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList, complete_graph
from wm_pipelines.families.momentum_gnn.pair_laws import (
    LOGARITHM,
    RADIAL,
    couplings,
    independent,
    inner_length,
    pair_laws,
    root_mean_square,
)
from wm_pipelines.families.momentum_gnn.particles import Observations, split_particles

if TYPE_CHECKING:
    from wm_pipelines.families.momentum_gnn.family import MomentumGNN

_CALIBRATION_PAIRS = 400_000
_INNER_EQUATIONS = 3_000


def calibrate(gnn: MomentumGNN, rows: Observations) -> None:
    """Units of inputs, speeds and forces, and which couplings the pairs can tell apart: from training rows."""
    pairs = gnn.particles * (gnn.particles - 1) // 2
    few = rows.state[:: max(1, math.ceil(len(rows.state) * pairs / _CALIBRATION_PAIRS)), 0]
    q, p = split_particles(few[None], gnn.particles)
    graph = complete_graph(q)
    r, v = graph.difference(q), graph.difference(p / gnn.mass)
    distance = r.square().sum(dim=-2).sqrt()
    gnn.speed_scale.copy_(root_mean_square(v))
    gnn.force_scale.copy_(root_mean_square(rows.target))
    if float(distance.min()) == 0.0:
        raise UserError(f"momentum_gnn: two bodies of '{gnn.spec.name}' coincide in the training data; remove the row")
    near = distance if gnn.config.cutoff is None else distance[distance < gnn.config.cutoff]
    if near.numel() == 0:
        raise UserError(f"momentum_gnn: no pair of '{gnn.spec.name}' is closer than cutoff {gnn.config.cutoff} m")
    table = couplings(gnn.attributes, complete_graph(q[:, :1]))
    gnn.coupling_scale.copy_(independent(table.reshape(-1, table.shape[-1])))
    gnn.inner.copy_(_inner_length(gnn, rows))
    approach = (v * r).sum(dim=-2) / (distance * gnn.speed_scale)
    slip = v.square().sum(dim=-2) / gnn.speed_scale**2 - approach.square()
    inputs = [*pair_laws(near, gnn.inner)[0].unbind(-1), approach, slip]
    for k, x in enumerate(inputs):
        gnn.input_mean[k] = x.mean()
        # A logarithm has no size of its own, only a spread; a motion, in units of the speeds, may be zero throughout.
        size = x.new_ones(()) if k == LOGARITHM else x.abs().mean()
        scale = torch.maximum(x.std(correction=0), 0.05 * size)
        gnn.input_scale[k] = scale if k < RADIAL else scale.clamp_min(1e-6)


def _inner_length(gnn: MomentumGNN, rows: Observations) -> Tensor:
    """The length that softens the pair laws (`inner_length`), from some of the rows."""
    few = slice(None, None, max(1, len(rows.state) * gnn.particles * gnn.space // _INNER_EQUATIONS))
    q, _ = split_particles(rows.state[few].flatten(0, 1)[None], gnn.particles)
    edges = gnn.edges(q, NeighbourList(gnn.config.cutoff).graph(q))
    kept = edges.coupling[..., gnn.coupling_scale > 0]
    return gnn.inner.new_tensor(inner_length(edges, kept, gnn.fade(edges), rows.weight, rows.target[few]))
