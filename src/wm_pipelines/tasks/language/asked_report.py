"""The page's part about answers: pairs of models, what pictures add to words, questions beside their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from wm_pipelines.episodes import texts_of
from wm_pipelines.metrics.comparison import paired_difference
from wm_pipelines.metrics.descriptions import QUESTION_KINDS
from wm_pipelines.reporting.plots import Figure, layout
from wm_pipelines.reporting.style import Palette, metric_title, model_label, model_order, split_model
from wm_pipelines.tasks.judgement import BY_EPISODE

Kept = Mapping[str, Mapping[str, NDArray[Any]]]

MARGIN = 0.02  # of accuracy, by which a model may be worse and still count as not inferior
_FIRST, _REFERENCE, _BLIND = "vljepa", "token_vlm", "token_vlm/blind"
_FLOOR = "frequent_answer"
_FEWEST = 2  # episodes, of which differences have an interval
_SCENES, _QUESTIONS = 3, 7  # shown


def beside_reference(kept: Kept, parameters: Mapping[str, float]) -> list[dict[str, str]]:
    """Every variant of `vljepa` beside every one of the reference that sees, paired over episodes.

    Args:
        kept: what judges kept of the test split, by model. parameters: of models, text towers included.

    Returns:
        one row per pair: difference of the accuracies with its 95 % interval, share of parameters, a verdict.
    """
    rows = []
    for first in model_order(m for m in kept if split_model(m)[0] == _FIRST):
        for other in model_order(m for m in kept if split_model(m)[0] == _REFERENCE and m != _BLIND):
            pair = [kept[m].get(BY_EPISODE + "answer_accuracy") for m in (first, other)]
            if pair[0] is None or pair[1] is None or pair[0].shape[1] < _FEWEST:
                continue
            gap = paired_difference(pair[0], pair[1])
            share = parameters.get(first, np.nan) / parameters.get(other, np.nan)
            rows.append(
                {
                    "model": first,
                    "reference": other,
                    "gap": _points(gap.value, gap.ci_low, gap.ci_high),
                    "parameters": "" if np.isnan(share) else f"{100 * share:.0f} %",
                    "verdict": verdict(float(gap.ci_low), float(gap.ci_high)),
                }
            )
    return rows


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """What the interval of a difference says, where more is better and ``margin`` may be lost."""
    if low > 0:
        return "better"
    if low > -margin:
        return "not inferior"
    return "inferior" if high < -margin else "open"


def beyond_words(kept: Kept) -> dict[str, Any]:
    """How far answers of those who see are above the best of those who do not, kind by kind.

    Returns:
        ``kinds``: titles. ``rows``: model, a text and whether it is above by more than its interval for each, how many
        are. ``nobody``: kinds that no model answers better.
    """
    kinds = [k for k in QUESTION_KINDS if any(BY_EPISODE + f"answer_{k}" in arrays for arrays in kept.values())]
    blind = [m for m in kept if split_model(m)[0] == _FLOOR or m == _BLIND]
    sees = [m for m in model_order(kept) if m not in blind and BY_EPISODE + "answer_accuracy" in kept[m]]
    if not blind or not sees:
        return {}
    rows, answered = [], set()
    for model in sees:
        cells = [_above(kept, model, blind, kind) for kind in kinds]
        answered |= {kind for kind, (_, above) in zip(kinds, cells, strict=True) if above}
        rows.append({"model": model, "cells": cells, "above": sum(above for _, above in cells)})
    nobody = [metric_title(f"answer_{k}").partition(": ")[2] for k in kinds if k not in answered]
    return {"kinds": [metric_title(f"answer_{k}").partition(": ")[2] for k in kinds], "rows": rows, "nobody": nobody}


def _above(kept: Kept, model: str, blind: Sequence[str], kind: str) -> tuple[str, bool]:
    name = BY_EPISODE + f"answer_{kind}"
    floors = [kept[m][name] for m in blind if name in kept[m]]
    if name not in kept[model] or not floors or kept[model][name].shape[1] < _FEWEST:
        return "", False
    gap = paired_difference(kept[model][name], max(floors, key=lambda values: values.mean()))
    return _points(gap.value, gap.ci_low, gap.ci_high), bool(gap.ci_low > 0)


def _points(value: Any, low: Any, high: Any) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})".replace("-", "−")


def accuracy_over_parameters(main: pd.DataFrame, palette: Palette) -> Figure | None:
    """Accuracy of answers over the parameters of all but the encoder, text towers included."""
    metrics = ("answer_accuracy", "language_parameters")
    accuracy, parameters = (
        {f"{r['family']}/{r['variant']}": r for r in main[main["metric"] == metric].to_dict("records")}
        for metric in metrics
    )
    both = [model for model in model_order(accuracy) if model in parameters]
    figure = go.Figure(layout=layout("parameters without encoder", "share of answers right"))
    figure.update_xaxes(type="log")
    for model in both:
        value, low, high = (float(accuracy[model][name]) for name in ("value", "ci_low", "ci_high"))
        figure.add_trace(
            go.Scatter(
                x=[float(parameters[model]["value"])],
                y=[value],
                error_y={"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]},
                mode="markers",
                name=model_label(model),
                legendgroup=model,
                marker={"color": palette.colour(model), "size": 10, "symbol": palette.marker(model)},
            )
        )
    caption = "Text towers are counted, encoders of what is seen are not. Whiskers are 95 % intervals."
    return Figure(figure, "Answers over parameters", caption) if both else None


def answered(kept: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Questions about the first episodes with what was answered, a row each; descriptions are left out."""
    if "chosen" not in kept:
        return []
    asked, wanted, chosen = (texts_of(kept[name]) for name in ("asked_questions", "asked_answers", "chosen"))
    rows = zip(asked, wanted, chosen, kept["chosen_right"], kept["chosen_counts"], strict=True)
    lines = [
        {"text": f"{question} {said}" + ("" if right else f" (true: {true})"), "right": bool(right)}
        for question, true, said, right, counts in rows
        if counts
    ]
    return lines[: _SCENES * _QUESTIONS]
