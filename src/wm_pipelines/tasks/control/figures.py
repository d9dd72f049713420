"""What the page of control shows: scores, errors over steps, courses and imagined futures in motion, curves.

Drawings are made by the world's own renderer from plant states; where those cannot be told from what a model imagines,
the entries that are observed are drawn over time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from wm_pipelines.laws import world_of
from wm_pipelines.reporting import plots
from wm_pipelines.reporting.animation import animate
from wm_pipelines.reporting.plots import Figure, thinned
from wm_pipelines.reporting.style import INK, REFERENCES, Palette, model_order, split_model
from wm_pipelines.reporting.summary import main_split
from wm_pipelines.spec import Spec

Arrays = Mapping[str, Mapping[str, NDArray[Any]]]  # model -> name -> what its judge kept of one split

_ROW, _FRAME = 30, 120  # px of a model in the figure of scores; of what is around them
_PANEL, _MOST_ENTRIES = 150, 6
_STARTS, _FRAMES_EACH = 3, 32  # shown one after the other, of so many frames each
_PER_SECOND, _BYTES, _SIZE = 10.0, 700_000, 128
_ONE = {True: ("true world", "the same planner on the true world"), False: ("all goals", "all goals reached")}
"""What a score of 1 is, where the planner has acted on the true world and where it has not: a word, a phrase."""
_FLOOR = "fixed_policies/random"
_BEHAVIOUR = {
    "actor": "loss of the policy",
    "policy": "loss of the policy",
    "critic": "loss of the value",
    "value": "value of imagined states",
    "entropy": "entropy of the policy",
    "imagined_return": "imagined return",
    "dream_return": "return of the policy in its dreams",
}
"""Terms of learning curves that tell of a policy or a value, and their axes."""


# ---------------------------------------------------------------- scores


def scores(table: pd.DataFrame, palette: Palette) -> Figure | None:
    """Normalised scores of one world: a panel per split, a row per model, lines at random and the true world's planner.

    Args:
        table: summary rows of the world.
    """
    own = table[table["metric"].isin(["normalised_score", "policy_normalised_score"])]
    if own.empty:
        return None
    mark, one = _ONE[bool(table["metric"].str.endswith("planning_gap").any())]
    scale = {"tickvals": [-1, 0, 1, 2], "ticktext": ["−1", "0<br>random", f"1<br>{mark}", "2"]}
    first = main_split(own["split"])
    splits = [first, *sorted(set(own["split"]) - {first})]
    models = model_order(own["family"] + "/" + own["variant"])
    place = {model: -i for i, model in enumerate(models)}
    figure = make_subplots(1, len(splits), shared_yaxes=True, horizontal_spacing=0.025, subplot_titles=splits)
    shape = plots.layout("", "", height=_FRAME + _ROW * len(models))
    ticks = {"tickvals": list(place.values()), "ticktext": [plots.model_name(m) for m in models]}
    figure.update_layout(_without_axes(shape) | {"margin": {"l": 60, "r": 12, "t": 40, "b": 48}})
    figure.update_xaxes(shape["xaxis"] | {"title": {"text": ""}, "range": _score_range(own)})
    figure.update_yaxes(shape["yaxis"] | ticks | {"range": [0.6 - len(models), 0.6], "title": {"text": ""}})
    for column, split in enumerate(splits, 1):
        figure.update_xaxes(scale, row=1, col=column)
        for value in (0.0, 1.0):
            line = {"color": "#7f858f", "width": 1.5, "dash": "dot"}
            figure.add_vline(value, line=line, row=1, col=column, exclude_empty_subplots=False)
        for row in own[own["split"] == split].to_dict("records"):
            figure.add_trace(_score({str(k): v for k, v in row.items()}, place, palette), row=1, col=column)
    figure.for_each_annotation(lambda a: a.update(font={"size": 13, "color": INK}, text=a.text.replace("_", " ")))
    return Figure(
        figure,
        "Who acts best",
        "Mean over starts and seeds of the score, with its 95 % interval: the dotted lines are random actions (0) and "
        f"{one} (1). Filled: the planner on what the model imagines; open: the model's own "
        "policy. Panels beside the first are worlds with other parameters than the one that was trained on.",
    )


def _without_axes(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shape.items() if key not in ("xaxis", "yaxis")}


def _score_range(own: pd.DataFrame) -> list[float]:
    """From a little below the lowest model that is not hopeless to a little over the highest."""
    low, high = max(-1.0, float(own["value"].min())), max(1.0, float(own["ci_high"].fillna(own["value"]).max()))
    return [min(0.0, low) - 0.12, min(high, 2.0) + 0.12]


def _score(row: Mapping[str, Any], place: Mapping[str, float], palette: Palette) -> dict[str, Any]:
    model = f"{row['family']}/{row['variant']}"
    own = row["metric"].startswith("policy_")
    whiskers = {}
    if np.isfinite([row["ci_low"], row["ci_high"]]).all():
        ends = (row["ci_high"] - row["value"], row["value"] - row["ci_low"])
        sizes = dict(zip(("array", "arrayminus"), (plots.numbers([end]) for end in ends), strict=True))
        whiskers = {"error_x": {**sizes, "thickness": 1.4, "width": 4, "color": palette.colour(model)}}
    who = "own policy" if own else "planned"
    return {
        "type": "scatter", "mode": "markers", "x": plots.numbers([row["value"]]),
        "y": [place[model] + (0.22 if own else 0.0)], "name": plots.model_name(model), "legendgroup": model,
        "hovertemplate": f"<b>{plots.model_name(model)}</b>, {who}<br>score: %{{x:.3f}}<extra></extra>",
        "marker": {"color": palette.colour(model), "symbol": palette.marker(model) + "-open" * own, "size": 9},
        **whiskers,
    }  # fmt: skip


# ---------------------------------------------------------------- predictions


def error_over_steps(table: pd.DataFrame, palette: Palette) -> Figure | None:
    """Squared error of predictions under the actions taken over the step, of one world's leaderboard rows by step."""
    rows = table[(table["metric"] == "mse") & (table["step"] > 0)]
    if rows.empty:
        return None
    rows = rows[rows["split"] == main_split(rows["split"])]
    keys = rows["family"] + "/" + rows["variant"]
    units = sorted(set(rows["unit"]))
    title = "mean squared error" + ("" if units == ["1"] else f" [{', '.join(units)} units]")
    figure, drawn = go.Figure(layout=plots.layout("step", title, log_y=True)), {}
    for model in model_order(keys):
        by_step = rows[keys == model].groupby("step")[["value", "ci_low", "ci_high"]].mean()
        drawn[model] = by_step["value"].to_numpy()
        figure.add_trace(plots.line(by_step.index, drawn[model], model, palette))
    axis = plots.log_axis(drawn.values())
    figure.update_yaxes(axis)
    return Figure(
        figure,
        "Predictions under actions",
        "Mean squared error of what is predicted under the actions of held-out episodes; lines are means over episodes "
        "and seeds. How much larger it is under the actions of another episode is the action sensitivity of the table.",
    )


