"""Judge selective decoding: captions of clips that change with time, made anew only where something has moved.

At every frame the model says where the caption lies (`PointsAtTexts`); its caption is the best of candidates. A new one
is made where the embedding has moved beyond a threshold, which is chosen on the first half of the clips: as few
captions as reach ``selective_share`` of the accuracy that one caption per frame has. Judged is the second half.

Beside it two other rules, at the same accuracy on the same clips: regular intervals, and a threshold on how far the
pixels have moved. Their settings are the best there are *on the judged clips themselves*, which is to their advantage.
The unit of intervals is the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes, utf8
from wm_pipelines.metrics.retrieval import distinct
from wm_pipelines.metrics.selective import Mask, by_change, by_stride, changes, laziest, share_right
from wm_pipelines.metrics.statistics import Summary, t_quantile
from wm_pipelines.tasks.judgement import Judgement

if TYPE_CHECKING:
    from wm_pipelines.tasks.language import LanguageConfig

Float = NDArray[np.float64]

MOVING = "moving"
"""The split of clips whose captions change."""
_SETTINGS = 100  # thresholds tried: quantiles of the distances that occur


def add_selective(
    judged: Judgement, family: Any, episodes: Mapping[str, Episodes], prompt: torch.Tensor, config: LanguageConfig
) -> None:
    """How many captions the three rules make, and how many frames have the right one.

    Args:
        family: `PointsAtTexts`, `EmbedsTexts`. prompt: the question for a caption ``[L]``.
    """
    clips = episodes[MOVING]
    frames, wanted = clips["frames"], clips["captions"]  # [C, T, H, W, ch], [C, T]
    count, length = wanted.shape
    others = [part["captions"].tolist() for part in episodes.values() if part["captions"].ndim == 1]
    offered = distinct([wanted.ravel().tolist(), *others], config.retrieved_of)
    number = {text: k for k, text in enumerate(offered)}
    true = np.array([[number[text] for text in row] for row in wanted.tolist()])
    pixels = frames.reshape(count, length, -1).astype(np.float32) / 255
    single, asked = torch.tensor(frames.reshape(-1, 1, *frames.shape[2:])), prompt.expand(count * length, 1, -1)
    kept: dict[str, list[Any]] = {}
    for seed in range(len(judged.seeds)):
        points = family.point_at(single, asked, seed)[:, 0].double().numpy()
        texts = family.embed_texts(torch.tensor(utf8(offered)), seed).double().numpy()
        said = nearest(points, texts).reshape(count, length)
        features = unit(points).reshape(count, length, -1)
        for name, value in compare(features, pixels, said, true, config.selective_share).items():
            kept.setdefault(name, []).append(value)
    for name, values in kept.items():
        if isinstance(values[0], Summary):
            judged.add(name, values, "1")
        else:
            judged.add(name, np.stack(values), "1")


def unit(points: Float) -> Float:
    """Directions, ``[N, P]``."""
    return points / np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-12)


def nearest(points: Float, texts: Float) -> NDArray[np.int64]:
    """Which text ``[C, P]`` lies in the direction of each point ``[N, P]``, ``[N]``."""
    return np.asarray((unit(points) @ unit(texts).T).argmax(1))


def compare(
    features: Float, pixels: NDArray[Any], said: NDArray[np.int64], true: NDArray[np.int64], share: float
) -> dict[str, Any]:
    """The rule of embeddings, its threshold from the first half of the clips, beside the others on the second half.

    Args:
        features: embeddings ``[C, T, P]``. pixels: ``[C, T, n]``. said, true: captions ``[C, T]`` by number.
        share: of the accuracy of a caption per frame, to be reached.

    Returns:
        by metric ``[C']``, or a summary with its interval.
    """
    half, length = len(true) // 2, true.shape[1]
    first, rest = slice(0, half), slice(half, None)
    wanted = share * float((said[first] == true[first]).mean())
    threshold = laziest(
        lambda one: by_change(features[first], one), _thresholds(features[first]), said[first], true[first], wanted
    )
    judged = said[rest], true[rest]
    own = _used(by_change(features[rest], threshold), *judged)
    strides = [_used(by_stride(len(true) - half, length, k), *judged) for k in range(1, length + 1)]
    moved = [_used(by_change(pixels[rest], one), *judged) for one in _thresholds(pixels[rest])]
    found: dict[str, Any] = {
        "scene_changes": changes(true[rest]),
        "every_frame_right": np.asarray((said[rest] == true[rest]).mean(1), np.float64),
        "decodes_embedding": own[0],
        "right_embedding": own[1],
    }
    for name, others in (("stride", strides), ("pixels", moved)):
        # ``[2, settings, C']``: captions made and right frames, by setting, the fewest first.
        used = np.stack(others, 1)
        found[f"decodes_{name}"], found[f"right_{name}"] = as_right(used, float(own[1].mean()))
        found[f"fewer_than_{name}"] = fewer(used, np.stack(own))
    return found


def _used(decoded: Mask, said: NDArray[np.int64], true: NDArray[np.int64]) -> tuple[Float, Float]:
    """Captions made per frame, and the share of right frames, ``[C']`` each."""
    return np.asarray(decoded.mean(1), np.float64), share_right(decoded, said, true)


def as_right(used: Float, wanted: float) -> Float:
    """Captions made and right frames ``[2, C']`` of the laziest use of a rule that is right in a share ``wanted``.

    Two settings may share the clips, so that the share is met exactly. Where none is right that often: the one that is
    most often.

    Args:
        used: ``[2, settings, C']``, captions made and right frames.
    """
    made, right = used.mean(2)
    enough = np.flatnonzero(right >= wanted)
    if not len(enough):
        return np.asarray(used[:, int(right.argmax())])
    best, cost = used[:, enough[made[enough].argmin()]], made[enough].min()
    for low in np.flatnonzero(right < wanted):
        part = (wanted - right[low]) / (right[enough] - right[low])
        mixed = made[low] + part * (made[enough] - made[low])
        if mixed.min() < cost:
            k = int(mixed.argmin())
            best, cost = used[:, low] + part[k] * (used[:, enough[k]] - used[:, low]), mixed[k]
    return np.asarray(best)


def fewer(used: Float, own: Float) -> Summary:
    """How many times as many captions a rule makes as another one that is right as often.

    Its 95 % interval is the jackknife's over clips, on the logarithm: settings are chosen anew without each clip.

    Args:
        used: of the rule, ``[2, settings, C']``. own: of the other one, ``[2, C']``.
    """
    count = own.shape[1]

    def value(kept: NDArray[np.bool_]) -> float:
        made, right = own[:, kept].mean(1)
        return float(np.log(as_right(used[:, :, kept], float(right))[0].mean() / made))

    whole = value(np.ones(count, bool))
    without = np.array([value(np.arange(count) != k) for k in range(count)])
    spread = np.sqrt((count - 1) / count * np.square(without - without.mean()).sum())
    half = float(t_quantile(count - 1, 0.95) * spread)
    return Summary.scalar(float(np.exp(whole)), float(np.exp(whole - half)), float(np.exp(whole + half)), n=count)


def _thresholds(features: NDArray[Any]) -> list[float]:
    """Distances of frames that lie 1 to 32 apart, in quantiles; those between neighbours are the smallest."""
    apart = [1, 2, 4, 8, 16, 32]
    found = [
        np.sqrt(np.square(features[:, k:] - features[:, :-k]).mean(-1)).ravel() for k in apart if k < features.shape[1]
    ]
    return np.unique(np.quantile(np.concatenate(found), np.linspace(0.0, 1.0, _SETTINGS))).tolist()
