"""Motion and white noise told apart in sampled trajectories, by a smoothing spline.

Every column of a table is a smooth function of time plus noise of one standard deviation: B-splines of degree 7 with a
knot per row, their fourth differences penalised (Eilers & Marx, *Flexible smoothing with B-splines and penalties*,
Statistical Science 11, 1996). The penalty's weight maximises the restricted likelihood, summed over the episodes
(Wahba, *A comparison of GCV and GML for choosing the smoothing parameter*, Annals of Statistics 13, 1985); the curve is
then that of a Kalman smoother whose jerk is a random walk (Kohn & Ansley, SIAM J. Sci. Stat. Comput. 8, 1987). On a
simulated pendulum of 42 rows a period with noise of 1 % of its amplitude this order halves the errors of quintic
splines in rates and accelerations; cubic ones have no acceleration at the ends.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

FEWEST = 12  # rows of an episode from which a curve and its noise can be told apart
_DEGREE, _ORDER = 7, 4  # of the spline; of the differences that are penalised
_ENOUGH = 20_000  # rows from which the noise is estimated, at most
_LOWEST, _HIGHEST = -4.0, 10.0  # log10 of the weights; beyond, the knots are made wider instead
_WIDER, _WIDEST = 4.0, 64.0  # rows per knot
_SPOILS = 0.1  # share of the row-to-row differences that spoils a fit to neighbouring rows
_SIMPLER = 0.5  # degrees of freedom per row: a curve that needs more is hardly simpler than its data
_EXPLAINS = 0.5  # of the column's spread: more than that left over is a motion too fast for the rows
_WHITE = 0.15  # correlation of neighbouring residuals beyond that of white noise


@dataclass(frozen=True)
class Noise:
    """What the noise of one column is, and the curve that takes it out.

    Attributes:
        deviation: standard deviation, unit of the column.
        share: of the root mean square row-to-row difference: 0 no noise, 1 nothing but noise.
        freedom: degrees of freedom of the curve per row; near 1 it runs through every row.
        colour: correlation of neighbouring residuals, without that which white noise about such a curve would have.
        unexplained: the deviation as a share of the column's spread.
        weight: of the squared fourth differences. rows_per_knot: distance of the knots.
    """

    deviation: float
    share: float
    freedom: float
    colour: float
    unexplained: float
    weight: float
    rows_per_knot: float

    @property
    def clear(self) -> bool:
        """Whether this is noise beyond doubt, and enough of it to spoil a fit to neighbouring rows."""
        white = self.unexplained < _EXPLAINS and abs(self.colour) < _WHITE
        return white and self.share > _SPOILS and self.freedom < _SIMPLER

    @property
    def reach(self) -> int:
        """Rows from either end within which the curve is uncertain: twice the width of its kernel."""
        return math.ceil(2.2 * self.weight ** (0.5 / _ORDER) * self.rows_per_knot)


def estimate_noise(times: Sequence[Float], columns: Sequence[Float]) -> Noise:
    """The noise of one column, by all its episodes, or as many of them as hold twenty thousand rows.

    Args:
        times: of every episode, ``[K]``. columns: its entries, ``[K]``.
    """
    from scipy.optimize import minimize_scalar

    most = max(1, _ENOUGH // max(map(len, times)))
    chosen = np.unique(np.linspace(0, len(times) - 1, min(most, len(times))).astype(int))
    times, columns = ([x[k][:_ENOUGH] for k in chosen] for x in (times, columns))
    size = math.sqrt(float(np.mean(np.square(np.concatenate([c - c.mean() for c in columns])))))
    if size <= 1e-12 * max(float(np.abs(c).max()) for c in columns):  # a column that stands still
        return Noise(0.0, 0.0, 1.0, 0.0, 0.0, 10.0**_LOWEST, 1.0)
    interval = float(np.median(np.concatenate([np.diff(t) for t in times])))
    rows_per_knot = 1.0
    while True:
        beds = _beds(times, [c / size for c in columns], interval * rows_per_knot)
        tried = np.arange(_LOWEST, _HIGHEST + 0.5)
        best = float(tried[np.argmin([_likelihood(beds, 10.0**w)[0] for w in tried])])
        if best < _HIGHEST - 1.0 or rows_per_knot >= _WIDEST or min(map(len, times)) < 8 * _WIDER * rows_per_knot:
            break
        rows_per_knot *= _WIDER
    bounds = (max(best - 1.0, _LOWEST), min(best + 1.0, _HIGHEST))
    weight = 10.0 ** float(
        minimize_scalar(
            lambda w: _likelihood(beds, 10.0**w)[0], bounds=bounds, method="bounded", options={"xatol": 0.02}
        ).x
    )
    deviation = math.sqrt(_likelihood(beds, weight)[1])
    residuals = [bed.residual(weight) for bed in beds]
    steps = math.sqrt(float(np.mean(np.concatenate([np.diff(c) for c in columns]) ** 2))) / size
    freedom = sum(bed.freedom(weight) * bed.columns.shape[1] for bed in beds) / sum(r.size for r in residuals)
    products = sum(float((r[1:] * r[:-1]).sum()) for r in residuals)
    squares = sum(float((r * r).sum()) for r in residuals) or 1.0
    # White noise without its lowest frequencies, which the curve has taken: its neighbours differ more.
    white = -math.sin(math.pi * freedom) / (math.pi * (1.0 - freedom)) if freedom < 1.0 else -1.0
    return Noise(
        deviation=size * deviation,
        share=min(1.0, math.sqrt(2.0) * deviation / steps),
        freedom=freedom,
        colour=products / squares - white,
        unexplained=deviation,
        weight=weight,
        rows_per_knot=rows_per_knot,
    )


def interpolating(noise: Noise) -> Noise:
    """The same column, through every row."""
    return replace(noise, weight=10.0**_LOWEST, rows_per_knot=1.0)


def smoothed(time: Float, column: Float, noise: Noise) -> tuple[Float, Float, Float]:
    """The curve behind one column of one episode, its slope and its second derivative, each ``[K]``."""
    from scipy.interpolate import BSpline

    interval = float(np.median(np.diff(time)))
    size = float(np.abs(column - column.mean()).max()) or 1.0
    bed = _Bed(time - time[0], (column[:, None] - column.mean()) / size, interval * noise.rows_per_knot)
    curve = BSpline(bed.knots, bed.solve(noise.weight)[0][:, 0], _DEGREE)
    value, slope, second = (size * curve(bed.inside, k) for k in range(3))
    return value + column.mean(), slope, second


# ---------------------------------------------------------------- the least squares


@dataclass(frozen=True)
class _Bed:
    """Normal equations of episodes with equal times: ``time [K]``, ``columns [K, N]``, one episode each."""

    time: Float
    columns: Float
    spacing: float  # of the knots, about

    @cached_property
    def knots(self) -> Float:
        """As many to the left and to the right of the data as the degree asks for."""
        span = self.time[-1] - self.time[0]
        intervals = max(1, round(span / self.spacing))
        return self.time[0] + span / intervals * np.arange(-_DEGREE, intervals + _DEGREE + 1.0)

    @cached_property
    def inside(self) -> Float:
        """The times, none of them beyond the outer knots by rounding."""
        return np.clip(self.time, self.knots[_DEGREE], self.knots[-_DEGREE - 1])

    @cached_property
    def design(self) -> Any:
        """Values of the B-splines at the rows, sparse ``[K, C]``."""
        from scipy.interpolate import BSpline

        return BSpline.design_matrix(self.inside, self.knots, _DEGREE)

    @cached_property
    def normal(self) -> tuple[Float, Float, Float]:
        """``B' B`` and ``D' D`` as lower bands ``[8, C]``, and ``B' y [C, N]``."""
        from scipy.sparse import eye_array

        differences = eye_array(self.design.shape[1], format="csr")
        for _ in range(_ORDER):
            differences = differences[1:] - differences[:-1]
        return _bands(self.design.T @ self.design), _bands(differences.T @ differences), self.design.T @ self.columns

    def solve(self, weight: float) -> tuple[Float, float]:
        """Coefficients ``[C, N]``, and ``log det(B' B + weight D' D)``."""
        from scipy.linalg import cho_solve_banded, cholesky_banded

        gram, penalty, right = self.normal
        factor = cholesky_banded(gram + weight * penalty, lower=True)
        return cho_solve_banded((factor, True), right), 2.0 * float(np.log(factor[0]).sum())

    def residual(self, weight: float) -> Float:
        """What the curves leave, ``[K, N]``."""
        return np.asarray(self.columns - self.design @ self.solve(weight)[0])

    def freedom(self, weight: float) -> float:
        """Degrees of freedom of one curve, ``tr(B (B' B + w D' D)^-1 B')``: d log det / d log w, by differences."""
        high, low = (self.solve(weight * math.exp(by))[1] for by in (0.05, -0.05))
        return float(self.design.shape[1] - (high - low) / 0.1)


