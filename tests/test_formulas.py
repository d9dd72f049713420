import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError
from wm_pipelines.formulas import FUNCTIONS, Formula, names_in

NAMES = ["q1", "q2", "p1"]

leaf = st.sampled_from([*NAMES, "k", "1.5", "2"])
# Expressions that are finite and smooth for arguments in (0.5, 1.5).
expressions = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-*"), inner, inner).map(lambda t: f"({t[1]} {t[0]} {t[2]})"),
        inner.map(lambda a: f"{a}**2"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]})/(1 + ({t[1]})**2)"),
        inner.map(lambda a: f"sqrt(1 + ({a})**2)"),
        inner.map(lambda a: f"log(2 + sin({a}))"),
        inner.map(lambda a: f"exp(-cos({a}))"),
        inner.map(lambda a: f"tanh({a})"),
        inner.map(lambda a: f"-({a})"),
        inner.map(lambda a: f"(1.5 + 0.25*sin({a}))**tanh({a})"),
    ),
    max_leaves=8,
)


def python_value(text, x):
    """The same text by numpy itself: a yardstick that shares no code with the class."""
    namespace = {name: getattr(np, name) for name in FUNCTIONS} | {n: x[..., i] for i, n in enumerate(NAMES)}
    return eval(text, {"__builtins__": {}}, {**namespace, "k": 0.7, "pi": np.pi})


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=expressions, seed=st.integers(0, 1000))
def test_value_and_gradient_agree_with_numpy_and_with_torch(text, seed):
    x = np.random.default_rng(seed).uniform(0.5, 1.5, (4, 3))
    formula = Formula(text, NAMES, {"k": 0.7})
    expected = np.broadcast_to(python_value(text, x), (4,))
    np.testing.assert_allclose(formula(x), expected, rtol=1e-12, atol=1e-12)

    tensor = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(formula(tensor).sum(), tensor)
    scale = 1 + float(slope.abs().max())
    assert np.abs(formula.gradient(x) - slope.numpy()).max() <= 1e-12 * scale
    assert float((formula.gradient(tensor) - slope).detach().abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize(
    ("text", "gradient"),
    [
        ("p1**2/(2*m) + 0.5*k*q1**2", lambda q, p: (2.0 * q, p / 0.5)),
        ("m*9.81*(1 - cos(q1))", lambda q, p: (0.5 * 9.81 * np.sin(q), 0 * p)),
        ("-k/q1", lambda q, p: (2.0 / q**2, 0 * p)),
        ("q1*p1 + q1*p1", lambda q, p: (2 * p, 2 * q)),
        ("2**q1", lambda q, p: (np.log(2) * 2**q, 0 * p)),
        ("abs(q1 - 10)", lambda q, p: (-1 + 0 * q, 0 * p)),
        ("k", lambda q, p: (0 * q, 0 * p)),
        ("1*k*p1", lambda q, p: (0 * q, 2 + 0 * p)),
    ],
)
def test_gradients_known_by_hand(text, gradient):
    z = np.random.default_rng(0).uniform(0.5, 2.0, (3, 5, 2))
    found = Formula(text, ["q1", "p1"], {"m": 0.5, "k": 2.0}).gradient(z)
    np.testing.assert_allclose(found, np.stack(gradient(z[..., 0], z[..., 1]), -1), rtol=1e-14, atol=1e-14)


def test_shared_parts_are_computed_once():
    distance = "sqrt((q1 - q2)**2 + 1)"
    once, twice = (Formula(t, NAMES) for t in (distance, f"{distance} + 1/{distance}"))
    assert len(twice._tape) <= len(once._tape) + 3


def test_a_second_derivative_by_torch():
    z = torch.rand(7, 2, dtype=torch.float64, requires_grad=True)
    force = Formula("q1**4/4 + p1**2/2", ["q1", "p1"]).gradient(z)
    (slope,) = torch.autograd.grad(force[:, 0].sum(), z)
    torch.testing.assert_close(slope[:, 0], 3 * z[:, 0].detach() ** 2)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "q1.real",
        "q1.__class__",
        "(lambda: 1)()",
        "[q1][0]",
        "q1 if q1 else p1",
        "q1 and p1",
        "not q1",
        "'q1'",
        "f'{q1}'",
        "True",
        "1j",
        "q1 // 2",
        "q1 % 2",
        "q1 @ q1",
        "~q1",
        "q1 > 0",
        "sin",
        "sin()",
        "sin(q1, q1)",
        "sin(x=q1)",
        "sin(*q1)",
        "open(q1)",
        "max(q1)",
        "(q1 := 2)",
        "q1, p1",
        "q9",
        "q1 +",
        "",
        "q1^2",
        "1/0",
        "1/(1 - 1)",
        "log(-1)",
        "(-1)**0.5",
        "9**9**9**9",
        "1e999",
        "9" * 5000,
        "(" * 300 + "q1" + ")" * 300,
        "-" * 5000 + "q1",
        "+".join(["q1"] * 6000),
        "q1" * 20_000,
        "q1 = 2",
        "q1; p1",
        "\x00",
        "\ud800",
        "p1**2/0 + q1",
        "q1/(2 - 2)",
        "1if q1 else 2",
    ],
)
def test_everything_else_is_one_line(text):
    with pytest.raises(UserError) as caught:
        Formula(text, ["q1", "p1"])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("formula '")
    assert len(str(caught.value)) < 300


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=st.text(alphabet="qp12+-*/() .,sincoexplg[]{}'\"_=:@!\n", max_size=25))
def test_any_text_is_a_formula_or_a_user_error(text):
    try:
        formula = Formula(text, ["q1", "p1"])
    except UserError:
        return
    with np.errstate(all="ignore"):
        assert formula(np.ones((3, 2))).shape == (3,)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.text(alphabet="qp120+-*/() ", max_size=15))
def test_a_formula_that_is_accepted_has_a_value_and_a_gradient(text):
    try:
        formula = Formula(text, ["q1", "p1"])
    except UserError:
        return
    with np.errstate(all="ignore"):
        assert formula.gradient(np.zeros((3, 2))).shape == (3, 2)
    assert formula.used == {name for name in ("q1", "p1") if name in text}


@pytest.mark.parametrize("text", ["q1 +", "\x00", "\ud800", "(" * 300 + "q1" + ")" * 300, "q1+" * 20_000])
def test_names_of_what_is_no_formula_are_one_line(text):
    with pytest.raises(UserError, match=r"^formula '") as caught:
        names_in(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_line_breaks_of_a_parameter_file_are_spaces():
    assert Formula("q1\n  + p1\n", ["q1", "p1"])(np.array([1.0, 2.0])) == 3.0
