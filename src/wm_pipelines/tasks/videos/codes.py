"""What the codes are worth that a family found in unlabelled videos.

Axes: ``S`` seeds, ``E`` episodes, ``T`` transitions, ``M`` predictions (several per episode), ``K`` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.laws import Laws
from wm_pipelines.metrics import latent_actions as metrics
from wm_pipelines.metrics.perception import psnr
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.tasks.judgement import Judgement

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig

Float = NDArray[np.float64]
Codes = NDArray[np.int64]

_STEPS = (1, 4)  # at which futures under inferred and under random codes are compared
_DRAWS = 4  # of random codes for every future
_STILL = 0.05  # of the standard deviation of displacements: what moves less rests


def add_codes(judged: Judgement, model: Any, train: Episodes, test: Episodes, laws: Laws, config: VideosConfig) -> None:
    """How many codes are used, what they tell of actions and of who moved, and what futures under them are worth.

    Args:
        judged: takes the rows. model: a family that `DiscoversActions`. train: what codes mean is read from these.
        test: episodes to be judged on; their actions are compared with codes, and shown to no one but the action map.
        laws: say whose positions actions move. config: which starts.
    """
    learned, found = (_discovered(model, episodes) for episodes in (train, test))
    count = model.codes
    judged.add("codebook_usage", np.array([metrics.used(c, count) / count for c in found]), "1", found[0].size)
    judged.add("codes_in_use", np.array([float(metrics.used(c, count)) for c in found]), "1", found[0].size)
    judged.add("code_perplexity", np.array([metrics.perplexity(c, count) for c in found]), "1", found[0].size)
    if "actions" in test:
        names = np.unique(test["actions"].reshape(-1, test["actions"].shape[-1]), axis=0, return_inverse=True)[1]
        if names.max() + 1 < names.size / 10:  # continuous actions have no classes
            _add_told(judged, "action", found, names.reshape(found.shape[1:]))
    if laws.agent and "states" in test:
        _add_agent(judged, learned, found, train, test, laws.agent, count)
    _add_futures(judged, model, found, test, config)


def _discovered(model: Any, episodes: Episodes) -> Codes:
    return np.asarray(model.discover({"frames": torch.tensor(episodes["frames"])}).numpy())


def _add_told(judged: Judgement, name: str, found: Codes, classes: Codes) -> None:
    """Information of codes ``[S, E, T]`` about classes ``[E, T]``, and the adjusted one of the permutation null."""
    for metric, score in (
        ("ami", metrics.adjusted_mutual_information),
        ("nmi", metrics.normalised_mutual_information),
    ):
        told = [metrics.with_interval(score, codes, classes) for codes in found]
        parts = np.stack([p for _, p in told])
        judged.add(f"code_{metric}_{name}", [summary for summary, _ in told], "1", by_episode=parts)
        if metric == "ami" and len(classes) > 2:
            nulls = [metrics.null_scores(score, codes, classes) for codes in found]
            high = np.array([np.quantile(null, 0.975) for null in nulls])
            judged.add(f"code_{metric}_{name}_null", high, "1", len(nulls[0]))


def _add_agent(
    judged: Judgement, learned: Codes, found: Codes, train: Episodes, test: Episodes, agent: Sequence[int], count: int
) -> None:
    """What codes tell of whom actions move and of all others; whether a code moves it in one direction."""
    before, moved = (np.diff(e["states"][..., : e.spec.dof], axis=1) for e in (train, test))
    still = _STILL * before.std((0, 1))
    own = _joined([metrics.displacements(moved[..., i], still[i], _far(before[..., i], still[i])) for i in agent])
    others = [i for i in range(len(still)) if i not in agent]
    _add_told(judged, "agent", found, own)
    if others:
        exogenous = _joined([metrics.directions(moved[..., i], still[i]) for i in others])
        _add_told(judged, "exogenous", found, exogenous)
        share = [metrics.distractor_share(codes, own, exogenous) for codes in found]
        judged.add("distractor_share", [Summary.scalar(s, n=own.size) for s in share], "1")
    meant, done = (_directions(m, still, agent) for m in (before, moved))
    kept = [
        metrics.consistency(c, done, metrics.meanings(a, meant, count)) for a, c in zip(learned, found, strict=True)
    ]
    judged.add("action_consistency", np.stack(kept), "1")
    usual = (done == np.bincount(meant.ravel()).argmax()).mean(1)
    judged.add("action_consistency_chance", np.tile(usual, (len(found), 1)), "1")


def _directions(moved: Float, still: Float, which: Sequence[int]) -> Codes:
    """One class ``[E, T]`` for every combination of directions of these positions."""
    digits = [3**k * metrics.directions(moved[..., i], still[i]) for k, i in enumerate(which)]
    return np.asarray(np.sum(digits, 0))


def _far(moved: Float, still: float) -> float:
    """Half of the displacements that are none of what rests are larger."""
    sizes = np.abs(moved[np.abs(moved) > still])
    return float(np.median(sizes)) if sizes.size else still


def _joined(classes: Sequence[Codes]) -> Codes:
    """One class for every combination of classes."""
    stacked = np.stack(classes, -1)
    return np.unique(stacked.reshape(-1, len(classes)), axis=0, return_inverse=True)[1].reshape(stacked.shape[:-1])


def _add_futures(judged: Judgement, model: Any, found: Codes, test: Episodes, config: VideosConfig) -> None:
    """How much better frames are under codes inferred from them, and under true actions, than under random ones, in dB.

    Random codes are those of other transitions, so that all are as frequent as they are.
    """
    frames, longest = test["frames"], max(_STEPS)
    context = config.context
    first = range(context, frames.shape[1] - longest + 1, config.every)
    if not first:
        return

    def cut(view: NDArray[Any], before: int, after: int) -> NDArray[Any]:
        """``[E, M, …]`` from so many rows before the first predicted one to so many after it, flat."""
        pieces = np.stack([view[:, i - before : i + after] for i in first], 1)
        return pieces.reshape(-1, *pieces.shape[2:])

    past = {"frames": torch.tensor(cut(frames, model.context, 0))}
    true = cut(frames, 0, longest).astype(np.float32) / 255
    inferred = np.stack([cut(codes, 1, longest - 1) for codes in found])
    rng = np.random.default_rng(0)

    def quality(predicted: torch.Tensor) -> Float:
        """PSNR ``[S, E, K]``, the mean over an episode's predictions."""
        values = psnr(predicted.numpy(), true, data_range=1.0)
        return values.reshape(len(values), len(frames), len(first), longest).mean(2)

    def followed(codes: Codes) -> Float:
        return quality(model.follow(past, torch.tensor(codes))["frames"])

    drawn = [np.stack([rng.permutation(c.ravel()).reshape(c.shape) for c in inferred]) for _ in range(_DRAWS)]
    chance = np.mean([followed(codes) for codes in drawn], axis=0)
    gains = {"delta_psnr": followed(inferred) - chance}
    if "actions" in test and "actions" in model.spec.views:
        actions = torch.tensor(cut(test["actions"], 1, longest - 1))
        gains["delta_psnr_mapped"] = quality(model.predict(past, longest, actions)["frames"]) - chance
    for name, gain in gains.items():
        for step in _STEPS:
            judged.add(name, gain[..., step - 1], "dB", step=step)
        judged.add(name, gain[..., 0], "dB")
