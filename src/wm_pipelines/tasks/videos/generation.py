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

    Args:
        judged: takes the rows. model: if it draws no samples, its predictions stand for them. futures: these.
        train: where the reference and the mean frame come from. test: episodes of the starts. config: windows, samples.
    """
    assert futures.frames is not None
    windows, known = (cut(model, episodes, config) for episodes in (test, train))
    drawn = _drawn(model, windows, config.samples) if _draws(model) else futures.frames[:, None]
    true, seen = _shown(windows.future), _shown(windows.past[:, -1:])
    mean = _shown(train["frames"].mean((0, 1))[None, None])
    floors = {"persistence": np.broadcast_to(seen, true.shape), "mean_frame": np.broadcast_to(mean, true.shape)}
    _add_similarity(judged, drawn, floors, true, futures)
    if len(test) < _FEWEST or len(train) < _FEWEST:
        return
    features = VideoFeatures(np.concatenate([known.past[:, -1:], known.future], 1))

    def distances(frames: NDArray[np.float32]) -> Float:
        """Pseudo-values ``[E]`` of one future for every start, rounded as frames are stored."""
        clips = np.concatenate([seen, np.round(255 * np.clip(frames, 0, 1)) / 255], 1, dtype=np.float32)
        return frechet_pseudo_values(features.reference, features(clips), windows.starts)

    own = np.stack([np.mean([distances(sample) for sample in samples], axis=0) for samples in drawn])
    judged.add("sample_frechet", own, "1")
    judged.add("sample_frechet_of_truth", np.stack([distances(true)] * len(own)), "1")
    for name, frames in floors.items():
        floor = distances(frames)
        judged.add(f"sample_frechet_of_{name}", np.stack([floor] * len(own)), "1")
        judged.add(f"sample_frechet_below_{name}", floor - own, "1")


def _add_similarity(
    judged: Judgement,
    drawn: NDArray[np.float32],
    floors: dict[str, NDArray[np.float32]],
    true: NDArray[np.float32],
    futures: Futures,
) -> None:
    similar = ssim(drawn, true, data_range=1.0).mean(-1)  # [S, N, M]
    own = futures.over_starts(similar.mean(1))
    judged.add("sample_ssim", own, "1")
    judged.add("sample_ssim_best", futures.over_starts(similar.max(1)), "1")
    for name, frames in floors.items():
        floor = futures.over_starts(ssim(frames, true, data_range=1.0).mean(-1)[None])
        judged.add(f"sample_ssim_of_{name}", np.repeat(floor, len(own), 0), "1")
        judged.add(f"sample_ssim_above_{name}", own - floor, "1")


def _shown(frames: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(frames, np.float32) / 255


def _draws(model: Any) -> bool:
    return isinstance(model, Samples) and isinstance(model, Decodes)


def _drawn(model: Any, windows: Windows, count: int) -> NDArray[np.float32]:
    """Futures ``[S, N, M, K, H, W, C]`` in [0, 1]."""
    actions = torch.zeros(len(windows.future), windows.future.shape[1], 0)
    if windows.actions is not None:
        actions = torch.tensor(windows.actions[:, -windows.future.shape[1] :])
    found = []
    for seed in range(len(model.seeds)):
        belief = _belief(model, windows, seed)
        features = model.sample(belief, actions.to(belief), count, seed, torch.Generator().manual_seed(_SEED))
        found.append(torch.stack([model.decode(f, seed) for f in features]))
    return torch.stack(found).numpy()


def _belief(model: Any, windows: Windows, seed: int) -> torch.Tensor:
    """What the model makes of the frames and actions of its context."""
    frames: Frames = windows.past[:, -model.context :]
    belief = model.start({"frames": torch.tensor(frames[:, 0])}, seed)
    for k in range(1, model.context):
        action = torch.zeros(len(frames), 0)
        if windows.actions is not None:
            action = torch.tensor(windows.actions[:, windows.past.shape[1] - model.context + k - 1])
        belief = model.update(belief, action, {"frames": torch.tensor(frames[:, k])}, seed)
    return belief
