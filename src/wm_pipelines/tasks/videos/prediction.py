"""Futures predicted by a model, and how predicted frames are judged.

Axes: ``S`` seeds, ``M`` predictions (several per episode), ``I`` latent steps of the context, ``K`` predicted ones,
``D`` features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import RoundTrips
from wm_pipelines.metrics.distances import I3DFeatures, fvd
from wm_pipelines.metrics.perception import frame_mse, lpips, psnr, ssim
from wm_pipelines.tasks._pixels.features import Float, Frames, encode
from wm_pipelines.tasks.judgement import Judgement

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

    @property
    def episodes(self) -> int:
        """How many episodes the predictions are of."""
        return len(self.target) // self.starts

    def over_starts(self, values: Float) -> Float:
        """``[S, M] -> [S, E]``: predictions of one episode are no independent observations, their mean is one."""
        return values.reshape(len(values), self.episodes, self.starts).mean(axis=2)


def predict(model: Any, episodes: Episodes, config: VideosConfig, only_context: bool = False) -> Futures:
    """Predict from every ``config.every``-th frame on.

    Raises:
        UserError: episodes are shorter than context and steps, or the family wants more context.
    """
    frames, states, stride = episodes["frames"], episodes.get("states"), model.frames_per_latent
    context, steps = config.context - config.context % stride, config.steps - config.steps % stride
    first = range(0, frames.shape[1] - context - steps + 1, config.every)
    if not first or not steps or context < model.context:
        raise UserError(
            f"videos: {config.context} frames of context and {config.steps} steps do not fit family '{model.name}' "
            f"(at least {model.context} of context) on episodes of {frames.shape[1]} frames"
        )

    def cut(view: NDArray[Any]) -> NDArray[Any]:
        pieces = np.stack([view[:, i : i + context + steps] for i in first], axis=1)
        return pieces.reshape(-1, *pieces.shape[2:])

    clips = cut(frames)
    past, _ = encode(model, clips[:, :context])
    found: dict[str, torch.Tensor] = {}
    if not only_context:
        found = model.predict({"frames": torch.tensor(clips[:, context - model.context : context])}, steps)
    latents = observed = rebuilt = None
    if "latents" in found and states is not None:
        observed = rebuilt = encode(model, clips)[0][:, :, context // stride :]
        if isinstance(model, RoundTrips):
            rebuilt = model.round_trip({"frames": torch.tensor(clips[:, context:])}).double().numpy()
    if "latents" in found:
        latents = found["latents"].double().numpy()
    return Futures(
        past,
        latents,
        observed,
        rebuilt,
        found["frames"].numpy() if "frames" in found else None,
        clips[:, context:],
        None if states is None else cut(states),
        len(first),
        episodes.spec.step,
    )


def add_frames(judged: Judgement, futures: Futures, config: VideosConfig) -> None:
    """MSE, PSNR, SSIM of all steps together and by step; LPIPS and FVD where they are asked for.

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
    if config.i3d is not None:
        features = I3DFeatures(config.i3d.path, config.i3d.sha256)
        judged.add("fvd", np.array([fvd(target, p, features) for p in predicted]), "1", len(target))
    drawn = torch.tensor(predicted[0]).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    shown = np.linspace(0, len(target) - 1, min(config.shown, len(target))).astype(int)
    judged.arrays |= {"predicted_frames": drawn, "true_frames": np.ascontiguousarray(target), "shown": shown}
    judged.arrays["starts"] = np.array([futures.starts])
