"""What the reports say of laws: where each model loses them, and energies that were read beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from wm_pipelines.metrics.defects import STAGES, losses
from wm_pipelines.reporting.plots import Figure, layout, line, truth_line
from wm_pipelines.reporting.style import Palette, model_label, model_order

_QUANTITIES = {"energy": "energy", "velocity": "velocities", "position": "positions"}
_PLACES = {
    "reading": "in what can be read of its features at all",
    "encoding": "in the encoding",
    "dynamics": "in the dynamics",
}
_LARGE = 100  # spreads of the truth: a prediction that far off is not even wrong
_HIGHEST = 3.0  # of an axis, in spreads of the truth
_UNITS = {"energy": "J", "momentum": "kg m/s", "angular_momentum": "kg m²/s"}


def last_defects(scores: pd.DataFrame, world: str) -> pd.DataFrame:
    """Errors at the last predicted step, mean over seeds: ``model, stage, quantity, step, value, ci_low, ci_high``."""
    rows = scores[(scores["world"] == world) & scores["metric"].str.startswith("defect_") & (scores["step"] > 0)]
    parts = rows["metric"].str.extract(r"^defect_(?P<stage>[a-z]+)_(?P<quantity>[a-z]+)_probed$")
    rows = rows.assign(model=rows["family"] + "/" + rows["variant"], **parts)
    last = rows[rows["step"] == rows.groupby("model")["step"].transform("max")]
    keys = ["model", "stage", "quantity", "step"]
    return last.groupby(keys, as_index=False)[["value", "ci_low", "ci_high"]].mean()


def where_lost(scores: pd.DataFrame, world: str, step: float | None) -> list[str]:
    """A sentence per model: the stage that adds most to the error, and the errors of all three.

    Args:
        scores: of the task. world: of which. step: seconds between frames; None: unknown.
    """
    found, lines = last_defects(scores, world), []
    for model in model_order(found["model"]):
        own = found[found["model"] == model]
        errors = {str(stage): float(np.sqrt(np.square(g["value"]).mean())) for stage, g in own.groupby("stage")}
        if set(errors) != set(STAGES):
            continue
        frames = int(own["step"].iloc[0])
        after = f"{frames} frames" if step is None else f"{frames * step:.3g} s"
        named = [word for name, word in _QUANTITIES.items() if name in set(own["quantity"])][::-1]
        added = losses(errors)
        stage = max(STAGES, key=lambda name: added[name])
        read, encoded, predicted = (f"{e:.2f}" if (e := errors[name]) < _LARGE else f"over {_LARGE}" for name in STAGES)
        trip = (
            "" if errors["encoding"] == errors["reading"] else f", {encoded} after the round trip through its decoder"
        )
        lines.append(
            f"{model_label(model)} loses the law {_PLACES[stage]}: {after} ahead the error of {_listed(named)} is "
            f"{read} of the truth's spread read from the true frames{trip}, and {predicted} predicted."
        )
    return lines


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def defects(scores: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """Errors of one quantity from stage to stage at the last predicted step: the energy, where it is known."""
    found = last_defects(scores, world)
    quantity = next((name for name in _QUANTITIES if name in set(found["quantity"])), None)
    if quantity is None:
        return None
    found = found[found["quantity"] == quantity]
    shape = layout("", f"error of {_QUANTITIES[quantity]} in the truth's spread")
    ticks = {"tickvals": list(range(len(STAGES))), "ticktext": ["true frames", "round trip", "predicted"]}
    top = float(np.nanmin([_HIGHEST, 1.1 * found["ci_high"].max()]))
    shape["yaxis"] |= {"range": [0.0, top]}
    figure = go.Figure(layout=shape | {"xaxis": shape["xaxis"] | ticks | {"range": [-0.3, len(STAGES) - 0.7]}})
    for model in model_order(found["model"]):
        own = found[found["model"] == model].set_index("stage").reindex(STAGES)
        spread = {
            "type": "data",
            "array": (own["ci_high"] - own["value"]).fillna(0.0).clip(lower=0.0).round(5).tolist(),
            "arrayminus": (own["value"] - own["ci_low"]).fillna(0.0).clip(lower=0.0).round(5).tolist(),
            "thickness": 1,
        }
        more: dict[str, Any] = {"mode": "lines+markers", "error_y": spread}
        figure.add_trace(line(np.arange(len(STAGES)), own["value"], model, palette, **more))
    return Figure(
        figure,
        "Where the law is lost",
        "Error at the last predicted step, read by one and the same probe: from the true frames, from what a round "
        "trip through the model's own decoder leaves of them (without one: the same), and from its prediction. Where a "
        "line rises, the law is lost; the mean of the truth would score about 1, and what is beyond 3 leaves at the "
        "top. 95 % intervals over episodes.",
    )


def over_time(
    kept: Mapping[str, Mapping[str, NDArray[Any]]], law: str, scores: pd.DataFrame, world: str, palette: Palette
) -> Figure | None:
    """A conserved quantity read from one predicted future, against the true one; how well it is read at all.

    Args:
        kept: model -> what its judge kept, by name. law: ``energy`` …. scores, world: for the probe's R².
    """
    found = {model: arrays for model, arrays in kept.items() if f"read_{law}" in arrays}
    if not found:
        return None
    rows = scores[(scores["world"] == world) & (scores["metric"] == f"r2_{law}_probed")]
    r2 = rows.assign(model=rows["family"] + "/" + rows["variant"]).groupby("model")["value"].mean().to_dict()
    words, models = law.replace("_", " "), model_order(found)
    figure = go.Figure(layout=layout("time / s", f"{words} / {_UNITS[law]}"))
    first = found[models[0]]
    figure.add_trace(truth_line(first["read_times"], first[f"true_{law}"][0, :, 0]))
    for model in models:
        curve = line(found[model]["read_times"], found[model][f"read_{law}"][0, :, 0], model, palette)
        curve["name"] += f" (R² {r2[model]:.2f})" if model in r2 else ""
        figure.add_trace(curve)
    told = ", ".join(f"{model_label(m)} {r2[m]:.2f}" for m in models if m in r2)
    return Figure(
        figure,
        f"{words.capitalize()} over time",
        f"Read from the latents of one held-out future, beside the true {words} at the same time. A line is worth what "
        f"its probe is, R² of the {words} read from true frames: {told or 'unknown'}. A flat line of a probe whose R² "
        "is near 0 conserves nothing; it is the mean.",
    )
