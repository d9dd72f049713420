"""Forms of H that held-out episodes choose between, and the kinetic energy ``p A(q) p`` that one of them offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wm_pipelines.blocks.features import RandomFeatures
from wm_pipelines.blocks.hamiltonian_terms import Coordinates, Distances, Term


class QuadraticTerm(Term):
    """``sum_{i <= j} p_i p_j A_ij(q)``: the kinetic energy of a mechanism whose inertia depends on its pose."""

    def __init__(self, inputs: Coordinates, psi: RandomFeatures, dof: int, seeds: int) -> None:
        self.rows, self.columns = torch.triu_indices(dof, dof)
        unit = torch.eye(dof, dtype=torch.float64)
        self._units = unit[:, self.rows], unit[:, self.columns]
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
        first, second = p.index_select(-1, self.rows), p.index_select(-1, self.columns)
        slope = self._units[0] * second[..., None, :] + self._units[1] * first[..., None, :]
        return q, first * second, slope

    def _features(self, q: Tensor) -> Tensor:
        """``phi_k(q)``, mirror images averaged: ``[S, N, K]``."""
        u = self.inputs(q)
        images = self.features(u.flatten(1, 2)).unflatten(1, u.shape[1:3])
        return torch.einsum("snmk,cm->snk", images, self.inputs.weights)

    def _matrix(self) -> Tensor:
        return self.coefficients.unflatten(1, (len(self.rows), -1))  # [S, I, K]

    def calibrated(self, z: Tensor) -> Tensor:
        """What centre and scale are taken from: q alone."""
        return z.chunk(2, dim=-1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Value of the term: ``[S, N, 2d] -> [S, N]``."""
        q, products, _ = self._split(x)
        return torch.einsum("snk,sik,sni->sn", self._features(q), self._matrix(), products)

    def gradient_function(self) -> Callable[[Tensor], Tensor]:
        """Gradient of the term as it is now: ``[S, N, 2d] -> [S, N, 2d]``."""
        chart, matrix, weights, back = self.inputs.chart(), self._matrix(), self.inputs.weights, self.features.weight.mT

        def gradient(x: Tensor) -> Tensor:
            q, products, slope = self._split(x)
            u, pullback = chart(q)
            values, slopes = self.features.with_slopes(u.flatten(1, 2))
            values, slopes = values.unflatten(1, u.shape[1:3]), slopes.unflatten(1, u.shape[1:3])
            inertia = (values * weights.mT).sum(2) @ matrix.mT  # [S, N, I]
            g = ((slopes * (products @ matrix)[:, :, None]).flatten(1, 2) @ back).unflatten(1, u.shape[1:3])
            dq = pullback((g * weights.mT)[..., None])[..., 0]
            return torch.cat([dq, (slope * inertia[:, :, None]).sum(-1)], dim=-1)

        return gradient

    def design(self, x: Tensor) -> Tensor:
        """Gradient of the term for every coefficient alone: ``[S, N, 2d] -> [S, N, 2d, I K]``."""
        q, products, slope = self._split(x)
        u, pullback = self.inputs.chart()(q)
        g = self.features.gradients(u.flatten(1, 2)).unflatten(1, u.shape[1:3]) * self.inputs.weights.mT[..., None]
        dq = pullback(g)[..., None, :] * products[:, :, None, :, None]
        dp = slope[..., None] * self._features(q)[:, :, None, None, :]
        return torch.cat([dq, dp], dim=2).flatten(3)


def hypotheses(terms: Sequence[Term]) -> list[tuple[int, ...]]:
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
