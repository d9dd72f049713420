"""The page of control: who acts best, what models imagine, who ignores actions, what the planner itself costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from wm_pipelines.metrics.registry import described
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.cost import decisive_against_cost
from wm_pipelines.reporting.plots import learning_curves
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    Palette,
    metric_order,
    metric_title,
    model_label,
    model_order,
    pretty_interval,
    pretty_number,
)
from wm_pipelines.reporting.summary import competes, main_split, on_main_split
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.control import figures as draw
from wm_pipelines.tasks.control.dose_report import dose_section

Row = Mapping[str, Any]
_TITLE = "Acting in imagined worlds"
_MOST = 3  # names in a sentence
_WAYS = {"": "with the planner", "policy_": "by its own policy"}

DESCRIPTIONS = {
    "normalised_score": "Return, or share of successes, on a scale on which random actions have 0 and the same planner "
    "on the true world has 1. Above 1 a model's planner or policy beats the planner on the true world.",
    "return": "Sum of rewards over an episode.",
    "success_rate": "Share of episodes in which the goal was reached within the budget.",
    "strict_success_rate": "The same by a stricter criterion of the world (pushed T: 10 px, 10 degrees, three rows).",
    "over_random": "Return or success minus that of random actions from the same start.",
    "planning_gap": "Return or success of the same planner on the true world, minus the model's from the same start.",
    "policy_": "The same of a policy that the model learned by itself, without the planner.",
    "dream_return": "Return of that policy in what the model imagines. Much higher than the real return: it exploits "
    "errors of the model.",
    "optimism": "How much more return a plan promises for its horizon than it then brings, mean over decisions. 0 is "
    "right; high values mean that the planner exploits errors of the model.",
    "planner_headroom": "What twice the candidates and iterations gain on the true world. Where it is far above 0 the "
    "planner limits the score, and not the models.",
    "mse": "Squared error of what is predicted under the actions of held-out episodes, at the last step judged.",
    "action_sensitivity": "That error (of frames: in the model's own features) under the actions of another episode "
    "over that under those that were taken: 1 is a model to which actions do not matter.",
    "ignores_actions": "Share of seeds whose sensitivity is below 1.05 at every step judged. Such a model is never "
    "marked best: planning with it is moving at random.",
    "reward_mse": "Squared error of predicted rewards.",
    "decision_ms": "Time of one decision of the planner for one start.",
}


def page(results: Results) -> str:
    """The report as one HTML page; equal results give equal bytes."""
    table = results.summary
    models = model_order(table["family"] + "/" + table["variant"])
    palette, worlds = Palette(models), results.worlds
    return frame.render(
        "control.html.j2",
        "control",
        models,
        figures=bool(len(results.scores)),
        told=frame.told(results.scores),
        provenance=results.provenance,
        title=_TITLE,
        answers=answers(table, worlds),
        worlds=[_section(results, world, f"world-{i}", table, palette) for i, world in enumerate(worlds)],
        doses=dose_section(results),
        glossary=_glossary(results.scores),
    )


def _section(results: Results, world: str, anchor: str, table: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    own, rows = table[table["world"] == world], results.scores[results.scores["world"] == world]
    split = main_split(own["split"][~own["split"].eq("train")])
    main, others = own[on_main_split(own)], sorted(set(own["split"]) - {split, "train"})
    kept = {model: _of(split, arrays) for model, arrays in results.arrays.get(world, {}).items()}
    spec = results.specs.get(world, {}).get(split)
    shown = draw.shown_models(main)
    animations = [] if spec is None else [draw.courses(kept, spec, shown), draw.imagined(kept, spec, shown)]
    figures = {
        "scores": draw.scores(own, palette),
        "errors": draw.error_over_steps(rows, palette),
        "cost": decisive_against_cost(own, "control", world, palette),
        "entries": None if spec is None else draw.imagined_entries(kept, spec, shown, palette),
        "curves": learning_curves(results.curves, world, palette),
        **draw.behaviour(results.curves, world, palette),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    embedded = [frame.embedded(f"{anchor}-{n}", f, wide=n in ("scores", "entries")) for n, f in drawn.items()]
    return {
        "name": world,
        "anchor": anchor,
        "about": frame.about(results.about.get(world)),
        "sample": frame.sample(main, "held-out starts or episodes"),
        "table": frame.numbers(main, _columns(main)),
        "others": [
            (s, frame.numbers(t := own[own["split"] == s], _columns(t)), frame.sample(t, "starts or episodes"))
            for s in others
        ],
        "legend": frame.legend(drawn),
        "scores": [f for f in embedded if f["id"].endswith("-scores")],
        "animations": [a for a in animations if a is not None],
        "figures": [f for f in embedded if not f["id"].endswith("-scores")],
        "not_applicable": [(f, why) for w, f, why in results.not_applicable if w == world],
    }


def _of(split: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept of a split, by name."""
    return {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{split}/")}


def _columns(own: pd.DataFrame) -> list[str]:
    """Metrics of a table, acting first."""
    order = metric_order(own["metric"])
    first = [m for m in DESCRIPTIONS if m in order]
    return [*first, *(m for m in order if m not in first)]


def _glossary(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in _columns(scores):
        known = described(metric)
        text = DESCRIPTIONS.get(metric) or DESCRIPTIONS["policy_"] * metric.startswith("policy_")
        text = text or COST_DESCRIPTIONS.get(metric) or (known.description if known is not None else "")
        if text:
            entries.append({"name": metric, "title": metric_title(metric), "text": text})
    return entries


# ---------------------------------------------------------------- in words


def answers(table: pd.DataFrame, order: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Three questions, and for each world what there is to say.

    Args:
        table: see `summary_table`. order: of the worlds.
    """
    main = table[on_main_split(table)]
    worlds = [(world, main[main["world"] == world]) for world in order]
    asked = {
        "Who acts best?": [(world, _best(own)) for world, own in worlds],
        "Who ignores actions?": [(world, _deaf(own)) for world, own in worlds],
        "Is the planner a bottleneck?": [(world, _headroom(own)) for world, own in worlds],
    }
    return [(question, said) for question, clauses in asked.items() if (said := [(w, t) for w, t in clauses if t])]


def _best(own: pd.DataFrame) -> str:
    """The best trained model on one world, planned with or by its own policy, beside random and the true world."""
    competing = competes(own)
    found = sorted(_acting(own[competing]), key=lambda rows: -rows["over_random"]["value"])
    if not found:
        return "nobody has acted" + _left_out(own[~competing], -math.inf)
    best = found[0]
    what = "successes" if "success_rate" in best else "return"
    text = f"{_acts(best)}: {_signed(best['over_random'])} {what} over random from the same starts"
    if "planning_gap" in best:  # where that planner has acted
        text += f", {_signed(best['planning_gap'])} short of the same planner on the true world"
    if "normalised_score" in best:
        text += f" (score {pretty_number(best['normalised_score']['value'])})"
    if not any(_beats_random(rows) for rows in found):
        text = f"nobody beats random by more than its interval; the best is {text}"
    equal = [_acts(rows) for rows in found[1:] if rows["over_random"]["best"] and best["over_random"]["best"]]
    told = ", ".join(equal) if len(equal) < _MOST else f"{len(equal)} of {len(found) - 1} others"
    return text + (f"; not told from it: {told}" if equal else "") + _left_out(own[~competing], _over_random(best))


def _over_random(rows: Mapping[str, Row]) -> float:
    return float(rows["over_random"]["value"])


def _beats_random(rows: Mapping[str, Row]) -> bool:
    """By more than the interval, where there is one."""
    low = float(rows["over_random"]["ci_low"])
    return (_over_random(rows) if math.isnan(low) else low) > 0.0


def _left_out(own: pd.DataFrame, best: float) -> str:
    """Models that ignore actions and have nevertheless more return than the best of the others."""
    flagged = own[["family", "variant"]].agg("/".join, axis=1)
    flagged = flagged.isin(flagged[(own["metric"] == "ignores_actions") & (own["value"] > 0)])
    better = [rows for rows in _acting(own[flagged]) if _over_random(rows) > best] if len(own) else []
    named = ", ".join(f"{_acts(rows)} ({pretty_number(_over_random(rows))})" for rows in better[:_MOST])
    more = f" and {len(better) - _MOST} more" if len(better) > _MOST else ""
    return f"; left out, since {'it ignores' if len(better) == 1 else 'they ignore'} actions: {named}{more}" * bool(
        better
    )


def _acting(own: pd.DataFrame) -> Iterator[dict[str, Row]]:
    """What every model's acting is worth: metric without its prefix -> summary row, once for each way to act."""
    for _, rows in own.groupby(["family", "variant"], sort=False):
        by_metric = {str(row["metric"]): {str(k): v for k, v in row.items()} for row in rows.to_dict("records")}
        for prefix in _WAYS:
            if f"{prefix}over_random" in by_metric:
                yield {m.removeprefix(prefix): r for m, r in by_metric.items() if m.startswith(prefix)}


def _acts(rows: Mapping[str, Row]) -> str:
    row = rows["over_random"]
    way = _WAYS["policy_" if row["metric"].startswith("policy_") else ""]
    return f"{model_label(_model(row))} {way}"


def _model(row: Row) -> str:
    return f"{row['family']}/{row['variant']}"


def _signed(row: Row) -> str:
    interval = pretty_interval(float(row["ci_low"]), float(row["ci_high"]))
    return pretty_number(float(row["value"])) + (f" ({interval})" if interval else "")


def _deaf(own: pd.DataFrame) -> str:
    rows = own[own["metric"] == "ignores_actions"]
    deaf = rows[rows["value"] > 0]
    if rows.empty:
        return ""
    return ", ".join(model_label(m) for m in model_order(deaf["family"] + "/" + deaf["variant"])) or "nobody"


def _headroom(own: pd.DataFrame) -> str:
    rows = own[own["metric"] == "planner_headroom"].to_dict("records")
    if not rows:
        return ""
    row = {str(k): v for k, v in rows[0].items()}
    told = row["ci_low"] > 0
    gain = f"on the true world twice the candidates and iterations change the outcome by {_signed(row)}"
    return f"{'yes' if told else 'not that one could tell'}: {gain}"
