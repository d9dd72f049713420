"""Ask a model for the law that it has learned: forces, pair law, symplecticity, reversibility at held-out states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.families.base import Family
from wm_pipelines.laws import Laws
from wm_pipelines.metrics import flow
from wm_pipelines.metrics.descriptions import FLOW_METRICS
from wm_pipelines.metrics.horizon import spread
from wm_pipelines.metrics.pair_force import LARGEST, PairForces
from wm_pipelines.metrics.registry import Rollout
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.physics.codes import COUPLINGS, coded

if TYPE_CHECKING:
    from wm_pipelines.tasks.physics import PhysicsConfig

Float = NDArray[np.float64]
Ask = Callable[[Float, int, float], Float]  # starts [N, 2d], steps, step -> [S, N, steps + 1, 2d]

_STEPS = 4  # that a slope is taken from
_SHORT = 16  # a step for `flow.initial_slope` is so many times shorter than the world's
_DIRECTIONS = 4
_FITTED = 40  # states to whose forces pair forces are fitted
_POWER_EXPLAINS = 0.99  # of the true forces, for their exponent to mean anything


def probe(family: Family, rollout: Rollout, spec: Spec, laws: Laws, config: PhysicsConfig, judged: Judgement) -> None:
    """Add what `flow` and `pair_force` measure of the model, where the world has the law that it is compared with.

    On the split ``test`` everything; elsewhere the forces, and nothing where only the step is another: the law is the
    same there.

    Args:
        family: the model. rollout: its roll-outs on the split. spec, laws: of the split's world.
        config: how many episodes and rows are asked. judged: gets the rows.
    """
    ask, everything = _asking(family), judged.split == "test"
    if not everything and not math.isclose(spec.step, family.spec.step):
        return
    if laws.dynamics is not None and _dynamics_hold(rollout, laws):
        _probe_forces(family, ask, rollout, spec, laws, config, judged)
    if not everything or rollout.energy is None or "energy" in rollout.changing:
        return  # no flow of a Hamiltonian, if it loses energy
    error, resolution = _symplecticity(ask, rollout, spec.step, config.asked_episodes)
    _add(judged, "symplecticity_error", error)
    judged.arrays["symplecticity_resolution"] = np.array(resolution)
    if _even_in_momenta(rollout):
        _add(judged, "reversal_error", _reversal(ask, rollout, spec.step, config))


def _add(judged: Judgement, metric: str, values: Float, n: int = 1) -> None:
    judged.add(metric, values, FLOW_METRICS[metric].unit, n=n)


def _asking(family: Family) -> Ask:
    def ask(starts: Float, steps: int, step: float) -> Float:
        with torch.no_grad():
            past = {"states": torch.tensor(starts[:, None])}
            return np.asarray(family.predict(past, steps, step=step)["states"].numpy(), dtype=np.float64)

    return ask


# ---------------------------------------------------------------- what the true law is


def _dynamics_hold(rollout: Rollout, laws: Laws) -> bool:
    """Whether the truth moves by the known dynamics: a formula of the energy alone says nothing of friction."""
    if rollout.energy is None or "energy" not in rollout.changing:
        return True
    rate = _true_rate(laws, rollout.truth)
    instant = 1e-6 * np.ptp(rollout.time) / rollout.time.shape[-1]
    ahead, behind = (
        np.asarray(rollout.energy(rollout.truth + sign * instant * rate), np.float64) for sign in (1.0, -1.0)
    )
    power = (ahead - behind).mean() / (2.0 * instant)
    lost = (rollout.truth_energy[:, -1] - rollout.truth_energy[:, 0]).mean() / np.ptp(rollout.time)
    return bool(np.sign(power) == np.sign(lost) and abs(power) > 0.1 * abs(lost))


def _true_rate(laws: Laws, states: Float) -> Float:
    assert laws.dynamics is not None
    return np.asarray(laws.dynamics(states), dtype=np.float64)


def _even_in_momenta(rollout: Rollout) -> bool:
    """``H(q, -p) = H(q, p)`` at the truth's states, to rounding: then the flow is reversible."""
    assert rollout.energy is not None
    turned = np.asarray(rollout.energy(flow.turned_back(rollout.truth)), dtype=np.float64)
    return bool(np.allclose(turned, rollout.truth_energy, rtol=1e-9, atol=1e-12 * np.abs(rollout.truth_energy).max()))


# ---------------------------------------------------------------- forces


