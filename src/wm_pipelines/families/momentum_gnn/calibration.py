"""Units of a momentum-conserving graph network, from its training rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.families.momentum_gnn.edge_inputs import LawInputs, centre_and_scale
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList, complete_graph
from wm_pipelines.families.momentum_gnn.pair_laws import inner_length, root_mean_square
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
    gnn.pairs.calibrate_attributes(gnn.attributes, complete_graph(q[:, :1]))
    if isinstance(gnn.pairs, LawInputs):
        gnn.pairs.inner.copy_(_inner_length(gnn, gnn.pairs.coupling_scale, rows))
    gnn.pairs.calibrate_distances(near)
    approach = (v * r).sum(dim=-2) / (distance * gnn.speed_scale)
    slip = v.square().sum(dim=-2) / gnn.speed_scale**2 - approach.square()
    for k, x in enumerate((approach, slip)):
        mean, scale = centre_and_scale(x)
        gnn.motion_mean[k], gnn.motion_scale[k] = mean, scale.clamp_min(1e-6)  # in units of the speeds; may be zero


def _inner_length(gnn: MomentumGNN, coupling_scale: Tensor, rows: Observations) -> Tensor:
    """The length that softens the pair laws (`inner_length`), from some of the rows."""
    few = slice(None, None, max(1, len(rows.state) * gnn.particles * gnn.space // _INNER_EQUATIONS))
    q, _ = split_particles(rows.state[few].flatten(0, 1)[None], gnn.particles)
    edges = gnn.edges(q, NeighbourList(gnn.config.cutoff).graph(q))
    kept = edges.coupling[..., coupling_scale > 0]
    return kept.new_tensor(inner_length(edges, kept, gnn.fade(edges), rows.weight, rows.target[few]))
