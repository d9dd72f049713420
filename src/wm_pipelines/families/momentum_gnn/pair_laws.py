"""What a pair of particles offers to a force law: softened distances, couplings of attributes, a cutoff.

Pairs are ``r = q_i - q_j``. Laws are functions of ``rho``, ``rho^2 = r^2 + inner^2``, finite where bodies meet;
couplings ``kappa(a_i, a_j)`` are symmetric; the envelope fades a law to zero at the cutoff. A force on every edge that
is linear in weights gives a least squares in the force on every particle (`force_columns`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_pipelines.families.momentum_gnn.graphs import PairGraph

RADIAL = 4  # inputs log rho, 1/rho, rho, rho^2
MOTION = 2  # inputs v.n, |u|^2
LOGARITHM, LENGTH = 0, 2  # which of them are log rho and rho itself
_DISTINCT = 1e-6  # a coupling closer than this to a combination of others is one of them


@dataclass(frozen=True)
class Edges:
    """What a force needs of the pairs: ``r [S, X, D, M]``, ``|r| [S, X, M]``, couplings ``[.., M, C]``.

    ``embedding [S, 1, M, E]`` is what networks see of the attributes beside the distance; None where the couplings
    hold all of it.
    """

    graph: PairGraph
    r: Tensor
    distance: Tensor
    coupling: Tensor
    embedding: Tensor | None = None


def pair_laws(distance: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``log rho, 1/rho, rho, rho^2``, ``rho^2 = r^2 + inner^2``, and their derivatives by ``r``: two ``[..., 4]``."""
    rho = torch.hypot(distance, inner)
    inverse = 1.0 / rho
    tilt = distance * inverse  # d rho / d r
    u = torch.stack([torch.log(rho), inverse, rho, rho * rho], dim=-1)
    return u, torch.stack([tilt * inverse, -tilt * inverse * inverse, tilt, 2.0 * distance], dim=-1)


def couplings(attributes: Tensor, graph: PairGraph) -> Tensor:
    """Symmetric ``kappa(a_i, a_j)`` of every edge: 1, then products, then sums: ``[A, N] -> [.., M, 1 + 2 A]``."""
    ends = [graph.ends(a) for a in attributes]
    products, sums = [a * b for a, b in ends], [a + b for a, b in ends]
    return torch.stack([torch.ones_like(products[0]), *products, *sums], dim=-1)


def independent(table: Tensor) -> Tensor:
    """Scales (1 / size) of columns that are no combination of earlier ones, 0 for the others: ``[M, C] -> [C]``."""
    scales = table.new_zeros(table.shape[1])
    kept: list[Tensor] = []
    for c, column in enumerate(table.T):
        size = root_mean_square(column)
        rest = column / size
        for direction in kept + kept:  # twice: once leaves rounding
            rest = rest - (rest @ direction) * direction
        if float(rest.square().mean().sqrt()) > _DISTINCT:
            kept.append(rest / rest.norm())
            scales[c] = 1 / size
    return scales


def root_mean_square(x: Tensor) -> Tensor:
    """Root mean square, 1 where all is zero."""
    size = x.square().mean().sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def envelope(distance: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Fades from 1 to 0 at the cutoff with two continuous derivatives: value and slope, zero beyond, exactly."""
    x = (distance / cutoff).clamp_max(1.0)
    rest = 1 - x
    return rest**3 * (1 + 3 * x + 6 * x * x), -30.0 * (x * rest) ** 2 / cutoff


def only_real(x: Tensor, graph: PairGraph) -> Tensor:
    """``x [S, X, M]``, zero on edges that only fill the list up."""
    real = graph.mask()
    return x if real is None else x * real


def force_columns(graph: PairGraph, scalars: Tensor, direction: Tensor, weight: Tensor) -> Tensor:
    """Force on every particle that each scalar times a direction would make, mean over quadrature points.

    Args:
        graph: of ``B Q`` systems, ``Q`` points each. weight: ``[Q]``.
        scalars: ``[S, B Q, M, W]`` on edges. direction: ``[S, B Q, D, M]``.

    Returns:
        ``[S, B, D, N, W]``.
    """
    columns = (scalars.mT[..., None, :] * direction[..., None, :, :]).flatten(2, 3)
    f = graph.antisymmetric(columns).unflatten(2, (-1, direction.shape[2])).unflatten(1, (-1, len(weight)))
    return torch.einsum("sbqwdn,q->sbdnw", f, weight)


def times_couplings(coupling: Tensor, basis: Tensor) -> Tensor:
    """Every coupling times every scalar: ``[.., M, C], [.., M, K] -> [.., M, C K]``."""
    return (coupling[..., :, None] * basis[..., None, :]).flatten(-2)


def inner_length(edges: Edges, coupling: Tensor, fade: Tensor, weight: Tensor, target: Tensor) -> float:
    """The length that softens the pair laws: the one with which they alone, without tanh, fit the forces best.

    Softened laws are functions of ``rho``; and inputs singular at ``r = 0`` would let a model err without bound
    where bodies come closer than in training.

    Args:
        edges: of ``B Q`` states, ``S = 1``. coupling: ``[.., M, C]``, those kept. fade: ``[1, B Q, M]``.
        weight: ``[Q]`` of the quadrature. target: ``[B, D, N]`` forces.
    """
    direction = (fade / edges.distance)[..., None, :] * edges.r

    def misfit(inner: float) -> float:
        slope = pair_laws(edges.distance, edges.distance.new_tensor(inner))[1]
        laws = times_couplings(coupling, slope)
        laws = laws / laws.square().mean(dim=(0, 1, 2)).sqrt()
        design = force_columns(edges.graph, laws, direction, weight)[0].flatten(0, 2)
        return float(torch.linalg.qr(torch.cat([design, target.flatten()[:, None]], dim=1), mode="r").R[-1, -1].abs())

    reach = float(edges.distance.median())
    grid = [0.0, *(reach * 2.0 ** (k / 2) for k in range(-16, 1))]
    values = [misfit(inner) for inner in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    refined = _golden_section(misfit, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return refined if misfit(refined) < values[best] else grid[best]


def _golden_section(f: Callable[[float], float], low: float, high: float, iterations: int = 40) -> float:
    """Minimum of a function with one valley between ``low`` and ``high``."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(iterations):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return 0.5 * (low + high)
