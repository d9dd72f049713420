"""The reports on images and on videos: what was learned, what can be read from it, one HTML file each."""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.animation import animate
from wm_pipelines.reporting.cost import decisive_against_cost
from wm_pipelines.reporting.plots import Figure, layout, learning_curves, line, logged
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    UNTRAINED,
    Palette,
    metric_order,
    metric_title,
    model_label,
    model_order,
    pretty_interval,
    pretty_number,
)
from wm_pipelines.reporting.summary import competes
from wm_pipelines.tasks._pixels.laws import defects, over_time, where_lost
from wm_pipelines.tasks.base import Results

_FINDINGS = {
    "linear_probe": "a linear probe reads the class of {} of the images",
    "r2_position_probed": "a linear probe of single latent steps explains {} of the variance of the positions",
    "r2_velocity_probed": "a linear probe of a window of latent steps explains {} of the variance of the velocities",
}
_MONITORS = {"feature_std": "Spread of features", "effective_rank": "Effective rank"}
_NOT_IN_TABLES = ("defect_", "sample_frechet_of_", "sample_ssim_of_")
_FLOORS = ("persistence", "mean_frame")
_SAMPLED = {
    "frechet": ("Fréchet distance", "below"),
    "ssim": ("SSIM", "above"),
    "ssim_best": ("SSIM of the best", "above"),
}
_MOST = 3  # names in a sentence
_PER_SECOND = 5.0  # frames of an animation

DESCRIPTIONS = {
    "linear_probe": "Share of held-out examples that a linear classifier on frozen features names correctly.",
    "knn_probe": "The same by the majority of the nearest labelled neighbours: nothing is trained.",
    "attentive_probe": "The same by one learned query that attends to the features of all patches.",
    "feature_std": "Standard deviation of a feature, mean over features. It can stay large in a collapse.",
    "effective_rank": "How many directions centred features fill: exponential of the entropy of their singular values.",
    "rankme": "The same of features that are not centred (RankMe). A collapsed encoder has a value near 1.",
    "collapsed": "Share of seeds whose features hardly tell one image from another, whatever their loss.",
    "r2_position_probed": "Share of the variance of the positions that a linear probe of one frozen latent explains.",
    "r2_velocity_probed": "The same of the velocities, by a linear probe of a window of latents; a single frame holds "
    "no velocity.",
    "mse": "Mean squared error of a predicted pixel in [0, 1].",
    "mse_per_frame": "Squared error summed over all pixels of a predicted frame, the unit of OpenSTL.",
    "psnr": "Peak signal-to-noise ratio of predicted frames, pixels in [0, 1].",
    "ssim": "Structural similarity of predicted frames: Gaussian window of 11 pixels, data range 1.",
    "lpips": "Perceptual distance of predicted frames.",
    "fvd": "Fréchet distance of I3D features of predicted and true clips.",
    "embedding_mmd": "Distance of predicted from true clips in features of the project's own video encoder (unbiased "
    "squared maximum mean discrepancy); zero for equal distributions.",
    "sample_frechet_of": "The same of the true frames (0 but for chance), of the last frame copied and of the mean "
    "frame.",
    "sample_frechet_below": "How far samples are below the two floors, on the same episodes.",
    "sample_frechet": "Fréchet distance of sampled futures from true videos in features of random convolutions; less "
    "its bias. A model that draws no samples is judged by its prediction.",
    "sample_ssim_of": "Structural similarity of the last frame copied and of the mean frame to the true frames.",
    "sample_ssim_above": "How far samples are above these floors, on the same episodes.",
    "sample_ssim_best": "Structural similarity of the best of a few sampled futures to the true frames.",
    "sample_ssim": "The same of a sample on average.",
    "image_sample": "The same of futures sampled from one frame, which does not tell how fast anything moves.",
    "delta_psnr": "How much better predicted frames are under the codes inferred from them than under random ones "
    "(codes of other transitions, as frequent as they are).",
    "delta_psnr_mapped": "The same under the true actions, by the map from few labels to codes.",
    "codebook_usage": "Share of the codes of which each stands for more than 1 % of the transitions.",
    "codes_in_use": "How many these are.",
    "code_perplexity": "How many codes used alike would have the same entropy.",
    "code_ami_action": "What codes tell of the true action, which training never saw: adjusted mutual information, 0 "
    "by chance.",
    "code_ami_agent": "What they tell of how far that moved which actions move (far back, back, still, forth, far "
    "forth).",
    "code_ami_exogenous": "What they tell of which way everything else moved.",
    "code_ami": "The same where codes stand beside what happened in other episodes: 97.5 % of all cyclic shifts of the "
    "episodes are below.",
    "code_nmi": "The same information over the mean of both entropies, not corrected for chance.",
    "distractor_share": "Of what codes tell beyond what both have in common, the share that is of exogenous change: 0 "
    "for codes that mean actions.",
    "action_consistency": "Share of the transitions at which a code moves what actions move in the direction in which "
    "it moves it most often in training.",
    "action_consistency_chance": "The same of whoever always names the most frequent direction.",
    "surprise": "How well the error of a one-step prediction tells impossible episodes from lawful ones: area under "
    "the ROC curve, 0.5 is chance.",
    "r2_energy_probed": "The same of the energy that follows from the positions and velocities read: what any energy "
    "below is worth.",
    "r2_momentum_probed": "The same of the total momentum.",
    "r2_angular_momentum_probed": "The same of the angular momentum.",
    "energy_error": "Distance of the energy read from predicted latents from the true energy at the same time, mean "
    "over time. Not from its own start: a probe that reads nothing always says the mean, and would conserve it best.",
    "momentum_error": "The same of the total momentum.",
    "angular_momentum_error": "The same of the angular momentum.",
    "violation_rate": "Share of predicted steps at which energy or momenta, as read, are further from the true ones "
    "than the tolerance.",
    "defect_reading": "Error of what the probe reads from true frames at the predicted times, in the truth's spread.",
    "defect_encoding": "The same after the model's own round trip, encoding and decoding; without a decoder no other.",
    "defect_dynamics": "The same of what the model predicted.",
}