# ---------------------------------------------------------------- in motion


def courses(arrays: Arrays, spec: Spec, models: Sequence[str]) -> dict[str, Any] | None:
    """The true world under each model's actions, from the same starts, one start after the other.

    Args:
        arrays: of all models. spec: of the split. models: whom to show, those among them that acted.
    """
    clips: dict[str, Any] = {}
    for model in models:
        for name in ("planned", "policy"):
            states = arrays.get(model, {}).get(f"{name}_states")
            if states is not None and model not in clips:
                clips[model] = states
    if not clips:
        return None
    count, rows = min(_STARTS, *(len(z) for z in clips.values())), min(z.shape[1] for z in clips.values())
    keep = thinned(rows, _FRAMES_EACH)
    frames = {model: _drawn(spec, z[:count, keep]) for model, z in clips.items()}
    goals = next((arrays[m]["goals"] for m in models if "goals" in arrays.get(m, {})), None)
    if goals is not None:
        frames["goal/"] = _drawn(spec, np.repeat(goals[:count, None], len(keep), 1))
    seconds = spec.step * (rows - 1)
    return _animation(
        frames, f"frame {{}} of {count} × {len(keep)}", "Courses in motion",
        f"The true world from {_starts(count)}, {seconds:.3g} s each, under the actions that the planner chose on what "
        "each model imagines (of models that only have a policy of their own: under that). First seed.",
    )  # fmt: skip


