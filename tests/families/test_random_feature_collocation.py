"""Random-feature collocation: it solves equations, finds coefficients and says how sure it is."""

import numpy as np
import pytest
import torch

from tests.families.fields import error, posed, restored
from wm_pipelines.equations import FACTS, Condition, Equation, Problem
from wm_pipelines.errors import UserError, validate
from wm_pipelines.families.random_feature_collocation import RandomFeatureCollocation
from wm_pipelines.families.random_feature_collocation.slabs import CollocationConfig
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train, training_fingerprint
from wm_pipelines.registry import families
from wm_pipelines.spec import Facts, Space, Spec

LEARNING = LearningConfig(progress=False, log_every=5)
CONFIG = {"features": 200, "steepness": (2.0,)}


def solved(config, seeds=(0,), **world):
    spec, views, data = posed(**world)
    family = RandomFeatureCollocation(CollocationConfig(**config), spec, seeds)
    run = train(family, views, LEARNING)
    return family, data, run


def test_collocation_solves_the_heat_equation():
    family, data, run = solved(CONFIG, seeds=(0, 1))
    assert error(family, data).max() < 1e-5
    assert len(run.curve) == 2
    assert run.curve[0]["residual"] == pytest.approx(float(family.residual_rms(data["validation"])[0]))


def test_more_features_solve_it_better():
    errors = [error(*solved({"features": k, "steepness": (2.0,)})[:2]).max() for k in (20, 60, 200)]
    assert errors[0] / errors[1] > 10
    assert errors[1] / errors[2] > 100


def test_the_steepness_is_chosen_by_the_residual_between_the_points():
    family, data, _ = solved({"features": 100, "steepness": (40.0, 2.0)})
    alone, _, _ = solved({"features": 100, "steepness": (2.0,)})
    assert torch.equal(family.solution.coefficients, alone.solution.coefficients)
    assert error(family, data).max() < 1e-3


@pytest.mark.training
def test_a_layer_needs_coordinates_that_stretch():
    """Burgers' wave with a layer of width 0.06, in two slabs."""
    setting = {
        "kind": "burgers_1d",
        "viscosity": 0.03,
        "points": {"interior": 600, "boundary": 100, "initial": 80, "validation": 200},
    }
    config = {"features": 220, "steepness": (8.0,), "aspect": {"t": 0.2}, "slabs": 4}
    plain, stretched = (solved({**config, "stretch": s}, **setting) for s in ((), ("x",)))
    assert error(*stretched[:2]).max() < 2e-3
    assert error(*plain[:2]).max() > 2 * error(*stretched[:2]).max()
    # Slabs join: the end of one is the start of the next.
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    before, after = (
        stretched[0].predict({"points": torch.stack([x, torch.full_like(x, t)], 1)})["fields"]
        for t in (0.5 - 1e-12, 0.5)
    )
    assert (before - after).abs().max() < 1e-2


def test_gauss_newton_solves_the_navier_stokes_equations():
    family, data, _ = solved(
        {"features": 120, "steepness": (2.5,)},
        kind="navier_stokes_2d",
        flow="kovasznay",
        reynolds=20,
        points={"interior": 350, "boundary": 160, "validation": 200},
    )
    assert error(family, data).max() < 0.05
    divergence = family.evaluate(family.problem.equations["continuity"], data["validation"])
    slope = family.derivatives(data["validation"], ["u_x"])["u_x"]
    assert divergence.norm() < 0.02 * slope.norm()


@pytest.mark.training
def test_the_diffusivity_is_found_and_its_interval_is_honest():
    """Twenty noisy data sets; the 95 % interval must hold the truth in most and be no wider than it needs to be."""
    unknown = {"alpha": [0.05, 3.0]}
    values, held, half = [], 0, []
    for seed in range(20):
        measured = {"count": 60, "noise": 0.01, "seed": seed}
        family, *_ = solved({"features": 60, "steepness": (2.0,)}, unknown=unknown, measurements=measured)
        found = {k: float(v[0]) for k, v in family.found()["alpha"].items()}
        values.append(found["value"])
        held += found["low"] <= 0.4 <= found["high"]
        half.append((found["high"] - found["low"]) / 2)
    assert np.abs(np.array(values) / 0.4 - 1).max() < 0.01
    assert held >= 16
    assert np.std(values) * 1.2 < np.mean(half) < np.std(values) * 3.0
    summary = family.extra_summary()
    assert summary["coefficients"]["alpha"]["value"] == [pytest.approx(values[-1])]
    assert summary["noise"][0][0] == pytest.approx(0.01 * 0.33, rel=0.5)