def page(task: str, title: str, results: Results) -> str:
    """The report as one HTML page; equal results give equal bytes."""
    table = results.summary
    models = model_order(table["family"] + "/" + table["variant"])
    palette, worlds = Palette(models), results.worlds
    return frame.render(
        "pixels.html.j2",
        task,
        models,
        figures=bool(len(results.scores)),
        told=frame.told(results.scores),
        provenance=results.provenance,
        title=title,
        worlds=[_section(results, task, world, f"world-{i}", table, palette) for i, world in enumerate(worlds)],
        glossary=_glossary(results.scores),
    )


def _section(
    results: Results, task: str, world: str, anchor: str, table: pd.DataFrame, palette: Palette
) -> dict[str, Any]:
    own, scores = table[table["world"] == world], results.scores
    kept = {model: _of_test(arrays) for model, arrays in results.arrays.get(world, {}).items()}
    spec = results.specs.get(world, {}).get("test")
    figures = {
        "labels": accuracy_by_labels(scores, world, palette),
        "defects": defects(scores, world, palette),
        **{law: over_time(kept, law, scores, world, palette) for law in ("energy", "momentum", "angular_momentum")},
        "steps": r2_by_step(scores, world, palette),
        "frames": similarity_by_step(scores, world, palette),
        "accuracy_against_cost": decisive_against_cost(table, task, world, palette),
        "curves": learning_curves(results.curves, world, palette),
        **{name: monitor(results.curves, world, name, palette) for name in _MONITORS},
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    collapsed = own[(own["metric"] == "collapsed") & (own["value"] > 0) & ~own["variant"].str.endswith(UNTRAINED)]
    return {
        "name": world,
        "anchor": anchor,
        "findings": _findings(own) + _sampled(own),
        "about": frame.about(results.about.get(world)),
        "sample": frame.sample(own, "held-out images or episodes"),
        "losses": where_lost(scores, world, None if spec is None else spec.step),
        "notes": _notes(kept),
        "collapsed": model_order(collapsed["family"] + "/" + collapsed["variant"]),
        "table": frame.numbers(own, [m for m in metric_order(own["metric"]) if _in_table(m)]),
        "legend": frame.legend(drawn),
        "animations": _animations(results, world),
        "figures": [frame.embedded(f"{anchor}-{name}", figure) for name, figure in drawn.items()],
        "images": _images(results, world),
        "not_applicable": [(f, why) for w, f, why in results.not_applicable if w == world],
    }


def _in_table(metric: str) -> bool:
    """Errors by stage have a figure; floors and what is above them a sentence."""
    return not metric.startswith(_NOT_IN_TABLES) and not metric.endswith(tuple(f"_{floor}" for floor in _FLOORS))


def _of_test(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What was kept of the test split, by name."""
    return {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith("test/")}


def _notes(kept: Mapping[str, Mapping[str, NDArray[Any]]]) -> list[str]:
    """What a reader of the table has to know of this world's videos."""
    notes = []
    windows = sorted({(float(a["window"][0]), int(a["window"][1])) for a in kept.values() if "window" in a})
    for seconds, frames in windows:
        notes.append(f"Velocities are read from windows of {seconds:.3g} s ({frames} frames), whatever the model.")
    for repeated, count in sorted({tuple(map(int, a["repeated"])) for a in kept.values() if "repeated" in a}):
        if not repeated:
            continue
        notes.append(
            f"{repeated} of the {count} test frames ({_share(repeated / count)}) are byte for byte frames of the "
            "training set: other episodes that come by the same places."
        )
    return notes


def _kept(results: Results, world: str, what: str) -> dict[str, NDArray[Any]]:
    """Model -> what its judge kept under that name."""
    key = f"test/{what}"
    found = {model: arrays[key] for model, arrays in results.arrays.get(world, {}).items() if key in arrays}
    return {model: found[model] for model in model_order(found)}


def _findings(own: pd.DataFrame) -> list[str]:
    """The best trained model beside those that cannot be told from it, the next one and the floors, in words."""
    lines = []
    for metric, words in _FINDINGS.items():
        rows = own[own["metric"] == metric]
        trained = rows[competes(own)[rows.index]]
        if trained.empty:
            continue
        *others, best = trained.sort_values("value").to_dict("records")
        floors = {
            "raw pixels": rows[rows["family"] == "raw_pixels"],
            "the same encoder untrained": rows[
                (rows["family"] == best["family"]) & (rows["variant"] == best["variant"] + UNTRAINED)
            ],
        }
        equals = [o for o in reversed(others) if o["best"] and best["best"]]
        many = [f"{len(equals)} of {len(others)} others not told from it"]
        second = [f"not told from it: {_named(o)}" for o in equals] if len(equals) < _MOST else many
        second += [f"runner-up {_named(o)}" for o in [o for o in others if o not in equals][-1:]]
        beside = ", ".join(second + [f"{name} {_share(f['value'].max())}" for name, f in floors.items() if len(f)])
        lines.append(
            f"From {model_label(best['family'] + '/' + best['variant'])}, "
            f"{words.format(_share(best['value']))}" + (f" ({beside})." if beside else ".")
        )
    return lines


def _sampled(own: pd.DataFrame) -> list[str]:
    """What futures sampled by models that draw some are worth beside the floors, in words."""
    rows = own.assign(model=own["family"] + "/" + own["variant"]).to_dict("records")
    told = {(row["model"], row["metric"]): row for row in rows}
    lines = []
    for model in model_order(model for model, metric in told if metric == "image_sample_ssim"):
        for prefix, of in (("sample", "several frames"), ("image_sample", "one frame")):
            worth = []
            for metric, (title, sign) in _SAMPLED.items():
                if (row := told.get((model, f"{prefix}_{metric}"))) is not None and np.isfinite(row["value"]):
                    gains = [_gain(told[model, f"{prefix}_{metric}_{sign}_{floor}"], sign, floor) for floor in _FLOORS]
                    worth.append(f"{title} {pretty_number(float(row['value']))} ({', '.join(gains)})")
            lines.append(f"Futures sampled by {model_label(model)} from {of}: {'; '.join(worth)}.")
    return lines


def _gain(row: Mapping[Hashable, Any], sign: str, floor: str) -> str:
    ends = pretty_interval(float(row["ci_low"]), float(row["ci_high"]))
    return f"{pretty_number(float(row['value']))} {sign} {floor.replace('_', ' ')}" + (f", {ends}" if ends else "")


def _named(row: Mapping[Hashable, Any]) -> str:
    return f"{model_label(row['family'] + '/' + row['variant'])} {_share(row['value'])}"


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
    """Positions probed in predicted latents against the step, beside ridge regression from the context."""
    predicted = _by_step(scores, world, "r2_position_predicted_probed")
    floor = _by_step(scores, world, "r2_position_ridge_probed")
    if not predicted:
        return None
    figure = go.Figure(layout=layout("predicted frame", "R² of positions", yaxis_range=[-0.05, 1.02]))
    for model in model_order(predicted):
        curve = predicted[model]
        figure.add_trace(line(curve.index, curve["value"], model, palette, mode="lines+markers"))
        if model in floor:
            straight = line(floor[model].index, floor[model]["value"], model, palette, mode="lines")
            straight["line"] = {**straight["line"], "dash": "dot", "width": 1}
            figure.add_trace(straight | {"name": f"{straight['name']}, ridge from the context"})
    return Figure(
        figure,
        "Physics of predicted latents",
        "How much of the true positions can be read from latents that were predicted. The thin dotted line is ridge "
        "regression straight from the same context: a predictor below it has learned less than a linear map.",
    )


def accuracy_by_labels(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Accuracy of the linear probe against the number of labels it learned from."""
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


def similarity_by_step(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Structural similarity of predicted frames over the step."""
    found = _by_step(scores, world, "ssim")
    if not found:
        return None
    figure = go.Figure(layout=layout("predicted frame", "SSIM"))
    for model in model_order(found):
        figure.add_trace(line(found[model].index, found[model]["value"], model, palette, mode="lines+markers"))
    return Figure(
        figure, "Predicted frames", "Structural similarity to the target frames; raw pixels copy the last frame."
    )


def monitor(curves: Mapping[str, pd.DataFrame], world: str, name: str, palette: Palette) -> Figure | None:
    """A collapse monitor over training, mean over seeds."""
    figure = logged(curves, world, name, _MONITORS[name].lower(), palette, log_y=True)
    if figure is None:
        return None
    return Figure(
        figure,
        f"{_MONITORS[name]} during training",
        "A loss that falls while this falls, too, is a collapse and no success.",
    )


# ---------------------------------------------------------------- images


def _animations(results: Results, world: str) -> list[dict[str, Any]]:
    """Predicted beside true frames, a few predictions one after the other."""
    predicted = _kept(results, world, "predicted_frames")
    if not predicted:
        return []
    truth = next(iter(_kept(results, world, "true_frames").values()))
    some = next(iter(_kept(results, world, "shown").values()))
    clips = {"truth": _rgb(truth[some]), **{model: _rgb(a[some]) for model, a in predicted.items()}}
    steps = min(a.shape[1] for a in clips.values())
    frames = {name: a[:, :steps].reshape(-1, *a.shape[2:]) for name, a in clips.items()}
    drawn = animate(frames, frames_per_second=_PER_SECOND, budget=700_000, most=96)
    return [
        {
            "title": "Predicted and true frames",
            "drawn": drawn,
            "unit": f"frame {{}} of {len(some)} × {steps}",
            "scale": drawn.stride,
            "first": 1,
            "caption": f"{len(some)} held-out futures one after the other, {steps} frames each, which no model saw. "
            "First seed.",
        }
    ]


def _images(results: Results, world: str) -> list[dict[str, Any]]:
    """Masks and reconstructions, features of patches, nearest neighbours."""
    found, originals = [], _kept(results, world, "images")
    kinds = {name.split("/")[1] for arrays in results.arrays.get(world, {}).values() for name in arrays}
    for what in sorted(k for k in kinds if k.startswith("seen_")):
        for model, array in _kept(results, world, what).items():
            flat = array.reshape(-1, *array.shape[-3:])[: 4 * len(array)]
            title = f"{what.removeprefix('seen_').replace('_', ' ').capitalize()}: {model_label(model)}"
            found.append(_sheet(title, [_rgb(flat)], ""))
    for model, patches in _kept(results, world, "patches").items():
        side = round(patches.shape[1] ** 0.5)
        if side * side != patches.shape[1]:
            continue
        image = originals[model]
        rows = [_rgb(image), _enlarged(patches.reshape(len(patches), side, side, 3), image.shape[1])]
        caption = (
            "Held-out images, and below them the first three principal components of the features of every patch as "
            "red, green and blue: like colours mean like features."
        )
        found.append(_sheet(f"Features of patches: {model_label(model)}", rows, caption))
    for model, near in _kept(results, world, "neighbours").items():
        columns = [_rgb(originals[model]), *(_rgb(near[:, i]) for i in range(near.shape[1]))]
        caption = "Held-out images in the first row; below each the training images whose features are nearest."
        found.append(_sheet(f"Nearest neighbours: {model_label(model)}", columns, caption))
    return found


def _rgb(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, axis=-1)


def _enlarged(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.NEAREST)) for f in frames])


def _sheet(title: str, rows: Sequence[NDArray[np.uint8]], caption: str) -> dict[str, Any]:
    """Rows of images ``[K, H, W, 3]`` as one PNG, enlarged to be seen."""
    gap = [np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for row in rows]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in gap], axis=0)
    zoom = max(1, 640 // sheet.shape[1])
    width, height = sheet.shape[1] * zoom, sheet.shape[0] * zoom
    data = io.BytesIO()
    Image.fromarray(sheet).resize((width, height), Image.Resampling.NEAREST).save(data, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return {"title": title, "uri": uri, "width": width, "height": height, "caption": caption}
