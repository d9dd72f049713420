"""Hamiltonian neural networks: learn ``H(q, p)``, move by ``dq/dt = dH/dp, dp/dt = -dH/dq``.

``H`` is a sum of terms ``sum_m w_m psi(u_m(z))``. A term's inputs ``u_m`` say what is declared about ``H`` (nothing,
separable, even, pairwise); ``psi`` is a linear combination of random features, fitted by one least squares
(`method: closed_form`), or a perceptron, fitted by gradient to derivatives (`derivative`) or to pairs of states
``(z_t, z_{t + dt})`` through a symplectic step (`pairs`).

Noisy states with clean derivatives (the data of the paper) are not a regression: the integral of the clean derivative
gives each trajectory's shape exactly, its place only up to one constant. These offsets are estimated along with ``H``.

Sources: Greydanus, Dzamba, Yosinski, NeurIPS 2019, eq. 3 (derivatives); Chen, Zhang, Arjovsky, Bottou, ICLR 2020
(through a symplectic step); Rahma, Datar, Dietrich 2024, arXiv 2411.17511 (random features and least squares);
Golub & Pereyra 1973 (variable projection, for the offsets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.interpolate import BSpline, make_interp_spline
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction
from wm_pipelines.integrators import (
    IntegrationError,
    gauss_legendre_step,
    hamiltonian_field,
    rollout_separable,
    splitting_step,
)
from wm_pipelines.nets.ensemble import EnsembleMLP
from wm_pipelines.nets.features import LeastSquares, RandomFeatures
from wm_pipelines.system import System

Method = Literal["closed_form", "derivative", "pairs"]
Structure = Literal["separable", "even", "periodic", "pairwise"]

_SPLITTING_OF_ORDER = {2: "leapfrog", 4: "yoshida4", 6: "kahan_li6", 8: "kahan_li8"}
_ROWS_PER_CHUNK = 16_384  # rows of a design matrix in memory at a time
_DRIFT = 100  # largest drift of the learned energy over a roll-out, in units of the tolerance of a step
_REFINEMENTS = 10  # Gauss-Newton rounds for the offsets, at most
_EARNED = 0.8  # a more general hypothesis must lower the held-out error at least by this factor
_EARNED_BY_SINGULARITY = 1e-2  # likewise for steeper close forces: all of them may fit where data are
_CORES = (0.5, 0.15, 0.0)  # shares of the typical distance below which forces are smooth, tried in this order
_LARGEST_MECHANISM = 3  # degrees of freedom up to which a kinetic energy p A(q) p is offered
_WIDEST_SYMMETRY = 12  # state size up to which symmetries are looked for
_FINE = 1e-7  # tolerance below which the roll-out pays for order 8
_SETTLED = 1e-6  # offsets move by less than this share of their uncertainty: done


# ---------------------------------------------------------------- what H may depend on


class Coordinates(nn.Module):
    """``u = (x - centre) / scale``, an angle becoming ``(cos x, sin x)``; one copy per declared mirror image."""

    centre: Tensor  # [S, 1, w]
    scale: Tensor  # [S, 1, w]
    signs: Tensor  # [M, w]
    weights: Tensor  # [1, M]

    def __init__(self, width: int, angles: Sequence[int], mirrors: Sequence[Sequence[int]], seeds: int) -> None:
        super().__init__()
        signs = torch.ones(1, width, dtype=torch.float64)
        for mirror in mirrors:
            flip = torch.ones(width, dtype=torch.float64)
            flip[list(mirror)] = -1.0
            signs = torch.cat([signs, signs * flip])
        self.straight = [j for j in range(width) if j not in angles]
        self.angles = list(angles)
        self.inputs = width + len(self.angles)
        self.centred = not mirrors
        self.register_buffer("signs", signs)
        self.register_buffer("weights", torch.full((1, len(signs)), 1.0 / len(signs), dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(seeds, 1, width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(seeds, 1, width, dtype=torch.float64))

    def calibrate(self, x: Tensor) -> None:
        """Take centre and scale from data ``[S, N, w]``; a mirror plane must stay at zero."""
        if self.centred:
            self.centre.copy_(x.mean(dim=1, keepdim=True))
        spread = (x - self.centre).square().mean(dim=1, keepdim=True).sqrt()
        spread = torch.maximum(spread, 1e-6 * spread.amax(dim=-1, keepdim=True).clamp_min(1e-6))
        spread[..., self.angles] = 1.0
        self.scale.copy_(spread)

    def _normalised(self, x: Tensor) -> Tensor:
        return (self.signs * x[:, :, None, :] - self.centre[:, :, None]) / self.scale[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """``[S, N, w] -> [S, N, M, n]``."""
        y = self._normalised(x)
        turn = y[..., self.angles]
        return torch.cat([y[..., self.straight], turn.cos(), turn.sin()], dim=-1)

    def pullback(self, x: Tensor, g: Tensor) -> Tensor:
        """Chain rule: gradients with respect to ``u``, ``[S, N, M, n, K]``, to those with respect to ``x``."""
        straight, cosine, sine = g.split([len(self.straight), len(self.angles), len(self.angles)], dim=-2)
        if self.angles:
            turn = self._normalised(x)[..., self.angles, None]
            order = torch.argsort(torch.tensor(self.straight + self.angles))
            straight = torch.cat([straight, turn.cos() * sine - turn.sin() * cosine], dim=-2)[..., order, :]
        return torch.einsum("mw,snmwk->snwk", self.signs, straight) / self.scale[..., None]


class Forms(nn.Module):
    """``u_a = (l_a . y + y . Q_a y / 2 - shift_a) / scale_a`` with ``y = x - centre``; at first simply the coordinates.

    Where the data show a symmetry, the forms become its invariants (`invariant_forms`), and H a function of those.
    """

    centre: Tensor  # [S, 1, w]
    scale: Tensor  # [S, 1, n]
    shift: Tensor  # [S, 1, n]
    linear: Tensor  # [n, w], n = w, unused forms are zero
    quadratic: Tensor  # [n, w, w]
    logarithmic: Tensor  # [1], whether u is the logarithm of a single definite form, a squared length
    weights: Tensor  # [1, 1]
    centred = True

    def __init__(self, width: int, seeds: int) -> None:
        super().__init__()
        self.inputs = width
        self.register_buffer("weights", torch.ones(1, 1, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(seeds, 1, width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(seeds, 1, width, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(seeds, 1, width, dtype=torch.float64))
        self.register_buffer("linear", torch.eye(width, dtype=torch.float64))
        self.register_buffer("quadratic", torch.zeros(width, width, width, dtype=torch.float64))
        self.register_buffer("logarithmic", torch.zeros(1, dtype=torch.bool))

    def calibrate(self, x: Tensor) -> None:
        """Take centre and scale from data ``[S, N, w]``."""
        self.centre.copy_(x.mean(dim=1, keepdim=True))
        self._normalise(x)

    def adopt(self, linear: Tensor, quadratic: Tensor, x: Tensor) -> None:
        """Become other forms, ``[a, w]`` and ``[a, w, w]`` with ``a <= w`` in all, about the origin."""
        for buffer, forms in ((self.linear, linear), (self.quadratic, quadratic)):
            buffer.zero_()
            buffer[: len(forms)] = forms
        self.centre.zero_()
        values = self._values(x)[..., 0]
        if len(linear) == 1 and bool(values.abs().min() > 0) and bool((values * values.flatten()[0] > 0).all()):
            self.logarithmic.fill_(True)
            self.linear[0], self.quadratic[0] = 0.0, quadratic[0] * values.flatten()[0].sign()
        self._normalise(x)

    def _normalise(self, x: Tensor) -> None:
        self.shift.zero_()
        self.scale.fill_(1.0)
        u = self.forward(x)[:, :, 0]
        self.shift.copy_(u.mean(dim=1, keepdim=True))
        spread = (u - self.shift).square().mean(dim=1, keepdim=True).sqrt()
        self.scale.copy_(torch.maximum(spread, 1e-6 * spread.amax(dim=-1, keepdim=True).clamp_min(1e-6)))

    def _values(self, x: Tensor) -> Tensor:
        """The forms themselves: ``[S, N, w] -> [S, N, n]``."""
        y = x - self.centre
        u = y @ self.linear.T
        if bool(self.quadratic.any()):
            u = u + torch.einsum("awv,snw,snv->sna", self.quadratic, y, y) / 2
        return u

    def forward(self, x: Tensor) -> Tensor:
        """``[S, N, w] -> [S, N, 1, n]``."""
        u = self._values(x)
        if bool(self.logarithmic):
            u = torch.cat([u[..., :1].log(), u[..., 1:]], dim=-1)
        return ((u - self.shift) / self.scale)[:, :, None]

    def pullback(self, x: Tensor, g: Tensor) -> Tensor:
        """``[S, N, 1, n, K] -> [S, N, w, K]``."""
        g = g[:, :, 0] / self.scale[..., None]
        if not bool(self.quadratic.any()):
            return self.linear.T @ g
        if bool(self.logarithmic):
            g = g[:, :, :1] / self._values(x)[..., :1, None]
            slopes = torch.einsum("wv,snv->snw", self.quadratic[0], x - self.centre)
            return slopes[..., None] * g
        slopes = self.linear + torch.einsum("awv,snv->snaw", self.quadratic, x - self.centre)
        return slopes.mT @ g


def invariant_forms(z: Tensor, dz: Tensor, accuracy: float = 1e-8) -> tuple[Tensor, Tensor] | None:
    """Linear and quadratic forms that share the symmetries seen in the data, if there are any.

    A form ``L(z)`` that stays constant along all data generates, by Noether's theorem, a linear symmetry of H. H then
    depends on those forms alone that commute with every such L: ``{Q, L} = 0``. Both steps are null spaces of linear
    maps. Directions in which the data never move are left out before.

    Args:
        z, dz: noise-free states and their derivatives ``[N, 2d]``. accuracy: relative size that counts as zero.

    Returns:
        ``l [a, 2d]`` and ``Q [a, 2d, 2d]`` of the forms ``l . z + z . Q z / 2``; None: no symmetry, too many forms.
    """
    width = z.shape[1]
    values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    basis = vectors[:, values > accuracy**1.5 * values[-1]]
    d, n = width // 2, basis.shape[1]
    area = basis.T @ torch.cat([basis[d:], -basis[:d]])  # B^T J B
    if torch.linalg.cond(area) > 1e6:
        return None  # the data fill no phase space of their own
    # Coordinates y = W^T z in the plane of the data, along its symplectic complement: then J grad H lies in the plane.
    dual = torch.cat([-basis[d:], basis[:d]]) @ torch.linalg.inv(area).T
    y, dy = z @ dual, dz @ dual
    i, j = torch.triu_indices(n, n)
    # All forms as coefficient vectors: n linear ones, then one per pair i <= j.
    matrices = torch.zeros(len(i), n, n, dtype=z.dtype)
    matrices[torch.arange(len(i)), i, j] += 1.0
    matrices[torch.arange(len(i)), j, i] += 1.0
    rates = torch.cat([dy, dy[:, i] * y[:, j] + y[:, i] * dy[:, j]], dim=1)
    lengths = rates.norm(dim=0).clamp_min(1e-300)
    conserved = _null_space(rates / lengths, accuracy)
    if conserved.shape[1] == 0:
        return None
    conserved = (conserved / lengths[:, None]).T
    conserved = conserved / conserved.norm(dim=1, keepdim=True)
    poisson = dual.T @ torch.cat([dual[d:], -dual[:d]])
    # {f, L} = grad f . J grad L for every basic form f: its linear and its quadratic coefficients.
    conditions = []
    for form in conserved:
        m, M = poisson @ form[:n], poisson @ torch.einsum("k,kij->ij", form[n:], matrices)
        of_linear = torch.cat([m[:, None], M, torch.zeros(n, n * n, dtype=z.dtype)], dim=1)
        product = matrices @ M
        of_quadratic = torch.cat(
            [torch.zeros(len(i), 1, dtype=z.dtype), matrices @ m, (product + product.mT).flatten(1)], dim=1
        )
        conditions.append(torch.cat([of_linear, of_quadratic]))
    commuting = _null_space(torch.cat(conditions, dim=1).T, accuracy).T
    if not 0 < len(commuting) <= width:
        return None
    linear = commuting[:, :n] @ dual.T
    quadratic = dual @ torch.einsum("ak,kij->aij", commuting[:, n:], matrices) @ dual.T
    return (linear, quadratic) if _explain(linear, quadratic, z, dz, accuracy) else None


def _explain(linear: Tensor, quadratic: Tensor, z: Tensor, dz: Tensor, accuracy: float) -> bool:
    """Whether ``dz/dt`` is everywhere a combination of the flows ``J grad u_a``, so that H may depend on the forms."""
    gradients = linear + torch.einsum("awv,nv->naw", quadratic, z)
    dq, dp = gradients.chunk(2, dim=-1)
    flows = torch.cat([dp, -dq], dim=-1).mT
    missed = dz - (flows @ (torch.linalg.pinv(flows, rtol=accuracy) @ dz[..., None]))[..., 0]
    return bool(missed.square().mean().sqrt() <= math.sqrt(accuracy) * dz.square().mean().sqrt())


def _forms_of(part: slice, linear: Tensor, quadratic: Tensor) -> tuple[Tensor, Tensor]:
    """Of the forms spanned by ``l [a, 2d], Q [a, 2d, 2d]`` those of one part alone: ``[b, d], [b, d, d]``."""
    outside = torch.ones(linear.shape[1], dtype=torch.bool)
    outside[part] = False
    mixed = quadratic.clone()
    mixed[:, part, part] = 0.0
    combinations = _null_space(torch.cat([linear[:, outside], mixed.flatten(1)], dim=1).T, 1e-8).T
    return combinations @ linear[:, part], torch.einsum("ba,aij->bij", combinations, quadratic[:, part, part])


def _null_space(matrix: Tensor, accuracy: float) -> Tensor:
    """Right singular vectors ``[n, k]`` of singular values below ``accuracy`` times the largest."""
    _, values, right = torch.linalg.svd(torch.linalg.qr(matrix, mode="r").R)
    padded = torch.cat([values, values.new_zeros(len(right) - len(values))])
    return right[padded <= accuracy * values.max()].T


class Speeds(nn.Module):
    """``u_i = |p_i / m_i|^2``, weighted by ``m_i``: kinetic energies that differ in the mass alone."""

    scale: Tensor  # [S, 1, 1]
    weights: Tensor  # [1, particles]
    inputs = 1
    centred = False

    def __init__(self, masses: Sequence[float], space: int, seeds: int) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("weights", torch.tensor([masses], dtype=torch.float64))
        self.register_buffer("scale", torch.ones(seeds, 1, 1, dtype=torch.float64))

    def _velocities(self, p: Tensor) -> Tensor:
        return p.reshape(*p.shape[:2], -1, self.space) / self.weights.mT

    def calibrate(self, p: Tensor) -> None:
        """Take the scale from data ``[S, N, d]``."""
        squares = self._velocities(p).square().sum(-1)
        self.scale.copy_(squares.mean(dim=(1, 2), keepdim=False)[:, None, None].clamp_min(1e-12))

    def forward(self, p: Tensor) -> Tensor:
        """``[S, N, d] -> [S, N, particles, 1]``."""
        return (self._velocities(p).square().sum(-1) / self.scale)[..., None]

    def pullback(self, p: Tensor, g: Tensor) -> Tensor:
        """``[S, N, particles, 1, K] -> [S, N, d, K]``."""
        direction = 2 * self._velocities(p) / (self.weights.mT * self.scale[..., None])
        return (direction[..., None] * g).flatten(2, 3)


class Distances(nn.Module):
    """``u_ij = log(r_ij^2 + core^2) / 2``, in every channel weighted by another coupling of the pair.

    Without a core, the logarithm makes power laws smooth for the features down to close encounters; with a core, a
    share of the typical distance, what is learned is smooth at ``r = 0``, as softened forces are. The force on ``j``
    is minus the one on ``i`` and lies along the line between them, so both momenta are conserved whatever is learned.
    """

    centre: Tensor  # [S, 1, 1]
    core: Tensor  # [S, 1, 1], squared
    weights: Tensor  # [C, P]
    incidence: Tensor  # [P, particles]
    inputs = 1
    centred = False

    def __init__(self, couplings: Tensor, particles: int, space: int, seeds: int, share: float) -> None:
        super().__init__()
        self.space, self.share = space, share
        first, second = torch.triu_indices(particles, particles, 1)
        pairs = torch.arange(len(first))
        incidence = torch.zeros(len(first), particles, dtype=torch.float64)
        incidence[pairs, first], incidence[pairs, second] = 1.0, -1.0
        self.register_buffer("incidence", incidence)
        self.register_buffer("weights", couplings)
        self.register_buffer("centre", torch.zeros(seeds, 1, 1, dtype=torch.float64))
        self.register_buffer("core", torch.zeros(seeds, 1, 1, dtype=torch.float64))

    def _separations(self, q: Tensor) -> Tensor:
        return self.incidence @ q.reshape(*q.shape[:2], -1, self.space)

    def _squares(self, r: Tensor) -> Tensor:
        return r.square().sum(-1) + self.core

    def calibrate(self, q: Tensor) -> None:
        """Take core and centre from data ``[S, N, d]``."""
        r = self._separations(q)
        typical = r.square().sum(-1).flatten(1).median(dim=1).values
        self.core.copy_(self.share**2 * typical[:, None, None])
        self.centre.copy_(self._squares(r).log().mean(dim=(1, 2))[:, None, None] / 2)

    def forward(self, q: Tensor) -> Tensor:
        """``[S, N, d] -> [S, N, P, 1]``."""
        return (self._squares(self._separations(q)).log() / 2 - self.centre)[..., None]

    def pullback(self, q: Tensor, g: Tensor) -> Tensor:
        """``[S, N, P, 1, K] -> [S, N, d, K]``."""
        r = self._separations(q)
        forces = (r / self._squares(r)[..., None])[..., None] * g
        return torch.einsum("pi,snpxk->snixk", self.incidence, forces).flatten(2, 3)


class Term(nn.Module):
    """``sum_cm w_cm psi_c(u_m(x))`` for ``x`` one part of the state, ``z``, ``q`` or ``p``; most have one channel c."""

    coefficients: nn.Parameter  # [S, C K], of random features, channel by channel

    def __init__(
        self, part: Literal["z", "q", "p"], inputs: Any, psi: RandomFeatures | EnsembleMLP, seeds: int
    ) -> None:
        super().__init__()
        self.part, self.inputs, self.psi = part, inputs, psi
        if isinstance(psi, RandomFeatures):
            start = torch.zeros(seeds, self.size, dtype=torch.float64)
            self.coefficients = nn.Parameter(start, requires_grad=False)

    @property
    def features(self) -> RandomFeatures:
        """The random features of a closed-form term."""
        if not isinstance(self.psi, RandomFeatures):
            raise TypeError("this term is a perceptron; only random features are fitted in closed form")
        return self.psi

    @property
    def size(self) -> int:
        """Number of coefficients per seed."""
        return self.features.size * len(self.inputs.weights)

    def calibrated(self, z: Tensor) -> Tensor:
        """What centre, scale and places of the features are taken from."""
        return self.of(z)

    def span(self, dof: int) -> slice:
        """Which entries of the state may be shifted together with the centre of the term."""
        return {"z": slice(0, 2 * dof), "q": slice(0, dof), "p": slice(dof, 2 * dof)}[self.part]

    def of(self, z: Tensor) -> Tensor:
        """The part of the state ``[..., 2d]`` that this term depends on."""
        return {"z": z, "q": z.chunk(2, dim=-1)[0], "p": z.chunk(2, dim=-1)[1]}[self.part]

    def embed(self, gradient: Tensor) -> Tensor:
        """Put a gradient ``[S, N, w, K]`` with respect to the part into one with respect to the state."""
        if self.part == "z":
            return gradient
        zero = torch.zeros_like(gradient)
        return torch.cat([gradient, zero] if self.part == "q" else [zero, gradient], dim=2)

    def _weighted(self) -> Tensor:
        """Coefficients of every copy, its channels summed: ``[S, M, K]``."""
        return torch.einsum(
            "cm,sck->smk", self.inputs.weights, self.coefficients.unflatten(1, (-1, self.features.size))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Value of the term: ``[S, N, w] -> [S, N]``."""
        u = self.inputs(x)
        psi = self.psi(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        if isinstance(self.psi, RandomFeatures):
            return torch.einsum("snmk,smk->sn", psi, self._weighted())
        return torch.einsum("snmc,cm->sn", psi, self.inputs.weights)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of the term: ``[S, N, w] -> [S, N, w]``."""
        u = self.inputs(x)
        if isinstance(self.psi, RandomFeatures):
            slopes = self.psi.slopes(u.flatten(1, 2)).unflatten(1, u.shape[1:3]) * self._weighted()[:, None]
            g = slopes @ self.psi.weight.mT[:, None]
        else:
            g = self._perceptron_slope(u)
        return self.inputs.pullback(x, g[..., None])[..., 0]

    def _perceptron_slope(self, u: Tensor) -> Tensor:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            u = u if u.requires_grad else u.detach().requires_grad_()
            value = self.psi(u.flatten(1, 2)).unflatten(1, u.shape[1:3]) * self.inputs.weights.mT
            return torch.autograd.grad(value.sum(), u, create_graph=differentiable)[0]

    def design(self, x: Tensor) -> Tensor:
        """Gradient of the term for every coefficient alone: ``[S, N, w] -> [S, N, w, C K]``."""
        u = self.inputs(x)
        g = self.features.gradients(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        return self.inputs.pullback(x, torch.cat([g * w[:, None, None] for w in self.inputs.weights], dim=-1))


class QuadraticTerm(Term):
    """``sum_{i <= j} p_i p_j A_ij(q)``: the kinetic energy of a mechanism whose inertia depends on its pose."""

    def __init__(self, inputs: Coordinates, psi: RandomFeatures, dof: int, seeds: int) -> None:
        self.rows, self.columns = torch.triu_indices(dof, dof).tolist()
        super().__init__("z", inputs, psi, seeds)

    @property
    def size(self) -> int:
        """Number of coefficients per seed: one function of q per pair ``i <= j``."""
        return self.features.size * len(self.rows)

    def span(self, dof: int) -> slice:
        """Only q may be shifted: kinetic energy tells where ``p = 0`` is."""
        return slice(0, dof)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``q [S, N, d]``, ``p_i p_j [S, N, I]`` and its gradient ``[S, N, d, I]``."""
        q, p = z.chunk(2, dim=-1)
        unit = torch.eye(p.shape[-1], dtype=z.dtype)
        slope = unit[:, self.rows] * p[..., None, self.columns] + unit[:, self.columns] * p[..., None, self.rows]
        return q, p[..., self.rows] * p[..., self.columns], slope

    def _features(self, q: Tensor) -> Tensor:
        """``phi_k(q)``, mirror images averaged: ``[S, N, K]``."""
        u = self.inputs(q)
        return torch.einsum(
            "snmk,cm->snk", self.features(u.flatten(1, 2)).unflatten(1, u.shape[1:3]), self.inputs.weights
        )

    def _matrix(self) -> Tensor:
        return self.coefficients.unflatten(1, (len(self.rows), -1))  # [S, I, K]

    def calibrated(self, z: Tensor) -> Tensor:
        """What centre and scale are taken from: q alone."""
        return z.chunk(2, dim=-1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Value of the term: ``[S, N, 2d] -> [S, N]``."""
        q, products, _ = self._split(x)
        return torch.einsum("snk,sik,sni->sn", self._features(q), self._matrix(), products)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of the term: ``[S, N, 2d] -> [S, N, 2d]``."""
        q, products, slope = self._split(x)
        inertia = self._features(q) @ self._matrix().mT  # [S, N, I]
        u = self.inputs(q)
        slopes = self.features.slopes(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        g = (slopes * (products @ self._matrix())[:, :, None]) @ self.features.weight.mT[:, None]
        dq = self.inputs.pullback(q, (g * self.inputs.weights.mT)[..., None])[..., 0]
        return torch.cat([dq, (slope @ inertia[..., None])[..., 0]], dim=-1)

    def design(self, x: Tensor) -> Tensor:
        """Gradient of the term for every coefficient alone: ``[S, N, 2d] -> [S, N, 2d, I K]``."""
        q, products, slope = self._split(x)
        u = self.inputs(q)
        g = self.features.gradients(u.flatten(1, 2)).unflatten(1, u.shape[1:3]) * self.inputs.weights.mT[..., None]
        dq = self.inputs.pullback(q, g)[..., None, :] * products[:, :, None, :, None]
        dp = slope[..., None] * self._features(q)[:, :, None, None, :]
        return torch.cat([dq, dp], dim=2).flatten(3)


# ---------------------------------------------------------------- trajectories


def _splines(time: Tensor, values: Tensor, degree: int) -> list[BSpline]:
    """One interpolating spline per episode: ``[E, T+1], [E, T+1, D]``."""
    degree = min(degree, (values.shape[1] - 1) // 2 * 2 - 1) if values.shape[1] > 2 else 1
    t, y = time.numpy(), values.numpy()
    if np.array_equal(t, np.broadcast_to(t[0], t.shape)):  # equal times: one banded solve for all episodes
        together = make_interp_spline(t[0], np.moveaxis(y, 0, 1), k=degree)
        return [BSpline(together.t, together.c[:, e], together.k) for e in range(len(y))]
    return [make_interp_spline(t[e], y[e], k=degree) for e in range(len(y))]


def integrate_samples(time: Tensor, derivative: Tensor, degree: int = 7) -> Tensor:
    """Integral of sampled derivatives from each episode's start: ``[E, T+1], [E, T+1, D] -> [E, T+1, D]``."""
    splines = _splines(time, derivative, degree)
    return torch.stack([torch.from_numpy(f.antiderivative()(t)) for f, t in zip(splines, time.numpy(), strict=True)])


def input_noise(time: Tensor, state: Tensor, derivative: Tensor) -> Tensor | None:
    """Standard deviation ``[D]`` of noise on the states, judged by the integral of their derivatives; None if none.

    What the states scatter about that integral is noise, unless the integral itself is that uncertain: its error
    is taken as the difference between two spline degrees.
    """
    integral = integrate_samples(time, derivative)
    coarse = integrate_samples(time, derivative, degree=5)
    scatter = _about_mean(state - integral)
    freedom = math.sqrt(state.shape[1] / max(1, state.shape[1] - 1))
    sigma = freedom * scatter.square().mean(dim=(0, 1)).sqrt()
    # Noise is white: neighbours differ as much as strangers. The error of an integral is a staircase.
    steps = (scatter[:, 1:] - scatter[:, :-1]).square().sum(-1).mean(1)
    white = (steps / (2 * scatter.square().sum(-1).mean(1)).clamp_min(1e-300)).median() > 0.8
    # Medians: one close encounter must not hide the noise of all other episodes, nor be taken for noise itself.
    typical = scatter.abs().amax(-1).median()
    doubt = _about_mean(integral - coarse).abs().amax(-1).median()
    floor = 1e-4 * _about_mean(state).square().mean().sqrt()
    return sigma if white and typical > 10 * doubt + floor else None


def _about_mean(x: Tensor) -> Tensor:
    return x - x.mean(dim=1, keepdim=True)


# ---------------------------------------------------------------- the family


@register
class HNN(Family):
    """A learned Hamiltonian and its symplectic flow."""

    name = "hnn"

    class Config(FamilyConfig):
        """Defaults in ``conf/base/parameters_hnn.yml``."""

        method: Method = Field("closed_form", description="how H is fitted")
        structure: Literal["none", "declared"] | tuple[Structure, ...] = Field(
            "none", description="what is known of H: none, what the world declares, or a list"
        )
        features: int = Field(200, ge=1, description="tanh features per term (closed form)")
        steepness: tuple[float, ...] = Field((0.12, 0.5), min_length=1, description="slopes tried on held-out episodes")
        ridges: tuple[float, ...] = Field((1e-12, 1e-10, 1e-8, 1e-6), min_length=1, description="ridges tried likewise")
        tail: Literal[0, 1, 2] = Field(1, description="degree of a polynomial added to the features")
        rows: int = Field(2000, ge=10, description="states used by the closed form, spread evenly over the data")
        use_derivative: bool = Field(True, description="False: see states only, even where derivatives are given")
        noise: Literal["auto", "none"] | float = Field(
            "auto", description="noise on the states: detect it, assume none, or its standard deviation"
        )
        hidden: tuple[int, ...] = Field((64, 64), description="layers of the perceptron (gradient methods)")
        activation: Literal["tanh", "silu", "softplus", "gelu"] = "silu"
        order: Literal[2, 4, 6, 8] = Field(6, description="order of the symplectic step that pairs are trained through")
        pair_substeps: int = Field(1, ge=1, description="steps of that scheme between two rows")
        tolerance: float = Field(1e-6, gt=0, description="relative error of one roll-out step, sets the sub-steps")
        max_substeps: int = Field(8, ge=1, description="largest number of sub-steps between two rows")

    config: Config
    amplitude: Tensor  # [1], unit of a perceptron's output
    rates: Tensor  # [2d], unit of dz/dt
    active: Tensor  # [terms], which of them H consists of
    noise_level: Tensor  # [2d], standard deviation of noise on the states
    chosen: Tensor  # [S, 2], steepness and ridge

    def __init__(self, config: Config, system: System, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        self.structure = self._structure()
        self.terms = self._terms()
        self.parts = nn.ModuleList(self.terms)  # the same terms, where torch looks for parameters
        self.hypotheses = _hypotheses(self.terms)
        self.register_buffer("active", torch.tensor([k in self.hypotheses[0] for k in range(len(self.terms))]))
        self.register_buffer("amplitude", torch.ones(1, dtype=torch.float64))
        self.register_buffer("rates", torch.ones(system.state_size, dtype=torch.float64))
        self.register_buffer("noise_level", torch.zeros(system.state_size, dtype=torch.float64))
        self.register_buffer("chosen", torch.zeros(len(self.seeds), 2, dtype=torch.float64))
        if config.order == 8 and not self.separable and config.method == "pairs":
            raise UserError(
                "hnn: order 8 needs a separable H; set order to 6 or less, or declare structure: [separable]"
            )

    # ------------------------------------------------ H

    @property
    def live(self) -> list[Term]:
        """The terms that H is made of, under the hypothesis that was chosen."""
        return [term for term, on in zip(self.terms, self.active.tolist(), strict=True) if on]

    @property
    def separable(self) -> bool:
        """Whether ``H = T(p) + V(q)``, declared or found."""
        return all(term.part != "z" for term in self.live)

    def _structure(self) -> frozenset[str]:
        """What is known of H, as a set of words."""
        asked, system = self.config.structure, self.system
        if asked == "none":
            return frozenset()
        known = (
            set(system.structure) | ({"periodic"} if system.angles else set()) if asked == "declared" else set(asked)
        )
        if "pairwise" in known and (system.particles is None or "mass" not in system.attributes):
            raise UserError(f"hnn: structure 'pairwise' needs particles with masses; world '{system.name}' has none")
        return frozenset(known)

    def _terms(self) -> list[Term]:
        """The terms of H that the structure allows."""
        system, d, seeds = self.system, self.system.dof, len(self.seeds)
        if "pairwise" in self.structure:
            assert system.particles is not None
            assert system.space is not None
            kinetic = Speeds(system.attributes["mass"], system.space, seeds)
            terms = [self._term("p", kinetic, 0, {"linear": 1, "tanh": self.config.features})]
            counts = {"power": self.config.features // 2, "tanh": (self.config.features + 1) // 2}
            for share in _CORES if self.config.method == "closed_form" else _CORES[:1]:
                inputs = Distances(_couplings(system), system.particles, system.space, seeds, share)
                terms.append(self._term("q", inputs, 1, counts))
            return terms
        angles = system.angles if "periodic" in self.structure else ()
        even = "even" in self.structure
        if "separable" in self.structure:
            mirror = [range(d)] if even else []
            return [
                self._term("p", Coordinates(d, (), mirror, seeds), 0),
                self._term("q", Coordinates(d, angles, mirror, seeds), 1),
            ]
        mirrors = [range(d), range(d, 2 * d)] if even else []
        whole = Forms(2 * d, seeds) if not even and not angles else Coordinates(2 * d, angles, mirrors, seeds)
        terms = [self._term("z", whole, 0)]
        if self.config.method != "closed_form":
            return terms
        # Simpler forms of H that held-out data may prefer: nothing is assumed by offering them.
        pose = Forms(d, seeds) if not even and not angles else Coordinates(d, angles, mirrors[:1], seeds)
        momentum = Forms(d, seeds) if not even else Coordinates(d, (), mirrors[:1], seeds)
        terms += [self._term("p", momentum, 1), self._term("q", pose, 2)]
        if d <= _LARGEST_MECHANISM:
            inertia = Coordinates(d, angles, mirrors[:1], seeds)
            counts = {"constant": 1, "tanh": self.config.features // 2}
            features = RandomFeatures(inertia.inputs, counts, self.seeds, salt=3)
            terms.append(QuadraticTerm(inertia, features, d, seeds))
        return terms

    def _term(
        self, part: Literal["z", "q", "p"], inputs: Any, salt: int, counts: Mapping[str, int] | None = None
    ) -> Term:
        n, config = inputs.inputs, self.config
        if config.method != "closed_form":
            return Term(
                part,
                inputs,
                EnsembleMLP((n, *config.hidden, len(inputs.weights)), self.seeds, config.activation, salt),
                len(self.seeds),
            )
        if counts is None:
            tail = {"linear": n if config.tail >= 1 else 0, "square": n * (n + 1) // 2 if config.tail >= 2 else 0}
            # Functions of one part are simpler than functions of the whole state.
            alone = part != "z" and "separable" not in self.structure
            counts = {**tail, "tanh": config.features // 2 if alone else config.features}
        return Term(part, inputs, RandomFeatures(n, counts, self.seeds, salt), len(self.seeds))

    def hamiltonian(self, z: Tensor) -> Tensor:
        """The learned energy, up to a constant: ``[S, ..., 2d] -> [S, ...]``."""
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        return (self.amplitude * sum(term(term.of(flat)) for term in self.live)).reshape(z.shape[:-1])

    def gradient(self, z: Tensor) -> Tensor:
        """``dH/dz``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        total = sum(term.embed(term.gradient(term.of(flat))[..., None])[..., 0] for term in self.live)
        return (self.amplitude * total).reshape(z.shape)

    def _part_gradient(self, part: str) -> Callable[[Tensor], Tensor]:
        """``dH/dp`` as a function of ``p``, or ``dH/dq`` of ``q``, of a separable H."""

        def gradient(x: Tensor) -> Tensor:
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            terms = [term.gradient(flat) for term in self.live if term.part == part]
            return (self.amplitude * sum(terms)).reshape(x.shape)

        return gradient

    def _force(self, q: Tensor) -> Tensor:
        return -self._part_gradient("q")(q)

    def field(self, z: Tensor) -> Tensor:
        """Hamilton's equations ``(dH/dp, -dH/dq)``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        return hamiltonian_field(self.gradient)(z)

    # ------------------------------------------------ closed form

    def fit(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Random features and one least squares; with noise on the states, jointly with the trajectories' offsets.

        Returns:
            ``residual [S]``: root mean square of the equation error in units of the derivatives'; None: by gradient.

        Raises:
            UserError: fewer than two rows per episode.
        """
        if self.config.method != "closed_form":
            return None
        with torch.no_grad():
            return {"residual": self._fit_closed_form(episodes)[0]}

    def _fit_closed_form(self, episodes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Residual ``[S]`` and the states ``[S, E, T, 2d]`` cleared of noise, of the rows that were used."""
        time, state, derivative = self._thin(*self._columns(episodes))
        if derivative is None:
            return self._fit_equations(*_integral_form(time, state))
        self._set_noise(time, state, derivative)
        if bool((self.noise_level > 0).any()):
            return self._fit_with_offsets(time, state, derivative)
        # Without noise a row needs no neighbours: rather a few rows of many episodes than whole ones.
        _, state, derivative = self._thin(*self._columns(episodes), whole=False)
        assert derivative is not None
        return self._fit_equations(state[:, :, None], torch.ones(1, dtype=torch.float64), derivative)

    def _fit_equations(self, nodes: Tensor, weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Fit ``sum_g w_g J grad H(z_g) = target``: nodes ``[E, T, G, 2d]``, weights ``[G]``, targets alike."""
        inputs = self.terms[0].inputs
        forms = None
        if isinstance(inputs, Forms) and nodes.shape[2] == 1 and nodes.shape[-1] <= _WIDEST_SYMMETRY:
            forms = invariant_forms(nodes.flatten(0, 2), targets.flatten(0, 1))
        nodes = nodes.expand(len(self.seeds), *nodes.shape)
        self._set_rates(targets)
        self._calibrate(nodes)
        if forms is not None:
            self._adopt(*forms, nodes.flatten(1, 3))
        return self._choose(nodes, weights, targets), nodes[:, :, :, 0]

    def _adopt(self, linear: Tensor, quadratic: Tensor, z: Tensor) -> None:
        """Let H depend on the forms that share the symmetries of the data, a term of one part on those of that part."""
        d = self.system.dof
        for term in self.terms:
            part = {"z": slice(0, 2 * d), "q": slice(0, d), "p": slice(d, 2 * d)}[term.part]
            forms = (linear, quadratic) if term.part == "z" else _forms_of(part, linear, quadratic)
            if isinstance(term.inputs, Forms) and 0 < len(forms[0]) <= term.inputs.inputs:
                term.inputs.adopt(*forms, term.of(z))

    def _fit_with_offsets(self, time: Tensor, state: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
        """Fit H and the offsets of the trajectories, whose shapes are the integrals of the clean derivatives."""
        observed = state.mean(dim=1)
        states = observed[:, None] + _about_mean(integrate_samples(time, derivative))
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

    def _columns(self, episodes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Time, state and, where given and wanted, derivative."""
        if episodes["state"].shape[1] < 2:
            raise UserError(f"hnn: episodes of world '{self.system.name}' have one row; at least 2 are needed to learn")
        derivative = episodes.get("derivative") if self.config.use_derivative else None
        return episodes["time"], episodes["state"], derivative

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

    def _set_noise(self, time: Tensor, state: Tensor, derivative: Tensor | None) -> None:
        setting = self.config.noise
        if derivative is None or setting == "none":
            self.noise_level.zero_()
        elif setting == "auto":
            found = input_noise(time, state, derivative)
            self.noise_level.copy_(torch.zeros_like(self.noise_level) if found is None else found)
        else:
            self.noise_level.fill_(float(setting))

    def _set_rates(self, targets: Tensor) -> None:
        """Units of the equations: one for all ``dq/dt``, one for all ``dp/dt``."""
        halves = targets.chunk(2, dim=-1)
        rates = [h.square().mean().sqrt().clamp_min(1e-12).expand(self.system.dof) for h in halves]
        self.rates.copy_(torch.cat(rates))

    def _calibrate(self, nodes: Tensor) -> None:
        flat = nodes.reshape(len(self.seeds), -1, nodes.shape[-1])
        for term in self.terms:
            term.inputs.calibrate(term.calibrated(flat))

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
        sigma = self.noise_level.clamp_min(1e-9 * float(self.noise_level.max())) / math.sqrt(length)
        for term in self.terms:
            term.coefficients.zero_()
        error = torch.ones(len(self.seeds), dtype=torch.float64)
        y = (targets / self.rates).flatten(1)
        for rounds in range(_REFINEMENTS):
            prior = (error[:, None, None] / sigma).clamp_min(1e-9)  # [S, 1, 2d]
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
                movable[..., term.span(self.system.dof)] = 1.0
        return states + (shift * movable)[:, None]

    # ------------------------------------------------ gradient methods

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """States and derivatives, or pairs of states; noise is removed first, as in the closed form."""
        if self.config.method == "closed_form":
            return {}
        time, state, derivative = self._columns(episodes)
        with torch.no_grad():
            state = self._denoise(time, state, derivative)
            spacing = (time[:, 1:] - time[:, :-1])[..., None]
            difference = (state[:, 1:] - state[:, :-1]) / spacing
            self._set_rates(difference if derivative is None else derivative)
            self._calibrate(state[None, :, :, None].expand(len(self.seeds), -1, -1, -1, -1))
            spread = _spread(state)
            self.amplitude.fill_(float((self.rates * spread.roll(self.system.dof)).mean()))
        if self.config.method == "pairs":
            return {
                "state": state[:, :-1].flatten(0, 1),
                "next_state": state[:, 1:].flatten(0, 1),
                "step": spacing.flatten(0, 1),
            }
        if derivative is None:
            splines = _splines(time, state, 5)
            slopes = [torch.from_numpy(f.derivative()(t)) for f, t in zip(splines, time.numpy(), strict=True)]
            derivative = torch.stack(slopes)
        return {"state": state.flatten(0, 1), "derivative": derivative.flatten(0, 1)}

    def _denoise(self, time: Tensor, state: Tensor, derivative: Tensor | None) -> Tensor:
        """Clear the states of noise by a closed-form fit of its own (first seed), where there is noise."""
        self._set_noise(time, state, derivative)
        if derivative is None or not bool((self.noise_level > 0).any()):
            return state
        settings = {"method": "closed_form", "rows": state.shape[0] * state.shape[1]}
        helper = HNN(self.config.model_copy(update=settings), self.system, self.seeds[:1])
        _, states = helper._fit_closed_form({"time": time, "state": state, "derivative": derivative})
        return states[0]

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """``|J grad H - dz/dt|^2`` (paper, eq. 3), or ``|Phi_dt(z_t) - z_{t+dt}|^2 / dt^2``, in units of the rates."""
        if self.config.method == "derivative":
            error, name = self.field(batch["state"]) - batch["derivative"], "derivative"
        else:
            step = batch["step"]
            error, name = (self.flow(batch["state"], step) - batch["next_state"]) / step, "pairs"
        value = (error / self.rates).square().mean(dim=(1, 2))
        return value, {name: value.detach()}

    def flow(self, z: Tensor, step: Tensor) -> Tensor:
        """One differentiable symplectic step: ``[S, B, 2d]``, step sizes ``[S, B, 1] -> [S, B, 2d]``."""
        part = step / self.config.pair_substeps
        for _ in range(self.config.pair_substeps):
            z = self._explicit_step(z, part) if self.separable else self._implicit_step(z, part)
        return z

    def _explicit_step(self, z: Tensor, step: Any) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        scheme = _SPLITTING_OF_ORDER[self.config.order]
        q, p = splitting_step(q, p, step, self._part_gradient("p"), self._force, scheme)
        return torch.cat([q, p], dim=-1)

    def _implicit_step(self, z: Tensor, step: Tensor) -> Tensor:
        def field(x: Tensor) -> Tensor:  # time in units of each pair's own step
            return step * _stages_last(self.field, x)

        try:
            return gauss_legendre_step(z, 1.0, field, stages=self.config.order // 2, tolerance=1e-11)
        except IntegrationError:
            return z * math.nan  # the training loop stops on a loss that is not a number, and says so

    # ------------------------------------------------ roll-out

    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Symplectic roll-out of the learned H.

        Kahan-Li of order 6 (8 for fine tolerances) if H is separable, Gauss-Legendre of order 6 if not. The sub-steps
        are chosen by the local error at the starts and shortened where the learned energy drifts. Episodes that diverge
        are NaN from there on.
        """
        step = self.system.step if step is None else step
        start = context[:, -1].to(torch.float64).expand(len(self.seeds), -1, -1)
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
        states = torch.where(torch.isfinite(states), states, math.nan)
        return Prediction(states=states)

    def _substeps(self, start: Tensor, step: float) -> int:
        """Smallest power of two whose first step agrees with the next finer one to the tolerance, at all starts."""
        scale = _spread(start[0][None]) + start.abs().mean()
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
            return rollout_separable(start, step, steps, velocity, self._force, scheme, substeps)
        return self._roll_implicit(start, step, steps, substeps)

    def _roll_implicit(self, start: Tensor, step: float, steps: int, substeps: int) -> Tensor:
        """Gauss-Legendre; an episode whose stage equations have no solution rests, and is NaN from then on."""
        alive = torch.isfinite(start).all(-1, keepdim=True)
        z = torch.where(alive, start, 0.0)
        output = [torch.where(alive, z, math.nan)]
        for _ in range(steps):
            for _ in range(substeps):
                z, alive = self._step_or_rest(z, step / substeps, alive)
            output.append(torch.where(alive, z, math.nan))
        return torch.stack(output, dim=2)

    @property
    def _solver_tolerance(self) -> float:
        """For the stage equations: far below the error of a step, above the rounding of a sum of large coefficients."""
        return min(1e-10, 1e-2 * self.config.tolerance)

    def _step_or_rest(self, z: Tensor, step: float, alive: Tensor) -> tuple[Tensor, Tensor]:
        """One step; rows whose stage equations did not contract are told by their last change, and taken out."""
        while bool(alive.any()):
            field = _Watched(self.field, z, alive)
            try:
                return gauss_legendre_step(z, step, field, stages=3, tolerance=self._solver_tolerance), alive
            except IntegrationError:
                solved = abs(step) * field.change <= 100 * self._solver_tolerance * (1 + z.abs().amax())
                alive = alive & solved if bool((alive & ~solved).any()) else torch.zeros_like(alive)
        return z, alive

    def extra_summary(self) -> dict[str, Any]:
        """Noise found on the states; steepness and ridge chosen per seed."""
        summary: dict[str, Any] = {"structure": sorted(self.structure), "noise": self.noise_level.tolist()}
        if self.config.method == "closed_form":
            summary |= {"steepness": self.chosen[:, 0].tolist(), "ridge": self.chosen[:, 1].tolist()}
        return summary


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


def _hypotheses(terms: Sequence[Term]) -> list[tuple[int, ...]]:
    """Which terms H may consist of, the simplest first.

    For pairwise forces: ever smaller cores, at last none. Else ``T(p) + V(q)``, ``p A(q) p + V(q)``, any H.
    """
    pairs = [k for k, term in enumerate(terms) if isinstance(term.inputs, Distances)]
    if pairs:
        return [(0, k) for k in pairs]
    whole = tuple(k for k, term in enumerate(terms) if term.part == "z" and not isinstance(term, QuadraticTerm))
    parts = tuple(k for k, term in enumerate(terms) if term.part != "z")
    inertia = tuple(k for k, term in enumerate(terms) if isinstance(term, QuadraticTerm))
    pose = tuple(k for k, term in enumerate(terms) if term.part == "q")
    return [h for h in (parts, (*inertia, *pose) if inertia else (), whole) if h]


class _Watched:
    """A field on ``[S, E, 2d]`` or, all stages, ``[G, S, E, 2d]``, at rest where not ``alive``; it notes changes."""

    def __init__(self, field: Callable[[Tensor], Tensor], z: Tensor, alive: Tensor) -> None:
        self.field, self.alive, self.last = field, alive, z
        self.change = torch.full_like(alive, math.inf, dtype=z.dtype)  # [S, E, 1]

    def __call__(self, x: Tensor) -> Tensor:
        slope = torch.where(self.alive, _stages_last(self.field, x), 0.0)
        change = (slope - self.last).abs().amax(-1, keepdim=True)
        self.change, self.last = change if x.ndim == 3 else change.amax(0), slope
        return slope


def _stages_last(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a field whose first axis is the seeds to ``[S, B, D]`` or ``[G, S, B, D]``."""
    return field(x) if x.ndim == 3 else field(x.movedim(0, 1)).movedim(1, 0)


def _prior_rows(pull: Tensor, width: int) -> Tensor:
    """The offsets' prior as equations without coefficients: ``[S, E, 2d] -> [S, E, 2d, K + 1]``."""
    return torch.cat([pull.new_zeros(*pull.shape, width), pull[..., None]], dim=-1)


def _spread(state: Tensor) -> Tensor:
    """Standard deviation of each coordinate over all rows, never zero: ``[..., 2d] -> [2d]``."""
    spread = state.flatten(0, -2).std(dim=0, unbiased=False)
    return torch.maximum(spread, 1e-3 * spread.max().clamp_min(1e-9))


def _integral_form(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hamilton's equations integrated over each interval: ``sum_g w_g J grad H(z(t_g)) = (z_{t+1} - z_t) / dt``.

    Returns:
        Nodes ``[E, T, 3, 2d]`` on a spline through the states, Gauss weights ``[3]``, mean slopes ``[E, T, 2d]``.
    """
    points, weights = np.polynomial.legendre.leggauss(3)
    spacing = time[:, 1:] - time[:, :-1]
    at = time[:, :-1, None] + spacing[..., None] * torch.from_numpy((1 + points) / 2)
    splines = _splines(time, state, 7)
    nodes = torch.stack([torch.from_numpy(f(t)) for f, t in zip(splines, at.numpy(), strict=True)])
    return nodes, torch.from_numpy(weights / 2), (state[:, 1:] - state[:, :-1]) / spacing[..., None]


def _couplings(system: System) -> Tensor:
    """Linearly independent pair weights ``[C, P]`` among 1, ``m_i m_j`` and products of the other attributes."""
    assert system.particles is not None
    i, j = torch.triu_indices(system.particles, system.particles, 1)
    values = [torch.tensor(system.attributes[name], dtype=torch.float64) for name in sorted(system.attributes)]
    candidates = [torch.ones(len(i), dtype=torch.float64), *(v[i] * v[j] for v in values)]
    kept: list[Tensor] = []
    for candidate in candidates:
        matrix = torch.stack([*kept, candidate])
        if torch.linalg.matrix_rank(matrix) == len(matrix):
            kept.append(candidate)
    return torch.stack(kept)
