"""The page of language: who says and draws what is there, in words, tables and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from wm_pipelines.episodes import texts_of
from wm_pipelines.metrics.registry import described
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.cost import accuracy_against_cost
from wm_pipelines.reporting.plots import Figure, layout, learning_curves, line, logged
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    REFERENCES,
    Palette,
    metric_order,
    metric_title,
    model_label,
    model_order,
)
from wm_pipelines.reporting.summary import competes, on_main_split
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.language.asked_report import (
    accuracy_over_parameters,
    answered,
    beside_reference,
    beyond_words,
)

_TITLE = "From images to text, from text to images, answers to questions"
_MAIN = (
    "caption_exact_one", "caption_exact_up_to_two", "caption_exact", "caption_exact_chance", "frame_exact_one",
    "frame_exact_two", "frame_exact", "frame_exact_chance", "perplexity", "perplexity_per_byte", "prior_perplexity",
    "prior_perplexity_per_byte", "frechet_pixels", "frechet_encoder", "fid", "answer_accuracy", "retrieval_r1",
    "swapped_attribute", "swapped_relation", "collapsed", "ms_per_answer", "ms_per_caption", "train_seconds",
    "parameters", "language_parameters", "text_parameters",
)  # fmt: skip
_FINDINGS = {
    "caption_exact_one": "captions of one object are right in everything for {} of the held-out scenes",
    "frame_exact_one": "frames of captions of one object are right in everything for {}",
    "answer_accuracy": "{} of the questions are answered right",
}
_TERMS = {"text": "Loss of text", "image": "Loss of images"}
_KINDS = (
    ("Captions, attribute by attribute", ("caption_",)),
    ("Frames", ("frame_",)),
    ("Answers, kind by kind", ("answer_",)),
    (
        "Captions of clips, made anew only now and then",
        ("scene_changes", "every_frame", "decodes_", "right_", "fewer_"),
    ),
)
_COMPOSED = (
    "caption_combination", "frame_combination", "caption_exact_one", "frame_exact_one", "answer_accuracy",
    "answer_shape",
)  # fmt: skip
_COSTLY = ("caption_exact_one", "frame_exact_one", "answer_accuracy")
_ABOUT_ANSWERS = "Of videos the first frame. From left to right; ✓: answered right, else the true answer in brackets."
_ZOOM = 3  # screen pixels of a pixel
_OBJECTS = {1: "one object", 2: "two objects", 3: "three objects"}


def page(results: Results) -> str:
    """The report as one HTML page; equal results give equal bytes."""
    table = results.summary
    models = model_order(table["family"] + "/" + table["variant"])
    palette, worlds = Palette(models), results.worlds
    return frame.render(
        "language.html.j2",
        "language",
        models,
        figures=bool(len(results.scores)),
        told=frame.told(results.scores),
        provenance=results.provenance,
        title=_TITLE,
        worlds=[_section(results, world, f"world-{i}", table, palette) for i, world in enumerate(worlds)],
        glossary=_glossary(results.scores),
        seeds=int(results.scores["seed"].nunique()),
    )


def _section(results: Results, world: str, anchor: str, table: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    own, scores = table[table["world"] == world], results.scores[results.scores["world"] == world]
    main = own[on_main_split(own)]
    kept = {model: _of_test(arrays) for model, arrays in results.arrays.get(world, {}).items()}
    figures = {
        "caption_objects": by_objects(scores, "caption_exact", "Captions that are right in everything", palette),
        "frame_objects": by_objects(scores, "frame_exact", "Frames that are right in everything", palette),
        **{m: accuracy_against_cost(own, world, m, palette) for m in _COSTLY},
        "parameters": accuracy_over_parameters(main, palette),
        "curves": learning_curves(results.curves, world, palette),
        **{name: _term(results.curves, world, name, palette) for name in _TERMS},
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    return {
        "name": world,
        "anchor": anchor,
        "findings": _findings(main),
        "table": frame.numbers(main, [m for m in _MAIN if m in set(main["metric"])]),
        "attributes": [
            (words, frame.numbers(main[_has_any(main, found)], found))
            for words, start in _KINDS
            if (found := _attributes(main, start))
        ],
        "composition": composition(own),
        "beside": beside_reference(kept, _values(main, "language_parameters")),
        "beyond": beyond_words(kept),
        "collapsed": model_order(_values(main[main["value"] > 0], "collapsed")),
        "parser": _parser(scores),
        "legend": frame.legend(drawn),
        "figures": [frame.embedded(f"{anchor}-{name}", figure) for name, figure in drawn.items()],
        "galleries": [g for model in model_order(kept) for g in _galleries(model, kept[model])],
        "not_applicable": [(f, why) for w, f, why in results.not_applicable if w == world],
    }


def _values(main: pd.DataFrame, metric: str) -> dict[str, float]:
    """A metric by model."""
    rows = main[main["metric"] == metric]
    return dict(zip(rows["family"] + "/" + rows["variant"], rows["value"].astype(float), strict=True))


def _of_test(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith("test/")}


def _attributes(main: pd.DataFrame, start: tuple[str, ...]) -> list[str]:
    return [m for m in metric_order(main["metric"].unique()) if m.startswith(start) and m not in _MAIN]


def _has_any(main: pd.DataFrame, metrics: list[str]) -> pd.Series:
    """Rows of models that have any of the metrics."""
    models = main["family"] + "/" + main["variant"]
    return models.isin(models[main["metric"].isin(metrics)])


def _findings(main: pd.DataFrame) -> list[str]:
    """The best model of each direction beside the floor, in words."""
    lines = []
    for metric, words in _FINDINGS.items():
        rows = main[main["metric"] == metric]
        trained = rows[competes(main)[rows.index]]
        if trained.empty:
            continue
        best = trained.sort_values("value").iloc[-1]
        floor = rows[rows["family"].isin(REFERENCES)]["value"]
        beside = f" (the best floor, which does not look: {_share(floor.max())})" if len(floor) else ""
        name = model_label(f"{best['family']}/{best['variant']}")
        lines.append(f"{name}: {words.format(_share(best['value']))}{beside}.")
    return lines


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def composition(own: pd.DataFrame) -> list[dict[str, str]]:
    """Combinations that training shows beside those that it never does: model, direction, both shares, difference.

    The interval of the difference is that of two independent means, from their own intervals.
    """
    rows, wide = (
        [],
        own[own["metric"].isin(_COMPOSED)],
    )
    for (family, variant, metric), group in wide.groupby(["family", "variant", "metric"]):
        by_split = {str(row["split"]): row for row in group.to_dict("records")}
        if not {"test", "held_out"} <= set(by_split):
            continue
        seen, unseen = by_split["test"], by_split["held_out"]
        gap = seen["value"] - unseen["value"]
        half = float(np.hypot(*((one["ci_high"] - one["ci_low"]) / 2 for one in (seen, unseen))))
        rows.append(
            {
                "model": f"{family}/{variant}",
                "metric": metric_title(str(metric)),
                "seen": _share(seen["value"]),
                "unseen": _share(unseen["value"]),
                "gap": f"{100 * gap:.1f} ± {100 * half:.1f} points",
            }
        )
    order = {model: k for k, model in enumerate(model_order(row["model"] for row in rows))}
    return sorted(rows, key=lambda row: (row["metric"], order[row["model"]]))


def _parser(scores: pd.DataFrame) -> list[dict[str, str]]:
    """How well the parser reads true frames of the test split, by the noise on them."""
    rows = scores[scores["metric"].str.startswith("parser_") & (scores["split"] == "test")]
    found = []
    for step, group in rows.groupby("step"):
        values = {str(m): _share(v) for m, v in group.groupby("metric")["value"].mean().items()}
        found.append({"noise": "none" if int(str(step)) < 0 else f"{int(str(step)) / 100:g}", **values})
    return found


def by_objects(scores: pd.DataFrame, metric: str, title: str, palette: Palette) -> Figure | None:
    """A share over the number of objects, mean over seeds, test split."""
    rows = scores[(scores["metric"] == metric) & (scores["step"] > 0) & (scores["split"] == "test")]
    if rows.empty:
        return None
    figure = go.Figure(layout=layout("objects", "share", yaxis_range=[-0.02, 1.02]))
    figure.update_xaxes(dtick=1)
    models = rows["family"] + "/" + rows["variant"]
    for model in model_order(models):
        curve = rows[models == model].groupby("step")["value"].mean()
        figure.add_trace(line(curve.index, curve, model, palette, mode="lines+markers"))
    return Figure(figure, title, "Share by the number of objects: size, colour, shape and place of all of them.")


def _term(curves: Mapping[str, pd.DataFrame], world: str, name: str, palette: Palette) -> Figure | None:
    figure = logged(curves, world, name, _TERMS[name].lower(), palette, log_y=True)
    caption = {
        "text": "Cross-entropy of the next token in nats.",
        "image": "Squared error of what is predicted, in units of the spread of the pixels, before lambda.",
    }
    return None if figure is None else Figure(figure, f"{_TERMS[name]} during training", caption[name])


# ---------------------------------------------------------------------------------------------------------- pictures


def _galleries(model: str, kept: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Frames beside the captions that they were drawn of, captions beside the frames that they describe."""
    found, name = [], model_label(model)
    prompts = texts_of(kept["prompts"]) if "prompts" in kept else []
    if "drawn" in kept:
        lines = _marked(prompts, kept.get("drawn_right"))
        found.append(_gallery(f"Frames of captions: {name}", kept["drawn"], lines))
    if "said" in kept:
        lines = _marked(texts_of(kept["said"]), kept.get("said_right"))
        found.append(_gallery(f"Captions of frames: {name}", kept["true"], lines))
    if lines := answered(kept):
        found.append(_gallery(f"Answers: {name}", kept["true"][:3], lines) | {"about": _ABOUT_ANSWERS})
    for key in sorted(k for k in kept if k.startswith("seen_")):
        title = f"{key.removeprefix('seen_').replace('_', ' ').capitalize()}: {name}"
        found.append(_gallery(title, kept[key][:, 0], []))
    return found


def _marked(lines: Sequence[str], right: NDArray[Any] | None) -> list[dict[str, Any]]:
    """Lines with a mark; None, where nobody can tell: without."""
    if right is None:
        return [{"text": text, "right": None} for text in lines]
    return [{"text": text, "right": bool(ok)} for text, ok in zip(lines, right, strict=True)]


def _gallery(title: str, frames: NDArray[np.uint8], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames ``[K, H, W, 3]`` in a row as one PNG, and a line for each."""
    gap = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    sheet = np.concatenate(list(gap), axis=1)
    zoom = max(1, min(_ZOOM, 900 // sheet.shape[1])) if lines else max(1, 420 // sheet.shape[1])
    width, height = sheet.shape[1] * zoom, sheet.shape[0] * zoom
    data = io.BytesIO()
    Image.fromarray(sheet).resize((width, height), Image.Resampling.NEAREST).save(data, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return {"title": title, "uri": uri, "width": width, "height": height, "lines": lines}


def _glossary(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in metric_order(scores["metric"].unique()):
        known = described(metric)
        text = COST_DESCRIPTIONS.get(metric) or (known.description if known is not None else None)
        if text is not None:
            entries.append({"name": metric, "title": metric_title(metric), "text": text})
    return entries
