"""Linear symmetries of a Hamiltonian, found in noise-free states and their derivatives.

A conserved linear or quadratic form generates a linear symmetry (Noether); H then depends on the forms that commute
with it alone. Finding both is linear algebra.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def invariant_forms(z: Tensor, dz: Tensor, accuracy: float = 1e-8) -> tuple[Tensor, Tensor] | None:
    """Linear and quadratic forms that share the symmetries seen in the data, if there are any.

    A form ``L(z)`` that stays constant along all data generates, by Noether's theorem, a linear symmetry of H. H then
    depends on those forms alone that commute with every such L: ``{Q, L} = 0``. Both steps are null spaces of linear
    maps. Directions in which the data never move are left out before.

    Args:
        z, dz: noise-free states and their derivatives ``[N, 2d]``, in units in which q and p are of a size.
        accuracy: relative size that counts as zero.

    Returns:
        ``l [a, 2d]`` and ``Q [a, 2d, 2d]`` of the forms ``l . z + z . Q z / 2``; None: no symmetry, too many forms.
    """
    width = z.shape[1]
    values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    basis = vectors[:, values > accuracy**1.5 * values[-1]]
    d, n = width // 2, basis.shape[1]
    area = basis.T @ torch.cat([basis[d:], -basis[:d]])  # B^T J B
    if n == 0 or not torch.linalg.cond(area) <= 1e6:
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


def forms_of(part: slice, linear: Tensor, quadratic: Tensor) -> tuple[Tensor, Tensor]:
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
