"""Physics-informed networks: they solve equations, find coefficients and say how sure they are."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wm_pipelines.errors import UserError, validate
from wm_pipelines.families import family_names, get_family
from wm_pipelines.families.pinn import PINN, PINNConfig, alikeness
from wm_pipelines.fields import Condition, FieldSystem
from wm_pipelines.learning.artifacts import TrainedModel
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train, training_fingerprint
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.system import System
from wm_pipelines.worlds.fields import _REGISTERED
from wm_pipelines.worlds.fields.data import FieldConfig, build_field_system, ingest_field

HEAT = {"world": "heat_1d", "points": {"interior": 400, "boundary": 60, "initial": 60, "validation": 200}, "grid": []}
LEARNING = LearningConfig(progress=False, log_every=5)


def problem(**changes):
    config = FieldConfig(**{**HEAT, **changes})
    return build_field_system(config), {k: torch.tensor(v) for k, v in ingest_field(config).items()}


def solved(config, seeds=(0,), **changes):
    system, data = problem(**changes)
    family = PINN(PINNConfig(**config), system, seeds)
    run = train(family, data, LEARNING)
    return family, data, run


def error(family, data):
    """Relative L2 of every field, ``[S, F]``."""
    fields = family.predict(data["grid"]).fields
    return ((fields - data["reference"]).norm(dim=1) / data["reference"].norm(dim=0)).numpy()


COLLOCATION = {"features": 200, "steepness": (2.0,)}
GRADIENT = {
    "method": "gradient",
    "hidden": (12, 12),
    "adaptive_points": 50,
    "finish_steps": 30,
    "finish_points": 300,
    "refresh_every": 5,
    "balance_every": 5,
    "schedule": {"steps": 20, "batch_size": 100},
}


def test_collocation_solves_the_heat_equation():
    family, data, run = solved(COLLOCATION, seeds=(0, 1))
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


def test_a_layer_needs_coordinates_that_stretch():
    """Burgers' wave with a layer of width 0.06, in two slabs."""
    setting = {
        "world": "burgers_1d",
        "parameters": {"viscosity": 0.03},
        "points": {"interior": 600, "boundary": 100, "initial": 80, "validation": 200},
    }
    config = {"features": 220, "steepness": (8.0,), "aspect": {"t": 0.2}, "slabs": 4}
    plain, stretched = (solved({**config, "stretch": s}, **setting) for s in ((), ("x",)))
    assert error(*stretched[:2]).max() < 2e-3
    assert error(*plain[:2]).max() > 2 * error(*stretched[:2]).max()
    # Slabs join: the end of one is the start of the next.
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    before, after = (
        stretched[0].predict(torch.stack([x, torch.full_like(x, t)], 1)).fields for t in (0.5 - 1e-12, 0.5)
    )
    assert (before - after).abs().max() < 1e-2


def test_gauss_newton_solves_the_navier_stokes_equations():
    family, data, _ = solved(
        {"features": 120, "steepness": (2.5,)},
        world="navier_stokes_2d",
        parameters={"flow": "kovasznay", "reynolds": 20},
        points={"interior": 350, "boundary": 160, "validation": 200},
    )
    assert error(family, data).max() < 0.05
    divergence = family.evaluate(family.system.divergence, data["validation"])
    slope = family.derivatives(data["validation"], ["u_x"])["u_x"]
    assert divergence.norm() < 0.02 * slope.norm()


def test_derivatives_it_reports_are_those_of_its_fields():
    for config in (COLLOCATION, {**GRADIENT, "finish_steps": 0}):
        family, _, _ = solved(config)
        x, h = torch.tensor([[0.3, 0.4]], dtype=torch.float64), 1e-4
        step = torch.tensor([[h, 0.0]], dtype=torch.float64)
        left, middle, right = (family.predict(x + k * step).fields[0, 0, 0] for k in (-1, 0, 1))
        found = {k: v.detach() for k, v in family.derivatives(x, ["u_x", "u_xx"]).items()}
        assert float(found["u_x"]) == pytest.approx(float((right - left) / (2 * h)), rel=1e-5)
        assert float(found["u_xx"]) == pytest.approx(float((right - 2 * middle + left) / h**2), rel=1e-4)


# ---------------------------------------------------------------- unknown coefficients


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
    system, data = problem(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 5})
    family = PINN(PINNConfig(features=120, steepness=(2.0,), slabs=2, aspect={"t": 0.5}), system, (0,))
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


