"""Terms of a learned Hamiltonian: ``H = sum_m w_m psi(u_m(z))``, their values, gradients and designs.

What a term's inputs ``u_m`` are says what is known of H: nothing (`Forms`, `Coordinates`), mirror images and angles
(`Coordinates`), particles (`Speeds`, `Distances`). Each module of inputs maps ``x [S, N, w]`` to ``u [S, N, M, n]`` and
pulls gradients with respect to ``u`` back to ``x``. `Term` sets random features or a perceptron on top of them.

A roll-out asks for the gradient thousands of times at a few states: `Term.gradient_function` works out once what does
not depend on the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.blocks.features import RandomFeatures

Slopes = Callable[[Tensor], Tensor]
Chart = Callable[[Tensor], tuple[Tensor, Slopes]]
"""``x [S, N, w]`` to ``u [S, N, M, n]`` and the chain rule: gradients with respect to ``u``, ``[S, N, M, n, K]``, to
those with respect to ``x``, ``[S, N, w, K]``."""


class Inputs(nn.Module, ABC):
    """What a term of H depends on."""

    @abstractmethod
    def chart(self) -> Chart:
        """The map and its chain rule, as they are now."""

    def forward(self, x: Tensor) -> Tensor:
        """``[S, N, w] -> [S, N, M, n]``."""
        return self.chart()(x)[0]


class Coordinates(Inputs):
    """``u = (x - centre) / scale``, an angle becoming ``(cos x, sin x)``; one copy per declared mirror image."""

    centre: Tensor  # [S, 1, w]
    scale: Tensor  # [S, 1, w]
    signs: Tensor  # [M, w]
    weights: Tensor  # [1, M]
    _straight: Tensor  # indices of entries that are no angles
    _turning: Tensor  # of those that are
    _order: Tensor  # puts the former and the latter into their places

    def __init__(self, width: int, angles: Sequence[int], mirrors: Sequence[Sequence[int]], seeds: int) -> None:
        super().__init__()
        signs = torch.ones(1, width, dtype=torch.float64)
        for mirror in mirrors:
            flip = torch.ones(width, dtype=torch.float64)
            flip[list(mirror)] = -1.0
            signs = torch.cat([signs, signs * flip])
        straight = [j for j in range(width) if j not in angles]
        self.angles = list(angles)
        places = {
            "_straight": straight,
            "_turning": self.angles,
            "_order": [(straight + self.angles).index(j) for j in range(width)],
        }
        for name, indices in places.items():
            self.register_buffer(name, torch.tensor(indices, dtype=torch.long), persistent=False)
        self.inputs = width + len(self.angles)
        self.centred = not mirrors
        self.register_buffer("signs", signs)
        self.register_buffer("weights", torch.full((1, len(signs)), 1.0 / len(signs), dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(seeds, 1, width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(seeds, 1, width, dtype=torch.float64))

    def calibrate(self, x: Tensor, unit: Tensor) -> None:
        """Take centre and scale from data ``[S, N, w]`` in units ``[w]``; a mirror plane must stay at zero."""
        if self.centred:
            self.centre.copy_(x.mean(dim=1, keepdim=True))
        spread = (x - self.centre).square().mean(dim=1, keepdim=True).sqrt()
        spread = unit * _floored(spread / unit)
        spread[..., self.angles] = 1.0
        self.scale.copy_(spread)

    def chart(self) -> Chart:
        """See `Inputs`."""
        signs, centre, scale = self.signs, self.centre[:, :, None], self.scale[:, :, None]
        straight, turning, order = self._straight, self._turning, self._order
        parts, images = [len(straight), len(turning), len(turning)], signs[..., None]

        def chart(x: Tensor) -> tuple[Tensor, Slopes]:
            y = (signs * x[:, :, None] - centre) / scale
            if not self.angles:
                return y, lambda g: (images * g).sum(2) / scale[:, :, 0, :, None]
            turn = y.index_select(-1, turning)
            cosine, sine = turn.cos(), turn.sin()

            def pullback(g: Tensor) -> Tensor:
                direct, by_cosine, by_sine = g.split(parts, dim=-2)
                turned = cosine[..., None] * by_sine - sine[..., None] * by_cosine
                slopes = torch.cat([direct, turned], dim=-2).index_select(-2, order)
                return (images * slopes).sum(2) / scale[:, :, 0, :, None]

            return torch.cat([y.index_select(-1, straight), cosine, sine], dim=-1), pullback

        return chart


def _floored(spread: Tensor) -> Tensor:
    """Spreads ``[..., n]`` of numbers of one kind, in their unit; those of numbers that hardly change are raised."""
    return torch.maximum(spread, 1e-6 * spread.amax(dim=-1, keepdim=True).clamp_min(1e-6))


class Forms(Inputs):
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

    def calibrate(self, x: Tensor, unit: Tensor) -> None:
        """Take centre and scale from data ``[S, N, w]`` in units ``[w]``."""
        self.centre.copy_(x.mean(dim=1, keepdim=True))
        self.linear.copy_(torch.diag(1 / unit))
        self._normalise(x)

    def adopt(self, linear: Tensor, quadratic: Tensor, x: Tensor) -> None:
        """Become other forms, ``[a, w]`` and ``[a, w, w]`` with ``a <= w`` in all, about the origin, without a unit."""
        for buffer, forms in ((self.linear, linear), (self.quadratic, quadratic)):
            buffer.zero_()
            buffer[: len(forms)] = forms
        self.centre.zero_()
        self._unscale()
        values = self.forward(x)[:, :, 0, 0]
        if len(linear) == 1 and bool(values.abs().min() > 0) and bool((values * values.flatten()[0] > 0).all()):
            self.logarithmic.fill_(True)
            self.linear[0], self.quadratic[0] = 0.0, quadratic[0] * values.flatten()[0].sign()
        self._normalise(x)

    def _unscale(self) -> None:
        self.shift.zero_()
        self.scale.fill_(1.0)

    def _normalise(self, x: Tensor) -> None:
        self._unscale()
        u = self.forward(x)[:, :, 0]
        self.shift.copy_(u.mean(dim=1, keepdim=True))
        spread = (u - self.shift).square().mean(dim=1, keepdim=True).sqrt()
        self.scale.copy_(_floored(spread))

    def chart(self) -> Chart:
        """See `Inputs`; one copy."""
        curved, logarithmic = bool(self.quadratic.any()), bool(self.logarithmic)
        centre, scale, shift, linear, quadratic = self.centre, self.scale, self.shift, self.linear, self.quadratic

        def chart(x: Tensor) -> tuple[Tensor, Slopes]:
            y = x - centre
            values = y @ linear.T
            if not curved:
                return ((values - shift) / scale)[:, :, None], lambda g: linear.T @ (g[:, :, 0] / scale[..., None])
            bent = torch.einsum("awv,snv->snaw", quadratic, y)
            values = values + (bent * y[:, :, None]).sum(-1) / 2
            u, slopes = values, linear + bent
            if logarithmic:
                u = torch.cat([values[..., :1].log(), values[..., 1:]], dim=-1)
                slopes = bent[:, :, :1] / values[..., :1, None]

            def pullback(g: Tensor) -> Tensor:
                return slopes.mT @ (g[:, :, 0] / scale[..., None])[:, :, : slopes.shape[2]]

            return ((u - shift) / scale)[:, :, None], pullback

        return chart


class Speeds(Inputs):
    """``u_i = |p_i / m_i|^2``, weighted by ``m_i``: kinetic energies that differ in the mass alone."""

    scale: Tensor  # [S, 1, 1]
    masses: Tensor  # [1, particles]
    weights: Tensor  # [1, particles], masses in a unit of their own
    inputs = 1
    centred = False

    def __init__(self, masses: Sequence[float], space: int, seeds: int) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("masses", torch.tensor([masses], dtype=torch.float64))
        self.register_buffer("weights", _in_their_unit(self.masses))
        self.register_buffer("scale", torch.ones(seeds, 1, 1, dtype=torch.float64))

    def _velocities(self, p: Tensor) -> Tensor:
        return p.reshape(*p.shape[:2], -1, self.space) / self.masses.mT

    def calibrate(self, p: Tensor, unit: Tensor) -> None:  # noqa: ARG002 - one positive number has no floor
        """Take the scale from data ``[S, N, d]``; 1 where everything rests."""
        square = self._velocities(p).square().sum(-1).mean(dim=(1, 2))[:, None, None]
        self.scale.copy_(torch.where(square > 0, square, 1.0))

    def chart(self) -> Chart:
        """See `Inputs`; one copy per particle."""
        scale, unit = self.scale, self.masses.mT * self.scale[..., None]

        def chart(p: Tensor) -> tuple[Tensor, Slopes]:
            v = self._velocities(p)
            u = (v.square().sum(-1) / scale)[..., None]
            return u, lambda g: ((2 * v / unit)[..., None] * g).flatten(2, 3)

        return chart


class Distances(Inputs):
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

    def calibrate(self, q: Tensor, unit: Tensor) -> None:  # noqa: ARG002 - logarithms of distances have no floor
        """Take core and centre from data ``[S, N, d]``."""
        r = self._separations(q)
        typical = r.square().sum(-1).flatten(1).median(dim=1).values
        self.core.copy_(self.share**2 * typical[:, None, None])
        self.centre.copy_(self._squares(r).log().mean(dim=(1, 2))[:, None, None] / 2)

    def chart(self) -> Chart:
        """See `Inputs`; one copy per pair."""
        centre, ends = self.centre, self.incidence.mT.contiguous()

        def chart(q: Tensor) -> tuple[Tensor, Slopes]:
            r = self._separations(q)
            square = self._squares(r)

            def pullback(g: Tensor) -> Tensor:
                forces = (r / square[..., None])[..., None] * g
                return (ends @ forces.flatten(3)).unflatten(3, forces.shape[3:]).flatten(2, 3)

            return (square.log() / 2 - centre)[..., None], pullback

        return chart


def pair_couplings(particles: int, attributes: Mapping[str, Sequence[float]]) -> Tensor:
    """Linearly independent pair weights ``[C, P]`` among 1, ``m_i m_j`` and products of the other attributes.

    Each attribute is in a unit of its own: a product of kilograms of planets would make the 1 look like rounding.
    """
    i, j = torch.triu_indices(particles, particles, 1)
    values = [_in_their_unit(torch.tensor(attributes[name], dtype=torch.float64)) for name in sorted(attributes)]
    candidates = [torch.ones(len(i), dtype=torch.float64), *(v[i] * v[j] for v in values)]
    kept: list[Tensor] = []
    for candidate in candidates:
        matrix = torch.stack([*kept, candidate])
        if torch.linalg.matrix_rank(matrix) == len(matrix):
            kept.append(candidate)
    return torch.stack(kept)


def _in_their_unit(values: Tensor) -> Tensor:
    """Numbers of one kind in units of their mean size, where they have one."""
    size = values.abs().mean()
    return values / torch.where(size > 0, size, 1.0)


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
        return self.gradient_function()(x)

    def gradient_function(self) -> Callable[[Tensor], Tensor]:
        """`gradient` of the term as it is now: faster where it is called often."""
        chart, slope = self.inputs.chart(), self._slope_function()

        def gradient(x: Tensor) -> Tensor:
            u, pullback = chart(x)
            return pullback(slope(u)[..., None])[..., 0]

        return gradient

    def _slope_function(self) -> Callable[[Tensor], Tensor]:
        """Gradient with respect to ``u``: ``[S, N, M, n] -> [S, N, M, n]``."""
        if not isinstance(self.psi, RandomFeatures):
            return self._perceptron_slope
        slope = self.psi.gradient_function(self._weighted())
        return lambda u: slope(u.flatten(1, 2)).unflatten(1, u.shape[1:3])

    def _perceptron_slope(self, u: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            assert isinstance(self.psi, EnsembleMLP)
            along = self.inputs.weights.mT.expand(*u.shape[:3], -1).flatten(1, 2)
            return self.psi.pulled_back(u.flatten(1, 2), along).unflatten(1, u.shape[1:3])
        u = u if u.requires_grad else u.detach().requires_grad_()
        value = self.psi(u.flatten(1, 2)).unflatten(1, u.shape[1:3]) * self.inputs.weights.mT
        return torch.autograd.grad(value.sum(), u, create_graph=True)[0]

    def design(self, x: Tensor) -> Tensor:
        """Gradient of the term for every coefficient alone: ``[S, N, w] -> [S, N, w, C K]``."""
        u, pullback = self.inputs.chart()(x)
        g = self.features.gradients(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        return pullback(torch.cat([g * w[:, None, None] for w in self.inputs.weights], dim=-1))
