"""Coefficients of an equation that are found from measurements, and how far they are known.

Their covariance is the inverse of the Gauss-Newton matrix, with the noise estimated from what is left (Seber & Wild,
*Nonlinear Regression*, 1989, ch. 2). That holds only where the measurements determine the coefficients at all, and
where what is left is noise: where neighbouring measurements are missed alike (Moran 1950, Biometrika 37) the field has
not been fitted. Otherwise a coefficient is not identified, and its interval is everything that was allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.equations import Problem

logger = logging.getLogger(__name__)

_ALIKE = 3.5  # standard deviations of the correlation between neighbouring measurements that noise does not reach
_FEWEST_PAIRS = 8
_Z95 = 1.959964


class UnknownCoefficients(nn.Module):
    """The ``P`` unknown coefficients of a problem, for ``S`` seeds; the logarithm keeps them positive."""

    log: nn.Parameter  # [S, P]
    covariance: Tensor  # [S, P, P] of log; infinite where the measurements do not determine it
    noise: Tensor  # [S, F], estimated standard deviation of the measurements
    alike: Tensor  # [S], how alike neighbouring measurements are missed, in standard deviations of pure noise

    def __init__(self, problem: Problem, seeds: Sequence[int]) -> None:
        super().__init__()
        self.names, self.problem, self.seeds = problem.unknown, problem, tuple(seeds)
        bounds = [problem.coefficients[name].bounds for name in self.names]
        middle = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2).log().mean(1)
        count = len(self.names)
        self.log = nn.Parameter(middle.repeat(len(seeds), 1), requires_grad=False)
        self.register_buffer("covariance", torch.zeros(len(seeds), count, count, dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(len(seeds), len(problem.fields), dtype=torch.float64))
        self.register_buffer("alike", torch.zeros(len(seeds), dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def values(self) -> Tensor:
        """``[S, P]``."""
        return self.log.exp()

    @property
    def log_bounds(self) -> tuple[Tensor, Tensor]:
        """Logarithms of the smallest and the largest value allowed, each ``[P]``."""
        low, high = (
            torch.tensor([self.problem.coefficients[n].bounds[end] for n in self.names], dtype=torch.float64).log()
            for end in (0, 1)
        )
        return low, high

    # ------------------------------------------------------------ how far they are known

    def estimate_noise(self, left: Tensor, index: Tensor, unit: Tensor | float = 1.0) -> None:
        """Standard deviation of the measurements of every field, from what a solution leaves of them.

        Args:
            left: what is missed ``[S, M]``. index: of which field ``[M]``. unit: of what is missed.
        """
        for field in index.unique().tolist():
            mine = left[:, index == field]
            freedom = max(1, mine.shape[1] - len(self))
            self.noise[:, field] = unit * (mine.square().sum(1) / freedom).sqrt()

    def determine(self, precision: Tensor, owed: Tensor | float = 0.0) -> None:
        """Covariance from the Gauss-Newton matrix ``[S, P, P]``, plus what is ``owed`` to other errors."""
        inverse, singular = torch.linalg.inv_ex(precision)
        unusable = (singular != 0) | ~inverse.isfinite().all(2).all(1)
        self.covariance.copy_(torch.where(unusable[:, None, None], torch.inf, inverse + owed))

    def check(self, left: Tensor, points: Tensor, index: Tensor, called: str, remedy: str) -> None:
        """Whether what is left looks like noise and the measurements determine anything; says so where not.

        Args:
            left: what measurements leave unexplained ``[S, M]``. points: where ``[M, d]``. index: of which field.
            called: who fits what. remedy: what to do about a field that is not fitted.
        """
        self.alike.copy_(alikeness(left, points, index))
        fitted, determined = self.alike <= _ALIKE, self._determined
        for number, seed in enumerate(self.seeds):
            alike = f"neighbouring measurements are missed alike ({float(self.alike[number]):.0f} standard deviations)"
            missing = [name for name, on in zip(self.names, determined[number].tolist(), strict=True) if not on]
            if missing:
                why = "" if fitted[number] else f", or is not fitted yet: {alike}"
                logger.warning(
                    "%s, seed %d: %s %s not determined by these measurements: the field hardly depends on it there%s; "
                    "the interval is all that was allowed. Measure elsewhere, or more.%s",
                    called, seed, ", ".join(missing), "is" if len(missing) == 1 else "are", why,
                    "" if fitted[number] else f" {remedy}",
                )  # fmt: skip
            elif not fitted[number]:
                logger.warning(
                    "%s, seed %d: %s not found: %s, so the field is not fitted yet; the interval is all that was "
                    "allowed. %s", called, seed, ", ".join(self.names), alike, remedy,
                )  # fmt: skip

    @property
    def _deviation(self) -> Tensor:
        return self.covariance.diagonal(dim1=1, dim2=2).sqrt()

    @property
    def _determined(self) -> Tensor:
        """Whether the interval leaves out anything of what is allowed, ``[S, P]``."""
        low, high = (bound.to(self.log) for bound in self.log_bounds)
        reach = _Z95 * self._deviation
        return reach.isfinite() & ~((self.log - reach <= low) & (self.log + reach >= high))

    @property
    def identified(self) -> Tensor:
        """Whether measurements are explained up to noise and determine a coefficient, ``[S, P]``."""
        return (self.alike <= _ALIKE)[:, None] & self._determined

    @torch.no_grad()
    def found(self) -> dict[str, dict[str, Tensor]]:
        """By symbol ``value``, ends of the 95 % interval ``low`` and ``high``, ``identified``: each ``[S]``."""
        deviation, identified, entries = self._deviation, self.identified, {}
        for i, name in enumerate(self.names):
            low, high = (
                torch.where(identified[:, i], (self.log[:, i] + side * _Z95 * deviation[:, i]).exp(), bound)
                for side, bound in zip((-1, 1), self.problem.coefficients[name].bounds, strict=True)
            )
            entries[name] = {"value": self.log[:, i].exp(), "low": low, "high": high, "identified": identified[:, i]}
        return entries


def alikeness(left: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """How alike neighbours are missed: Moran's statistic over pairs of nearest measurements of a field.

    Args:
        left: what is missed ``[S, M]``. points: where ``[M, d]``. index: of which field ``[M]``.

    Returns:
        ``[S]``, about standard normal for noise, large where a model misses whole regions; 0 for too few measurements.
    """
    first, second = [], []
    for field in index.unique().tolist():
        mine = (index == field).nonzero()[:, 0]
        if len(mine) < _FEWEST_PAIRS:
            continue
        size = (points[mine].amax(0) - points[mine].amin(0)).clamp_min(1e-300)
        apart = torch.cdist(points[mine] / size, points[mine] / size)
        near = apart.fill_diagonal_(torch.inf).argmin(1)
        pairs = torch.stack([torch.arange(len(mine)), near]).sort(0).values.unique(dim=1)
        first.append(mine[pairs[0]])
        second.append(mine[pairs[1]])
    if not first:
        return left.new_zeros(len(left))
    a, b = torch.cat(first), torch.cat(second)
    unit = torch.empty_like(left)
    for field in index.unique().tolist():
        mine = left[:, index == field]
        unit[:, index == field] = mine / mine.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
    return (unit[:, a] * unit[:, b]).sum(1) / len(a) ** 0.5
