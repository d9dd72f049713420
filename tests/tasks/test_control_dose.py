"""Dose and response in the report of control: learned models beside wrong simulators, and what foretells success."""

from __future__ import annotations

import json

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from wm_pipelines.reporting.style import model_label, pretty_number
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.control.dose_report import conclusions, curves, dose_figures, dose_section, placed
from wm_pipelines.tasks.judgement import Judgement, table

STARTS, EPISODES, SEEDS = 40, 6, (0, 1)
COST = 100.0  # return that a law error of 1 costs


def doses(world, energy=True):
    """Three errors that cost what their law error says, and one that costs nothing."""
    rng = np.random.default_rng(0)
    truth = rng.normal(-100.0, 20.0, STARTS)
    rows = [
        {
            "corruption": corruption, "dose": dose, "unit": "steps",
            "score": (truth - slope * dose + 0.1 * rng.standard_normal(STARTS)).tolist(),
            "law_error": [dose] * EPISODES, "energy_error": [2 * dose] * EPISODES if energy else None,
        }
        for corruption, slope in (("kick", COST), ("wrong_mass", 0.0), ("noise", 2 * COST), ("delay", COST))
        for dose in (0.1, 0.2, 0.4)
    ]  # fmt: skip
    return {"world": world, "split": "test", "manifest": "aa", "horizon": 15, "metric": "return",
            "random": (truth - 500).tolist(), "true_model": truth.tolist(), "doses": rows}  # fmt: skip


def results(families=5, energy=True, measured=True):
    """Models whose score is what their law error costs, but for the reward error, which says nothing."""
    rng, own = np.random.default_rng(1), doses("rod", energy)
    rows, arrays = [], {}
    for f in range(families):
        error = 0.05 + 0.06 * f + 0.002 * rng.standard_normal((len(SEEDS), EPISODES))
        judged = Judgement(SEEDS, "test")
        judged.add("law_error", error, "1")
        judged.add("reward_mse", rng.random((len(SEEDS), EPISODES)), "1")
        score = np.array(own["true_model"]) - COST * error.mean(1, keepdims=True)
        judged.add("return", score + 0.1 * rng.standard_normal(score.shape), "1")
        told = {"family": f"family_{f}", "variant": "plain", "view": "states", "knows": ""}
        rows += [told | row for row in judged.rows]
        arrays[f"family_{f}/plain"] = {f"test/{name}": array for name, array in judged.arrays.items()}
    return Results(
        table(rows, task="control", world="rod"),
        arrays={"rod": arrays},
        doses={"rod": own if measured else {}, "empty": {}},
    )


def test_a_curve_begins_with_the_true_law():
    found = curves(doses("rod"))["wrong_mass"]
    assert found.doses.tolist() == [1.0, 0.1, 0.2, 0.4]
    assert (found.law[0], found.energy[0], len(found.scores)) == (0.0, 0.0, 4)
    assert found.trend.monotone
    assert not found.trend.falls
    assert curves(doses("rod"))["kick"].trend.falls


def test_models_stand_where_their_law_error_is():
    found = placed(results(), "rod")["family_2/plain"]  # law error 0.17: 17 less
    assert float(found.change.value) == pytest.approx(-17, abs=0.5)
    assert found.beside["kick"].dose == pytest.approx(0.17, abs=0.01)
    assert float(found.beside["kick"].gap.value) == pytest.approx(0, abs=0.5)
    assert float(found.beside["noise"].gap.value) == pytest.approx(17, abs=1)  # noise costs twice as much


def test_conclusions_are_json_and_say_what_foretells_success():
    found = json.loads(json.dumps(conclusions(results()), allow_nan=False))
    tau = found["rank_correlations"]
    assert tau["learned models"]["law_error"]["value"] > 0.8  # a smaller error acts better
    assert abs(tau["learned models"]["reward_mse"]["value"]) < 0.6
    assert tau["wrong simulators"]["law_error"]["value"] > 0.3  # one error costs nothing
    kick = found["dose_response"]["rod"]["kick"]
    assert (kick["monotone"], kick["falls"], len(kick["doses"])) == (True, True, 4)
    assert kick["doses"][0]["change"]["value"] == 0.0


def test_without_energy_there_is_none():
    found = conclusions(results(energy=False))
    assert "law_energy_error" not in found["rank_correlations"]["wrong simulators"]
    assert found["dose_response"]["rod"]["kick"]["doses"][1]["energy_error"] is None


@pytest.mark.parametrize("families", [0, 1, 5])
def test_the_section_says_what_it_shows(families):
    section = dose_section(results(families))
    (world,) = section["worlds"]
    text = " ".join(world["sentences"])
    assert "falls by the largest dose of kick, noise and delay beyond chance" in text
    assert "Even the largest dose of wrong mass does not lower it" in text
    assert ("1 learned family" in section["few"]) == (families == 1)
    assert text.count("family_") == families
    assert len(world["rows"]) == 12


def test_the_template_takes_the_section():
    environment = Environment(
        loader=PackageLoader("wm_pipelines.reporting"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"label": model_label, "number": pretty_number, "word": str, "coded": str, "breakable": str}
    page = environment.from_string('{% from "dose.html.j2" import dose with context %}{{ dose(section) }}')
    html = page.render(section=dose_section(results()))
    assert html.count("<tr>") == 2 + 12 + 3  # heads, doses, predictors
    assert 'data-figure="dose-0"' in html
    assert "kick" in html


def test_the_figure_has_a_line_and_a_band_for_each_error_and_a_point_for_each_model():
    figure = dose_figures(results(2))["rod_dose"]
    assert len(figure.data) == 4 * 2 + 2
    line = next(trace for trace in figure.data if trace.name == "kick")
    band = figure.data[[t.name for t in figure.data].index("kick") - 1]
    np.testing.assert_allclose(line.x, [0.1, 0.2, 0.4])
    assert all(min(band.y) <= y <= max(band.y) for y in line.y)
    assert figure.layout.xaxis.type == "log"


def test_where_nothing_was_measured_nothing_is_said():
    nothing = results(measured=False)
    assert dose_section(nothing) is None
    assert conclusions(nothing) == {}
    assert dose_figures(nothing) == {}
