"""The reports on pictures and on videos: what was learned, what can be read from it, one HTML file each."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from wm_pipelines.reporting import page, summary
from wm_pipelines.reporting.animation import animate
from wm_pipelines.reporting.figures import learning_curves
from wm_pipelines.reporting.plots import Figure, layout, line, thinned
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    UNTRAINED,
    Palette,
    metric_order,
    metric_title,
    model_label,
    model_order,
)

_TITLES = {"image": "What models learn from pictures", "video": "What models of videos know of physics"}
_TERMINAL = {
    "image": ("linear_probe", "knn_probe", "attentive_probe", "rankme", "collapsed", "train_seconds"),
    "video": (
        "linear_probe", "r2_position_probed", "r2_velocity_probed", "energy_error_probed", "mse", "ssim",
        "collapsed", "train_seconds",
    ),
}  # fmt: skip
_FINDINGS = {
    "linear_probe": "a linear classifier reads the class of {} of the pictures",
    "r2_position_probed": "a linear read-out of single frames explains {} of the positions",
    "r2_velocity_probed": "a linear read-out of a window of frames explains {} of the velocities",
}
_FUTURES = 4  # shown in motion
_MONITORS = {"feature_std": "Spread of features", "effective_rank": "Effective rank"}

DESCRIPTIONS = {
    "linear_probe": "Share of held-out pictures that a linear classifier on frozen features names correctly.",
    "knn_probe": "The same by the majority of the nearest labelled neighbours: nothing is trained.",
    "attentive_probe": "The same by one learned query that attends to the features of all places.",
    "feature_std": "Standard deviation of a feature, mean over features. It can stay large in a collapse.",
    "effective_rank": "How many directions centred features fill: exponential of the entropy of their singular values.",
    "rankme": "The same of features that are not centred (RankMe). A collapsed encoder has a value near 1.",
    "collapsed": "Share of seeds whose features hardly tell one picture from another, whatever their loss.",
    "r2_position_probed": "How much of the positions a linear read-out of one frozen latent explains; 1 is all.",
    "r2_velocity_probed": "How much of the velocities a linear read-out of a window of latents explains; one frame "
    "holds no velocity.",
    "mse": "Mean squared error of a predicted pixel in [0, 1].",
    "mse_per_frame": "Squared error summed over all pixels of a predicted frame, the unit of OpenSTL.",
    "psnr": "Peak signal-to-noise ratio of predicted frames, pixels in [0, 1].",
    "ssim": "Structural similarity of predicted frames: Gaussian window of 11 pixels, data range 1.",
    "lpips": "Perceptual distance of predicted frames.",
    "fvd": "Fréchet distance of I3D features of predicted and true clips.",
    "embedding_mmd": "Distance of predicted from true clips in features of the project's own video encoder (unbiased "
    "squared maximum mean discrepancy); zero for equal distributions.",
    "surprise": "How well the error of a one-step prediction tells impossible episodes from lawful ones: area under "
    "the ROC curve, 0.5 is chance.",
    "energy_error": "How far the energy read from predicted latents strays from its start, on average over time.",
}


@dataclass(frozen=True)
class PixelContent:
    """Everything the report on pictures or videos shows.

    Attributes:
        kind: ``image`` or ``video``. scores: long table with the leaderboard's columns. worlds: in order.
        pictures: ``"world/family/variant/what"`` -> array. curves: ``"world/family/variant"`` -> learning curve.
        not_applicable: (world, family, reason). provenance: where the numbers come from.
    """

    kind: str
    scores: pd.DataFrame
    worlds: Sequence[str]
    pictures: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    not_applicable: Sequence[tuple[str, str, str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self, world: str, what: str) -> dict[str, NDArray[Any]]:
        """Model -> array of one kind."""
        found = {}
        for key, array in self.pictures.items():
            of_world, family, variant, name = key.split("/")
            if of_world == world and name == what:
                found[f"{family}/{variant}"] = array
        return {model: found[model] for model in model_order(found)}


def format_terminal(scores: pd.DataFrame, kind: str) -> str:
    """Seeds pooled, as aligned text for a terminal; ``kind`` is ``image`` or ``video``."""
    return summary.format_terminal(summary.summary_table(scores), _TERMINAL[kind], over="seeds and held-out data")


def build_pixel_report(content: PixelContent, *, beside: Sequence[str] = ()) -> str:
    """Write the report; equal content gives equal bytes.

    Args:
        content: what to show. beside: evaluation pipelines whose reports lie in the same folder, to link to.
    """
    table = summary.summary_table(content.scores)
    models = model_order(table["family"] + "/" + table["variant"])
    palette = Palette(models)
    return page.render(
        "pixels.html.j2",
        f"{content.kind}_eval",
        models,
        figures=bool(len(content.scores)),
        provenance=content.provenance,
        beside=beside,
        title=_TITLES[content.kind],
        worlds=[_section(content, world, i, table, palette) for i, world in enumerate(content.worlds)],
        glossary=_glossary(content.scores),
        seeds=int(content.scores["seed"].nunique()),
    )


def _section(content: PixelContent, world: str, index: int, table: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    own = table[table["world"] == world]
    figures = {
        "labels": accuracy_by_labels(content.scores, world, palette),
        "steps": r2_by_step(content.scores, world, palette),
        "frames": error_by_step(content.scores, world, palette),
        "curves": learning_curves(content.curves, world, palette),
        **{name: monitor(content.curves, world, name, palette) for name in _MONITORS},
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    collapsed = own[(own["metric"] == "collapsed") & (own["value"] > 0) & ~own["variant"].str.endswith(UNTRAINED)]
    return {
        "name": world,
        "anchor": f"world-{index}",
        "findings": _findings(own),
        "collapsed": model_order(collapsed["family"] + "/" + collapsed["variant"]),
        "table": page.numbers(own, metric_order(own["metric"])),
        "legend": page.legend(drawn),
        "animations": _animations(content, world),
        "figures": [page.embedded(f"{content.kind}-{index}-{name}", name, figure) for name, figure in drawn.items()],
        "pictures": _pictures(content, world),
        "not_applicable": [(f, why) for w, f, why in content.not_applicable if w == world],
    }


def _findings(own: pd.DataFrame) -> list[str]:
    """The best trained model beside the floors, in words."""
    lines = []
    for metric, words in _FINDINGS.items():
        rows = own[own["metric"] == metric]
        trained = rows[~rows["variant"].str.endswith(UNTRAINED) & (rows["family"] != "raw_pixels")]
        if trained.empty:
            continue
        best = trained.sort_values("value").iloc[-1]
        floors = {
            "raw pixels": rows[rows["family"] == "raw_pixels"],
            "the same encoder untrained": rows[
                (rows["family"] == best["family"]) & (rows["variant"] == best["variant"] + UNTRAINED)
            ],
        }
        beside = ", ".join(f"{name} {_share(f['value'].iloc[0])}" for name, f in floors.items() if len(f))
        lines.append(
            f"From {model_label(best['family'] + '/' + best['variant'])}, "
            f"{words.format(_share(best['value']))}" + (f" ({beside})." if beside else ".")
        )
    return lines


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _glossary(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in metric_order(scores["metric"]):
        text = COST_DESCRIPTIONS.get(metric) or DESCRIPTIONS.get(metric)
        if text is None:
            text = next((t for start, t in DESCRIPTIONS.items() if metric.startswith(start)), None)
        if text is not None:
            entries.append({"name": metric, "title": metric_title(metric), "text": text})
    return entries


# ---------------------------------------------------------------- figures


def _by_step(scores: pd.DataFrame, world: str, metric: str) -> dict[str, pd.DataFrame]:
    """Model -> mean over seeds of ``value``, ``ci_low``, ``ci_high`` by step."""
    rows = scores[(scores["world"] == world) & (scores["metric"] == metric) & (scores["step"] > 0)]
    rows = rows.assign(model=rows["family"] + "/" + rows["variant"])
    return {
        str(model): group.groupby("step")[["value", "ci_low", "ci_high"]].mean()
        for model, group in rows.groupby("model", sort=True)
    }


def r2_by_step(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Positions read from predicted latents over the step, beside ridge regression from the context."""
    predicted = _by_step(scores, world, "r2_position_predicted_probed")
    floor = _by_step(scores, world, "r2_position_ridge_probed")
    if not predicted:
        return None
    figure = go.Figure(layout=layout("predicted frame", "R² of positions", yaxis_range=[-0.05, 1.02]))
    for model in model_order(predicted):
        curve = predicted[model]
        figure.add_trace(line(curve.index, curve["value"], model, palette, mode="lines+markers"))
        if model in floor:
            straight = line(floor[model].index, floor[model]["value"], model, palette)
            straight["line"] = {**straight["line"], "dash": "dot", "width": 1}
            figure.add_trace(straight | {"name": f"{straight['name']}, ridge from the context"})
    return Figure(
        figure,
        "Physics of predicted latents",
        "How much of the true positions can be read from latents that were predicted. The thin dotted line is ridge "
        "regression straight from the same context: a predictor below it has learned less than a linear map.",
    )


