"""The table of states that README shows, and docs/tables/physics.csv, from the summary of a run.

Run: ``python benchmarks/readme_tables.py data/08_reporting/summary.csv``. It replaces what stands between the markers
``<!-- horizons -->`` and ``<!-- end -->`` in README.md; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
WORLDS = (
    ("mass_spring", "pendulum", "double_pendulum", "henon_heiles", "duffing_damped", "bouncing_ball"),
    ("two_body", "three_body", "n_body", "n_body_charges", "n_body_gravity", "n_body_morse", "n_body_yukawa"),
)
FAMILIES = (
    "oracle", "hnn", "hamiltonian_regression", "momentum_gnn", "physics_informed", "mlp", "latent_dynamics", "sequence",
    "flow", "mixture_density", "energy_based", "rssm", "vae_rnn", "persistence",
)  # fmt: skip
KEPT = (
    "horizon", "violation_rate", "energy_error", "relative_error", "force_error", "force_exponent",
    "symplecticity_error", "reversal_error", "parameters", "train_seconds", "train_flops",
)  # fmt: skip
CEILING = "oracle"


def number(x: float) -> str:
    """Three digits, no more than two behind the point."""
    return f"{round(x, 2):.3g}"


def cell(row: pd.Series, longest: float) -> str:
    """A mean with its interval, cut at what is possible, alone where that is short; bold in the set of the best."""
    low, high = max(row["ci_low"], 0.0), min(row["ci_high"], longest)
    text = number(row["value"])
    if high - low >= 0.005 * longest:
        text += f" ({number(low)}…{number(high)})"
    return f"**{text}**" if row["best"] else text


def markdown(summary: pd.DataFrame, worlds: Sequence[str]) -> list[str]:
    """One row per variant that can model one of the worlds."""
    horizons = summary[(summary["metric"] == "horizon") & (summary["split"] == "test") & summary["world"].isin(worlds)]
    seconds = summary[(summary["metric"] == "train_seconds") & summary["world"].isin(worlds)]
    trained = seconds.groupby(["family", "variant"])["value"].median()
    longest = horizons[horizons["family"] == CEILING].set_index("world")["value"]
    lines = [
        f"| horizon [s] | knows | training [s] | {' | '.join(f'`{w}`' for w in worlds)} |",
        "|---|---|---" + "|---" * len(worlds) + "|",
    ]
    for family in FAMILIES:
        for variant, own in horizons[horizons["family"] == family].groupby("variant"):
            rows = own.set_index("world")
            words = sorted({w for told in own["knows"].dropna() for w in told.split(",") if w})
            cells = [cell(rows.loc[w], longest[w]) if w in rows.index else "n/a" for w in worlds]
            lines.append(
                f"| {family} · {variant} | {', '.join(words) or '–'} | {float(f'{trained[family, variant]:.2g}'):g} | "
                f"{' | '.join(cells)} |"
            )
    return lines


def main() -> None:
    """Read, replace, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("summary", type=Path, help="summary.csv of a run")
    given = parser.parse_args()
    summary = pd.read_csv(given.summary)
    summary = summary[summary["task"] == "physics"]
    table = "\n\n".join("\n".join(markdown(summary, worlds)) for worlds in WORLDS)
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split("<!-- horizons -->", 1)
    after = rest.split("<!-- end -->", 1)[1]
    readme.write_text(f"{before}<!-- horizons -->\n\n{table}\n\n<!-- end -->{after}")
    kept = summary[summary["metric"].isin(KEPT)]
    kept.to_csv(ROOT / "docs/tables/physics.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