def test_less_noise_gives_a_narrower_interval():
    widths = []
    for noise in (0.001, 0.01, 0.1):
        measured = {"count": 60, "noise": noise}
        family, *_ = solved(
            {"features": 150, "steepness": (2.0,)}, unknown={"alpha": [0.05, 3.0]}, measurements=measured
        )
        found = family.found()["alpha"]
        widths.append(float(found["high"] - found["low"]))
    assert 5 < widths[1] / widths[0] < 20
    assert 5 < widths[2] / widths[1] < 20


def test_the_sensitivity_is_the_derivative_by_the_coefficient():
    """du/d(alpha) of the solution against two solutions, across slabs."""
    spec, _, data = posed(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 5})
    config = CollocationConfig(features=120, steepness=(2.0,), slabs=2, aspect={"t": 0.5})
    family = RandomFeatureCollocation(config, spec, (0,))
    solution = family.solution
    with torch.no_grad():
        solution.draw(2.0)
        ends = []
        for alpha in (0.4 - 1e-3, 0.4 + 1e-3, 0.4):
            solution.solve(data, torch.tensor([[alpha]], dtype=torch.float64), adapt=alpha < 0.4)
            ends.append(solution.values(data["validation"], ["u"])["u"])
        slope = solution.values(data["validation"], ["u"], solution.sensitivity)["u"][..., 0]
    difference = (ends[1] - ends[0]) / 2e-3
    assert (slope - difference).norm() < 1e-2 * difference.norm()


def test_a_new_equation_is_a_line_of_text():
    """Helmholtz with a Neumann condition: u_xx + k² u = 0, u(0) = 0, u_x(0) = k, so u = sin k x."""
    given = (Condition("value", "u", {"x": 0.0}), Condition("slope", "u_x", {"x": 0.0}))
    equations = {"helmholtz": Equation("u_xx + 9*u")}
    problem = Problem("helmholtz", ("x",), ("u",), {"x": (0.0, 2.0)}, equations, given)
    x = torch.linspace(0, 2, 100, dtype=torch.float64)[:, None]
    views = {
        "interior": x[None],
        "validation": x[None, :-1] + 0.01,
        "condition_points": torch.zeros(1, 2, 1, dtype=torch.float64),
        "condition_values": torch.tensor([[0.0, 3.0]], dtype=torch.float64),
        "condition_index": torch.tensor([[0, 1]]),
    }
    spaces = {name: Space("points", tuple(view.shape[1:]), per="episode") for name, view in views.items()}
    spec = Spec("helmholtz", 0.0, spaces, facts=Facts(problem.to_facts()))
    family = RandomFeatureCollocation(CollocationConfig(features=40, steepness=(4.0,)), spec, (0,))
    family.fit(views)
    assert (family.predict({"points": x})["fields"][0, :, 0] - torch.sin(3 * x[:, 0])).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_weight": -1.0}, "condition_weight.*greater than or equal to 0, got -1.0"),
        ({"data_weight": -0.5}, "data_weight.*greater than or equal to 0"),
        ({"steepness": []}, "steepness"),
        ({"features": 600}, "520 rows for 600 unknowns in a slab; give more points"),
        ({"slabs": 40, "features": 20}, "no point of condition .* in slab .* of 40; give more"),
        ({"stretch": ["z"]}, "no coordinate 'z'"),
        ({"aspect": {"y": 2.0}}, "no coordinate 'y'"),
        ({"lambda": 3}, "unknown parameter"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    spec, views, _ = posed()

    def fitted():
        config = validate(CollocationConfig, {**CONFIG, **changes}, "random_feature_collocation")
        return train(RandomFeatureCollocation(config, spec, (0,)), views, LEARNING)

    with pytest.raises(UserError, match=message) as raised:
        fitted()
    assert "\n" not in str(raised.value)


def test_a_steady_field_has_no_slabs():
    spec, _, _ = posed("navier_stokes_2d", flow="kovasznay", points={"interior": 50})
    with pytest.raises(UserError, match="is steady and has no time to cut"):
        RandomFeatureCollocation(CollocationConfig(slabs=2), spec, (0,))


@pytest.mark.parametrize("initial", ["0*x", "0*x + 3"])
def test_a_coefficient_that_nothing_depends_on_is_not_identified(initial, caplog):
    """A rod at rest says nothing of its diffusivity; that ends no run."""
    ends = [3.0, 3.0] if "3" in initial else [0.0, 0.0]
    setting = {"initial": initial, "ends": ends, "unknown": {"alpha": [0.01, 2.0]}, "measurements": {"count": 60}}
    family, *_ = solved({"features": 60, "steepness": (2.0,)}, **setting)
    found = family.found()["alpha"]
    assert not found["identified"].any()
    assert (found["low"].item(), found["high"].item()) == (0.01, 2.0)
    assert "random_feature_collocation on heat_1d, seed 0: alpha is not determined" in caplog.text


# ---------------------------------------------------------------- protocol


def test_derivatives_it_reports_are_those_of_its_fields():
    family, _, _ = solved(CONFIG)
    x, h = torch.tensor([[0.3, 0.4]], dtype=torch.float64), 1e-4
    step = torch.tensor([[h, 0.0]], dtype=torch.float64)
    left, middle, right = (family.predict({"points": x + k * step})["fields"][0, 0, 0] for k in (-1, 0, 1))
    found = family.derivatives(x, ["u_x", "u_xx"])
    assert float(found["u_x"]) == pytest.approx(float((right - left) / (2 * h)), rel=1e-5)
    assert float(found["u_xx"]) == pytest.approx(float((right - 2 * middle + left) / h**2), rel=1e-4)


def test_a_field_that_does_not_explain_its_measurements_finds_nothing(caplog):
    """The rod cools by its surface, too, which the equation does not know: no diffusivity explains that."""
    spec, views, _ = posed(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 100, "noise": 0.002})
    x, t = views["measurement_points"][0].T
    views["measurement_values"] += 0.1 * torch.sin(2 * torch.pi * x) * torch.sin(torch.pi * t)
    family = RandomFeatureCollocation(CollocationConfig(features=60, steepness=(2.0,)), spec, (0,))
    train(family, views, LEARNING)
    found = family.found()["alpha"]
    assert (float(found["low"]), float(found["high"])) == (0.05, 3.0)
    assert family.extra_summary()["coefficients"]["alpha"]["identified"] == [False]
    (line,) = [r.getMessage() for r in caplog.records if "not found" in r.getMessage()]
    assert "alpha not found: neighbouring measurements are missed alike" in line