def accuracy_by_labels(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Accuracy of the linear probe over the number of labels it learned from."""
    found = _by_step(scores, world, "linear_probe_by_labels")
    if not found:
        return None
    shape = layout("labels that the probe learned from", "accuracy")
    figure = go.Figure(layout=shape | {"xaxis": shape["xaxis"] | {"type": "log", "dtick": 1}})
    for model in model_order(found):
        figure.add_trace(line(found[model].index, found[model]["value"], model, palette, mode="lines+markers"))
    caption = (
        "Good features need few labels: look at the left end, and at the floors of raw pixels and untrained encoders."
    )
    return Figure(figure, "Linear probe by the number of labels", caption)


def error_by_step(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Structural similarity of predicted frames over the step."""
    found = _by_step(scores, world, "ssim")
    if not found:
        return None
    figure = go.Figure(layout=layout("predicted frame", "SSIM"))
    for model in model_order(found):
        figure.add_trace(line(found[model].index, found[model]["value"], model, palette, mode="lines+markers"))
    return Figure(
        figure, "Predicted frames", "Structural similarity to the frames that came; raw pixels repeat the last one."
    )


def monitor(curves: Mapping[str, pd.DataFrame], world: str, name: str, palette: Palette) -> Figure | None:
    """A collapse monitor over training, mean over seeds."""
    own = {
        key.split("/", 1)[1]: curve.dropna(subset=[name]).groupby("step")[name].mean()
        for key, curve in curves.items()
        if key.split("/", 1)[0] == world and name in curve
    }
    if not own:
        return None
    figure = go.Figure(layout=layout("training step", _MONITORS[name].lower(), log_y=True))
    for model in model_order(own):
        keep = thinned(len(own[model]))
        figure.add_trace(line(own[model].index.to_numpy()[keep], own[model].to_numpy()[keep], model, palette))
    return Figure(
        figure,
        f"{_MONITORS[name]} during training",
        "A loss that falls while this falls, too, is a collapse and no success.",
    )


# ---------------------------------------------------------------- pictures


def _animations(content: PixelContent, world: str) -> list[dict[str, Any]]:
    """Predicted beside true frames, the first prediction that was kept of every model."""
    predicted = content.arrays(world, "predicted_frames")
    if not predicted:
        return []
    truth = next(iter(content.arrays(world, "true_frames").values()))
    some = np.linspace(0, len(truth) - 1, min(_FUTURES, len(truth))).astype(int)
    # One film: what was kept, one after the other.
    films = {"truth": _rgb(truth[some]), **{model: _rgb(a[some]) for model, a in predicted.items()}}
    steps = min(a.shape[1] for a in films.values())
    frames = {name: a[:, :steps].reshape(-1, *a.shape[2:]) for name, a in films.items()}
    return [
        {
            "title": "Predicted and true frames",
            "film": animate(frames, frames_per_second=5.0, budget=700_000, most=96),
            "caption": f"{len(some)} held-out futures one after the other, {steps} frames each, which no model saw. "
            "First seed.",
        }
    ]


def _pictures(content: PixelContent, world: str) -> list[dict[str, Any]]:
    shown = []
    kinds = {key.split("/")[3] for key in content.pictures if key.split("/")[0] == world}
    pictures = content.arrays(world, "pictures")
    for what in sorted(k for k in kinds if k.startswith("seen_")):
        for model, array in content.arrays(world, what).items():
            flat = array.reshape(-1, *array.shape[-3:])[: 4 * len(array)]
            title = f"{what.removeprefix('seen_').replace('_', ' ').capitalize()}: {model_label(model)}"
            shown.append(_picture(title, [_rgb(flat)], "", wide=False))
    for model, places in content.arrays(world, "places").items():
        side = round(places.shape[1] ** 0.5)
        if side * side != places.shape[1]:
            continue
        rows = [_rgb(pictures[model]), _enlarged(places.reshape(len(places), side, side, 3), pictures[model].shape[1])]
        shown.append(
            _picture(
                f"Features of places: {model_label(model)}",
                rows,
                "Held-out pictures, and below them the first three principal components of the features of every "
                "place as red, green and blue: like colours mean like features.",
                wide=False,
            )
        )
    for model, near in content.arrays(world, "neighbours").items():
        columns = [_rgb(pictures[model]), *(_rgb(near[:, i]) for i in range(near.shape[1]))]
        shown.append(
            _picture(
                f"Nearest neighbours: {model_label(model)}",
                columns,
                "Held-out pictures in the first row; below each the training pictures whose features are nearest.",
                wide=False,
            )
        )
    return shown


def _rgb(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def _enlarged(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.NEAREST)) for f in frames])


def _picture(title: str, rows: Sequence[NDArray[np.uint8]], caption: str, wide: bool) -> dict[str, Any]:
    """Rows of pictures ``[K, H, W, 3]`` as one PNG, enlarged to be seen."""
    gap = [np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for row in rows]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in gap], axis=0)
    zoom = max(1, 640 // sheet.shape[1])
    data = io.BytesIO()
    Image.fromarray(sheet).resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST).save(
        data, "PNG", optimize=True
    )
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return {"title": title, "uri": uri, "width": sheet.shape[1] * zoom, "height": sheet.shape[0] * zoom,
            "caption": caption, "wide": wide}  # fmt: skip
