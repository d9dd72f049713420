"""Judge answers to questions, and whether a frame finds its caption among others.

Axes: ``S`` seeds, ``N`` episodes of a split, ``Q`` questions of an episode, ``C`` candidates. The answer is the
candidate that fits best; candidates are all answers that training gives to questions of that kind, the same for all
models. The unit of intervals is the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes, codec_of, utf8
from wm_pipelines.families.base import Family
from wm_pipelines.families.parts.language import Answers, ChoosesBest, EmbedsTexts, PointsAtTexts
from wm_pipelines.laws import Laws
from wm_pipelines.metrics.representation import effective_rank, is_collapsed, relative_spread
from wm_pipelines.metrics.retrieval import distinct, right_first, swapped
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.language.selective import MOVING, add_selective

if TYPE_CHECKING:
    from wm_pipelines.tasks.language import LanguageConfig

Float = NDArray[np.float64]

_DESCRIPTION = "description"
_LEAST_SPREAD = 0.05  # of the size of embeddings, below which all of them are one
_POINTED = 500  # frames of which captions are expected


def add_answers(
    judged: Judgement, family: Any, episodes: Mapping[str, Episodes], split: str, laws: Laws, config: LanguageConfig
) -> None:
    """Accuracy, of all questions and by kind; where captions are asked for, their retrieval."""
    part, kinds = episodes[split], laws.question_kinds
    candidates, fits = answers_of(episodes["train"], kinds)
    if candidates:
        _add_accuracies(judged, family, part, kinds, candidates, fits, config)
    for name, count in (family.language_parameters() if hasattr(family, "language_parameters") else {}).items():
        judged.add(f"{name}_parameters", np.full(len(judged.seeds), float(count)), "1")
    prompts = prompts_of(part, laws) if "captions" in part else None
    if isinstance(family, EmbedsTexts):
        _add_spread(judged, family, episodes["train"], candidates, part, prompts)
    if prompts is None:
        return
    _add_retrieval(judged, family, part, prompts, episodes, laws, config)
    if split == "test" and MOVING in episodes and isinstance(family, PointsAtTexts):
        add_selective(judged, family, episodes, prompts[0], config)


def _add_accuracies(
    judged: Judgement,
    family: Any,
    part: Episodes,
    kinds: Sequence[str],
    candidates: Sequence[str],
    fits: NDArray[np.bool_],
    config: LanguageConfig,
) -> None:
    began = process_time()
    right, chosen = _right(judged, family, part, candidates, fits)
    add_ms(judged, "ms_per_answer", began, right.size)
    asked = part["asked"]
    judged_kinds = [k for k, kind in enumerate(kinds) if kind != _DESCRIPTION]
    counted = np.isin(asked, judged_kinds)
    judged.add("answer_accuracy", _by_episode(right, counted), "1")
    for k in judged_kinds:
        if (asked == k).any():
            judged.add(f"answer_{kinds[k]}", _by_episode(right, asked == k), "1")
    few = config.shown
    for name in ("questions", "answers"):
        judged.arrays[f"asked_{name}"] = utf8(part[name][:few].ravel())
    judged.arrays["chosen"] = utf8(np.array(candidates)[chosen[0, :few].ravel()])
    judged.arrays["chosen_right"] = right[0, :few].ravel() > 0
    judged.arrays["chosen_counts"] = counted[:few].ravel()


def add_ms(judged: Judgement, metric: str, began: float, count: int) -> None:
    """Milliseconds of a core that one of ``count`` answers or captions took, all asked together, all seeds alike."""
    judged.add(metric, np.full(len(judged.seeds), 1e3 * (process_time() - began) / count), "ms", count)


def answers_of(train: Episodes, kinds: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """All different answers of training to questions that do not ask for a whole description, sorted.

    Returns:
        the answers; which are given to questions of a kind, ``[kinds, C]`` (to descriptions all: none is counted).
    """
    short = train["asked"] != (list(kinds).index(_DESCRIPTION) if _DESCRIPTION in kinds else -1)
    candidates, number = np.unique(train["answers"][short], return_inverse=True)
    fits = np.zeros((len(kinds), len(candidates)), bool)
    fits[train["asked"][short], number] = True
    fits[~fits.any(1)] = True
    return candidates.tolist(), fits


def _right(
    judged: Judgement, family: Any, part: Episodes, candidates: Sequence[str], fits: NDArray[np.bool_]
) -> tuple[Float, NDArray[np.int64]]:
    """Whether the best candidate of the kind is the answer, and which it is, ``[S, N, Q]``."""
    frames, questions = torch.tensor(part["frames"]), _numbers(part, "questions")
    offered, possible = torch.tensor(utf8(candidates)), torch.tensor(fits[part["asked"]])
    chosen = np.stack(
        [
            family.choose(frames, questions, offered, k).masked_fill(~possible, -torch.inf).argmax(-1).numpy()
            for k in range(len(judged.seeds))
        ]
    )
    return (np.array(candidates)[chosen] == part["answers"]).astype(np.float64), chosen


def _by_episode(right: Float, counts: NDArray[np.bool_]) -> Float:
    """Means over the questions that count ``[N, Q]``, of episodes that have any: ``[S, E]``."""
    has = counts.any(1)
    return np.asarray((right * counts).sum(2)[:, has] / counts.sum(1)[has])


# ---------------------------------------------------------------------------------------------------------- retrieval


def _add_retrieval(
    judged: Judgement,
    family: Any,
    part: Episodes,
    prompts: torch.Tensor,
    episodes: Mapping[str, Episodes],
    laws: Laws,
    config: LanguageConfig,
) -> None:
    """R@1 of a frame's caption among ``retrieved_of`` different ones; of scenes also against one with a swap in it."""
    whole, part, prompts = part, part.first(config.retrieved), prompts[: config.retrieved]
    frames, captions = torch.tensor(part["frames"]), part["captions"]
    others = [one["captions"].tolist() for one in (whole, *(episodes[n] for n in sorted(episodes) if n != MOVING))]
    offered = distinct([captions.tolist(), *others], config.retrieved_of)
    _add_first(judged, family, "retrieval_r1", frames, prompts[:, None], offered, captions)
    judged.add("retrieval_of", np.full(len(judged.seeds), float(len(offered))), "1")
    if laws.write_captions is None or "scenes" not in part:
        return
    for name, attributes in _SWAPS.items():
        which, turned = swapped(part["scenes"], attributes)
        if len(which):
            pairs = np.stack([captions[which], laws.write_captions(turned)], 1)
            _add_pairs(judged, family, f"swapped_{name}", frames[which], prompts[which, None], pairs)


