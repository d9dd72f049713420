"""Futures predicted by a model, and how predicted frames are judged.

Axes: ``S`` seeds, ``M`` predictions (several per episode), ``I`` latent steps of the context, ``K`` predicted ones,
``D`` features.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import RoundTrips
from wm_pipelines.metrics.distances import fvd
from wm_pipelines.metrics.perception import frame_mse, lpips, psnr, ssim
from wm_pipelines.metrics.pretrained import I3DFeatures
from wm_pipelines.tasks._pixels.features import Float, Frames, encode
from wm_pipelines.tasks.judgement import COST_UNITS, Judgement

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig


@dataclass(frozen=True)
class Futures:
    """Predictions from several starts in every episode, and their targets.

    Attributes:
        past: latents of the context ``[S, M, I, D]``. latents: predicted ``[S, M, K, D]``, or None.
        observed: encodings of the true frames at the predicted steps ``[S, M, K, D]``, or None without ``latents``.
        rebuilt: the same after the family's own round trip ``Enc(Dec(Enc(x)))``; of a family that does not
            decode its encodings ``observed`` itself, which is what it is to predict.
        frames: predicted ``[S, M, steps, H, W, C]`` in [0, 1], or None. target: ``[M, steps, H, W, C]`` uint8.
        states: ``[M, context + steps, 2d]``, or None. starts: predictions per episode. step: seconds per frame.
        seconds: that predicting took, of all seeds and starts together.
    """

    past: Float
    latents: Float | None
    observed: Float | None
    rebuilt: Float | None
    frames: NDArray[np.float32] | None
    target: Frames
    states: Float | None
    starts: int
    step: float
    seconds: float

    @property
    def episodes(self) -> int:
        """How many episodes the predictions are of."""
        return len(self.target) // self.starts

    def over_starts(self, values: Float) -> Float:
        """``[S, M] -> [S, E]``: predictions of one episode are no independent observations, their mean is one."""
        return values.reshape(len(values), self.episodes, self.starts).mean(axis=2)


@dataclass(frozen=True)
class Windows:
    """Pieces of episodes from several starts in each: a past and the future that followed.

    Attributes:
        past: ``[M, context, H, W, C]`` uint8. future: ``[M, steps, H, W, C]``. starts: pieces per episode.
        actions: ``[M, context + steps - 1, A]``, the k-th between rows k and k + 1; None where nobody acts.
        states: ``[M, context + steps, 2d]``, or None.
    """

    past: Frames
    future: Frames
    starts: int
    actions: Float | None
    states: Float | None


def cut(model: Any, episodes: Episodes, config: VideosConfig) -> Windows:
    """A piece from every ``config.every``-th frame on.

    Args:
        model: pieces are whole numbers of its latent steps. episodes: with frames. config: context, steps.

    Raises:
        UserError: episodes are shorter than context and steps, or the family wants more context.
    """
    frames, stride = episodes["frames"], model.frames_per_latent
    context, steps = config.context - config.context % stride, config.steps - config.steps % stride
    first = range(0, frames.shape[1] - context - steps + 1, config.every)
    if not first or not steps or context < model.context:
        raise UserError(
            f"videos: {config.context} frames of context and {config.steps} steps do not fit family '{model.name}' "
            f"(at least {model.context} of context) on episodes of {frames.shape[1]} frames"
        )

    def pieces(view: NDArray[Any], length: int) -> NDArray[Any]:
        found = np.stack([view[:, i : i + length] for i in first], axis=1)
        return found.reshape(-1, *found.shape[2:])

    clips, states, actions = pieces(frames, context + steps), episodes.get("states"), episodes.get("actions")
    return Windows(
        clips[:, :context],
        clips[:, context:],
        len(first),
        None if actions is None else pieces(actions, context + steps - 1),
        None if states is None else pieces(states, context + steps),
    )


def predict(model: Any, episodes: Episodes, config: VideosConfig, only_context: bool = False) -> Futures:
    """Predict from every ``config.every``-th frame on, under the true actions where the model takes them.

    Raises:
        UserError: episodes are shorter than context and steps, or the family wants more context.
    """
    windows = cut(model, episodes, config)
    past, _ = encode(model, windows.past)
    found: dict[str, torch.Tensor] = {}
    began = time.perf_counter()
    if not only_context:
        found = _asked(model, windows)
    seconds = time.perf_counter() - began
    latents = observed = rebuilt = None
    if "latents" in found and windows.states is not None:
        clips = np.concatenate([windows.past, windows.future], 1)
        observed = rebuilt = encode(model, clips)[0][:, :, past.shape[2] :]
        if isinstance(model, RoundTrips):
            rebuilt = model.round_trip({"frames": torch.tensor(windows.future)}).double().numpy()
    if "latents" in found:
        latents = found["latents"].double().numpy()
    return Futures(
        past,
        latents,
        observed,
        rebuilt,
        found["frames"].numpy() if "frames" in found else None,
        windows.future,
        windows.states,
        windows.starts,
        episodes.spec.step,
        seconds,
    )


def _asked(model: Any, windows: Windows) -> dict[str, torch.Tensor]:
    """What the model predicts from the last frames of the context that it needs."""
    steps, first = windows.future.shape[1], windows.past.shape[1] - model.context
    past = {"frames": torch.tensor(windows.past[:, first:])}
    if windows.actions is None or "actions" not in model.shown(model.spec):
        return dict(model.predict(past, steps))
    actions = torch.tensor(windows.actions[:, first:])
    return dict(model.predict({**past, "actions": actions[:, : model.context - 1]}, steps, actions[:, -steps:]))


def add_frames(judged: Judgement, futures: Futures, config: VideosConfig) -> None:
    """MSE, PSNR, SSIM of all steps together and by step, time of a step; LPIPS and FVD where they are asked for.

    Args:
        judged: takes the rows, the first seed's frames with their targets, each ``[M, K, H, W, C]`` uint8, how many
            of them are of one episode, and which are to be shown in motion.
        futures: with predicted frames. config: which further metrics.
    """
    predicted, target = futures.frames, futures.target
    assert predicted is not None
    true = np.asarray(target, np.float32) / 255
    of_steps = {
        "mse": (frame_mse(predicted, true, data_range=1.0), "1"),
        "mse_per_frame": (frame_mse(predicted, true, data_range=1.0, reduction="sum"), "1"),
        "psnr": (psnr(predicted, true, data_range=1.0), "dB"),
        "ssim": (ssim(predicted, true, data_range=1.0), "1"),
    }
    if config.lpips:
        of_steps["lpips"] = (lpips(predicted, true, data_range=1.0), "1")
    for name, (values, unit) in of_steps.items():
        judged.add(name, futures.over_starts(values.mean(2)), unit)
        if name != "mse_per_frame":
            for k in range(values.shape[2]):
                judged.add(name, futures.over_starts(values[:, :, k]), unit, step=k + 1)
    step_ms = 1e3 * futures.seconds / target.shape[1] / len(predicted)
    judged.add("step_ms", np.full(len(predicted), step_ms), COST_UNITS["step_ms"])
    if config.i3d is not None:
        features = I3DFeatures(config.i3d.path, config.i3d.sha256)
        judged.add("fvd", np.array([fvd(target, p, features) for p in predicted]), "1", len(target))
    drawn = torch.tensor(predicted[0]).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    shown = np.linspace(0, len(target) - 1, min(config.shown, len(target))).astype(int)
    judged.arrays |= {"predicted_frames": drawn, "true_frames": np.ascontiguousarray(target), "shown": shown}
    judged.arrays["starts"] = np.array([futures.starts])
