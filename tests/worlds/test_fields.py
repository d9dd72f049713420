"""Field worlds: equations, references, conditions, measurements."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from wm_pipelines import episodes as storage
from wm_pipelines.equations import Condition, Equation, Problem
from wm_pipelines.errors import UserError
from wm_pipelines.laws import laws_of
from wm_pipelines.registry import worlds
from wm_pipelines.worlds import register
from wm_pipelines.worlds.parts.fields import FieldParameters, FieldWorld

WORLDS = {
    "heat_1d": {},
    "burgers_1d": {"viscosity": 0.05},
    "kovasznay": {"flow": "kovasznay", "reynolds": 20.0},
    "taylor_green": {"flow": "taylor_green", "reynolds": 100.0},
}


SMALL = {"interior": 64, "boundary": 32, "initial": 16, "validation": 32}


def world(name, **changes):
    kind = worlds.get(name if name in ("heat_1d", "burgers_1d") else "navier_stokes_2d")
    return kind.restored({"parameters": {"points": SMALL, **WORLDS[name], **changes}}, name)


def views_of(name, seed=0, **changes):
    """All views of all splits of the only episode, without their leading axis."""
    episodes = world(name, **changes).own_episodes(seed)
    return {view: array[0] for split in episodes.values() for view, array in split.views.items()}


def points_inside(problem, count, seed=0, margin=0.1):
    low, high = np.array([problem.domain[c] for c in problem.coordinates]).T
    unit = margin + (1 - 2 * margin) * np.random.default_rng(seed).random((count, len(low)))
    return low + (high - low) * unit


def symbols_by_differences(flow, points, names, step=2e-3):
    """Central differences of the reference, orders zero to two: ``{symbol: [N]}``."""
    values, problem = {}, flow.problem()
    for symbol in names:
        field, orders = problem.derivative(symbol)
        stencil = {(0,) * points.shape[1]: 1.0}
        for axis, order in enumerate(orders):
            for _ in range(order):
                widened = {}
                for shift, weight in stencil.items():
                    for sign in (1, -1):
                        moved = tuple(s + sign * (i == axis) for i, s in enumerate(shift))
                        widened[moved] = widened.get(moved, 0.0) + sign * weight / (2 * step)
                stencil = widened
        values[symbol] = sum(w * flow.reference(points + step * np.array(s))[:, field] for s, w in stencil.items())
    return values


@pytest.mark.parametrize("name", WORLDS)
def test_the_reference_obeys_every_equation(name):
    flow, problem = world(name), world(name).problem()
    points = points_inside(problem, 50)
    known = {n: c.value for n, c in problem.coefficients.items()}
    for equation in problem.equations.values():
        values = symbols_by_differences(flow, points, problem.symbols_of(equation))
        residual = equation(problem.namespace(points, values, known))
        size = max(np.abs(v).max() for v in values.values())
        assert np.abs(residual).max() < 1e-4 * size


@pytest.mark.parametrize("name", WORLDS)
def test_the_reference_meets_every_condition(name):
    flow, data = world(name), views_of(name)
    problem = flow.problem()
    for number, condition in enumerate(problem.conditions):
        mine = data["condition_index"] == number
        assert mine.any()
        points, values = data["condition_points"][mine], data["condition_values"][mine]
        reached = flow.reference(points)[:, problem.derivative(condition.symbol)[0]]
        np.testing.assert_allclose(reached, values, atol=1e-9)
        for coordinate, value in condition.at.items():
            assert (points[:, problem.coordinates.index(coordinate)] == value).all()


@pytest.mark.parametrize("name", ["heat_1d", "burgers_1d", "taylor_green"])
def test_contents_change_by_what_is_produced(name):
    """d/dt of the integral of a density equals the integral of its production, along the reference."""
    flow, problem = world(name), world(name).problem()
    known = {n: c.value for n, c in problem.coefficients.items()}
    axes = [np.linspace(*problem.domain[c], 81) for c in problem.coordinates if c != problem.time]
    space = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    duration = problem.domain["t"][1]

    def integral(density, t):
        points = np.concatenate([space, np.full((len(space), 1), t)], 1)
        values = symbols_by_differences(flow, points, problem.symbols_of(density))
        values = density(problem.namespace(points, values, known)).reshape([len(a) for a in axes])
        for axis in reversed(axes):
            values = np.trapezoid(values, axis, axis=-1)
        return values

    for balance in flow.balances().values():
        t, h = 0.5 * duration, 0.01 * duration
        change = (integral(balance.density, t + h) - integral(balance.density, t - h)) / (2 * h)
        assert change == pytest.approx(integral(balance.production, t), rel=5e-3)
        assert change < 0


def test_kovasznay_does_no_net_work_at_any_point():
    flow, problem = world("kovasznay"), world("kovasznay").problem()
    points = points_inside(problem, 30)
    production = flow.balances()["energy"].production
    values = symbols_by_differences(flow, points, problem.symbols_of(production))
    power = production(problem.namespace(points, values, {"nu": problem.coefficients["nu"].value}))
    assert np.abs(power).max() < 1e-3


# ---------------------------------------------------------------- references converge


def test_the_quadrature_of_cole_and_hopf_converges():
    points = np.array([[0.01, 0.5], [0.3, 0.2], [-0.9, 1.0], [0.002, 0.9]])
    fine = world("burgers_1d", viscosity=0.01 / np.pi, nodes=1600).reference(points)
    errors = [
        np.abs(world("burgers_1d", viscosity=0.01 / np.pi, nodes=n).reference(points) - fine).max()
        for n in (25, 50, 100, 400)
    ]
    assert errors[0] > 1e-4
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 100
    assert errors[3] < 1e-12


def test_cole_and_hopf_agree_with_a_pseudo_spectral_solution():
    """An independent solver: sine modes in space, DOP853 in time; its own error falls with the number of modes."""
    viscosity, x = 0.05, np.linspace(0, 1, 21)[1:-1]

    def pseudo_spectral(modes):
        wave, grid = np.pi * np.arange(1, modes + 1), np.linspace(-1, 1, 3 * modes, endpoint=False)
        sines, cosines = np.sin(np.outer(grid, wave)), np.cos(np.outer(grid, wave))

        def rate(_, b):
            u, slope = sines @ b, cosines @ (wave * b)
            return -2 / len(grid) * sines.T @ (u * slope) - viscosity * wave**2 * b

        start = np.zeros(modes)
        start[0] = -1.0
        final = solve_ivp(rate, (0, 0.6), start, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
        return np.sin(np.outer(x, wave)) @ final

    exact = world("burgers_1d").reference(np.stack([x, np.full_like(x, 0.6)], 1))[:, 0]
    errors = [np.abs(pseudo_spectral(modes) - exact).max() for modes in (8, 16, 48)]
    assert errors[1] < errors[0] / 5
    assert errors[2] < 1e-8


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 4), st.floats(0.05, 2.0))
@settings(max_examples=20, deadline=None)
def test_heat_is_linear_and_relaxes_between_its_ends(left, right, a, b, k, diffusivity):
    initial = f"({left}) + ({right - left})*x/L + ({a})*sin(pi*x/L) + ({b})*sin({k}*pi*x/L)"
    rod = world("heat_1d", initial=initial, ends=[left, right], diffusivity=diffusivity, length=2.0, modes=32)
    points = points_inside(rod.problem(), 20)
    x, t = points.T
    decay = [np.exp(-diffusivity * (n * np.pi / 2) ** 2 * t) * np.sin(n * np.pi * x / 2) for n in (1, k)]
    expected = left + (right - left) * x / 2 + a * decay[0] + b * decay[1]
    np.testing.assert_allclose(rod.reference(points)[:, 0], expected, atol=1e-10)


@pytest.mark.parametrize("reynolds", [20.0, 40.0])
def test_kovasznay_is_uniform_far_downstream(reynolds):
    flow = world("kovasznay", reynolds=reynolds)
    far = flow.kovasznay(np.array([[40.0, 0.3]]))
    np.testing.assert_allclose(far, [[1.0, 0.0, 0.5]], atol=1e-6)


# ---------------------------------------------------------------- data


def test_data_are_determined_by_the_seed_alone():
    first, again, other = (world("burgers_1d").own_episodes(s) for s in (1, 1, 2))
    for split in first:
        assert first[split].content_hash == again[split].content_hash
    assert first["train"].content_hash != other["train"].content_hash
    assert first["test"].content_hash == other["test"].content_hash, "the grid does not depend on it"


@pytest.mark.parametrize("name", WORLDS)
def test_families_never_see_what_they_are_judged_by(name):
    episodes = world(name, measurements={"count": 7}).own_episodes(0)
    assert set(episodes["train"].views) == {
        "interior", "validation", "condition_points", "condition_values", "condition_index",
        "measurement_points", "measurement_values", "measurement_index",
    }  # fmt: skip
    assert set(episodes["validation"].views) == {"validation"}
    assert set(episodes["test"].views) == {"grid", "grid_shape", "reference", "measurement_values"}
    assert {len(split) for split in episodes.values()} == {1}


@pytest.mark.parametrize("measured", [{}, {"count": 5}])
def test_episodes_come_back_from_the_disk_with_their_laws(tmp_path, measured):
    split = world("taylor_green", measurements=measured).own_episodes(0)["train"]
    storage.write(tmp_path / "train.arrow", split)
    again = storage.read(tmp_path / "train.arrow")
    assert again.content_hash == split.content_hash
    assert Problem.from_facts(again.spec.facts, again.spec.name).to_facts() == split.spec.facts.plain()
    point, laws = np.array([[1.0, 2.0, 0.5]]), laws_of(again.spec)
    assert (laws.reference(point) == world("taylor_green").reference(point)).all()
    assert laws.coefficients == {"nu": 0.01}
    assert set(laws.balances) == {"energy", "enstrophy"}


def test_measurements_carry_the_stated_noise():
    data = views_of("taylor_green", measurements={"count": 4000, "noise": 0.1})
    reference = world("taylor_green").reference
    truth = reference(data["measurement_points"])[np.arange(8000), data["measurement_index"]]
    noise = data["measurement_values"] - truth
    assert set(data["measurement_index"]) == {0, 1}  # the pressure is not observed
    assert noise.std() == pytest.approx(0.1 * truth.std(), rel=0.05)
    assert abs(noise.mean()) < 4 * noise.std() / 8000**0.5


def test_more_noise_does_not_move_the_points():
    quiet, loud = (views_of("heat_1d", measurements={"count": 9, "noise": n}) for n in (0.0, 1.0))
    assert (quiet["measurement_points"] == loud["measurement_points"]).all()
    expected = world("heat_1d").reference(quiet["measurement_points"])[:, 0]
    np.testing.assert_allclose(quiet["measurement_values"], expected)


def test_measurements_stay_in_their_region():
    data = views_of("heat_1d", measurements={"count": 50, "region": {"x": [0.2, 0.3]}})
    assert ((data["measurement_points"][:, 0] >= 0.2) & (data["measurement_points"][:, 0] <= 0.3)).all()


def test_a_table_of_measurements_is_read(tmp_path):
    table = pd.DataFrame({"t": [0.1, 0.5], "x": [0.25, 0.75], "u": [1.0, 2.0], "note": ["a", "b"]})
    table.to_csv(tmp_path / "probe.csv", index=False)
    own = {"measurements": {"table": str(tmp_path / "probe.csv")}, "unknown": {"alpha": [0.1, 1.0]}}
    data, laws = views_of("heat_1d", **own), world("heat_1d", **own).laws()
    assert data["measurement_points"].tolist() == [[0.25, 0.1], [0.75, 0.5]]
    assert data["measurement_values"].tolist() == [1.0, 2.0]
    # The world's own coefficient is not the truth about the user's rod.
    assert "reference" not in data
    assert (laws.reference, laws.coefficients) == (None, {})
    assert len(laws.conditions) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": [0.5], "t": [0.5], "u": [np.nan]}, "u is not a number in row 1"),
        ({"x": [0.5], "t": [0.5], "u": ["warm"]}, "u is not a number in row 1"),
        ({"x": [0.5, 7.0], "t": [0.5, 0.5], "u": [1.0, 1.0]}, r"x = 7 in row 2 is outside the domain \[0, 1\]"),
        ({"x": [0.5], "u": [1.0]}, "has no column 't'; it has x, u"),
        ({"x": [], "t": [], "u": []}, "has no rows"),
    ],
)
def test_faults_of_a_table_are_named(tmp_path, rows, message):
    pd.DataFrame(rows).to_parquet(tmp_path / "probe.parquet")
    rod = world("heat_1d", measurements={"table": str(tmp_path / "probe.parquet")})
    with pytest.raises(UserError, match=message) as error:
        rod.check()
    assert "\n" not in str(error.value)
    assert "'heat_1d.parameters.measurements.table'" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": [1.0, 0.0]}, "'initial' and 'left end' contradict each other: u is 0 by one and 1"),
        ({"initial": "x +"}, "not a formula"),
        ({"diffusivity": "3 kg"}, "expected a diffusivity in m\\^2/s"),
        ({"diffusivity": -1}, "greater than 0"),
        ({"points": {"interior": 3}}, "heat_1d.parameters.points.interior.*greater than or equal to 16"),
        ({"measurements": {"noise": -0.1}}, "measurements.noise"),
        ({"measurements": {"count": 5, "table": "a.csv"}}, "not both"),
        ({"measurements": {"table": "nowhere.csv"}}, "does not exist"),
        ({"measurements": {"count": 5, "region": {"y": [0, 1]}}}, "no such coordinate; there are x, t"),
        ({"measurements": {"count": 5, "region": {"x": [0.5, 3]}}}, "need 0 <= low < high <= 1"),
        ({"unknown": {"alpha": [0.1, 1.0]}}, "nothing to find alpha from"),
        ({"unknown": {"beta": [0.1, 1.0]}, "measurements": {"count": 5}}, "no coefficient 'beta'"),
        ({"unknown": {"alpha": [1.0, 0.1]}, "measurements": {"count": 5}}, "need 0 < low < high"),
        ({"unknown": {"alpha": [1.0, 2.0]}, "measurements": {"count": 5}}, "do not hold the world's own value 0.4"),
        ({"grid": [9]}, "one number for each of x, t"),
        ({"grid": [9, 1]}, "at least 2 points"),
    ],
)
def test_bad_input_is_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        world("heat_1d", **changes).own_episodes(0)
    assert "\n" not in str(error.value)


def test_a_wave_that_does_not_vanish_between_the_walls_is_refused():
    with pytest.raises(UserError, match="must be odd"):
        world("burgers_1d", initial="cos(pi*x)")


# ---------------------------------------------------------------- the description


def test_a_hidden_coefficient_is_not_told():
    specs = [
        world("heat_1d", unknown={"alpha": [0.1, high]}, measurements={"count": 3}).own_episodes(0)["train"].spec
        for high in (1.0, 2.0)
    ]
    assert Problem.from_facts(specs[0].facts, "rod").unknown == ("alpha",)
    assert specs[0].facts["coefficients"] == [["alpha", None, "m^2/s", 0.1, 1.0]]
    assert specs[0].identity() != specs[1].identity()
    assert laws_of(specs[0]).coefficients == {"alpha": 0.4}


def test_a_world_is_one_file():
    @register
    class Decay(FieldWorld):
        """u_x = -u."""

        name = "decay"
        Parameters = FieldParameters

        def problem(self):
            start = Condition("start", "u", {"x": 0.0}, lambda p: np.ones(len(p)))
            equations = {"decay": Equation("u_x + u")}
            return Problem(self.entry, ("x",), ("u",), {"x": (0.0, 1.0)}, equations, (start,), observed=("u",))

        def reference(self, points):
            return np.exp(-points)

        def describe(self):
            return "It decays."

    try:
        episodes = worlds.get("decay").restored({"parameters": {}}, "my_decay").own_episodes(0)
        assert episodes["train"]["condition_points"].tolist() == [[[0.0]]]
        assert episodes["test"]["reference"].shape == (1, 201, 1)
        assert episodes["test"].spec.name == "my_decay"
    finally:
        worlds._known.pop("decay")


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_say_what_they_are(name):
    assert {"burgers_1d", "heat_1d", "navier_stokes_2d"} <= set(worlds.names())
    assert world(name).describe().endswith(".")
