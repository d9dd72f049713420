"""Whole runs of ``kedro run --env=smoke --pipeline=field_eval``, as a user starts them; and how fields are judged."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests.pipelines.conftest import Project
from wm_pipelines.errors import UserError, validate
from wm_pipelines.fields import Balance
from wm_pipelines.pipelines.field_eval.judging import balance_breach, judge_field
from wm_pipelines.pipelines.field_eval.nodes import shown
from wm_pipelines.reporting.fields import drawn_curves, metric_columns, pretty_unit
from wm_pipelines.worlds.fields.data import FieldConfig, build_field_system, ingest_field

COLUMNS = ["world", "family", "variant", "seed", "split", "metric", "step", "value", "ci_low", "ci_high", "n", "unit"]
WORLDS = {"heat_1d", "heat_1d_inverse"}
SMALL = {"interior": 50, "boundary": 20, "initial": 20, "validation": 50}


# ------------------------------------------------------------------------------------------ judging


class Heat:
    """Says ``u = (1 + error) exp(-alpha pi² t) sin(pi x)`` for every seed, with its exact derivatives."""

    name = "heat"

    def __init__(self, *errors, alpha=0.4):
        self.seeds, self.alpha = tuple(range(len(errors))), alpha
        self.size = 1 + torch.tensor(errors, dtype=torch.float64)[:, None]

    def derivatives(self, points, symbols):
        x, t = points.T
        wave = torch.pi
        u = torch.exp(-self.alpha * wave**2 * t) * torch.sin(wave * x)
        u_x = wave * torch.exp(-self.alpha * wave**2 * t) * torch.cos(wave * x)
        known = {"u": u, "u_x": u_x, "u_xx": -(wave**2) * u, "u_t": -self.alpha * wave**2 * u}
        return {symbol: self.size * known[symbol] for symbol in symbols}

    def predict(self, points, steps):
        return self.derivatives(points, ["u"])

    def found(self):
        return {}


@pytest.fixture(scope="module")
def heat():
    config = validate(FieldConfig, {"world": "heat_1d", "points": SMALL, "grid": [101, 101]}, "heat")
    return ingest_field(config), build_field_system(config)


def values_of(judgement, metric):
    return np.array([row["value"] for row in judgement.rows if row["metric"] == metric])


def test_the_true_field_has_no_error_of_any_kind(heat):
    data, system = heat
    judged = judge_field(Heat(0.0), data, system)
    for metric in ("relative_l2_u", "residual_norm", "boundary_error"):
        assert values_of(judged, metric)[0] < 1e-12
    assert not judged.arrays["residual"].max() > 1e-12


@pytest.mark.parametrize("error", [-0.5, 0.01, 2.0])
def test_a_multiple_of_the_field_obeys_the_linear_equation_and_misses_the_rest_by_that_much(heat, error):
    data, system = heat
    judged = judge_field(Heat(0.0, error), data, system)
    assert values_of(judged, "relative_l2_u")[1] == pytest.approx(abs(error))
    assert values_of(judged, "boundary_error")[1] == pytest.approx(abs(error))
    assert values_of(judged, "residual_norm")[1] < 1e-12
    same = values_of(judged, "energy_balance_error")  # of the grid, see below; both sides grow alike
    assert same[1] == pytest.approx(same[0], rel=1e-6)


def test_the_true_coefficient_judges_a_field_with_a_wrong_one(heat):
    """``u_t - alpha u_xx = (alpha - beta) pi² u`` for a solution of the equation with ``beta``."""
    data, system = heat
    judged = judge_field(Heat(0.0, alpha=0.5), data, system)
    u = Heat(0.0, alpha=0.5).derivatives(torch.tensor(data["grid"]), ["u"])["u"]
    expected = 0.1 * np.pi**2 * float(u.square().mean().sqrt())
    assert values_of(judged, "residual_norm")[0] == pytest.approx(expected)
    assert values_of(judged, "energy_balance_error")[0] > 0.1


def test_the_balance_of_what_appears_from_nowhere(heat):
    """``E = ∫u²/2`` of a rod that cools, no production declared: all is missing but what is left at the end."""
    _, system = heat
    nothing = Balance(lambda d: d.u**2 / 2, lambda d: 0 * d.u)
    left = np.exp(-2 * 0.4 * np.pi**2)
    assert balance_breach(Heat(0.0), system, nothing, "nothing", (101, 101)) == pytest.approx([1 - left], rel=1e-6)


def test_the_balance_of_the_true_field_closes_with_the_grid(heat):
    """What is left is the quadrature's: third order and better in the spacing of time."""
    _, system = heat
    energy = system.balances["energy"]
    breaches = [balance_breach(Heat(0.0), system, energy, "energy", (51, count))[0] for count in (51, 101, 201)]
    assert breaches[2] < 1e-6
    assert min(breaches[0] / breaches[1], breaches[1] / breaches[2]) > 2**3