def prompts_of(part: Episodes, laws: Laws) -> torch.Tensor | None:
    """The question for its description that every episode is asked, ``[N, L]``; None where some are not asked it."""
    if _DESCRIPTION not in laws.question_kinds or "questions" not in part:
        return None
    asks = part["asked"] == list(laws.question_kinds).index(_DESCRIPTION)
    return _numbers(part, "questions")[np.arange(len(part)), asks.argmax(1)] if asks.any(1).all() else None


_SWAPS: Mapping[str, tuple[int, ...]] = {"attribute": (0, 1, 2), "relation": (3,)}
"""Of what the last axis of scenes holds, what two objects exchange."""


def _add_first(
    judged: Judgement,
    family: Any,
    metric: str,
    frames: torch.Tensor,
    prompts: torch.Tensor,
    offered: Sequence[str],
    captions: NDArray[Any],
) -> None:
    texts = torch.tensor(utf8(offered))
    wanted = np.array([offered.index(text) for text in captions.tolist()])
    choose = family.choose_best if isinstance(family, ChoosesBest) else family.choose
    scores = [choose(frames, prompts, texts, k)[:, 0].double().numpy() for k in range(len(judged.seeds))]
    judged.add(metric, np.stack([right_first(one, wanted) for one in scores]), "1")


def _add_pairs(
    judged: Judgement, family: Any, metric: str, frames: torch.Tensor, prompts: torch.Tensor, pairs: NDArray[Any]
) -> None:
    """The true caption against the other one, of every frame its own two: ties count half."""
    offered = sorted(set(pairs.ravel().tolist()))
    texts = torch.tensor(utf8(offered))
    number = {text: k for k, text in enumerate(offered)}
    at = np.array([[number[text] for text in row] for row in pairs.tolist()])
    found = []
    for k in range(len(judged.seeds)):
        values = _pair_scores(family, frames, prompts, texts, at, k)
        found.append(np.where(values[:, 0] == values[:, 1], 0.5, values[:, 0] > values[:, 1]))
    judged.add(metric, np.stack(found).astype(np.float64), "1")


_PAIRS_AT_ONCE = 8  # frames that are asked about their own and each other's two captions


def _pair_scores(
    family: Any, frames: torch.Tensor, prompts: torch.Tensor, texts: torch.Tensor, at: NDArray[Any], seed: int
) -> Float:
    """Scores of the two captions of every frame, ``[N, 2]``."""
    rows = []
    for first in range(0, len(frames), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        own = at[part]
        scores = family.choose(frames[part], prompts[part], texts[own.ravel()], seed)[:, 0].double().numpy()
        rows += [scores[i, 2 * i : 2 * i + 2] for i in range(len(own))]
    return np.stack(rows)


# ------------------------------------------------------------------------------------------------------------ collapse


def _add_spread(
    judged: Judgement,
    family: Any,
    train: Episodes,
    candidates: Sequence[str],
    part: Episodes,
    prompts: torch.Tensor | None,
) -> None:
    """How far apart texts lie, and places where captions of different frames are expected; whether all are one point.

    A slow text encoder hides a collapse: its texts still lie apart while what is predicted of them is one point.
    """
    texts = sorted({*candidates, *(train["captions"].tolist()[:500] if "captions" in train else [])})
    codes, seeds = torch.tensor(utf8(texts)), range(len(judged.seeds))
    found = {"text": [family.embed_texts(codes, k).double().numpy() for k in seeds]}
    if prompts is not None and isinstance(family, PointsAtTexts):
        part = part.first(_POINTED)
        frames, asked = torch.tensor(part["frames"]), prompts[: len(part), None]
        found["predicted"] = [family.point_at(frames, asked, k)[:, 0].double().numpy() for k in seeds]
    for name, points in found.items():
        judged.add(f"{name}_spread", np.array([relative_spread(z) for z in points]), "1", len(points[0]))
        judged.add(f"{name}_rank", np.array([effective_rank(z) for z in points]), "1", len(points[0]))
    fell = [any(is_collapsed(points[k], _LEAST_SPREAD) for points in found.values()) for k in seeds]
    judged.add("collapsed", np.array(fell, np.float64), "1", len(texts))


def can_be_asked(family: Family, part: Episodes) -> bool:
    """Whether there are questions, and the family answers any."""
    return {"questions", "answers", "asked"} <= set(part.views) and isinstance(family, Answers)


def _numbers(part: Episodes, view: str) -> torch.Tensor:
    return torch.tensor(codec_of(part.spec.views[view]).to_numbers(part[view]))
