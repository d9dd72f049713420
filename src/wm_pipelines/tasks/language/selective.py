"""Judge selective decoding: captions of clips that change with time, made anew only where something has moved.

At every frame the model says where the caption lies (`PointsAtTexts`); its caption is the best of candidates. Three
rules decide when it is made: the embedding has moved, the pixels have moved, or so many frames have passed. Each has
one setting, chosen on the first half of the clips: as few captions as reach ``selective_share`` of the accuracy that
one caption per frame has. Judged is the second half. The unit of intervals is the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
Rule = Callable[[Any, float], Mask]

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
    """The three rules, settings chosen on the first half of the clips, on the second half.

    Args:
        features: embeddings ``[C, T, P]``. pixels: ``[C, T, n]``. said, true: captions ``[C, T]`` by number.
        share: of the accuracy of a caption per frame, to be reached.

    Returns:
        by metric ``[C']``, or a summary with its interval.
    """
    half, (_, length) = len(true) // 2, true.shape
    first, rest = slice(0, half), slice(half, None)
    wanted = share * float((said[first] == true[first]).mean())
    rules: dict[str, tuple[Any, Rule, list[float]]] = {
        "embedding": (features, by_change, _thresholds(features[first])),
        "pixels": (pixels, by_change, _thresholds(pixels[first])),
        "stride": (
            true,
            lambda part, k: by_stride(len(part), length, int(k)),
            [float(k) for k in range(1, length + 1)],
        ),
    }
    found: dict[str, Any] = {
        "scene_changes": changes(true[rest]),
        "every_frame_right": np.asarray((said[rest] == true[rest]).mean(1), np.float64),
    }
    made = {}
    for name, (data, rule, settings) in rules.items():
        setting = laziest(lambda s, d=data, r=rule: r(d[first], s), settings, said[first], true[first], wanted)  # type: ignore[misc]
        decoded = rule(data[rest], setting)
        made[name] = np.asarray(decoded.mean(1), np.float64)
        found[f"decodes_{name}"] = made[name]
        found[f"right_{name}"] = share_right(decoded, said[rest], true[rest])
    for name in ("stride", "pixels"):
        found[f"fewer_than_{name}"] = ratio(made[name], made["embedding"])
    return found


def _thresholds(features: NDArray[Any]) -> list[float]:
    """Distances of frames that lie 1 to 32 apart, in quantiles; those between neighbours are the smallest."""
    apart = [1, 2, 4, 8, 16, 32]
    found = [
        np.sqrt(np.square(features[:, k:] - features[:, :-k]).mean(-1)).ravel() for k in apart if k < features.shape[1]
    ]
    return np.unique(np.quantile(np.concatenate(found), np.linspace(0.0, 1.0, _SETTINGS))).tolist()


def ratio(many: Float, few: Float) -> Summary:
    """Mean of ``many [C]`` over that of ``few``, with its 95 % interval over clips (delta method, on the logarithm)."""
    value = float(many.mean() / few.mean())
    apart = many / many.mean() - few / few.mean()
    half = float(t_quantile(len(many) - 1, 0.95) * apart.std(ddof=1) / np.sqrt(len(many)))
    return Summary.scalar(value, value * np.exp(-half), value * np.exp(half), n=len(many))
