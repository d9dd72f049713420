"""Judge an encoder of pictures by what can be read from its frozen features.

Axes: ``S`` seeds, ``N`` pictures, ``D`` features, ``P`` places of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.metrics.probes import attentive_probe, knn_probe, linear_probe
from wm_pipelines.pipelines.configuration import ImageEvaluationConfig
from wm_pipelines.pipelines.evaluation.judging import Judgement
from wm_pipelines.pipelines.pixels.judging import Float, add_spread, encode, has_learned
from wm_pipelines.worlds.episodes import Episodes

_NEIGHBOURS = 6
_RATE = 15.0  # steps times learning rate of the attentive probe: how far it can get


def judge_images(
    family: PixelFamily, trained: bool, episodes: Mapping[str, Episodes], config: ImageEvaluationConfig
) -> Judgement:
    """Linear, kNN and attentive probes, and the spread of the features; mean-pooled where there are places.

    Args:
        family: restored. trained: else no pictures are kept for the report. episodes: splits ``train`` and ``test``.
        config: how many labelled pictures the probes learn from.

    Raises:
        UserError: the pictures have no labels.
    """
    train, test = episodes["train"], episodes["test"]
    if train.label is None or test.label is None or train.frames is None or test.frames is None:
        raise UserError(f"family '{family.name}' on '{family.system.name}': probes need pictures with labels")
    some = slice(config.probe_train)
    labels, true = np.asarray(train.label[some]), np.asarray(test.label)
    learned, _ = encode(family, train.frames[some])
    held_out, tokens = encode(family, test.frames)
    learned, held_out = learned[:, :, 0], held_out[:, :, 0]
    judged = Judgement(family.seeds, resamples=config.resamples)
    pairs = list(zip(learned, held_out, strict=True))
    linear = np.stack([linear_probe(x, labels, y, true) for x, y in pairs])
    judged.add("linear_probe", linear, "1")
    judged.add("knn_probe", np.stack([knn_probe(x, labels, y, true, config.knn) for x, y in pairs]), "1")
    for count in sorted(n for n in config.labels if n < len(labels)):
        few = [linear_probe(x[:count], labels[:count], y, true) for x, y in pairs]
        judged.add("linear_probe_by_labels", np.stack(few), "1", step=count)
    judged.add("linear_probe_by_labels", linear, "1", step=len(labels))
    if tokens is not None and config.attentive_train:
        judged.add("attentive_probe", _attentive(family, train.frames, labels, tokens, true, config), "1")
    add_spread(judged, held_out, test.frames[:, 0] if trained and has_learned(family) else None)
    if trained:
        judged.arrays |= _pictures(family, train.frames, learned[0], test.frames, held_out[0], config.shown)
    return judged


def _attentive(
    family: PixelFamily,
    frames: NDArray[np.uint8],
    labels: NDArray[np.int64],
    tokens: torch.Tensor,
    true: NDArray[np.int64],
    config: ImageEvaluationConfig,
) -> Float:
    """Accuracy per test picture ``[S, N]`` of a probe that chooses by itself where to look."""
    some = slice(min(config.attentive_train, len(labels)))
    _, learned = encode(family, frames[some])
    assert learned is not None
    found = []
    for seed, x, y in zip(family.seeds, learned[:, :, 0].numpy(), tokens[:, :, 0].numpy(), strict=True):
        rate = _RATE / config.attentive_steps
        found.append(attentive_probe(x, labels[some], y, true, config.attentive_steps, learning_rate=rate, seed=seed))
    return np.stack(found)


def _pictures(
    family: PixelFamily,
    frames: NDArray[np.uint8],
    learned: Float,
    test: NDArray[np.uint8],
    held_out: Float,
    count: int,
) -> dict[str, NDArray[np.generic]]:
    """First seed: test pictures ``[K, H, W, C]``, their nearest training pictures, features of places as colours."""
    shown = test[:count]
    arrays: dict[str, NDArray[np.generic]] = {"pictures": np.ascontiguousarray(shown[:, 0])}
    near = _unit(held_out[:count]) @ _unit(learned).T
    nearest = np.argsort(-near, axis=1, kind="stable")[:, :_NEIGHBOURS]
    arrays["neighbours"] = np.ascontiguousarray(frames[nearest, 0])
    _, tokens = encode(family, shown)
    if tokens is not None:
        arrays["places"] = as_colours(tokens[0, :, 0].double().numpy())
    for name, drawn in family.illustrate(torch.tensor(shown)).items():
        arrays[f"seen_{name}"] = (drawn.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
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
