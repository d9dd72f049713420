"""README's tables of states, images, videos and control, and docs/tables/physics.csv, from the results of runs.

Run: ``python benchmarks/readme_tables.py data/08_reporting``, for every task that is found there. It replaces what
stands between the markers ``<!-- states -->``, ``<!-- images -->``, ``<!-- videos -->``,
``<!-- control -->`` and the next ``<!-- end -->``
in README.md; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
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
IMAGE_FAMILIES = ("ijepa", "mae", "contrastive", "raw_pixels")
VIDEO_FAMILIES = ("raw_pixels", "vjepa", "latent_dynamics", "flow", "object_tracker", "mae", "contrastive")
CONTROL = {
    "driven_pendulum": "normalised_score",
    "driven_pendulum_pixels": "normalised_score",
    "two_rooms": "success_rate",
}
CONTROL_FAMILIES = ("oracle", "fixed_policies", "latent_dynamics", "mixture_density", "flow", "energy_based", "vjepa")
CONTROL_FAMILIES += ("rssm", "vae_rnn")
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


def states(summary: pd.DataFrame, worlds: Sequence[str]) -> list[str]:
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
            cells = [cell(rows.loc[w], longest[w]) if w in rows.index else "n/a" for w in worlds]
            took = float(f"{trained[family, variant]:.2g}")
            lines.append(f"| {family} · {variant} | {knows(own, family, variant)} | {took:g} | {' | '.join(cells)} |")
    return lines


def images(board: pd.DataFrame) -> list[str]:
    """Probes of trained and untrained encoders, means over seeds."""
    lines = [
        "| | knows | linear probe | 5-NN | untrained: linear · 5-NN | collapsed |",
        "|---|---|---|---|---|---|",
    ]
    probes = ("linear_probe", "knn_probe")
    for family, variant, own in models(board, IMAGE_FAMILIES):
        trained = [f"{100 * own[name].mean():.1f} %" for name in probes]
        floor = values(board, family, f"{variant}_untrained")
        untrained = " · ".join(f"{100 * floor[name].mean():.1f} %" for name in probes if name in floor)
        told = knows(board, family, variant)
        lines.append(f"| {title(family, variant)} | {told} | {' | '.join(trained)} | {untrained} | {collapse(own)} |")
    return lines


def videos(board: pd.DataFrame) -> list[str]:
    """Probes of features and of predicted features, surprise; means over seeds, world by world."""
    lines = [
        "| | knows | position | velocity | untrained: position · velocity | predicted, 4 · 8 ahead "
        "| ridge, 4 · 8 ahead | surprise | collapsed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for world in ("pendulum_video", "bouncing_balls"):
        here = board[board["world"] == world]
        lines.append(f"| **`{world}`** | | | | | | | | |")
        for family, variant, own in models(here, VIDEO_FAMILIES):
            floor = values(here, family, f"{variant}_untrained")
            cells = [
                shown(own, "r2_position_probed"),
                shown(own, "r2_velocity_probed"),
                shown(floor, "r2_position_probed", "r2_velocity_probed"),
                shown(own, "r2_position_predicted_probed@4", "r2_position_predicted_probed@8"),
                shown(own, "r2_position_ridge_probed@4", "r2_position_ridge_probed@8"),
                shown(own, "surprise_teleport_auc", "surprise_energy_jump_auc", digits=2),
                collapse(own),
            ]
            lines.append(f"| {title(family, variant)} | {knows(here, family, variant)} | {' | '.join(cells)} |")
    return lines


def control(board: pd.DataFrame) -> list[str]:
    """Scores seed by seed, of the planner and of a model's own policy, and the time of a decision from states."""
    lines = [
        "| | training [s], world by world | `driven_pendulum`, states | own policy | from pixels | own policy "
        "| `two_rooms`, pixels: successes | own policy | ms a decision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family, variant, _ in models(board, CONTROL_FAMILIES):
        by_world = {world: values(board[board["world"] == world], family, variant) for world in CONTROL}
        cells = [
            ", ".join(f"{x:.3g}".replace("-", "−") for x in own[name].round(3)) if name in own else ""
            for world, metric in CONTROL.items()
            for own, name in ((by_world[world], metric), (by_world[world], f"policy_{metric}"))
        ]
        if not any(cells):
            continue
        states = by_world["driven_pendulum"]
        here = board[(board["family"] == family) & (board["variant"] == variant) & (board["metric"] == "train_seconds")]
        spent = here.groupby("world")["value"].mean().reindex(list(CONTROL)).dropna().round()
        took = " · ".join(f"{x:g}" for x in spent)
        decided = f"{states['decision_ms'].mean():.2g}" if "decision_ms" in states else ""
        lines.append(f"| {title(family, variant)} | {took} | {' | '.join(cells)} | {decided} |")
    return lines


def models(board: pd.DataFrame, families: Sequence[str]) -> Iterator[tuple[str, str, dict[str, pd.Series]]]:
    """Families in this order, their trained variants, and values of the seeds by metric (``metric@step``)."""
    for family in families:
        for variant in board.loc[board["family"] == family, "variant"].drop_duplicates():
            if not variant.endswith("_untrained"):
                yield family, variant, values(board, family, variant)


def values(board: pd.DataFrame, family: str, variant: str) -> dict[str, pd.Series]:
    """Values of the seeds by metric, and by ``metric@step``."""
    own = board[(board["family"] == family) & (board["variant"] == variant) & (board["split"] == "test")]
    groups = own.groupby(["metric", "step"])["value"]
    return {metric if step < 0 else f"{metric}@{step}": group for (metric, step), group in groups}


def shown(own: Mapping[str, pd.Series], *metrics: str, digits: int = 3) -> str:
    """Means of metrics that are all there, else nothing."""
    if any(metric not in own for metric in metrics):
        return ""
    return " · ".join(f"{own[metric].mean():.{digits}f}".replace("-", "−") for metric in metrics)


def collapse(own: Mapping[str, pd.Series]) -> str:
    """How many seeds have collapsed."""
    if "collapsed" not in own:
        return ""
    bad = int(own["collapsed"].sum())
    return f"{bad} of {len(own['collapsed'])}" if bad else "no"


def title(family: str, variant: str) -> str:
    """A model's name; variants that say nothing are left out."""
    return f"`{family}`" if variant == "plain" else f"`{family}` · {variant}"


def knows(board: pd.DataFrame, family: str, variant: str) -> str:
    """What a model was told there."""
    own = board[(board["family"] == family) & (board["variant"] == variant)]
    return ", ".join(sorted({w for told in own["knows"].dropna() for w in told.split(",") if w})) or "–"


def written(readme: str, block: str, lines: Sequence[str]) -> str:
    """README with the lines in a block between markers."""
    before, rest = readme.split(f"<!-- {block} -->", 1)
    after = rest.split("<!-- end -->", 1)[1]
    return f"{before}<!-- {block} -->\n\n" + "\n".join(lines) + f"\n\n<!-- end -->{after}"


def main() -> None:
    """Read, replace, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder 08_reporting of a run")
    given = parser.parse_args()
    path = given.results / "leaderboard.parquet"
    if not path.exists():
        parser.error(f"'{path}' is missing: run kedro run --pipeline=physics_eval first")
    board = pd.read_parquet(path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tasks = set(board["task"])
    judged = {
        "physics": {*WORLDS[0], *WORLDS[1]},
        "images": {"mnist"},
        "videos": {"pendulum_video", "bouncing_balls"},
        "control": set(CONTROL),
    }
    for task in tasks & set(judged):
        if missing := sorted(judged[task] - set(board.loc[board["task"] == task, "world"])):
            parser.error(f"these results lack {', '.join(missing)} of {task}: README shows whole runs of base")
    if "physics" in tasks:
        summary = pd.read_csv(given.results / "summary.csv")
        summary = summary[summary["task"] == "physics"]
        readme = written(readme, "states", [*states(summary, WORLDS[0]), "", *states(summary, WORLDS[1])])
        kept = summary[summary["metric"].isin(KEPT)]
        kept.to_csv(ROOT / "docs/tables/physics.csv", index=False, float_format="%.6g")
    for block, table in (("images", images), ("videos", videos), ("control", control)):
        if block in tasks:
            readme = written(readme, block, table(board[board["task"] == block]))
    (ROOT / "README.md").write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
