"""What sampled futures are worth: image -> world from one frame of the past, video -> world from several.

Two questions. Are samples like the true videos? The Fréchet distance of windows, the last frame seen in front, in
features that no judged model has made (`metrics.distances.VideoFeatures`); its reference are windows of training
episodes. And is what is sampled the future of the start it was drawn for? Structural similarity to the true frames:
of a sample on average, and of the best of a few, as is usual where one future of many came true (Denton and Fergus,
*Stochastic video generation with a learned prior*, ICML 2018).

Both stand beside two floors, the last frame copied and the mean training frame, with paired differences; the distance
also beside that of the true frames themselves, which is 0 but for chance.

Axes: ``S`` seeds, ``N`` samples, ``M`` starts (several per episode), ``E`` episodes, ``K`` steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.families.base import Decodes, Samples
from wm_pipelines.metrics.distances import VideoFeatures, frechet_pseudo_values
from wm_pipelines.metrics.perception import ssim
from wm_pipelines.tasks._pixels.features import Float, Frames
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.videos.prediction import Futures, Windows, cut

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig

_FEWEST = 3  # episodes that a distance is estimated from
_SEED = 0  # of the noise, the same for every model


def add_samples(
    judged: Judgement, model: Any, futures: Futures, train: Episodes, test: Episodes, config: VideosConfig
) -> None:
    """Distance and similarity of sampled futures, of both floors and of the truth, and how far floors are off.

    From the model's whole context; of a model that draws also from one frame, ``image_sample_…``.

    Args:
        judged: takes the rows. model: if it draws no samples, its predictions stand for them. futures: these.
        train: where the reference and the mean frame come from. test: episodes of the starts. config: windows, samples.
    """
    assert futures.frames is not None
    windows, known = (cut(model, episodes, config) for episodes in (test, train))
    judge, seeds = _Judge(windows, known, train["frames"].mean((0, 1))), len(model.seeds)
    for name, worth in {"truth": judge.of(judge.true[None]), **judge.floors}.items():
        for metric, values in worth.items():
            if not metric.endswith("_best"):
                judged.add(f"sample_{metric}_of_{name}", np.repeat(values[None], seeds, 0), "1")
    if not _draws(model):
        judge.add(judged, "sample", futures.frames[:, None])
        return
    for prefix, context in {"sample": model.context, "image_sample": 1}.items():
        if prefix == "sample" or model.context > 1:
            judge.add(judged, prefix, _drawn(model, windows, config.samples, context))


class _Judge:
    """Compares futures of the same starts with the true ones and with the floors.

    Args:
        windows: of the starts. known: of training episodes. mean: the mean training frame ``[H, W, C]``, 0 … 255.
    """

    def __init__(self, windows: Windows, known: Windows, mean: Float) -> None:
        self.starts, self.true, self.seen = windows.starts, _shown(windows.future), _shown(windows.past[:, -1:])
        enough = min(len(x.future) // x.starts for x in (windows, known)) >= _FEWEST
        self.features = _features(known) if enough else None
        copies, shape = {"persistence": self.seen, "mean_frame": _shown(mean[None, None])}, (1, *self.true.shape)
        self.floors = {name: self.of(np.broadcast_to(frames, shape)) for name, frames in copies.items()}

    def of(self, samples: NDArray[np.float32]) -> dict[str, Float]:
        """What samples ``[N, M, K, …]`` are worth, ``[E]`` each; ``frechet`` are pseudo-values."""
        similar = ssim(samples, self.true, data_range=1.0).mean(-1)
        worth = {"ssim": self._by_episode(similar.mean(0)), "ssim_best": self._by_episode(similar.max(0))}
        if self.features is not None:
            worth["frechet"] = np.mean([self._distance(self.features, frames) for frames in samples], axis=0)
        return worth

    def add(self, judged: Judgement, prefix: str, drawn: NDArray[np.float32]) -> None:
        """Rows of futures ``[S, N, M, K, …]``."""
        found = [self.of(samples) for samples in drawn]
        for metric in found[0]:
            own = np.stack([worth[metric] for worth in found])
            judged.add(f"{prefix}_{metric}", own, "1")
            if not np.isfinite(own).all():
                continue
            for name, floor in self.floors.items():
                if metric == "frechet":
                    judged.add(f"{prefix}_frechet_below_{name}", floor[metric] - own, "1")
                else:
                    judged.add(f"{prefix}_{metric}_above_{name}", own - floor[metric], "1")

    def _by_episode(self, values: Float) -> Float:
        return values.reshape(-1, self.starts).mean(1)

    def _distance(self, features: VideoFeatures, frames: NDArray[np.float32]) -> Float:
        """Of one future for every start, rounded as frames are stored, the last frame seen in front."""
        clips = np.concatenate([self.seen, np.round(255 * np.clip(frames, 0, 1)) / 255], 1, dtype=np.float32)
        return frechet_pseudo_values(features.reference, features(clips), self.starts)


def _features(known: Windows) -> VideoFeatures | None:
    """By windows of training episodes; None where these are all alike."""
    try:
        return VideoFeatures(np.concatenate([known.past[:, -1:], known.future], 1))
    except ValueError:
        return None


def _shown(frames: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(frames / 255, np.float32)


def _draws(model: Any) -> bool:
    return isinstance(model, Samples) and isinstance(model, Decodes)


def _drawn(model: Any, windows: Windows, count: int, context: int) -> NDArray[np.float32]:
    """Futures ``[S, N, M, K, H, W, C]`` in [0, 1], from so many frames of the past."""
    actions = torch.zeros(len(windows.future), windows.future.shape[1], 0)
    if windows.actions is not None:
        actions = torch.tensor(windows.actions[:, -windows.future.shape[1] :])
    found = []
    for seed in range(len(model.seeds)):
        belief = _belief(model, windows, seed, context)
        features = model.sample(belief, actions.to(belief), count, seed, torch.Generator().manual_seed(_SEED))
        found.append(torch.stack([model.decode(f, seed) for f in features]))
    return torch.stack(found).numpy()


def _belief(model: Any, windows: Windows, seed: int, context: int) -> torch.Tensor:
    """What the model makes of the last frames and actions of the past."""
    first = windows.past.shape[1] - context
    frames: Frames = windows.past[:, first:]
    belief = model.start({"frames": torch.tensor(frames[:, 0])}, seed)
    for k in range(1, context):
        action = torch.zeros(len(frames), 0)
        if windows.actions is not None:
            action = torch.tensor(windows.actions[:, first + k - 1])
        belief = model.update(belief, action, {"frames": torch.tensor(frames[:, k])}, seed)
    return belief
