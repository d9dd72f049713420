"""Laws read from predicted latents: positions, velocities, energies and momenta beside the true ones.

Axes: ``S`` seeds, ``M`` predictions (several per episode), ``I`` latent steps of the context, ``K`` predicted ones,
``D`` features, ``Q`` quantities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wm_pipelines.laws import Laws
from wm_pipelines.metrics.defects import law_errors
from wm_pipelines.metrics.explained import explained_variance
from wm_pipelines.metrics.probed import LAWS, PROBED_METRICS, along
from wm_pipelines.metrics.readout import ridge_probe
from wm_pipelines.metrics.registry import Rollout
from wm_pipelines.tasks._pixels.features import Float
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.videos.prediction import Futures
from wm_pipelines.tasks.videos.probing import PhysicsProbe

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig


def add_futures(
    judged: Judgement, probe: PhysicsProbe, futures: Futures, training: Futures, laws: Laws, config: VideosConfig
) -> None:
    """Physics read from predicted latents; beside it ridge regression from the context straight to the future.

    Args:
        judged: takes the rows, and energies and momenta of the first seed over time. probe: fitted to true frames.
        futures: predictions of held-out episodes. training: contexts of training episodes, for the ridge regression.
        laws: of the world. config: tolerance, threshold, how many futures are shown.
    """
    assert futures.latents is not None
    assert futures.states is not None
    observables, stride, ahead = probe.observables, probe.stride, futures.latents.shape[2]
    where, how_fast = _read(probe, futures, futures.latents)
    truth = probe.latent_steps(futures.states)[:, -ahead - 1 :]
    floor_where, floor_fast = _floor(probe, futures, training, ahead)
    for quantity, of, found, floor in (
        ("position", observables.position, where[:, :, 1:], floor_where),
        ("velocity", observables.velocity, how_fast[:, :, 1:], floor_fast),
    ):
        target = of(truth[:, 1:])
        for name, read in ((f"r2_{quantity}_predicted_probed", found), (f"r2_{quantity}_ridge_probed", floor)):
            for k in range(ahead):
                pairs = [(_by_episode(r[:, k], futures), _by_episode(target[:, k], futures)) for r in read]
                values = [explained_variance(*pair) for pair in pairs]
                judged.add(name, values, "1", step=(k + 1) * stride)
    rollout = Rollout(
        observables.states(where, how_fast),
        truth,
        futures.step * stride * np.arange(ahead + 1.0),
        laws.energy,
        laws.momentum,
        laws.angular_momentum,
        observables.angles,
        None,
        config.tolerance,
        config.horizon_threshold,
    )
    _add_laws(judged, rollout, futures, stride, config.shown)
    _add_defects(judged, probe, futures, rollout)


def _read(probe: PhysicsProbe, futures: Futures, latents: Float) -> tuple[Float, Float]:
    """Positions and velocities from the context's last latent step on, where a prediction starts: ``[S, M, K + 1, Q]``.

    The context is that of the true frames, whatever stands at the predicted steps.
    """
    return probe.read(np.concatenate([futures.past[:, :, -probe.window :], latents], axis=2))


def _add_laws(judged: Judgement, rollout: Rollout, futures: Futures, stride: int, shown: int) -> None:
    """Energies and momenta that were read, against the true ones, together and by step; a few of them to be drawn."""
    for name, metric in PROBED_METRICS.items():
        if not metric.applies(rollout):
            continue
        judged.add(f"{name}_probed", futures.over_starts(metric(rollout)), metric.unit)
        if metric.needs and metric.by_step is not None:
            steps = metric.by_step(rollout)
            for k in range(1, steps.shape[2]):
                judged.add(f"{name}_probed", futures.over_starts(steps[:, :, k]), metric.unit, step=k * stride)
    some = np.linspace(0, len(futures.target) - 1, min(shown, len(futures.target))).astype(int)
    for law in LAWS:
        if (formula := getattr(rollout, law)) is not None:
            judged.arrays[f"read_{law}"] = along(law, formula, rollout.predicted[0, some])
            judged.arrays[f"true_{law}"] = along(law, formula, rollout.truth[some])
            judged.arrays["read_times"] = np.asarray(rollout.time)


def _add_defects(judged: Judgement, probe: PhysicsProbe, futures: Futures, rollout: Rollout) -> None:
    """Errors of what is read from true frames, from their round trip and from predictions, by step; see `defects`."""
    assert futures.observed is not None
    assert futures.rebuilt is not None
    stages = {"reading": futures.observed, "encoding": futures.rebuilt}
    read = {stage: probe.observables.states(*_read(probe, futures, latents)) for stage, latents in stages.items()}
    for stage, states in (*read.items(), ("dynamics", rollout.predicted)):
        errors = law_errors(states, rollout.truth, rollout.energy, rollout.angles)
        for quantity, values in errors.items():
            name = f"defect_{stage}_{quantity}_probed"
            judged.add(name, futures.over_starts(values[..., 1:].mean(2)), "1")
            for k in range(1, values.shape[2]):
                judged.add(name, futures.over_starts(values[:, :, k]), "1", step=k * probe.stride)


def _by_episode(values: Float, futures: Futures) -> Float:
    """``[M, Q] -> [E, starts, Q]``: predictions of one episode belong together."""
    return values.reshape(futures.episodes, futures.starts, values.shape[-1])


def _floor(probe: PhysicsProbe, futures: Futures, training: Futures, ahead: int) -> tuple[Float, Float]:
    """Ridge regression from the context's last latents to all future positions and velocities: ``[S, M, K, Q]``.

    How many of them it sees, up to the probe's window, is chosen on training episodes that are held out: a floor that
    is free to see more must not be a lower one for it.
    """
    assert training.states is not None
    observables = probe.observables
    then = probe.latent_steps(training.states)[:, -ahead:]
    targets = [f(then) for f in (observables.position, observables.velocity)]
    fitted = training.starts * (4 * training.episodes // 5)
    found: list[list[Float]] = [[], []]
    for past, context in zip(training.past, futures.past, strict=True):
        for kind, target in enumerate(targets):
            flat = target.reshape(len(target), -1)
            seen = best_window(past, flat, probe.window, fitted)
            read = ridge_probe(_last(past, seen), flat).predict(_last(context, seen))
            found[kind].append(read.reshape(len(context), ahead, -1))
    return np.stack(found[0]), np.stack(found[1])


def best_window(past: Float, target: Float, longest: int, fitted: int) -> int:
    """From how many of the last latents ``[M, I, D]`` ridge regression tells ``target [M, Q]`` best.

    Args:
        longest: the most. fitted: the first so many examples are fitted, the error is that of the rest; without at
            least three to fit and one to judge, the longest.
    """
    if fitted < 3 or fitted >= len(past):
        return longest

    def error(count: int) -> float:
        x = _last(past, count)
        return float(np.square(ridge_probe(x[:fitted], target[:fitted]).predict(x[fitted:]) - target[fitted:]).sum())

    return min(range(1, longest + 1), key=error)


def _last(latents: Float, count: int) -> Float:
    return latents[:, -count:].reshape(len(latents), -1)