def test_a_perceptron_finds_the_diffusivity_too():
    setting = {"unknown": {"alpha": [0.05, 3.0]}, "measurements": {"count": 60, "noise": 0.01}}
    family, *_ = solved({**GRADIENT, "finish_steps": 40}, **setting)
    best, *_ = solved({"features": 60, "steepness": (2.0,)}, **setting)
    found, reference = family.found()["alpha"], best.found()["alpha"]
    assert found["value"].item() == pytest.approx(0.4, rel=0.02)
    width, expected = (float(f["high"] - f["low"]) for f in (found, reference))
    assert 0.5 < width / expected < 2


def test_noise_is_not_alike_between_neighbours_and_a_missed_place_is():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(100, 2, generator=generator, dtype=torch.float64) * torch.tensor([1e-3, 50.0])
    index = torch.arange(100) % 2
    noise = torch.randn(500, 100, generator=generator, dtype=torch.float64)
    found = alikeness(noise, points, index)
    assert abs(float(found.mean())) < 0.3
    assert 0.8 < float(found.std()) < 1.2
    trend = 2 * torch.sin(2 * torch.pi * points[:, 0] / 1e-3)
    assert float(alikeness(noise + trend, points, index).median()) > 3.5
    # Far apart by the coordinate with the larger unit, not by the number: units do not matter.
    torch.testing.assert_close(alikeness(noise, points * torch.tensor([1e6, 1.0]), index), found)
    assert (alikeness(noise[:, :5], points[:5], index[:5]) == 0).all()


@pytest.mark.parametrize("config", [COLLOCATION, GRADIENT], ids=["collocation", "gradient"])
def test_a_field_that_does_not_explain_its_measurements_finds_nothing(config, caplog):
    """The rod cools by its surface, too, which the equation does not know: no diffusivity explains that."""
    system, data = problem(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 100, "noise": 0.002})
    x, t = data["measurement_points"].T
    data["measurement_values"] += 0.1 * torch.sin(2 * torch.pi * x) * torch.sin(torch.pi * t)
    config = {**config, "features": 60} if "method" not in config else {**config, "finish_steps": 20}
    family = PINN(PINNConfig(**config), system, (0,))
    train(family, data, LEARNING)
    found = family.found()["alpha"]
    assert not family.identified.any()
    assert (float(found["low"]), float(found["high"])) == (0.05, 3.0)
    assert family.extra_summary()["coefficients"]["alpha"]["identified"] == [False]
    (line,) = [r.getMessage() for r in caplog.records if "not found" in r.getMessage()]
    assert "alpha not found: neighbouring measurements are missed alike" in line


def test_what_is_left_of_the_equation_widens_the_interval():
    """A network whose residual follows the slope by the unknown: the unknown may be off by as much."""
    system, data = problem(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 20})
    family = PINN(PINNConfig(method="gradient", hidden=(6,)), system, (0,))
    family.examples(data)
    symbols = {"u_t": torch.ones(1, 200), "u_xx": torch.full((1, 200), 2.0)}
    symbols = {k: v.double() for k, v in symbols.items()}
    family.network.traced = lambda points, wanted, weights=None, record=None: {s: symbols[s] for s in wanted}
    alpha = 0.5 * 1.1  # u_t = 0.5 u_xx
    with torch.no_grad():
        family.log_unknown.fill_(np.log(alpha))
    assert float(family._owed_to_the_equation().sqrt()) == pytest.approx(0.1 / 1.1)


# ---------------------------------------------------------------- by gradient


def test_the_finish_lowers_the_error_by_orders():
    rough, data, _ = solved({**GRADIENT, "finish_steps": 0})
    fine, _, run = solved(GRADIENT)
    assert error(fine, data).max() < error(rough, data).max() / 20
    assert run.curve[-1]["step"] == 21
    assert run.curve[-1]["residual"] < run.curve[0]["loss"]


def test_self_scaled_bfgs_finishes_as_well():
    rough, data, _ = solved({**GRADIENT, "finish_steps": 0})
    fine, *_ = solved({**GRADIENT, "finish": "bfgs", "finish_steps": 80})
    assert error(fine, data).max() < error(rough, data).max() / 3


def test_the_rows_of_the_finish_are_the_loss_and_their_jacobian_its_slope():
    system, data = problem(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 5})
    family = PINN(PINNConfig(method="gradient", hidden=(4,), fourier=2, causality=0), system, (0, 1))
    family.examples(data)
    x, unpack = family._flat()
    interior = data["interior"][:20].expand(2, -1, -1)
    rows, linearised = family._rows(interior, unpack)
    value, slope = family._objective(interior, unpack)(x)
    left, jacobian = linearised(x)
    torch.testing.assert_close(left.square().sum(1), value)
    torch.testing.assert_close(2 * (jacobian.mT @ left[..., None])[..., 0], slope)
    direction = torch.randn_like(x) * 1e-6
    torch.testing.assert_close(
        rows(x + direction) - left, (jacobian @ direction[..., None])[..., 0], rtol=1e-3, atol=1e-9
    )


