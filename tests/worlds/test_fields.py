"""Field worlds: equations, references, conditions, measurements."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from wm_pipelines.errors import UserError, validate
from wm_pipelines.fields import Condition, FieldSystem, Symbols
from wm_pipelines.worlds import world_names
from wm_pipelines.worlds.fields import _REGISTERED, field_world_names, get_field_world, register
from wm_pipelines.worlds.fields.base import FieldParameters, FieldWorld
from wm_pipelines.worlds.fields.data import FieldConfig, build_field_system, content_hash, ingest_field

WORLDS = {
    "heat_1d": {},
    "burgers_1d": {"viscosity": 0.05},
    "kovasznay": {"flow": "kovasznay", "reynolds": 20.0},
    "taylor_green": {"flow": "taylor_green", "reynolds": 100.0},
}


def world(name, **changes):
    kind = get_field_world(name if name in ("heat_1d", "burgers_1d") else "navier_stokes_2d")
    return kind(kind.Parameters(**{**WORLDS[name], **changes}))


def config(name, **changes):
    kind = name if name in ("heat_1d", "burgers_1d") else "navier_stokes_2d"
    small = {"interior": 64, "boundary": 32, "initial": 16, "validation": 32}
    return FieldConfig(**{"world": kind, "parameters": WORLDS[name], "points": small, **changes})


def points_inside(system, count, seed=0, margin=0.1):
    low, high = np.array([system.domain[c] for c in system.coordinates]).T
    unit = margin + (1 - 2 * margin) * np.random.default_rng(seed).random((count, len(low)))
    return low + (high - low) * unit


def symbols_by_differences(system, points, names, step=2e-3):
    """Central differences of the reference, orders zero to two: ``{symbol: [N]}``."""
    values = {}
    for symbol in names:
        field, orders = system.derivative(symbol)
        stencil = {(0,) * points.shape[1]: 1.0}
        for axis, order in enumerate(orders):
            for _ in range(order):
                widened = {}
                for shift, weight in stencil.items():
                    for sign in (1, -1):
                        moved = tuple(s + sign * (i == axis) for i, s in enumerate(shift))
                        widened[moved] = widened.get(moved, 0.0) + sign * weight / (2 * step)
                stencil = widened
        values[symbol] = sum(w * system.reference(points + step * np.array(s))[:, field] for s, w in stencil.items())
    return values


@pytest.mark.parametrize("name", WORLDS)
def test_the_reference_obeys_every_equation(name):
    system = world(name).system()
    points = points_inside(system, 50)
    known = {n: c.value for n, c in system.coefficients.items()}
    for equation in system.equations.values():
        values = symbols_by_differences(system, points, system.symbols_of(equation))
        residual = equation(system.namespace(points, values, known))
        size = max(np.abs(v).max() for v in values.values())
        assert np.abs(residual).max() < 1e-4 * size


@pytest.mark.parametrize("name", WORLDS)
def test_the_reference_meets_every_condition(name):
    system = world(name).system()
    data = ingest_field(config(name))
    for number, condition in enumerate(system.conditions):
        mine = data["condition_index"] == number
        assert mine.any()
        points, values = data["condition_points"][mine], data["condition_values"][mine]
        reached = system.reference(points)[:, system.derivative(condition.symbol)[0]]
        np.testing.assert_allclose(reached, values, atol=1e-9)
        for coordinate, value in condition.at.items():
            assert (points[:, system.coordinates.index(coordinate)] == value).all()


@pytest.mark.parametrize("name", ["heat_1d", "burgers_1d", "taylor_green"])
def test_contents_change_by_what_is_produced(name):
    """d/dt of the integral of a density equals the integral of its production, along the reference."""
    system = world(name).system()
    known = {n: c.value for n, c in system.coefficients.items()}
    axes = [np.linspace(*system.domain[c], 81) for c in system.coordinates if c != system.time]
    space = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    duration = system.domain["t"][1]

    def integral(density, t):
        points = np.concatenate([space, np.full((len(space), 1), t)], 1)
        values = symbols_by_differences(system, points, system.symbols_of(density))
        values = density(system.namespace(points, values, known)).reshape([len(a) for a in axes])
        for axis in reversed(axes):
            values = np.trapezoid(values, axis, axis=-1)
        return values

    for balance in system.balances.values():
        t, h = 0.5 * duration, 0.01 * duration
        change = (integral(balance.density, t + h) - integral(balance.density, t - h)) / (2 * h)
        assert change == pytest.approx(integral(balance.production, t), rel=5e-3)
        assert change < 0


def test_kovasznay_does_no_net_work_at_any_point():
    system = world("kovasznay").system()
    points = points_inside(system, 30)
    production = system.balances["energy"].production
    values = symbols_by_differences(system, points, system.symbols_of(production))
    power = production(system.namespace(points, values, {"nu": system.coefficients["nu"].value}))
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
    points = points_inside(rod.system(), 20)
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
    first, again, other = (ingest_field(config("burgers_1d", seed=s)) for s in (1, 1, 2))
    assert content_hash(first) == content_hash(again)
    assert content_hash(first) != content_hash(other)
    assert (first["grid"] == other["grid"]).all()


def test_measurements_carry_the_stated_noise():
    data = ingest_field(config("taylor_green", measurements={"count": 4000, "noise": 0.1}))
    system = build_field_system(config("taylor_green"))
    truth = system.reference(data["measurement_points"])[np.arange(8000), data["measurement_index"]]
    noise = data["measurement_values"] - truth
    assert set(data["measurement_index"]) == {0, 1}  # the pressure is not observed
    assert noise.std() == pytest.approx(0.1 * truth.std(), rel=0.05)
    assert abs(noise.mean()) < 4 * noise.std() / 8000**0.5


def test_more_noise_does_not_move_the_places():
    quiet, loud = (ingest_field(config("heat_1d", measurements={"count": 9, "noise": n})) for n in (0.0, 1.0))
    assert (quiet["measurement_points"] == loud["measurement_points"]).all()
    system = build_field_system(config("heat_1d"))
    np.testing.assert_allclose(quiet["measurement_values"], system.reference(quiet["measurement_points"])[:, 0])


def test_measurements_stay_in_their_region():
    data = ingest_field(config("heat_1d", measurements={"count": 50, "region": {"x": [0.2, 0.3]}}))
    assert ((data["measurement_points"][:, 0] >= 0.2) & (data["measurement_points"][:, 0] <= 0.3)).all()


def test_a_table_of_measurements_is_read(tmp_path):
    table = pd.DataFrame({"t": [0.1, 0.5], "x": [0.25, 0.75], "u": [1.0, 2.0], "note": ["a", "b"]})
    table.to_csv(tmp_path / "probe.csv", index=False)
    measured = {"table": str(tmp_path / "probe.csv")}
    data = ingest_field(config("heat_1d", measurements=measured, unknown={"alpha": [0.1, 1.0]}))
    assert data["measurement_points"].tolist() == [[0.25, 0.1], [0.75, 0.5]]
    assert data["measurement_values"].tolist() == [1.0, 2.0]
    assert "reference" not in data  # the world's own coefficient is not the truth about the user's rod


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": [0.5], "t": [0.5], "u": [np.nan]}, "u is not a number in row 1"),
        ({"x": [0.5], "t": [0.5], "u": ["warm"]}, "u is not a number in row 1"),
        ({"x": [0.5, 7.0], "t": [0.5, 0.5], "u": [1.0, 1.0]}, r"x = 7 in row 2 is outside the domain \[0, 1\]"),
        ({"x": [0.5], "u": [1.0]}, "has no column t; it needs x, t, u"),
        ({"x": [], "t": [], "u": []}, "has no rows"),
    ],
)
def test_faults_of_a_table_are_named(tmp_path, rows, message):
    pd.DataFrame(rows).to_parquet(tmp_path / "probe.parquet")
    with pytest.raises(UserError, match=message) as error:
        ingest_field(config("heat_1d", measurements={"table": str(tmp_path / "probe.parquet")}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"ends": [1.0, 0.0]}}, "'initial' and 'left end' contradict each other: u is 0 by one and 1"),
        ({"parameters": {"initial": "x +"}}, "not a formula"),
        ({"parameters": {"diffusivity": "3 kg"}}, "expected a diffusivity in m\\^2/s"),
        ({"parameters": {"diffusivity": -1}}, "greater than 0"),
        ({"points": {"interior": 3}}, "points.interior.*greater than or equal to 16"),
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
        ({"world": "heat_9d"}, "unknown field world 'heat_9d'; known: burgers_1d, heat_1d, navier_stokes_2d"),
    ],
)
def test_bad_input_is_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        ingest_field(validate(FieldConfig, {"world": "heat_1d", **changes}, "heat_1d"), "heat_1d")
    assert "\n" not in str(error.value)


def test_a_wave_that_does_not_vanish_between_the_walls_is_refused():
    with pytest.raises(UserError, match="must be odd"):
        ingest_field(FieldConfig(world="burgers_1d", parameters={"initial": "cos(pi*x)"}))


# ---------------------------------------------------------------- the description


def test_symbols_are_what_an_equation_reads():
    system = world("taylor_green").system()
    assert system.symbols["continuity"] == ("u_x", "v_y")
    assert system.derivative("v_xyt") == (1, (1, 1, 1))
    with pytest.raises(UserError, match="no symbol 'w_x'; fields: u, v, p"):
        system.symbols_of(lambda d: d.w_x)
    with pytest.raises(UserError, match="no symbol 'u_z'"):
        system.symbols_of(lambda d: d.u_z)
    with pytest.raises(UserError, match="has no symbol 'q'"):
        _ = Symbols({"u": np.ones(1)}).q


def test_a_hidden_coefficient_is_not_told():
    system = build_field_system(config("heat_1d", unknown={"alpha": [0.1, 1]}, measurements={"count": 3}))
    assert system.unknown == ("alpha",)
    assert 0.4 not in [fact for fact in system.facts()[-1]["alpha"] if isinstance(fact, float)]
    other = build_field_system(config("heat_1d", unknown={"alpha": [0.1, 2]}, measurements={"count": 3}))
    assert system.facts() != other.facts()


def test_a_world_is_one_file():
    @register
    class Decay(FieldWorld):
        """u_x = -u."""

        name = "decay"
        Parameters = FieldParameters

        def system(self):
            return FieldSystem(
                "decay", ("x",), ("u",), {"x": (0.0, 1.0)}, {"decay": lambda d: d.u_x + d.u},
                (Condition("start", "u", {"x": 0.0}, lambda p: np.ones(len(p))),),
                reference=lambda p: np.exp(-p), observed=("u",),
            )  # fmt: skip

        def describe(self):
            return "It decays."

    try:
        data = ingest_field(FieldConfig(world="decay"))
        assert data["condition_points"].tolist() == [[0.0]]
        assert data["reference"].shape == (201, 1)
    finally:
        _REGISTERED.pop("decay")


def test_field_worlds_are_not_worlds_of_episodes():
    assert field_world_names() == ["burgers_1d", "heat_1d", "navier_stokes_2d"]
    assert not set(field_world_names()) & set(world_names())
    assert "fields" not in world_names()


@pytest.mark.parametrize("name", WORLDS)
def test_pictures_show_the_field(name):
    field_world = world(name)
    data = ingest_field(config(name))
    shape = data["grid_shape"].tolist()
    pictures = field_world.render(data["reference"].reshape(*shape, -1), size=48)
    assert pictures.shape == (shape[2] if len(shape) == 3 else 1, 48, 48, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std() > 5
    assert field_world.describe().endswith(".")


def test_the_picture_has_its_first_row_below_and_its_signs_apart():
    rod = world("heat_1d")
    fields = np.zeros((3, 3, 1))
    fields[0, 0], fields[2, 2] = -1.0, 1.0  # x = 0, t = 0 and x = 1, t = 1
    picture = rod.render(fields, size=3)[0].astype(int)
    assert picture[2, 0, 2] > picture[2, 0, 0]  # cold, lower left
    assert picture[0, 2, 0] > picture[0, 2, 2]  # warm, upper right
    assert (np.ptp(picture[1, 1]) < 10).all()
    fields[1, 1] = np.nan
    assert (np.abs(rod.render(fields, size=3)[0, 1, 1].astype(int) - 128) <= 1).all()
