"""The metrics of roll-outs of states as a table that an evaluation loops over; `described` knows all by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics import conservation, prediction
from wm_pipelines.metrics.descriptions import FLOW_METRICS, LANGUAGE_METRICS, SAMPLE_METRICS, Described
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
        tolerance: departure from where nature has a quantity, as a share of its scale, that counts as a violation.
        horizon_threshold: error in units of the truth's spread at which the horizon ends.
        masses: of particles, kg; empty in generalised coordinates.
        conserved: names of the quantities that the world says it keeps; None: it says nothing, the truth is asked.
        allowed: ``z -> [...]``, whether a state can be; None where all can. simulate: see `laws.Laws`, taken where
            ``allowed`` is given.
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
    masses: tuple[float, ...] = ()
    conserved: tuple[str, ...] | None = None
    allowed: Law | None = None
    simulate: Callable[[Float, float, int], Float] | None = None

    @cached_property
    def changing(self) -> frozenset[str]:
        """Quantities that the truth itself does not keep, by what the world says or by `conservation.truth_changes`."""
        found = {}
        if self.momentum is not None:
            found["momentum"] = (self.truth_momentum, conservation.momentum_scale(self.truth))
        if self.angular_momentum is not None:
            found["angular_momentum"] = (
                _along(self.angular_momentum, self.truth),
                conservation.angular_momentum_scale(self.truth),
            )
        if self.energy is not None:
            scale = conservation.energy_scale(self.truth, self.energy)
            found["energy"] = (self.truth_energy[..., None], scale)
        kept = None if self.conserved is None else set(self.conserved)
        return frozenset(
            name
            for name, (truth, scale) in found.items()
            if (kept is not None and name not in kept) or conservation.truth_changes(truth, self.time, scale)
        )

    def truth_where_changing(self, name: str, law: Law | None) -> Float | None:
        """What a quantity is compared with at the same time; None where it is compared with its start."""
        return _along(law, self.truth) if name in self.changing else None

    @cached_property
    def in_own_frame(self) -> Rollout:
        """The same seen from the truth's centre of mass, where translations are a symmetry; else the same."""
        if self.momentum is None or not self.masses:
            return self
        moving = "momentum" not in self.changing
        masses = np.asarray(self.masses)
        with np.errstate(all="ignore"):
            predicted, truth = (
                conservation.centre_of_mass_frame(states, self.truth, masses, moving)
                for states in (self.predicted, self.truth)
            )
        return replace(self, predicted=predicted, truth=truth)

    @cached_property
    def predicted_energy(self) -> Float:
        """Energy along the prediction by the true law, ``[S, E, K]``, J."""
        return _along(self.energy, self.predicted)

    @cached_property
    def truth_energy(self) -> Float:
        """Energy along the truth, ``[E, K]``, J."""
        return _along(self.energy, self.truth)

    @cached_property
    def truth_momentum(self) -> Float:
        """Total momentum along the truth, ``[E, K, space]``, kg m/s."""
        return _along(self.momentum, self.truth)

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
    r, laws = rollout.in_own_frame, {}

    def departed(name: str, law: Law, axis: bool = False) -> Float:
        predicted, truth = _along(law, r.predicted), _along(law, r.truth) if name in rollout.changing else None
        if axis:
            predicted, truth = predicted[..., None], None if truth is None else truth[..., None]
        return conservation.departure(predicted, truth)

    if r.energy is not None:
        laws["energy"] = (departed("energy", r.energy, axis=True), conservation.energy_scale(r.truth, r.energy))
    if r.momentum is not None:
        laws["momentum"] = (departed("momentum", r.momentum), conservation.momentum_scale(r.truth))
    if r.angular_momentum is not None:
        scale = conservation.angular_momentum_scale(r.truth)
        laws["angular momentum"] = (departed("angular_momentum", r.angular_momentum), scale)
    return conservation.violation_rate(laws, rollout.tolerance)