def test_causal_weights_wait_for_the_past():
    """With a residual at early times alone, later times do not count yet; once it is gone, all count alike."""
    system, data = problem()
    family = PINN(PINNConfig(method="gradient", causality=2.0), system, (0,))
    points = data["interior"][None]
    early = (points[..., 1] < 1 / 16).double()
    weights = family._causal_weights(points, {"heat": early})
    assert (weights[points[..., 1] < 1 / 16] == 1).all()
    torch.testing.assert_close(
        weights[points[..., 1] > 2 / 16], torch.full_like(weights[points[..., 1] > 2 / 16], np.exp(-2))
    )
    assert (family._causal_weights(points, {"heat": 0 * early}) == 1).all()


def test_balanced_weights_even_out_the_gradients():
    system, data = problem()
    family = PINN(PINNConfig(method="gradient", hidden=(8,), condition_weight=1.0), system, (0,))
    family.examples(data)
    for _ in range(80):  # the running average has forgotten where it began
        family._rebalance()
    terms = family._mean_squares(torch.cat([data["interior"][None], family.adaptive], 1), family.log_unknown)
    weights = [p for p in family.solution.parameters() if p.requires_grad]
    norms = []
    for name, term in terms.items():
        slope = torch.autograd.grad(term.sum(), weights, retain_graph=True, allow_unused=True)
        size = torch.cat([g.flatten() for g in slope if g is not None]).norm()
        norms.append(float(size * family.balance[0, family.terms.index(name)]))
    np.testing.assert_allclose(norms, norms[0], rtol=1e-2)


def test_adaptive_points_gather_where_the_residual_is_large():
    system, _ = problem()
    family = PINN(PINNConfig(method="gradient", adaptive_points=400), system, (0,))
    family._residuals = lambda points, *_: {"heat": 50.0 * (points[..., 0] < 0.1)}
    spread = float((family.adaptive[..., 0] < 0.1).double().mean())
    family._refresh(7)
    assert spread < 0.2
    assert float((family.adaptive[..., 0] < 0.1).double().mean()) > 0.45


# ---------------------------------------------------------------- protocol


