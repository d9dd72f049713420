"""The metrics of roll-outs in state space, as a table that an evaluation loops over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics import conservation, prediction
from wm_pipelines.metrics.horizon import horizon, relative_error_by_step

Float = NDArray[np.float64]
Law = Callable[[Any], Any]


@dataclass(frozen=True)
class Rollout:
    """What a family predicted on the episodes of one world, what was true, and the laws to judge it by.

    Attributes:
        predicted: ``[S, E, K, 2d]``, the given start in row 0. truth: ``[E, K, 2d]``. Float64.
        time: ``[K]`` or ``[E, K]``, s.
        energy: ``z [..., 2d] -> [...]``, J; None where the world has no such law, likewise:
        momentum: ``z -> [..., space]``, kg m/s.
        angular_momentum: ``z -> [..., 1 | 3]``, kg m²/s.
        angles: entries of the state that are angles.
        lyapunov_time: s, of a chaotic world.
        tolerance: departure from a conserved quantity, as a share of its scale, that counts as a violation.
        horizon_threshold: error in units of the truth's spread at which the horizon ends.
    """

    predicted: Float
    truth: Float
    time: Float
    energy: Law | None = None
    momentum: Law | None = None
    angular_momentum: Law | None = None
    angles: tuple[int, ...] = ()
    lyapunov_time: float | None = None
    tolerance: float = 0.01
    horizon_threshold: float = 0.4

    @cached_property
    def predicted_energy(self) -> Float:
        """Energy along the prediction by the true law, ``[S, E, K]``, J."""
        return _along(self.energy, self.predicted)

    @cached_property
    def truth_energy(self) -> Float:
        """Energy along the truth, ``[E, K]``, J."""
        return _along(self.energy, self.truth)

    @cached_property
    def predicted_momentum(self) -> Float:
        """Total momentum along the prediction, ``[S, E, K, space]``, kg m/s."""
        return _along(self.momentum, self.predicted)

    @cached_property
    def predicted_angular_momentum(self) -> Float:
        """Total angular momentum along the prediction, ``[S, E, K, 1 | 3]``, kg m²/s."""
        return _along(self.angular_momentum, self.predicted)

    @cached_property
    def relative_error(self) -> Float:
        """Error in units of the truth's spread, ``[S, E, K]``."""
        return relative_error_by_step(self.predicted, self.truth, self.angles)


def _along(law: Law | None, states: Float) -> Float:
    if law is None:
        raise ValueError("this world has no such law; ask `Metric.applies` first")
    with np.errstate(all="ignore"):  # a diverged roll-out overflows; the metrics turn that into an infinite error
        return np.asarray(law(states), dtype=np.float64)


def _violation_rate(rollout: Rollout) -> Float:
    laws = {}
    if rollout.energy is not None:
        departed = conservation.departure(rollout.predicted_energy[..., None])
        laws["energy"] = (departed, conservation.energy_scale(rollout.truth, rollout.energy))
    if rollout.momentum is not None:
        departed = conservation.departure(rollout.predicted_momentum)
        laws["momentum"] = (departed, conservation.momentum_scale(rollout.truth))
    if rollout.angular_momentum is not None:
        departed = conservation.departure(rollout.predicted_angular_momentum)
        laws["angular momentum"] = (departed, conservation.angular_momentum_scale(rollout.truth))
    return conservation.violation_rate(laws, rollout.tolerance)


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        function: `Rollout` -> value of every roll-out ``[S, E]``.
        unit: of the value.
        lower_is_better: which way is good.
        description: what it means, in plain words.
        needs: attributes of `Rollout` of which at least one must exist.
        by_step: the value at every row ``[S, E, K]``, where a metric has one.
    """

    function: Callable[[Rollout], Float]
    unit: str
    lower_is_better: bool
    description: str
    needs: tuple[str, ...] = ()
    by_step: Callable[[Rollout], Float] | None = None

    def applies(self, rollout: Rollout) -> bool:
        """Whether the metric exists for this world: a law that is not there cannot be broken."""
        return not self.needs or any(getattr(rollout, name) is not None for name in self.needs)

    def __call__(self, rollout: Rollout) -> Float:
        """Value of every roll-out, ``[S, E]``."""
        return self.function(rollout)


def _mse(r: Rollout) -> Float:
    return prediction.mse(r.predicted, r.truth, r.angles)


def _mse_by_step(r: Rollout) -> Float:
    return prediction.mse_by_step(r.predicted, r.truth, r.angles)


def _horizon(r: Rollout) -> Float:
    return horizon(r.relative_error, r.time, r.horizon_threshold)


def _horizon_lyapunov(r: Rollout) -> Float:
    if r.lyapunov_time is None:
        raise ValueError("this world has no Lyapunov time; ask `Metric.applies` first")
    return _horizon(r) / r.lyapunov_time


STATE_METRICS: dict[str, Metric] = {
    "mse": Metric(
        _mse,
        "state²",
        True,
        "Mean squared distance between predicted and true state, over all predicted steps.",
        by_step=_mse_by_step,
    ),
    "relative_error": Metric(
        lambda r: prediction.mean_over_steps(r.relative_error),
        "1",
        True,
        "Distance between predicted and true state in units of how far the true state ranges, coordinates and momenta "
        "apart, on average over time. The same in all units; about 1 where nothing is predicted.",
    ),
    "horizon": Metric(
        _horizon,
        "s",
        False,
        "How long the prediction stays close to the truth: time until the error, in units of how far the true state "
        "ranges, first reaches the threshold. A roll-out that never reaches it counts with its full length.",
    ),
    "horizon_lyapunov": Metric(
        _horizon_lyapunov,
        "Lyapunov times",
        False,
        "The horizon in units of the time in which chaos multiplies a tiny error by e. Comparable between worlds.",
        needs=("lyapunov_time",),
    ),
    "energy_mse": Metric(
        lambda r: conservation.energy_mse(r.predicted_energy, r.truth_energy),
        "J²",
        True,
        "Mean squared difference between the energy of the predicted state and the true energy at the same time.",
        needs=("energy",),
    ),
    "energy_error": Metric(
        lambda r: conservation.energy_error(r.predicted_energy),
        "J",
        True,
        "How far the energy of the predicted states strays from the energy at the start, on average over time.",
        needs=("energy",),
    ),
    "energy_drift": Metric(
        lambda r: conservation.energy_drift(r.predicted_energy, r.time),
        "W",
        True,
        "Steady gain or loss of energy per second. Zero for an error that only swings back and forth.",
        needs=("energy",),
    ),
    "momentum_error": Metric(
        lambda r: conservation.momentum_error(r.predicted_momentum),
        "kg m/s",
        True,
        "How far the total momentum strays from its value at the start, on average over time.",
        needs=("momentum",),
    ),
    "angular_momentum_error": Metric(
        lambda r: conservation.angular_momentum_error(r.predicted_angular_momentum),
        "kg m²/s",
        True,
        "How far the total angular momentum strays from its value at the start, on average over time.",
        needs=("angular_momentum",),
    ),
    "violation_rate": Metric(
        _violation_rate,
        "1",
        True,
        "Share of predicted steps at which energy, momentum or angular momentum is outside the tolerance.",
        needs=("energy", "momentum", "angular_momentum"),
    ),
}


def evaluate(rollout: Rollout) -> dict[str, Float]:
    """Every metric that exists for this roll-out's world: name -> value of every roll-out ``[S, E]``."""
    return {name: metric(rollout) for name, metric in STATE_METRICS.items() if metric.applies(rollout)}
