"""Judge an encoder of images by what can be read from its frozen features.

Axes: ``S`` seeds, ``N`` images, ``D`` features, ``P`` patches of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family
from wm_pipelines.metrics.probes import attentive_probe, knn_probe, linear_probe
from wm_pipelines.tasks._pixels.features import (
    Float,
    Frames,
    add_spread,
    calibrate,
    encode,
    encoder,
    has_learned,
    labels_of,
)
from wm_pipelines.tasks.judgement import Judgement

if TYPE_CHECKING:
    from wm_pipelines.tasks.images import ImagesConfig

_NEIGHBOURS = 6
_CALIBRATED = 1024  # training images whose statistics the untrained control is given
_RATE = 15.0  # steps times learning rate of the attentive probe: how far it can get


def judge(
    family: Family, episodes: Mapping[str, Episodes], split: str, config: ImagesConfig, trained: bool
) -> Judgement:
    """Linear, kNN and attentive probes, and the spread of the features; mean-pooled where there are patches.

    Args:
        family: restored. episodes: ``train`` and the split to be judged. config: what the probes learn from.
        trained: else no images are kept for the report.

    Raises:
        UserError: the images have no labels, or the family no features.
    """
    model, found = encoder(family), labels_of(episodes, split)
    if found is None:
        raise UserError(f"images of '{episodes[split].spec.name}' have no labels, which probes need; give it labels")
    if not trained:
        calibrate(family, episodes["train"].first(_CALIBRATED))
    frames, test = episodes["train"]["frames"], episodes[split]["frames"]
    some = slice(config.probe_train)
    labels, true = found[0][some], found[1]
    learned, _ = encode(model, frames[some])
    held_out, tokens = encode(model, test)
    learned, held_out = learned[:, :, 0], held_out[:, :, 0]
    judged = Judgement(family.seeds, split)
    pairs = list(zip(learned, held_out, strict=True))
    linear = np.stack([linear_probe(x, labels, y, true) for x, y in pairs])
    judged.add("linear_probe", linear, "1")
    judged.add("knn_probe", np.stack([knn_probe(x, labels, y, true, config.knn) for x, y in pairs]), "1")
    for count in sorted(n for n in config.labels if n < len(labels)):
        few = [linear_probe(x[:count], labels[:count], y, true) for x, y in pairs]
        judged.add("linear_probe_by_labels", np.stack(few), "1", step=count)
    judged.add("linear_probe_by_labels", linear, "1", step=len(labels))
    if tokens is not None and config.attentive_train:
        judged.add("attentive_probe", _attentive(model, frames, labels, tokens, true, config), "1")
    add_spread(judged, held_out, test[:, 0] if trained and has_learned(family) else None)
    if trained:
        judged.arrays |= _kept(model, frames, learned[0], test, held_out[0], config.shown)
    return judged


def _attentive(
    model: Any,
    frames: Frames,
    labels: NDArray[np.int64],
    tokens: torch.Tensor,
    true: NDArray[np.int64],
    config: ImagesConfig,
) -> Float:
    """Accuracy per test image ``[S, N]`` of a probe that learns which patches to attend to."""
    some = slice(min(config.attentive_train, len(labels)))
    _, learned = encode(model, frames[some])
    assert learned is not None
    rate, found = _RATE / config.attentive_steps, []
    for seed, x, y in zip(model.seeds, learned[:, :, 0].numpy(), tokens[:, :, 0].numpy(), strict=True):
        found.append(attentive_probe(x, labels[some], y, true, config.attentive_steps, learning_rate=rate, seed=seed))
    return np.stack(found)


def _kept(
    model: Any, frames: Frames, learned: Float, test: Frames, held_out: Float, count: int
) -> dict[str, NDArray[Any]]:
    """First seed: test images ``[K, H, W, C]``, their nearest training images, features of patches as colours."""
    shown = test[:count]
    near = _unit(held_out[:count]) @ _unit(learned).T
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :_NEIGHBOURS]
    arrays: dict[str, NDArray[Any]] = {
        "images": np.ascontiguousarray(shown[:, 0]),
        "neighbours": np.ascontiguousarray(frames[nearest, 0]),
    }
    _, tokens = encode(model, shown)
    if tokens is not None:
        arrays["patches"] = as_colours(tokens[0, :, 0].double().numpy())
    drawn = model.illustrate({"frames": torch.tensor(shown)}) if hasattr(model, "illustrate") else {}
    for name, images in drawn.items():
        arrays[f"seen_{name}"] = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return arrays


def _unit(x: Float) -> Float:
    centred = x - x.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def as_colours(tokens: Float) -> NDArray[np.uint8]:
    """The first three principal components of features ``[K, P, D]`` as RGB ``[K, P, 3]``."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    components = (flat - flat.mean(0)) @ axes[:3].T
    components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
    low, high = np.quantile(components, [0.02, 0.98], axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.rint(255 * scaled).astype(np.uint8).reshape(*tokens.shape[:2], 3)