def test_the_same_seed_gives_the_same_bits_and_each_seed_stands_alone():
    config = {"features": 40, "steepness": (2.0,)}
    one, again, both = (solved(config, seeds=s)[0].state_dict() for s in ((1,), (1,), (0, 1)))
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        torch.testing.assert_close(tensor[0], both[name][1], rtol=1e-4, atol=1e-4)


def test_a_restored_model_predicts_the_same():
    setting = {"unknown": {"alpha": [0.05, 3.0]}, "measurements": {"count": 20}}
    family, data, _ = solved({"features": 40, "steepness": (2.0,)}, **setting)
    again, points = restored(family), {"points": data["grid"]}
    assert torch.equal(again.predict(points)["fields"], family.predict(points)["fields"])
    assert torch.equal(again.residual_rms(data["grid"]), family.residual_rms(data["grid"]))
    assert again.extra_summary() == family.extra_summary()


def test_a_training_is_told_apart_by_its_equation():
    first, other = (posed(diffusivity=d)[0] for d in (0.4, 0.5))
    config = CollocationConfig()
    prints = {
        training_fingerprint(RandomFeatureCollocation(config, spec, (0,)), LEARNING, "data") for spec in (first, other)
    }
    assert len(prints) == 2


def test_it_is_told_the_problem_and_nothing_else():
    assert families.get("random_feature_collocation") is RandomFeatureCollocation
    spec, config = posed()[0], CollocationConfig()
    assert RandomFeatureCollocation.knows(config) == FACTS >= set(spec.facts)
    assert RandomFeatureCollocation.unsuitable(spec, config) is None
    pendulum = Spec("pendulum", 0.1, {"states": Space("vector", (2,))}, 11)
    assert RandomFeatureCollocation.unsuitable(pendulum, config) == "needs interior"