@pytest.mark.parametrize("config", [COLLOCATION, GRADIENT], ids=["collocation", "gradient"])
def test_the_same_seed_gives_the_same_bits_and_each_seed_stands_alone(config):
    config = {**config, "features": 40} if "method" not in config else {**config, "finish_steps": 4}
    one, again, both = (solved(config, seeds=s)[0].state_dict() for s in ((1,), (1,), (0, 1)))
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        if "method" not in config:
            torch.testing.assert_close(tensor[0], both[name][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [COLLOCATION, GRADIENT], ids=["collocation", "gradient"])
def test_a_restored_model_predicts_the_same(config):
    setting = {"unknown": {"alpha": [0.05, 3.0]}, "measurements": {"count": 20}}
    config = {**config, "features": 40} if "method" not in config else {**config, "finish_steps": 2}
    family, data, _ = solved(config, **setting)
    card = {"family": "pinn", "config": family.config.model_dump(mode="json"), "seeds": [0]}
    restored = TrainedModel(copy.deepcopy(family.state_dict()), card).restore(family.system)
    assert torch.equal(restored.predict(data["grid"]).fields, family.predict(data["grid"]).fields)
    assert torch.equal(restored.residual_rms(data["grid"]), family.residual_rms(data["grid"]))
    assert {k: v.tolist() for k, v in restored.found()["alpha"].items()} == {
        k: v.tolist() for k, v in family.found()["alpha"].items()
    }


def test_a_killed_training_ends_in_the_same_bits(tmp_path, monkeypatch):
    learning = LEARNING.model_copy(update={"checkpoint_every": 8})
    config = {**GRADIENT, "finish_steps": 2}
    whole, data, _ = solved(config)
    system, _ = problem()
    finish = PINN.finish

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(PINN, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        train(PINN(PINNConfig(**config), system, (0,)), data, learning, CheckpointStore(tmp_path))
    monkeypatch.setattr(PINN, "finish", finish)
    resumed = PINN(PINNConfig(**config), system, (0,))
    train(resumed, data, learning, CheckpointStore(tmp_path))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_training_is_told_apart_by_its_equation():
    first, _ = problem()
    other, _ = problem(parameters={"diffusivity": 0.5})
    prints = {training_fingerprint(PINN(PINNConfig(), s, (0,)), LEARNING, "data") for s in (first, other)}
    assert len(prints) == 2


def test_it_is_a_family_for_fields_only():
    assert "pinn" in family_names()
    assert get_family("pinn") is PINN
    assert PINN.unsuitable(System("pendulum", 1, 0.1)) == "it is not a field"
    assert PINN.unsuitable(problem()[0]) is None


def test_a_new_equation_is_a_function():
    """Helmholtz with a Neumann condition: u_xx + k² u = 0, u(0) = 0, u_x(0) = k, so u = sin k x."""
    system = FieldSystem(
        "helmholtz", ("x",), ("u",), {"x": (0.0, 2.0)}, {"helmholtz": lambda d: d.u_xx + 9 * d.u},
        (Condition("value", "u", {"x": 0.0}, lambda p: 0 * p[:, 0]),
         Condition("slope", "u_x", {"x": 0.0}, lambda p: 3 + 0 * p[:, 0])),
    )  # fmt: skip
    x = torch.linspace(0, 2, 100, dtype=torch.float64)[:, None]
    data = {
        "interior": x,
        "validation": x[:-1] + 0.01,
        "condition_points": torch.zeros(2, 1, dtype=torch.float64),
        "condition_values": torch.tensor([0.0, 3.0], dtype=torch.float64),
        "condition_index": torch.tensor([0, 1]),
        **{f"measurement_{k}": torch.zeros(0, dtype=torch.float64) for k in ("points", "values", "index")},
    }
    family = PINN(PINNConfig(features=40, steepness=(4.0,)), system, (0,))
    family.fit(data)
    assert (family.predict(x).fields[0, :, 0] - torch.sin(3 * x[:, 0])).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition_weight": -1.0}, "condition_weight.*greater than or equal to 0, got -1.0"),
        ({"data_weight": -0.5}, "data_weight.*greater than or equal to 0"),
        ({"steepness": []}, "steepness"),
        ({"features": 600}, "has 520 rows for 600 unknowns in a slab; give more points"),
        ({"slabs": 40, "features": 20}, "no point of condition .* in slab .* of 40; give more"),
        ({"stretch": ["z"]}, "no coordinate 'z'"),
        ({"aspect": {"y": 2.0}}, "no coordinate 'y'"),
        ({"lambda": 3}, "unknown; known here"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    system, data = problem()
    with pytest.raises(UserError, match=message) as raised:
        train(PINN(validate(PINNConfig, {**COLLOCATION, **changes}, "pinn"), system, (0,)), data, LEARNING)
    assert "\n" not in str(raised.value)


def test_a_steady_field_has_no_slabs():
    system, _ = problem(world="navier_stokes_2d", parameters={"flow": "kovasznay"}, points={"interior": 50})
    with pytest.raises(UserError, match="is steady and has no time to cut"):
        PINN(PINNConfig(slabs=2), system, (0,))


def test_the_documented_field_is_solved_and_its_coefficient_found():
    text = (Path(__file__).parents[2] / "docs/add-a-field.md").read_text()
    code, parameters = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1] for kind in ("python", "yaml"))
    try:
        exec(compile(code, "add-a-field.md", "exec"), {})
        config = validate(FieldConfig, yaml.safe_load(parameters)["transport_1d"], "transport_1d")
        data = {k: torch.tensor(v) for k, v in ingest_field(config).items()}
        family = PINN(PINNConfig(features=200, steepness=(3.0,)), build_field_system(config), (0,))
        family.fit(data)
    finally:
        _REGISTERED.pop("transport_1d", None)
    found = family.found()["k"]
    assert found["low"].item() <= 0.5 <= found["high"].item()
    assert error(family, data).max() < 5e-3


def by_gradient_as_configured(name):
    """A world of ``conf/base`` solved by its settings for the gradient."""
    world, family = (
        yaml.safe_load((Path(__file__).parents[2] / f"conf/base/parameters_{n}.yml").read_text())[n]
        for n in (name, "pinn")
    )
    config = validate(FieldConfig, world, name)
    system, data = build_field_system(config), {k: torch.tensor(v) for k, v in ingest_field(config).items()}
    settings = validate(FamilyParameters, family, "pinn").resolve("gradient", name)
    solved = PINN(validate(PINNConfig, settings, "pinn"), system, (0,))
    train(solved, data, LEARNING)
    return solved, data


@pytest.mark.slow
def test_the_gradient_meets_its_bar_for_heat_as_configured():
    assert error(*by_gradient_as_configured("heat_1d")).max() < 1e-4


@pytest.mark.slow
def test_the_gradient_finds_the_viscosity_of_a_layer_as_configured():
    family, _ = by_gradient_as_configured("burgers_1d_inverse")
    truth, found = family.system.coefficients["nu"].value, family.found()["nu"]
    assert family.identified.all()
    assert float(found["value"]) == pytest.approx(truth, rel=0.03)
    assert float(found["low"]) < truth < float(found["high"])
    assert float(found["high"] - found["low"]) < 0.2 * truth