def _bands(matrix: Any) -> Float:
    bands = np.zeros((_DEGREE + 1, matrix.shape[1]))
    for k in range(min(_DEGREE + 1, matrix.shape[1])):
        diagonal = matrix.diagonal(-k)
        bands[k, : len(diagonal)] = diagonal
    return bands


def _beds(times: Sequence[Float], columns: Sequence[Float], spacing: float) -> list[_Bed]:
    alike: defaultdict[bytes, list[tuple[Float, Float]]] = defaultdict(list)
    for time, column in zip(times, columns, strict=True):
        alike[np.round((time - time[0]) / spacing, 6).tobytes()].append((time - time[0], column))
    return [_Bed(group[0][0], np.stack([c for _, c in group], axis=-1), spacing) for group in alike.values()]


def _likelihood(beds: Sequence[_Bed], weight: float) -> tuple[float, float]:
    """Minus twice the restricted log-likelihood under the best variance, but for a constant; and that variance."""
    penalised, determinants, freedom = 0.0, 0.0, 0
    for bed in beds:
        coefficients, log_determinant = bed.solve(weight)
        residual, rough = bed.columns - bed.design @ coefficients, np.diff(coefficients, _ORDER, axis=0)
        penalised += float(np.square(residual).sum() + weight * np.square(rough).sum())
        rows, episodes = bed.columns.shape
        determinants += episodes * (log_determinant - len(rough) * math.log(weight))
        freedom += episodes * (rows - _ORDER)
    variance = max(penalised / freedom, 1e-300)
    return freedom * math.log(variance) + determinants, variance
