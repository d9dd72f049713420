"""Judge a model of videos by the physics that can be read from its features and from the futures it predicts.

Axes: ``S`` seeds, ``E`` episodes, ``I`` latent steps, ``D`` features, ``M`` predictions (several per episode), ``K``
predicted latent steps, ``Q`` quantities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wm_pipelines.episodes import Episodes
from wm_pipelines.families.base import Family
from wm_pipelines.laws import Laws
from wm_pipelines.metrics.explained import explained_by_episode, explained_variance
from wm_pipelines.metrics.probes import knn_probe, linear_probe
from wm_pipelines.metrics.readout import ridge_probe
from wm_pipelines.metrics.registry import STATE_METRICS, Rollout
from wm_pipelines.tasks._pixels.features import Float, Labels, add_spread, encode, encoder, has_learned, labels_of
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.videos.prediction import Futures, add_frames, predict
from wm_pipelines.tasks.videos.probing import Observables, PhysicsProbe
from wm_pipelines.tasks.videos.surprise import add_surprise

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig


def judge(
    family: Family, episodes: Mapping[str, Episodes], split: str, laws: Laws, config: VideosConfig, trained: bool
) -> Judgement:
    """Everything that can be said of one model.

    Args:
        family: restored. trained: else only its features are judged, not its predictions.
        episodes: ``train``, the split to be judged, and ``impossible_…`` where there are any. laws: of the world.
        config: windows, steps, numbers of episodes.

    Raises:
        UserError: the family has no features, or the episodes are too short for what is asked.
    """
    model, test = encoder(family), episodes[split]
    some = episodes["train"].first(config.probe_episodes)
    judged = Judgement(family.seeds, split)
    learned, _ = encode(model, some["frames"])
    held_out, _ = encode(model, test["frames"])
    frames = test["frames"].reshape(-1, *test["frames"].shape[2:]) if trained and has_learned(family) else None
    add_spread(judged, held_out.reshape(len(held_out), -1, held_out.shape[-1]), frames)
    if (labels := labels_of({**episodes, "train": some}, split)) is not None:
        _add_labels(judged, learned, labels[0], held_out, labels[1], config.knn)
    probe = None
    if test.spec.dof:
        probe = PhysicsProbe(Observables.of(test.spec), config.window, model.frames_per_latent, learned, some["states"])
        _add_read(judged, probe, held_out, test["states"])
    if not trained or not model.context:
        return judged
    futures = predict(model, test, config)
    if futures.latents is not None and probe is not None:
        floor = predict(model, some, config, only_context=True)
        _add_futures(judged, probe, futures, floor, laws, config)
    if futures.frames is not None:
        add_frames(judged, futures, config)
    add_surprise(judged, model, episodes, split)
    return judged


def _add_labels(judged: Judgement, learned: Float, labels: Labels, held_out: Float, true: Labels, knn: int) -> None:
    """Classes of whole videos, from features averaged over time."""
    if len(np.unique(labels)) < 2:
        return
    pairs = list(zip(learned.mean(2), held_out.mean(2), strict=True))
    judged.add("linear_probe", np.stack([linear_probe(x, labels, y, true) for x, y in pairs]), "1")
    judged.add("knn_probe", np.stack([knn_probe(x, labels, y, true, knn) for x, y in pairs]), "1")


def _add_read(judged: Judgement, probe: PhysicsProbe, latents: Float, states: Float) -> None:
    """How much of positions and velocities the features hold."""
    at = probe.latent_steps(states)[:, probe.window - 1 :]
    where, how_fast = probe.read(latents)
    for name, found, target in (
        ("r2_position_probed", where, probe.observables.position(at)),
        ("r2_velocity_probed", how_fast, probe.observables.velocity(at)),
    ):
        by_episode = np.stack([explained_by_episode(f, target) for f in found])
        judged.add(name, [explained_variance(f, target) for f in found], "1", by_episode=by_episode)


def _add_futures(
    judged: Judgement, probe: PhysicsProbe, futures: Futures, training: Futures, laws: Laws, config: VideosConfig
) -> None:
    """Physics read from predicted latents; beside it ridge regression from the context straight to the future."""
    assert futures.latents is not None
    assert futures.states is not None
    observables, stride, window = probe.observables, probe.stride, probe.window
    ahead = futures.latents.shape[2]
    # The last latent step of the context stands in front: a prediction starts there.
    known = np.concatenate([futures.past[:, :, -window:], futures.latents], axis=2)
    where, how_fast = probe.read(known)
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
    for name, metric in STATE_METRICS.items():
        if metric.applies(rollout):
            judged.add(f"{name}_probed", futures.over_starts(metric(rollout)), metric.unit)


def _by_episode(values: Float, futures: Futures) -> Float:
    """``[M, Q] -> [E, starts, Q]``: predictions of one episode belong together."""
    return values.reshape(futures.episodes, futures.starts, values.shape[-1])


def _floor(probe: PhysicsProbe, futures: Futures, training: Futures, ahead: int) -> tuple[Float, Float]:
    """Ridge regression from the context's last latents to all future positions and velocities: ``[S, M, K, Q]``."""
    assert training.states is not None
    observables, window = probe.observables, probe.window
    then = probe.latent_steps(training.states)[:, -ahead:]
    targets = [f(then) for f in (observables.position, observables.velocity)]
    found: list[list[Float]] = [[], []]
    for past, context in zip(training.past, futures.past, strict=True):
        x, y = (z[:, -window:].reshape(len(z), -1) for z in (past, context))
        for kind, target in enumerate(targets):
            read = ridge_probe(x, target.reshape(len(target), -1)).predict(y)
            found[kind].append(read.reshape(len(y), ahead, -1))
    return np.stack(found[0]), np.stack(found[1])