def _step_violation_rate(r: Rollout) -> Float:
    """Every step against the true law from the predicted state before it; see the table."""
    assert r.allowed is not None
    assert r.simulate is not None
    assert r.energy is not None
    step = float(np.diff(np.atleast_2d(r.time)[0])[0])
    with np.errstate(all="ignore"):
        can_be = np.asarray(r.allowed(r.predicted)) & np.isfinite(r.predicted).all(axis=-1)
        lawful = conservation.obeyed_alone(r.predicted, can_be, r.simulate, step)
        found, dof = r.predicted[..., 1:, :], r.truth.shape[-1] // 2
        apart = {
            "energy": np.abs(r.energy(found) - r.energy(lawful)),
            "momentum": np.linalg.norm((found - lawful)[..., dof:], axis=-1),
        }
    scales = {"energy": conservation.energy_scale(r.truth, r.energy), "momentum": conservation.momentum_scale(r.truth)}
    # The start was given, and is left out of the mean as of all others: it stands in front as no violation.
    steps = {
        name: (np.concatenate([np.zeros_like(a[..., :1]), np.where(can_be[..., 1:], a, np.inf)], -1), scales[name])
        for name, a in apart.items()
    }
    return conservation.violation_rate(steps, r.tolerance)


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        function: `Rollout` -> value of every roll-out ``[S, E]``.
        unit, lower_is_better, description: see `Described`.
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
        lambda r: conservation.energy_error(r.predicted_energy, r.truth_where_changing("energy", r.energy)),
        "J",
        True,
        "How far the energy of the predicted states strays from the energy at the start, on average over time; where "
        "the truth itself loses or gains energy, from the true energy at the same time.",
        needs=("energy",),
    ),
    "energy_drift": Metric(
        lambda r: conservation.energy_drift(r.predicted_energy, r.time, r.truth_where_changing("energy", r.energy)),
        "W",
        True,
        "Steady gain or loss of energy per second beyond that of the truth. Zero for an error that only swings back "
        "and forth.",
        needs=("energy",),
    ),
    "momentum_error": Metric(
        lambda r: conservation.momentum_error(r.predicted_momentum, r.truth_where_changing("momentum", r.momentum)),
        "kg m/s",
        True,
        "How far the total momentum strays from its value at the start (where the truth changes it: from the truth), "
        "on average over time.",
        needs=("momentum",),
    ),
    "angular_momentum_error": Metric(
        lambda r: conservation.angular_momentum_error(
            r.predicted_angular_momentum, r.truth_where_changing("angular_momentum", r.angular_momentum)
        ),
        "kg m²/s",
        True,
        "How far the total angular momentum strays from its value at the start (where the truth changes it: from the "
        "truth), on average over time.",
        needs=("angular_momentum",),
    ),
    "violation_rate": Metric(
        _violation_rate,
        "1",
        True,
        "Share of predicted steps at which energy, momentum or angular momentum is outside the tolerance: further from "
        "its start (where the truth changes it: from the truth) than that share of the mean kinetic energy, of the "
        "mean ‖p‖ or of the mean ‖q‖ ‖p‖ of the true motion, particles seen from their true centre of mass. Neither "
        "the zero of the potential nor the origin nor a common velocity of the particles changes it.",
        needs=("energy", "momentum", "angular_momentum"),
    ),
    "step_violation_rate": Metric(
        _step_violation_rate,
        "1",
        True,
        "Share of predicted steps that break a law by themselves: they end where nothing can be (below a floor), or "
        "with an energy or with momenta further than the tolerance from those to which the true law, gravity and "
        "impacts included, leads from the predicted state before. “Nothing changes” fails it. It forgets how a "
        "prediction came to where it is.",
        needs=("allowed",),
    ),
}


def evaluate(rollout: Rollout) -> dict[str, Float]:
    """Every metric that exists for this roll-out's world: name -> value of every roll-out ``[S, E]``."""
    return {name: metric(rollout) for name, metric in STATE_METRICS.items() if metric.applies(rollout)}


def described(name: str) -> Described | Metric | None:
    """What there is to know of a metric of states or of language; None for any other."""
    return STATE_METRICS.get(name) or FLOW_METRICS.get(name) or SAMPLE_METRICS.get(name) or LANGUAGE_METRICS.get(name)
