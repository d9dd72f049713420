"""Equations as text: their numbers are those of Python's own arithmetic, bit for bit."""

import json

import numpy as np
import pytest
import torch

from wm_pipelines.equations import FACTS, Coefficient, Condition, Equation, Problem, Symbols
from wm_pipelines.errors import UserError
from wm_pipelines.registry import worlds

SYMBOLS = (
    "u",
    "v",
    "u_t",
    "v_t",
    "u_x",
    "u_y",
    "v_x",
    "v_y",
    "p_x",
    "p_y",
    "u_xx",
    "u_yy",
    "v_xx",
    "v_yy",
    "u_xy",
    "v_xy",
)


def momentum_x(s):
    return s["u"] * s["u_x"] + s["v"] * s["u_y"] + s["p_x"] - s["nu"] * (s["u_xx"] + s["u_yy"])


def momentum_y(s):
    return s["u"] * s["v_x"] + s["v"] * s["v_y"] + s["p_y"] - s["nu"] * (s["v_xx"] + s["v_yy"])


def problem_and_balances(kind, **parameters):
    world = worlds.get(kind).restored({"parameters": parameters}, kind)
    return world.problem().equations, world.balances()


def equations():
    """Every equation of every field world beside the same in Python."""
    heat, heat_balance = problem_and_balances("heat_1d")
    burgers, burgers_balance = problem_and_balances("burgers_1d")
    steady, work = problem_and_balances("navier_stokes_2d", flow="kovasznay")
    unsteady, decay = problem_and_balances("navier_stokes_2d", flow="taylor_green")
    return [
        (heat["heat"], lambda s: s["u_t"] - s["alpha"] * s["u_xx"]),
        (heat_balance["energy"].density, lambda s: s["u"] ** 2 / 2),
        (heat_balance["energy"].production, lambda s: s["alpha"] * s["u"] * s["u_xx"]),
        (burgers["burgers"], lambda s: s["u_t"] + s["u"] * s["u_x"] - s["nu"] * s["u_xx"]),
        (burgers_balance["energy"].production, lambda s: -s["nu"] * s["u_x"] ** 2),
        (steady["momentum_x"], momentum_x),
        (steady["momentum_y"], momentum_y),
        (steady["continuity"], lambda s: s["u_x"] + s["v_y"]),
        (unsteady["momentum_x"], lambda s: s["u_t"] + momentum_x(s)),
        (unsteady["momentum_y"], lambda s: s["v_t"] + momentum_y(s)),
        (work["energy"].production, lambda s: -s["u"] * momentum_x(s) - s["v"] * momentum_y(s)),
        (decay["energy"].density, lambda s: (s["u"] ** 2 + s["v"] ** 2) / 2),
        (decay["energy"].production,
         lambda s: -s["nu"] * (s["u_x"] ** 2 + s["u_y"] ** 2 + s["v_x"] ** 2 + s["v_y"] ** 2)),
        (decay["enstrophy"].density, lambda s: (s["v_x"] - s["u_y"]) ** 2 / 2),
        (decay["enstrophy"].production,
         lambda s: -s["nu"] * ((s["v_xx"] - s["u_xy"]) ** 2 + (s["v_xy"] - s["u_yy"]) ** 2)),
    ]  # fmt: skip


@pytest.mark.parametrize("coefficient", ["number", "array"])
@pytest.mark.parametrize("number", range(15))
def test_an_equation_has_the_bits_of_the_same_in_python(number, coefficient):
    equation, expected = equations()[number]
    draws = np.random.default_rng(number).standard_normal((len(SYMBOLS) + 1, 2, 500))
    nu = 0.0123 if coefficient == "number" else np.exp(draws[-1])
    values = {**dict(zip(SYMBOLS, draws, strict=False)), "nu": nu, "alpha": nu}
    assert np.array_equal(equation(Symbols(values)), expected(values))

    def torch_values():
        return {
            name: value if isinstance(value, float) else torch.tensor(value, requires_grad=True)
            for name, value in values.items()
        }

    def slopes(function):
        inputs = torch_values()
        read = [inputs[name] for name in equation.names if not isinstance(inputs[name], float)]
        value = function(inputs)
        return value, torch.autograd.grad(value.sum(), read)

    (value, gradient), (own, own_gradient) = slopes(lambda v: equation(Symbols(v))), slopes(expected)
    assert torch.equal(value, own)
    assert all(torch.equal(a, b) for a, b in zip(gradient, own_gradient, strict=True))


def problem(**changes):
    given = {
        "name": "flow", "coordinates": ("x", "y"), "fields": ("u", "v"), "domain": {"x": (0.0, 1.0), "y": (0.0, 2.0)},
        "equations": {"one": Equation("u*u_x - nu*u_xx + x"), "two": Equation("u_x + v_y")},
        "conditions": (Condition("wall", "v_y", {"x": 0.0}),),
        "coefficients": {"nu": Coefficient(None, "m^2/s", (0.1, 1.0))},
    }  # fmt: skip
    return Problem(**{**given, **changes})


def test_symbols_are_what_an_equation_reads():
    flow = problem()
    assert flow.symbols == {"one": ("u", "u_x", "u_xx"), "two": ("u_x", "v_y")}
    assert flow.read == ("u", "u_x", "u_xx", "v_y")
    assert flow.derivative("v_xyy") == (1, (1, 2))
    assert flow.unknown == ("nu",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equations": {"e": Equation("w_x")}}, "no symbol 'w_x'; fields: u, v"),
        ({"equations": {"e": Equation("u_z")}}, "no symbol 'u_z'"),
        ({"equations": {"e": Equation("u +")}}, "not a formula"),
        ({"conditions": (Condition("wall", "q", {}),)}, "no symbol 'q'"),
        ({"fields": ("u", "x")}, "a name is used twice"),
        ({"fields": ("u_1",)}, "fields have no underscore"),
    ],
)
def test_a_problem_that_cannot_be_is_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message):
        problem(**changes)


def test_a_problem_travels_as_facts():
    flow = problem()
    facts = json.loads(json.dumps(flow.to_facts(), sort_keys=True))
    again = Problem.from_facts(facts, "flow")
    assert list(again.equations) == list(flow.equations), "the order of sums"
    assert list(again.coefficients) == list(flow.coefficients)
    assert set(facts) <= FACTS
    assert "time" not in facts, "what is not there is left out"
    assert again.to_facts() == flow.to_facts()
    assert again.domain == {"x": (0.0, 1.0), "y": (0.0, 2.0)}


def test_functions_of_coefficients_and_missing_symbols():
    values = {"u": np.full(3, 2.0), "nu": 4.0}
    assert Equation("sqrt(nu)*u")(Symbols(values)).tolist() == [4.0] * 3
    with pytest.raises(UserError, match="has no symbol 'q' here; known: u, nu"):
        Equation("q + u")(Symbols(values))
