"""What the page asks beyond roll-outs on the main split: is the law known, and does it hold elsewhere?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wm_pipelines.metrics.descriptions import FLOW_METRICS
from wm_pipelines.metrics.pair_force import PairForce
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.style import COST_METRICS, metric_order, model_label, model_order, pretty_number
from wm_pipelines.reporting.summary import main_split, rows_by_model

Float = NDArray[Any]

_SYMBOLS = {"1": "", "mass": "m m′ ", "charge": "e e′ "}
_ELSEWHERE = ("horizon", "violation_rate", "energy_error", "mse", "force_error")


def written(law: PairForce | None) -> str:
    """A pair force as a formula: ``−0.998 m m′ r^−2.00, softened by 0.50 m (explains 100.0 %)``."""
    if law is None:
        return "none"
    sign, size = "−" if law.constant < 0 else "", abs(law.constant)
    distance = f"r^{sign}{size:.2f}" if law.kind == "power" else f"(r {'+' if sign else '−'} {size:.2f} m)"
    strength = f"{pretty_number(law.strength)} {_SYMBOLS[law.coupling]}"
    distance += f", softened by {law.softening:.2f} m" if law.softening > 0.0 else ""
    return f"{strength}{distance} (explains {100 * law.explained:.1f} %)"


# ---------------------------------------------------------------- tables of the page


def laws_table(summary: pd.DataFrame, world: str, forces: Mapping[str, PairForce | None]) -> dict[str, Any] | None:
    """Does a model know the law? One row per model of a world's main split; None where nobody was asked."""
    own = _of_split(summary, world)
    metrics = [m for m in metric_order(own["metric"].unique()) if m in FLOW_METRICS]
    if not metrics:
        return None
    table = frame.numbers(own[own["metric"].isin(metrics)], metrics)
    for row in table["rows"]:
        row["form"] = written(forces[row["model"]]) if row["model"] in forces else ""
    asked = frame.sample(own[own["metric"] == "force_error"])
    return table | {"sample": asked, "true_form": written(forces["truth"]) if "truth" in forces else ""}


def elsewhere(
    summary: pd.DataFrame, world: str, specs: Mapping[str, Any], ranges: Mapping[tuple[str, str], Float]
) -> list[dict[str, Any]]:
    """A table for every split beside the main one: how it differs, and how everybody fares there."""
    judged = summary[(summary["world"] == world) & ~summary["metric"].isin(COST_METRICS)]
    main = main_split(judged["split"])
    everybody, found = _models(judged[judged["split"] == main]), []
    for split in sorted(set(judged["split"]) - {main}):
        own = judged[judged["split"] == split]
        metrics = [m for m in _ELSEWHERE if m in set(own["metric"])]
        if not metrics:
            continue
        table = frame.numbers(own[own["metric"].isin(metrics)], metrics)
        absent = ", ".join(model_label(m) for m in model_order(everybody - _models(own)))
        found.append(
            {"split": split, "difference": _difference(split, main, specs, ranges.get((world, split))),
             "absent": absent, "table": table, "sample": frame.sample(own)}
        )  # fmt: skip
    return found


def _of_split(summary: pd.DataFrame, world: str) -> pd.DataFrame:
    own = summary[(summary["world"] == world) & ~summary["metric"].isin(COST_METRICS)]
    return own[own["split"] == main_split(own["split"])]


def _models(rows: pd.DataFrame) -> set[str]:
    return {key.model for key, _ in rows_by_model(rows)} if len(rows) else set()


def _difference(split: str, main: str, specs: Mapping[str, Any], energies: Float | None) -> str:
    """What is different there, in words."""
    told = []
    if energies is not None:
        (low, high), (lowest, highest) = energies
        told.append(f"energies {_interval(lowest, highest)} J, in training {_interval(low, high)} J")
    if split in specs and main in specs:
        here, there = specs[split], specs[main]
        if here.step != there.step:
            told.append(f"steps of {here.step:g} s instead of {there.step:g} s")
        told.append(f"{pretty_number(here.step * (here.rows - 1))} s long")
    return "; ".join(told)


def _interval(low: float, high: float) -> str:
    return f"{pretty_number(low)} … {pretty_number(high)}"


def changing_note(changing: Iterable[str], truth_energy: Float | None) -> str:
    """What a reader must know where the truth itself does not keep a quantity; empty where it keeps all."""
    names = [name.replace("_", " ") for name in changing]
    if not names:
        return ""
    how = ""
    if "energy" in names and truth_energy is not None:
        how = f" (it {_energy_change(truth_energy)} on average)"
    one = len(names) == 1
    return (
        f"The true motion does not keep its {' and '.join(names)}{how}: {'it is' if one else 'they are'} compared with "
        "the truth at the same time, and a model that keeps what should change is wrong."
    )


def _energy_change(energy: Float) -> str:
    """How the true energy ``[E, K]`` changes: by a gain or a loss, or by a swing that is larger than it."""
    gain, swing = float((energy[:, -1] - energy[:, 0]).mean()), float(np.ptp(energy, axis=1).mean())
    if abs(gain) < 0.5 * swing:
        return f"swings by {pretty_number(swing)} J in an episode"
    return f"{'gains' if gain > 0 else 'loses'} {pretty_number(abs(gain))} J in an episode"
