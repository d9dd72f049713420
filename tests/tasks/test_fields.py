"""How fields are judged, and what their report is made of."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from wm_pipelines.episodes import Episodes
from wm_pipelines.equations import Balance, Equation, Problem
from wm_pipelines.errors import UserError
from wm_pipelines.registry import tasks, worlds
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.fields.judge import Solution, balance_error
from wm_pipelines.tasks.fields.report import drawn_curves, metric_columns, page, pretty_unit
from wm_pipelines.tasks.judgement import table

SMALL = {"interior": 50, "boundary": 20, "initial": 20, "validation": 50}


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

    def predict(self, past, steps):
        return self.derivatives(past["points"], ["u"])

    def found(self):
        return {}


def rod(name="rod", **changes):
    return worlds.get("heat_1d").restored({"parameters": {"points": SMALL, "grid": [101, 101], **changes}}, name)


@pytest.fixture(scope="module")
def heat():
    return rod().own_episodes(0)


def judge(family, episodes, split="test", laws=None):
    return tasks.get("fields")().judge(family, episodes, split, rod().laws() if laws is None else laws, None)


def values_of(judgement, metric):
    return np.array([row["value"] for row in judgement.rows if row["metric"] == metric])


def test_the_true_field_has_no_error_of_any_kind(heat):
    judged = judge(Heat(0.0), heat)
    for metric in ("relative_l2_u", "residual_norm", "boundary_error"):
        assert values_of(judged, metric)[0] < 1e-12
    assert not judged.arrays["residual"].max() > 1e-12


@pytest.mark.parametrize("error", [-0.5, 0.01, 2.0])
def test_a_multiple_of_the_field_obeys_the_linear_equation_and_misses_the_rest_by_that_much(heat, error):
    judged = judge(Heat(0.0, error), heat)
    assert values_of(judged, "relative_l2_u")[1] == pytest.approx(abs(error))
    assert values_of(judged, "boundary_error")[1] == pytest.approx(abs(error))
    assert values_of(judged, "residual_norm")[1] < 1e-12
    same = values_of(judged, "energy_balance_error")  # of the grid, see below; both sides grow alike
    assert same[1] == pytest.approx(same[0], rel=1e-6)


def test_the_true_coefficient_judges_a_field_with_a_wrong_one(heat):
    """``u_t - alpha u_xx = (alpha - beta) pi² u`` for a solution of the equation with ``beta``."""
    judged = judge(Heat(0.0, alpha=0.5), heat)
    u = Heat(0.0, alpha=0.5).derivatives(torch.tensor(heat["test"]["grid"][0]), ["u"])["u"]
    expected = 0.1 * np.pi**2 * float(u.square().mean().sqrt())
    assert values_of(judged, "residual_norm")[0] == pytest.approx(expected)
    assert values_of(judged, "energy_balance_error")[0] > 0.1


def imbalance(balance, shape):
    solution = Solution(Heat(0.0), 1, rod().posed(), rod().laws(), np.empty((0, 2)))
    return balance_error(solution, balance, "energy", shape)


def test_the_balance_of_what_appears_from_nowhere():
    """``E = ∫u²/2`` of a rod that cools, no production declared: all is missing but what is left at the end."""
    left = np.exp(-2 * 0.4 * np.pi**2)
    nothing = Balance(Equation("u**2/2"), Equation("0*u"))
    assert imbalance(nothing, (101, 101)) == pytest.approx([1 - left], rel=1e-6)


def test_the_balance_of_the_true_field_closes_with_the_grid():
    """What is left is the quadrature's: third order and better in the spacing of time."""
    errors = [imbalance(rod().balances()["energy"], (51, count))[0] for count in (51, 101, 201)]
    assert errors[2] < 1e-6
    assert min(errors[0] / errors[1], errors[1] / errors[2]) > 2**3


def test_validation_judges_the_residual_alone_at_its_own_points(heat):
    judged = judge(Heat(0.0, alpha=0.5), heat, "validation")
    assert [row["metric"] for row in judged.rows] == ["residual_norm"]
    assert judged.rows[0]["n"] == SMALL["validation"]


def test_a_family_without_derivatives_is_one_clear_line(heat):
    silent = type("Silent", (), {"name": "silent", "seeds": (0,)})()
    with pytest.raises(UserError, match="'silent' gives no derivatives"):
        judge(silent, heat)


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


class Finder(Heat):
    """Found ``alpha`` with one of two seeds."""

    def found(self):
        ends = {"value": [0.4, 0.7], "low": [0.39, 0.1], "high": [0.41, 1.0]}
        found = {k: torch.tensor(v, dtype=torch.float64) for k, v in ends.items()}
        return {"alpha": {**found, "identified": torch.tensor([True, False])}}


def test_a_coefficient_that_was_not_found_says_so():
    unknown = rod(unknown={"alpha": [0.1, 1.0]}, measurements={"count": 20})
    judged = judge(Finder(0.0, 0.0), unknown.own_episodes(0), laws=unknown.laws())
    assert values_of(judged, "coefficient_identified").tolist() == [1.0, 0.0]
    assert values_of(judged, "coefficient_covered").tolist() == [1.0, 1.0]
    assert {row["n"] for row in judged.rows if row["metric"] == "coefficient_alpha"} == {20}


def test_what_nobody_knows_is_judged_by_what_was_found(tmp_path):
    """The user's own measurements: no truth, no error against it, and the equation with the coefficient found."""
    pd.DataFrame({"x": [0.5], "t": [0.1], "u": [0.7]}).to_csv(tmp_path / "own.csv")
    own = rod(unknown={"alpha": [0.1, 1.0]}, measurements={"table": str(tmp_path / "own.csv")})
    judged = judge(Finder(0.0, 0.0), own.own_episodes(0), laws=own.laws())
    metrics = {row["metric"] for row in judged.rows}
    assert "coefficient_identified" in metrics
    assert not metrics & {"relative_l2_u", "coefficient_error", "coefficient_covered"}
    residual = values_of(judged, "residual_norm")
    assert residual[0] < 1e-12 < residual[1]


def test_the_report_is_made_of_what_the_judge_kept():
    """Specs and arrays alone: the world is described, its fields drawn, its truth named."""
    unknown = rod("my_rod", unknown={"alpha": [0.1, 1.0]}, measurements={"count": 20}, grid=[11, 9])
    episodes: dict[str, Episodes] = unknown.own_episodes(0)
    judged = judge(Finder(0.0, 0.1), episodes, laws=unknown.laws())
    assert set(judged.arrays) == {"grid_shape", "reference", "predicted", "residual"}
    scores = table(judged.rows, task="fields", world="my_rod", family="finder", variant="plain", view="", knows="")
    spec = Spec.from_json(json.loads(json.dumps(episodes["test"].spec.to_json())))
    kept = {"finder/plain": {f"test/{name}": array for name, array in judged.arrays.items()}}
    results = Results(scores, {"my_rod": {"test": spec}}, {"my_rod": kept, "nothing_fits": {}})
    text = page(results)
    assert "<h2>my_rod</h2>" in text
    assert unknown.describe() in text
    assert "the truth is alpha = 0.400 m²/s" in text
    assert "heatmap" in text
    assert text == page(results)
    assert "Coefficient error" in tasks.get("fields")().summary(summary_table(scores))


def test_the_grid_is_judged_by_the_problem_as_told(heat):
    facts = heat["test"].spec.facts
    assert Problem.from_facts(facts, "rod").to_facts() == heat["train"].spec.facts.plain()