def imagined(arrays: Arrays, spec: Spec, models: Sequence[str]) -> dict[str, Any] | None:
    """What models imagine under the actions of held-out episodes, beside what followed; None without a drawing."""
    clips: dict[str, NDArray[np.uint8]] = {}
    reals: dict[str, NDArray[np.uint8]] = {}
    for model in models:
        own = arrays.get(model, {})
        future, real_one = (_looked_at(spec, own, f"{which}_{{}}") for which in ("imagined", "real"))
        if future is not None and real_one is not None:
            clips[model], reals[model] = future, real_one
    if not clips:
        return None
    latest = max(_first_row(arrays[m]) for m in clips)  # where the last of them has begun to imagine
    clips = {m: a[:, latest - _first_row(arrays[m]) :] for m, a in clips.items()}
    real = next(reals[m] for m in clips if _first_row(arrays[m]) == latest)
    rows = min(real.shape[1], *(a.shape[1] for a in clips.values()))
    count = min(_STARTS, len(real))
    keep = thinned(rows, _FRAMES_EACH)
    frames = {"truth": real, **clips}
    frames = {name: a[:count, keep].reshape(-1, *a.shape[2:]) for name, a in frames.items()}
    return _animation(
        frames, f"frame {{}} of {count} × {len(keep)}", "Imagined futures beside real ones",
        f"From the beginning of {count} held-out episode{'s' * (count > 1)}, {spec.step * (rows - 1):.3g} s each, "
        "under the actions taken there, without looking at the world again. First seed.",
    )  # fmt: skip


def _first_row(own: Mapping[str, NDArray[Any]]) -> int:
    """Row of the episode at which what was kept begins: the last that the model saw."""
    return int(own["imagined_from"][0]) if "imagined_from" in own else 0


def _looked_at(spec: Spec, own: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.uint8] | None:
    """Frames ``[E, K, H, W, 3]`` that were kept, or drawn from states that were."""
    if (frames := own.get(name.format("frames"))) is not None:
        return frames if frames.shape[-1] == 3 else np.repeat(frames, 3, -1)
    states = own.get(name.format("states"))
    if states is None or not spec.origin or not np.isfinite(states).all():
        return None
    z = world_of(spec).plant_state(states)
    return None if z is None else np.asarray(world_of(spec).render(z, _SIZE))


def _drawn(spec: Spec, z: NDArray[Any]) -> NDArray[np.uint8]:
    """Plant states ``[E, K, n]`` as frames ``[E K, H, W, 3]``."""
    return np.asarray(world_of(spec).render(z.reshape(-1, z.shape[-1]), _SIZE))


def _starts(count: int) -> str:
    return "a held-out start" if count == 1 else f"{count} held-out starts, one after the other"


def _animation(frames: Mapping[str, NDArray[np.uint8]], unit: str, title: str, caption: str) -> dict[str, Any]:
    drawn = animate(frames, _PER_SECOND, _BYTES, most=_STARTS * _FRAMES_EACH)
    return {"title": title, "drawn": drawn, "unit": unit, "scale": drawn.stride, "first": 1, "caption": caption}


