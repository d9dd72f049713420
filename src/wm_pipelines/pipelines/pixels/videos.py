"""Judge a model of videos by the physics that can be read from its features and from the futures it predicts.

Axes: ``S`` seeds, ``E`` episodes, ``T`` frames, ``I`` latent instants, ``D`` features, ``M`` predictions (several per
episode), ``K`` predicted instants, ``Q`` quantities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.metrics.explained import explained_variance
from wm_pipelines.metrics.probes import knn_probe, linear_probe
from wm_pipelines.metrics.readout import RidgeProbe, ridge_probe, windows
from wm_pipelines.metrics.registry import STATE_METRICS, Rollout
from wm_pipelines.metrics.statistics import summarise
from wm_pipelines.pipelines.configuration import VideoEvaluationConfig
from wm_pipelines.pipelines.evaluation.judging import Judgement
from wm_pipelines.pipelines.pixels import pictures, surprise
from wm_pipelines.pipelines.pixels.judging import Float, add_spread, encode, has_learned
from wm_pipelines.pipelines.pixels.observables import Observables
from wm_pipelines.system import System
from wm_pipelines.worlds.episodes import Episodes


def judge_videos(
    family: PixelFamily, trained: bool, episodes: Mapping[str, Episodes], system: System, config: VideoEvaluationConfig
) -> Judgement:
    """Everything that can be said of one variant.

    Args:
        family: restored. trained: else only its features are judged, not its predictions.
        episodes: splits ``train``, ``test``, and ``impossible_…`` where there are any. system: the world's laws.
        config: windows, steps, numbers of episodes.

    Raises:
        UserError: the episodes are too short for what is asked.
    """
    train, test = episodes["train"], episodes["test"]
    judged = Judgement(family.seeds, resamples=config.resamples)
    some = slice(config.probe_episodes)
    assert train.frames is not None
    assert test.frames is not None
    learned, _ = encode(family, train.frames[some])
    held_out, _ = encode(family, test.frames)
    pictures_of = test.frames.reshape(-1, *test.frames.shape[2:]) if trained and has_learned(family) else None
    add_spread(judged, held_out.reshape(len(held_out), -1, held_out.shape[-1]), pictures_of)
    if train.label is not None and test.label is not None:
        _add_labels(judged, learned, np.asarray(train.label[some]), held_out, np.asarray(test.label), config)
    reader = None
    if system.dof:
        reader = ReadOut(Observables(system), config.window, family.frames_per_latent, learned, train.state[some])
        _add_read(judged, reader, held_out, test.state)
    if not trained or not family.context:
        return judged
    futures = Futures.create(family, test, config)
    if futures.latents is not None and reader is not None:
        floor = Futures.create(family, _first(train, config.probe_episodes), config, only_context=True)
        _add_futures(judged, reader, futures, floor, config)
    if futures.frames is not None:
        pictures.add_frames(judged, futures.frames, futures.truth, config)
        judged.arrays |= pictures.kept(futures.frames, futures.truth)
    surprise.add_surprise(judged, family, episodes)
    return judged


def _first(episodes: Episodes, count: int) -> Episodes:
    assert episodes.frames is not None
    return Episodes(
        time=episodes.time[:count],
        state=episodes.state[:count],
        frames=episodes.frames[:count],
        metadata=episodes.metadata,
    )


# ---------------------------------------------------------------- what can be read


class ReadOut:
    """Ridge regressions from frozen features to physics, a pair per seed.

    Positions are read from one latent instant, velocities from a window of them.

    Args:
        observables: of the world. window: instants. stride: frames per instant.
        latents: ``[S, E, I, D]``. state: ``[E, T, 2d]``, of the same training episodes.

    Raises:
        UserError: episodes are shorter than a window.
    """

    def __init__(self, observables: Observables, window: int, stride: int, latents: Float, state: Float) -> None:
        self.observables, self.window, self.stride = observables, window, stride
        if latents.shape[2] < window:
            raise UserError(
                f"video_evaluation.window: {window} latents of {stride} frame(s) do not fit into episodes of "
                f"{state.shape[1]} frames; shorten it or lengthen the episodes"
            )
        at = self.instants(state)[:, window - 1 :]
        where, how_fast = (_rows(f(at)) for f in (observables.position, observables.velocity))
        self.position: list[RidgeProbe] = [ridge_probe(_rows(z[:, window - 1 :]), where) for z in latents]
        self.velocity: list[RidgeProbe] = [ridge_probe(_rows(windows(z, window)), how_fast) for z in latents]

    def instants(self, state: Float) -> Float:
        """States at the last frame of every latent instant, ``[E, I, 2d]``."""
        return np.asarray(state[:, self.stride - 1 :: self.stride])

    def read(self, latents: Float) -> tuple[Float, Float]:
        """Positions and velocities of the instants from the window's last on: ``[S, E, I, D] -> [S, E, I', Q]``."""
        seen = latents[:, :, self.window - 1 :]
        where = [p.predict(_rows(z)).reshape(*z.shape[:2], -1) for p, z in zip(self.position, seen, strict=True)]
        how_fast = [
            p.predict(_rows(w)).reshape(*w.shape[:2], -1)
            for p, w in zip(self.velocity, (windows(z, self.window) for z in latents), strict=True)
        ]
        return np.stack(where), np.stack(how_fast)


def _rows(x: Float) -> Float:
    return x.reshape(-1, x.shape[-1])


def _add_read(judged: Judgement, reader: ReadOut, latents: Float, state: Float) -> None:
    at = reader.instants(state)[:, reader.window - 1 :]
    where, how_fast = reader.read(latents)
    for name, found, truth in (
        ("r2_position_probed", where, reader.observables.position(at)),
        ("r2_velocity_probed", how_fast, reader.observables.velocity(at)),
    ):
        judged.add(name, [explained_variance(f, truth, resamples=judged.resamples) for f in found], "1")


def _add_labels(
    judged: Judgement,
    learned: Float,
    labels: NDArray[np.int64],
    held_out: Float,
    true: NDArray[np.int64],
    config: VideoEvaluationConfig,
) -> None:
    """Classes of whole videos, from features averaged over time."""
    if len(np.unique(labels)) < 2:
        return
    pairs = list(zip(learned.mean(2), held_out.mean(2), strict=True))
    judged.add("linear_probe", np.stack([linear_probe(x, labels, y, true) for x, y in pairs]), "1")
    judged.add("knn_probe", np.stack([knn_probe(x, labels, y, true, config.knn) for x, y in pairs]), "1")


# ---------------------------------------------------------------- what is predicted


@dataclass(frozen=True)
class Futures:
    """Predictions from several places of every episode, and what came.

    Attributes:
        past: latents of the context ``[S, M, I, D]``. latents: predicted ``[S, M, K, D]``, or None.
        frames: predicted ``[S, M, steps, H, W, C]`` in [0, 1], or None. truth: ``[M, steps, H, W, C]`` uint8.
        state: ``[M, context + steps, 2d]``. starts: predictions per episode. context: frames. step: seconds per frame.
    """

    past: Float
    latents: Float | None
    frames: NDArray[np.float32] | None
    truth: NDArray[np.uint8]
    state: Float
    starts: int
    context: int
    step: float

    @classmethod
    def create(
        cls, family: PixelFamily, episodes: Episodes, config: VideoEvaluationConfig, only_context: bool = False
    ) -> Futures:
        """Predict from every ``config.every``-th frame on.

        Raises:
            UserError: episodes are shorter than context and steps, or the family wants more context.
        """
        frames, stride = episodes.frames, family.frames_per_latent
        assert frames is not None
        context, steps = config.context - config.context % stride, config.steps - config.steps % stride
        first = range(0, frames.shape[1] - context - steps + 1, config.every)
        if not first or not steps or context < family.context:
            raise UserError(
                f"video_evaluation: {config.context} frames of context and {config.steps} steps do not fit family "
                f"'{family.name}' (at least {family.context} of context) on episodes of {frames.shape[1]} frames"
            )
        cut = np.stack([frames[:, i : i + context + steps] for i in first], axis=1)
        cut = cut.reshape(-1, *cut.shape[2:])
        state = np.stack([episodes.state[:, i : i + context + steps] for i in first], axis=1)
        past, _ = encode(family, cut[:, :context])
        predicted = None
        if not only_context:
            predicted = family.predict(torch.tensor(cut[:, context - family.context : context]), steps)
        return cls(
            past,
            None if predicted is None or predicted.latents is None else predicted.latents.double().numpy(),
            None if predicted is None or predicted.frames is None else predicted.frames.numpy(),
            cut[:, context:],
            state.reshape(len(cut), *state.shape[2:]),  # of no width where nothing is known: -1 could not be told
            len(first),
            context,
            float(episodes.metadata.get("step", 1.0)),
        )

    @cached_property
    def episodes(self) -> int:
        """How many episodes the predictions are of."""
        return len(self.state) // self.starts


def _add_futures(
    judged: Judgement, reader: ReadOut, futures: Futures, training: Futures, config: VideoEvaluationConfig
) -> None:
    """Physics read from predicted latents; beside it ridge regression from the context straight to the future."""
    assert futures.latents is not None
    observables, stride, window = reader.observables, reader.stride, reader.window
    ahead = futures.latents.shape[2]
    # The last instant of the context stands in front: a prediction starts there.
    known = np.concatenate([futures.past[:, :, -window:], futures.latents], axis=2)
    where, how_fast = reader.read(known)
    truth = reader.instants(futures.state)[:, -ahead - 1 :]
    floor_where, floor_fast = _floor(reader, futures, training, ahead)
    for quantity, of, found, floor in (
        ("position", observables.position, where[:, :, 1:], floor_where),
        ("velocity", observables.velocity, how_fast[:, :, 1:], floor_fast),
    ):
        came = of(truth[:, 1:])
        for name, read in ((f"r2_{quantity}_predicted_probed", found), (f"r2_{quantity}_ridge_probed", floor)):
            for k in range(ahead):
                pairs = [(_by_episode(r[:, k], futures), _by_episode(came[:, k], futures)) for r in read]
                values = [explained_variance(*pair, resamples=judged.resamples) for pair in pairs]
                judged.add(name, values, "1", step=(k + 1) * stride)
    rollout = Rollout(
        observables.state(where, how_fast),
        truth,
        futures.step * stride * np.arange(ahead + 1.0),
        reader.observables.system.energy,
        reader.observables.system.momentum,
        reader.observables.system.angular_momentum,
        reader.observables.system.angles,
        None,
        config.tolerance,
        config.horizon_threshold,
    )
    for name, metric in STATE_METRICS.items():
        if metric.applies(rollout):
            values = metric(rollout).reshape(len(judged.seeds), futures.episodes, futures.starts).mean(2)
            judged.add(f"{name}_probed", [summarise(v, resamples=judged.resamples) for v in values], metric.unit)
    judged.arrays |= {
        "probed_state": rollout.predicted[0, : config.shown * futures.starts : futures.starts],
        "probed_truth": rollout.truth[: config.shown * futures.starts : futures.starts],
    }


def _by_episode(values: Float, futures: Futures) -> Float:
    """``[M, Q] -> [E, starts, Q]``: predictions of one episode belong together."""
    return values.reshape(futures.episodes, futures.starts, values.shape[-1])


def _floor(reader: ReadOut, futures: Futures, training: Futures, ahead: int) -> tuple[Float, Float]:
    """Ridge regression from the context's last latents to all future positions and velocities: ``[S, M, K, Q]``."""
    observables, window = reader.observables, reader.window
    then = reader.instants(training.state)[:, -ahead:]
    targets = [f(then) for f in (observables.position, observables.velocity)]
    found: list[list[Float]] = [[], []]
    for past, context in zip(training.past, futures.past, strict=True):
        x, y = (z[:, -window:].reshape(len(z), -1) for z in (past, context))
        for kind, target in enumerate(targets):
            read = ridge_probe(x, target.reshape(len(target), -1)).predict(y)
            found[kind].append(read.reshape(len(y), ahead, -1))
    return np.stack(found[0]), np.stack(found[1])
