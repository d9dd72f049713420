"""Laws read through a probe: energies and momenta beside the true ones at the same time.

A probe that reads nothing returns the mean, always the same: measured from its own start such an energy is conserved to
machine precision, and the emptiest model would keep the law best. What is read is therefore compared with the truth,
never with itself. There is no drift among these metrics: a constant has none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.conservation import (
    angular_momentum_scale,
    energy_scale,
    momentum_scale,
    violation_rate,
)
from wm_pipelines.metrics.prediction import infinite_where_undefined, mean_over_steps
from wm_pipelines.metrics.registry import STATE_METRICS, Law, Metric, Rollout

Float = NDArray[np.float64]

LAWS = ("energy", "momentum", "angular_momentum")
"""Attributes of `Rollout` and of `Laws`: functions of the state, None where a world has none."""


def along(law: str, formula: Law, states: Float) -> Float:
    """A quantity of states ``[..., 2d]`` by the true law, as a vector ``[..., c]``; energy has c = 1."""
    with np.errstate(all="ignore"):  # a diverged roll-out overflows, and becomes an infinite error
        value = np.asarray(formula(states), np.float64)
    return value[..., None] if law == "energy" else value


def natural_scale(law: str, formula: Law, truth: Float) -> float:
    """What counts as 100 % of a quantity, of true states ``[E, K, 2d]``, unit of the law."""
    if law == "energy":
        return energy_scale(truth, formula)
    return momentum_scale(truth) if law == "momentum" else angular_momentum_scale(truth)


def from_truth(rollout: Rollout, law: str) -> Float:
    """``‖L_probed(t) - L_true(t)‖`` at every row, ``[S, E, K]``, unit of the law; infinite where it is undefined.

    Args:
        rollout: states that were read, and the true ones. law: ``energy``, ``momentum`` or ``angular_momentum``.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        formula = getattr(rollout, law)
        off = along(law, formula, rollout.predicted) - along(law, formula, rollout.truth)
        return infinite_where_undefined(np.linalg.norm(off, axis=-1))


def _error(law: str) -> Callable[[Rollout], Float]:
    return lambda rollout: mean_over_steps(from_truth(rollout, law))


def _by_step(law: str) -> Callable[[Rollout], Float]:
    return lambda rollout: from_truth(rollout, law)


def _violations(rollout: Rollout) -> Float:
    there = {law: formula for law in LAWS if (formula := getattr(rollout, law)) is not None}
    departed = {law: (from_truth(rollout, law), natural_scale(law, f, rollout.truth)) for law, f in there.items()}
    return violation_rate(departed, rollout.tolerance)


def _against(law: str, unit: str) -> Metric:
    words = law.replace("_", " ")
    text = f"Distance of the {words} read from predicted latents from the true one at the same time, mean over time."
    return Metric(_error(law), unit, True, text, needs=(law,), by_step=_by_step(law))


PROBED_METRICS: dict[str, Metric] = {
    **{name: STATE_METRICS[name] for name in ("mse", "horizon", "horizon_lyapunov", "energy_mse")},
    "energy_error": _against("energy", "J"),
    "momentum_error": _against("momentum", "kg m/s"),
    "angular_momentum_error": _against("angular_momentum", "kg m²/s"),
    "violation_rate": Metric(
        _violations,
        "1",
        True,
        "Share of predicted steps at which energy, momentum or angular momentum, as read, are further from the true "
        "ones than the tolerance.",
        needs=LAWS,
    ),
}
"""As `STATE_METRICS`, for states that were read by a probe: leaderboard rows end in ``_probed``."""


def evaluate_probed(rollout: Rollout) -> dict[str, Float]:
    """Every metric that exists for this world: name -> value of every roll-out ``[S, E]``."""
    return {name: metric(rollout) for name, metric in PROBED_METRICS.items() if metric.applies(rollout)}