def imagined_entries(arrays: Arrays, spec: Spec, models: Sequence[str], palette: Palette) -> Figure | None:
    """Observed entries and rewards over time in one held-out episode: imagined, and as they were."""
    own = {m: arrays[m] for m in models if "imagined_states" in arrays.get(m, {})}
    if not own:
        return None
    first = next(iter(own.values()))
    size = min(first["real_states"].shape[-1], _MOST_ENTRIES)
    named = spec.facts.get("observed", [])
    titles = [_entry(named, i) for i in range(size)]
    rewarded = any("imagined_rewards" in a for a in own.values())
    figure = make_subplots(size + rewarded, 1, shared_xaxes=True, vertical_spacing=0.16 / (size + rewarded))
    shape = plots.layout("", "", height=_PANEL * (size + rewarded) + 60)
    figure.update_layout(_without_axes(shape))
    figure.update_xaxes(shape["xaxis"] | {"title": {"text": ""}})
    figure.update_yaxes(shape["yaxis"] | {"title": {"text": ""}})
    for i, title in enumerate([*titles, *["reward"] * rewarded]):
        kind, entry = ("rewards", ...) if i == size else ("states", (..., i))
        truest = min((m for m in own if f"real_{kind}" in own[m]), key=lambda m: _first_row(own[m]))
        true = own[truest][f"real_{kind}"][0][entry]
        for model in model_order(own):
            if f"imagined_{kind}" in own[model]:
                y = own[model][f"imagined_{kind}"][0][entry]
                time = spec.step * (_first_row(own[model]) + np.arange(len(y)))
                figure.add_trace(plots.line(time, y, model, palette), row=i + 1, col=1)
        time = spec.step * (_first_row(own[truest]) + np.arange(len(true)))
        style = {"color": INK, "width": 2.5, "dash": "dot"}
        figure.add_trace(plots.truth_line(time, true, line=style), row=i + 1, col=1)
        figure.update_yaxes({"title": {"text": title}, "range": _around(true)}, row=i + 1, col=1)
    figure.update_xaxes(title={"text": "time [s]"}, row=size + rewarded, col=1)
    return Figure(
        figure,
        "What is imagined, entry by entry",
        "Dotted: one held-out episode as it was; lines: what each model imagines from its beginning under the same "
        "actions, without looking again. The axes fit the truth. First seed.",
    )


def _entry(named: Sequence[str], i: int) -> str:
    """Its name; with a number where several have the same."""
    if i >= len(named):
        return f"entry {i + 1}"
    return named[i] if list(named).count(named[i]) == 1 else f"{named[i]} {list(named[: i + 1]).count(named[i])}"


def _around(true: NDArray[Any]) -> list[float]:
    """An axis on which the truth is in the middle half."""
    low, high = float(true.min()), float(true.max())
    space = 0.5 * (high - low) or 1.0
    return [float(f"{low - space:.5g}"), float(f"{high + space:.5g}")]


# ---------------------------------------------------------------- learning


def behaviour(curves: Mapping[str, pd.DataFrame], world: str, palette: Palette) -> dict[str, Figure]:
    """What learning curves tell of policies and values, a figure for each term."""
    found = {}
    for name, title in _BEHAVIOUR.items():
        if (figure := plots.logged(curves, world, name, title, palette)) is not None:
            found[name] = Figure(
                figure,
                f"Behaviour: {title}",
                "Of families that learn to act in what they imagine: what they believe, which the score above either "
                "bears out or does not.",
            )
    return found


def shown_models(table: pd.DataFrame, most: int = 6) -> list[str]:
    """Whom to draw: ceiling and floor; the best variant of every family by its score, then further variants.

    Args:
        table: summary rows of one world's main split.
    """
    own = table[table["metric"].isin(["normalised_score", "policy_normalised_score", "ignores_actions"])]
    value = own["value"].where(own["metric"] != "ignores_actions", -np.inf)
    best: dict[str, float] = {}
    for model, score in zip(own["family"] + "/" + own["variant"], value, strict=True):
        if split_model(model)[0] not in REFERENCES:
            best[model] = max(best.get(model, -np.inf), float(score))
    ranked = sorted(best, key=lambda model: -best[model])
    first = {split_model(model)[0]: model for model in reversed(ranked)}.values()
    trained = sorted(ranked, key=lambda model: model not in first)
    references = {m for m in table["family"] + "/" + table["variant"] if m.startswith("oracle/")}
    return [*sorted(references), _FLOOR, *trained[:most]]