def _probe_forces(
    family: Family, ask: Ask, rollout: Rollout, spec: Spec, laws: Laws, config: PhysicsConfig, judged: Judgement
) -> None:
    _, rows, size = rollout.truth.shape
    asked = np.linspace(0, rows - 1, config.asked_rows + 1).astype(int)[:-1]
    smooth = _smooth(laws, rollout.truth[:, asked], spec.step)
    states, episode = rollout.truth[:, asked][smooth], np.nonzero(smooth)[0]
    true = _true_rate(laws, states)[:, size // 2 :]
    if not true.any():
        return
    step = spec.step / _SHORT if family.any_step else spec.step
    forces = flow.initial_slope(ask(states, _STEPS, step), step)[..., size // 2 :]
    by_state = flow.force_error(forces, true)
    by_episode = [by_state[:, episode == e].mean(axis=-1) for e in np.unique(episode)]
    _add(judged, "force_error", np.stack(by_episode, axis=-1))
    particles = spec.facts.get("particles")
    if particles is not None and 2 <= particles <= LARGEST:
        _probe_pair_law(states, forces, true, spec, judged)


def _smooth(laws: Laws, states: Float, step: float) -> NDArray[np.bool_]:
    """Which states meet no impact within the steps of any model that is asked: a slope across one is no force."""
    if laws.meets is None:
        return np.ones(states.shape[:-1], dtype=bool)
    return ~np.asarray(laws.meets(states, _STEPS * step))


def _probe_pair_law(states: Float, forces: Float, true: Float, spec: Spec, judged: Judgement) -> None:
    """Exponents of the seeds' pair forces and of the true one; the form found for the truth and for the first seed."""
    count = max(1, min(_FITTED, 200_000 // spec.facts["particles"] ** 2))
    chosen = np.linspace(0, len(states) - 1, min(count, len(states))).astype(int)
    shape = (len(chosen), spec.facts["particles"], spec.facts["space"])
    attributes = spec.facts.get("attributes", {})
    couplings = {"1": np.ones(2 * shape[1:2])} | {
        name: np.outer(attributes[name], attributes[name]) for name in COUPLINGS[1:] if name in attributes
    }
    try:
        pairs = PairForces(states[chosen, : states.shape[1] // 2].reshape(shape), couplings)
    except ValueError:
        return  # two bodies in one place
    truth, seeds = pairs.fit(true[chosen].reshape(shape)), [force[chosen].reshape(shape) for force in forces]
    if truth is None:
        return
    judged.arrays["pair_force"] = np.array([coded(truth), coded(pairs.fit(seeds[0]))])
    if truth.kind != "power" or truth.explained < _POWER_EXPLAINS:
        return
    found = [pairs.power(force, truth.coupling, truth.softening > 0.0) for force in seeds]
    if any(found):
        exponents = np.array([np.inf if one is None else one.constant for one in found])
        _add(judged, "force_exponent", exponents, len(chosen))
        _add(judged, "force_exponent_error", np.abs(exponents - truth.constant), len(chosen))


# ---------------------------------------------------------------- the flow of one step


def _symplecticity(ask: Ask, rollout: Rollout, step: float, episodes: int) -> tuple[Float, float]:
    """At a row of every one of the first episodes, each further on than that of the episode before it.

    Returns:
        ``[S, N]``, and how far it is from what the differences give without extrapolation: what they can resolve.
    """
    count, rows, size = rollout.truth[:episodes].shape
    unit, directions = spread(rollout.truth, rollout.angles), flow.random_directions(size, _DIRECTIONS)
    states = rollout.truth[np.arange(count), np.arange(count) * (rows - 1) // count]
    images = ask(flow.displaced(states, directions, unit), 1, step)[:, :, 1]
    error, plain = (
        flow.symplecticity_error(pushed, directions)
        for pushed in flow.directional_derivatives(images, len(directions), unit)
    )
    finite = np.isfinite(error) & np.isfinite(plain)
    return error, float(np.abs(error - plain)[finite].max(initial=0.0))


def _reversal(ask: Ask, rollout: Rollout, step: float, config: PhysicsConfig) -> Float:
    """There by the roll-out itself, back by another: ``[S, N]``."""
    there = rollout.predicted[:, : config.asked_episodes]
    steps = min(config.reversal_steps, there.shape[2] - 1)
    seeds, count, _, size = there.shape
    turned = flow.turned_back(there[:, :, steps])
    # Every seed rolls all starts out, also those of the other seeds; one that is not finite must not reach a solver.
    finite = np.isfinite(turned).all(axis=-1, keepdims=True)
    starts = np.where(finite, turned, flow.turned_back(rollout.truth[:count, 0]))
    back = ask(starts.reshape(-1, size), steps, step)[:, :, -1].reshape(seeds, seeds, count, size)
    own = np.where(finite, back[np.arange(seeds), np.arange(seeds)], np.nan)
    unit = spread(rollout.truth, rollout.angles)
    return flow.reversal_error(flow.turned_back(own), rollout.truth[:count, 0], unit, rollout.angles)


def energy_range(energy: Any, *states: Float) -> Float:
    """Lowest and highest energy of every array of states ``[..., 2d]``: ``[arrays, 2]``, J."""
    found = [np.asarray(energy(z), dtype=np.float64) for z in states]
    return np.array([[e.min(), e.max()] for e in found])