def test_validation_judges_the_residual_alone_at_its_own_points(heat):
    data, system = heat
    judged = judge_field(Heat(0.0, alpha=0.5), data, system, "validation")
    assert [row["metric"] for row in judged.rows] == ["residual_norm"]
    assert judged.rows[0]["n"] == SMALL["validation"]


def test_a_family_without_derivatives_is_one_clear_line(heat):
    data, system = heat
    silent = type("Silent", (), {"name": "silent", "seeds": (0,)})()
    with pytest.raises(UserError, match="'silent' gives no derivatives"):
        judge_field(silent, data, system)


def test_families_never_see_what_they_are_judged_by(heat):
    data, _ = heat
    assert set(data) - set(shown(data)) == {"grid", "grid_shape", "reference"}


def test_a_learning_curve_of_two_points_is_not_drawn():
    curves = {f"heat/{n}": pd.DataFrame({"step": [k // 2 for k in range(2 * n)], "loss": 1.0}) for n in (1, 2, 3)}
    assert set(drawn_curves({**curves, "heat/none": pd.DataFrame()})) == {"heat/3"}


def test_what_was_found_stands_before_what_is_said_about_it():
    names = ["coefficient_error", "coefficient_nu", "train_seconds", "coefficient_alpha", "coefficient_covered"]
    assert metric_columns([*names, "coefficient_identified", "energy_balance_error", "relative_l2_u"]) == [
        "relative_l2_u", "coefficient_alpha", "coefficient_nu", "coefficient_error", "coefficient_covered",
        "coefficient_identified", "energy_balance_error", "train_seconds",
    ]  # fmt: skip


def test_units_read_as_on_paper():
    assert [pretty_unit(u) for u in ("m^2/s", "1/s", "s^-12")] == ["m²/s", "1/s", "s⁻¹²"]


def test_a_coefficient_that_was_not_found_says_so(heat):
    data, _ = heat
    config = validate(FieldConfig, {"world": "heat_1d", "points": SMALL, "unknown": {"alpha": [0.1, 1.0]},
                                    "measurements": {"count": 20}}, "heat")  # fmt: skip
    family = Heat(0.0, 0.0)
    ends = {"value": [0.4, 0.7], "low": [0.39, 0.1], "high": [0.41, 1.0]}
    found = {k: torch.tensor(v, dtype=torch.float64) for k, v in ends.items()}
    family.found = lambda: {"alpha": {**found, "identified": torch.tensor([True, False])}}
    judged = judge_field(family, {**data, "measurement_values": np.zeros(20)}, build_field_system(config))
    assert values_of(judged, "coefficient_identified").tolist() == [1.0, 0.0]
    assert values_of(judged, "coefficient_covered").tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------ runs


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = project.kedro("run", "--env=smoke", "--pipeline=field_eval", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def hashes(project: Project) -> dict[str, str]:
    """Everything the run made but for wall-clock measurements and the texts that show them."""
    found = project.hashes()
    return {name: digest for name, digest in found.items() if not name.endswith(("fields.html", "field_summary.txt"))}


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Project:
    """A project on which the smoke run of the fields went through once."""
    project = Project(tmp_path_factory.mktemp("solved"))
    project.log = run(project)
    return project


@pytest.mark.pipeline
def test_the_leaderboard_holds_every_field_with_its_laws_and_costs(solved):
    table = pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet")
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(COLUMNS[:7]).any()
    assert set(table["world"]) == WORLDS
    assert set(table["variant"]) == {"collocation", "gradient"}
    judged = {"relative_l2_u", "residual_norm", "boundary_error", "energy_balance_error", "step_ms"}
    found = {"coefficient_alpha", "coefficient_error", "coefficient_covered", "coefficient_identified"}
    test = table[table["split"] == "test"]
    assert set(test.query("world == 'heat_1d'")["metric"]) == judged
    assert set(test.query("world == 'heat_1d_inverse'")["metric"]) == judged | found
    assert {"train_seconds", "parameters", "peak_memory_mb"} <= set(table.query("split == 'train'")["metric"])
    assert set(table["seed"]) == {0, 1}
    alpha = table.query("metric == 'coefficient_alpha'")
    assert ((alpha["ci_low"] < alpha["value"]) & (alpha["value"] < alpha["ci_high"])).all()
    assert set(alpha["unit"]) == {"m^2/s"}


@pytest.mark.pipeline
def test_collocation_solves_even_the_small_problem_and_finds_the_coefficient(solved):
    table = pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet").query("variant == 'collocation'")
    assert table.query("metric == 'relative_l2_u'")["value"].max() < 1e-2
    assert table.query("metric == 'coefficient_error'")["value"].max() < 1e-2


@pytest.mark.pipeline
def test_the_report_shows_every_field_and_reads_no_network(solved):
    report = solved.data / "08_reporting/fields.html"
    assert str(report.resolve()) in solved.log.stdout
    text = report.read_text()
    for world in WORLDS:
        assert f"<h2>{world}</h2>" in text
    assert "heatmap" in text
    assert "the truth is alpha = 0.400 m²/s" in text
    assert not re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?:[^"' >]*)""", text)
    assert 'href="index.html"' not in text, "no link to a report that is not there"


@pytest.mark.pipeline
def test_a_run_killed_on_the_way_ends_in_the_same_files_as_one_that_was_not(solved, project):
    running = subprocess.Popen(
        project.command("run", "--env=smoke", "--pipeline=field_eval"),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(project.data / "checkpoints", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (project.data / "08_reporting/fields.html").exists()
    again = run(project)
    assert "taken from the checkpoint" in again.stdout + again.stderr
    assert hashes(project) == hashes(solved)


def wait_for(folder: Path, running: subprocess.Popen[bytes]) -> None:
    """Until a first training is finished."""
    while not (folder.exists() and any(p.is_file() and p.name.startswith("collocation") for p in folder.rglob("*"))):
        assert running.poll() is None
        time.sleep(0.02)


@pytest.mark.pipeline
def test_the_rows_of_other_pipelines_stay(solved):
    parts = solved.data / "08_reporting/leaderboard_parts"
    rows = pd.read_parquet(parts / "field_eval.parquet").head(1).assign(world="elsewhere")
    rows.to_parquet(parts / "physics_eval.parquet")
    try:
        run(solved, "--tags=collect,report")
        assert {"elsewhere", *WORLDS} == set(pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet")["world"])
        assert 'href="index.html"' in (solved.data / "08_reporting/fields.html").read_text()
    finally:
        (parts / "physics_eval.parquet").unlink()
        run(solved, "--tags=collect,report")


@pytest.mark.pipeline
def test_tuning_searches_by_the_residual_between_the_points(solved):
    settings = (
        "tuning.family=pinn,tuning.world=heat_1d,tuning.variant=collocation,tuning.metric={},"
        "tuning.trials=2,tuning.processes=1"
    )
    file = solved.folder / "conf/smoke/parameters_tuning.yml"
    space = {"features": {"type": "int", "low": 40, "high": 80}}
    file.write_text(yaml.safe_dump({"tuning": {"space": space}}))
    base = solved.folder / "conf/base/parameters_tuning.yml"
    base.write_text(yaml.safe_dump({"tuning": {**yaml.safe_load(base.read_text())["tuning"], "space": space}}))
    arguments = ("run", "--env=smoke", "--pipeline=tuning", "--params")
    done = solved.kedro(*arguments, settings.format("residual_norm"))
    assert done.returncode == 0, done.stderr[-2000:]
    trials = pd.read_csv(solved.data / "08_reporting/tuning_trials.csv")
    assert set(trials["state"]) == {"COMPLETE"}
    best = trials.loc[trials["value"].idxmin()]
    tuned = yaml.safe_load((solved.folder / "conf/tuned/parameters_pinn.yml").read_text())["pinn"]
    assert tuned["worlds"]["heat_1d"]["variants"]["collocation"]["features"] == best["features"]
    wrong = solved.kedro(*arguments, settings.format("relative_l2_u"))
    assert wrong.returncode == 1
    assert "no 'relative_l2_u' on heat_1d; there is residual_norm" in wrong.stdout + wrong.stderr


TABLE = "x,t,u\n0.5,0.1,0.7\n0.4,0.2,nan\n"
MISTAKES = {
    "negative weight": (
        "pinn",
        {"condition_weight": -1},
        r"pinn .*condition_weight.*greater than or equal to 0, got -1",
    ),
    "too few points": (
        "heat_1d",
        {"points": {"interior": 3}},
        r"heat_1d\.points\.interior.*greater than or equal to 16, got 3",
    ),
    "contradicting boundary values": (
        "heat_1d",
        {"parameters": {"ends": [1.0, 0.0]}},
        r"conditions 'initial' and 'left end' contradict each other",
    ),
    "measurements that are no numbers": (
        "heat_1d_inverse",
        {"measurements": {"count": 0, "table": "measured.csv"}},
        r"'measured\.csv': u is not a number in row 2",
    ),
    "nothing to find a coefficient from": (
        "heat_1d_inverse",
        {"measurements": {"count": 0}},
        r"nothing to find alpha from",
    ),
    "unknown equation": (
        "heat_1d",
        {"world": "wave_9d"},
        r"unknown field world 'wave_9d'; known: .*heat_1d",
    ),
    "unknown coefficient": (
        "heat_1d_inverse",
        {"unknown": {"beta": [0.1, 1.0]}},
        r"no coefficient 'beta' to be found",
    ),
    "no parameters": ("globals", {"field_worlds": ["nowhere"]}, r"no parameters for 'nowhere'"),
}


@pytest.mark.pipeline
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_before_anything_is_written(project, name):
    what, change, pattern = MISTAKES[name]
    file = project.folder / "conf/smoke" / ("globals.yml" if what == "globals" else f"parameters_{what}.yml")
    before = yaml.safe_load(file.read_text()) if file.exists() else {}
    after = {**before, **change} if what == "globals" else {what: merged(before.get(what, {}), change)}
    file.write_text(yaml.safe_dump(after))
    (project.folder / "measured.csv").write_text(TABLE)
    done = project.kedro("run", "--env=smoke", "--pipeline=field_eval")
    message = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" not in line and line.strip()]
    assert done.returncode == 1
    assert re.search(pattern, message[0]), "\n".join(message[:20])
    assert message[0].startswith("Error: ")
    assert len(message) == 1, message
    assert not project.data.exists()


def merged(old, new):
    return {
        **old,
        **{k: merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()},
    }
