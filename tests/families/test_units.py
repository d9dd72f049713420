"""A table in other units is the same table: horizons do not depend on metres, kilograms or seconds.

Units that differ by powers of two change no digit of a number: there every roll-out must be the same, bit by bit, but
for logarithms and for what is lost in them. For other units the numbers are rounded anew, so that horizons may differ
by the row in which a roll-out crosses the threshold.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.families.mechanics import bodies, bodies_field, body_starts
from tests.specs import LEARNING, rolled, simulated, spec, without
from wm_pipelines.blocks.units import power_of_two, state_units
from wm_pipelines.errors import validate
from wm_pipelines.integrators import dop853
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.learning.loop import train
from wm_pipelines.metrics.horizon import horizon, relative_error_by_step
from wm_pipelines.registry import families
from wm_pipelines.worlds.making import WorldConfig, ingest

pytestmark = pytest.mark.training

THRESHOLD, SEEDS, ROWS = 0.4, (0, 1), 17
NETWORK = {"hidden": (12,), "schedule": {"steps": 8, "batch_size": 64, "learning_rate": 1e-2}}
REGRESSION = {"features": 12, "rows": 100, "steepness": (0.5,), "ridges": (1e-10,)}
STATES = {"context": 1, "horizon": 4, "widths": (16,), "latent": 4, "hidden": 16, "schedule": NETWORK["schedule"]}
RSSM = {"window": 8, "widths": (16,), "features": 6, "deterministic": 12, "stochastic": 4, "hidden": 16}
RSSM |= {"schedule": NETWORK["schedule"]}
GRAPH = {"features": 10, "equations": 400, "substeps": 2}


@dataclass(frozen=True)
class Case:
    """A family on a world; `exact`: units of powers of two change no bit."""

    family: str
    world: str
    config: dict
    recorded: bool = True
    exact: bool = True


CASES = {
    "mlp": Case("mlp", "spring", NETWORK),
    "mlp through an integrator": Case("mlp", "spring", NETWORK, recorded=False),
    "known energy": Case("physics_informed", "spring", NETWORK),
    "learned energy": Case("physics_informed", "spring", {**NETWORK, "energy": "learned"}),
    "penalised roll-outs": Case("physics_informed", "spring", {**NETWORK, "penalty": "rollout"}),
    "projected": Case("physics_informed", "spring", {**NETWORK, "projected": True}),
    "latent": Case("latent_dynamics", "spring", STATES),
    "stochastic latent": Case("latent_dynamics", "spring", {**STATES, "stochastic": True}, exact=False),
    "recurrent latent": Case("rssm", "spring", RSSM),
    "hnn": Case("hnn", "spring", NETWORK),
    "hnn of splines": Case("hnn", "spring", NETWORK, recorded=False),
    "hnn of pairs": Case("hnn", "spring", {**NETWORK, "method": "pairs", "structure": "declared", "order": 4}),
    "hnn of pairs, implicit": Case("hnn", "spring", {**NETWORK, "method": "pairs", "order": 4}),
    "hnn of particles": Case("hnn", "bodies", {**NETWORK, "structure": "declared"}, exact=False),
    "regression": Case("hamiltonian_regression", "spring", REGRESSION),
    "regression of rows": Case("hamiltonian_regression", "spring", REGRESSION, recorded=False),
    "even regression": Case("hamiltonian_regression", "spring", {**REGRESSION, "structure": "declared"}),
    "regression of noisy rows": Case("hamiltonian_regression", "noisy spring", REGRESSION),
    "regression of bodies": Case("hamiltonian_regression", "bodies", REGRESSION),
    "regression of particles": Case(
        "hamiltonian_regression", "bodies", {**REGRESSION, "structure": "declared"}, exact=False
    ),
    "graph": Case("momentum_gnn", "bodies", GRAPH, exact=False),
    "graph of rows": Case("momentum_gnn", "bodies", GRAPH, recorded=False, exact=False),
    "dynamical graph": Case("momentum_gnn", "bodies", {**GRAPH, "form": "dynamical"}, exact=False),
    "trained graph": Case("momentum_gnn", "bodies", {**NETWORK, "training": "gradient"}, exact=False),
}


@dataclass(frozen=True)
class Units:
    """How many of the new units one metre, kilogram, second is."""

    length: float = 1.0
    mass: float = 1.0
    time: float = 1.0

    def states(self, z):
        """States, or with `self` of rates their derivatives."""
        q, p = z.chunk(2, dim=-1)
        return torch.cat([q * self.length, p * (self.length * self.mass / self.time)], dim=-1)


@cache
def natural(name):
    """Spec and views of a world in natural units: a spring, which may be noisy, or two bodies."""
    if name == "bodies":
        masses = (1.0, 2.0)
        world = bodies(masses)
        facts = {**world.facts.plain(), "conserved": ["energy", "momentum"]}
        views = simulated(bodies_field(masses, (0.0, 0.0)), body_starts(masses, 8), steps=ROWS - 1)
        return spec(8, name="bodies", **facts), views
    start = torch.rand(8, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy() * 2 - 1
    views = simulated(lambda z: z @ [[0.0, -4.0], [1.0, 0.0]], start, steps=ROWS - 1, noise=0.1 * (name != "spring"))
    return spring(1.0, 4.0, 0.1), views


def spring(mass, stiffness, step):
    facts = {"structure": ["even", "separable"], "conserved": ["energy"], "energy": {"law": "energy"}}
    origin = {"world": "mass_spring", "parameters": {"mass": mass, "stiffness": stiffness}}
    return spec(2, step, origin=origin, **facts)


def rescaled(name, units):
    """The same world in other units."""
    world, views = natural(name)
    states, derivatives = units.states(views["states"]), units.states(views["derivatives"]) / units.time
    views = {"times": views["times"] * units.time, "states": states, "derivatives": derivatives}
    step = world.step * units.time
    if name != "bodies":
        return spring(units.mass, 4.0 * units.mass / units.time**2, step), views
    masses = [m * units.mass for m in world.facts["attributes"]["mass"]]
    facts = {**world.facts.plain(), "attributes": {"mass": masses}}
    return spec(8, step, name="bodies", **facts), views


@cache
def rolled_out(case, units=Units()):
    """The roll-outs of a fitted family in natural units, their truth, and how often its field was asked."""
    case = CASES[case]
    world, views = rescaled(case.world, units)
    kind = families.get(case.family)
    family = kind(kind.Config(**case.config), world, SEEDS)
    train(family, views if case.recorded else without(views, "derivatives"), LEARNING)
    family, asked = family.eval(), 0

    def counted(made):
        def make():
            function = made()

            def count(z):
                nonlocal asked
                asked += 1
                return function(z)

            return count

        return make

    for method in ("_gradient_function", "_force_function"):
        if hasattr(family, method):
            setattr(family, method, counted(getattr(family, method)))
    back = Units(1 / units.length, 1 / units.mass, 1 / units.time)
    with torch.no_grad():
        states = rolled(family, views["states"][:, 0], ROWS - 1)
    return back.states(states), asked


def trusted(states, truth):
    """Horizons ``[S, E]`` in rows."""
    error = relative_error_by_step(states.numpy(), truth.numpy())
    return horizon(error, torch.arange(ROWS).double().numpy(), THRESHOLD)


exponents = st.builds(Units, *[st.integers(-40, 40).map(lambda k: 2.0**k)] * 3)
decades = st.builds(Units, *[st.floats(-12, 12).map(lambda x: 10.0**x)] * 3)
PLANETS, ATOMS = Units(1.5e11, 2e30, 8.6e4), Units(1e-10, 3.3e-26, 1e-15)


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.exact])
@settings(derandomize=True, deadline=None, max_examples=2)
@given(units=exponents)
@example(units=Units(2.0**-33, 2.0**40, 2.0**21))
def test_powers_of_two_change_no_bit(case, units):
    states, asked = rolled_out(case, units)
    expected, before = rolled_out(case)
    assert torch.equal(states, expected)
    assert asked == before


@pytest.mark.parametrize("case", CASES)
@settings(derandomize=True, deadline=None, max_examples=1)
@given(units=decades)
@example(units=PLANETS)
@example(units=ATOMS)
def test_horizons_do_not_depend_on_units(case, units):
    """Nor does the work: a roll-out may need one iteration of its implicit steps more or less."""
    states, asked = rolled_out(case, units)
    expected, before = rolled_out(case)
    truth = natural(CASES[case].world)[1]["states"]
    assert abs(trusted(states, truth) - trusted(expected, truth)).max() <= 1
    assert 0.9 * before <= asked <= 1.1 * before


# ---------------------------------------------------------------- units themselves


@given(st.floats(1e-290, 1e290))
def test_a_unit_is_the_next_power_of_two(size):
    unit = power_of_two(torch.tensor(size, dtype=torch.float64)).item()
    assert 0.5**0.5 <= size / unit <= 2**0.5 * (1 + 1e-15)
    assert torch.frexp(torch.tensor(unit, dtype=torch.float64)).mantissa == 0.5


def test_what_has_no_size_has_the_unit_one():
    assert power_of_two(torch.tensor([0.0, torch.inf, torch.nan])).tolist() == [1.0, 1.0, 1.0]


def test_coordinates_have_one_unit_and_momenta_another():
    """Of the spread, not of the distance to the origin; of what rests, of its size."""
    z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert state_units(z).tolist() == [1.0] * 4
    moved = z * torch.tensor([8.0, 8.0, 0.25, 0.25]) + torch.tensor([1e3, 0.0, 0.0, 0.0])
    assert state_units(moved).tolist() == [8.0, 8.0, 0.25, 0.25]
    resting = torch.cat([torch.full((500, 2), 3.0, dtype=torch.float64), 0 * z[:, :2]], 1)
    assert state_units(resting).tolist() == [4.0, 4.0, 1.0, 1.0]


# ---------------------------------------------------------------- tables of two users

PLAIN = {"time": "1", "length": "1", "speed": "1"}
ASTRONOMICAL = {"time": "day", "length": "au", "speed": "au/day"}
ATOMIC = {"time": "fs", "length": "angstrom", "speed": "angstrom/fs"}


def judged(path, frame, units, names, masses, variants, **parameters):
    """Horizons ``{family and variant: [S, E]}`` in rows of a table of positions and velocities, and rows of an episode.

    Args:
        units: of time, lengths and speeds. names: of the coordinates; ``v`` before them those of the velocities.
        variants: settings by family and any word. parameters: further ones of the world.
    """
    frame.to_csv(path, index=False)
    columns = {
        "episode": "run" if "run" in frame else None,
        "time": {"column": "t", "unit": units["time"]},
        "coordinates": [{"column": name, "unit": units["length"]} for name in names],
        "velocities": [{"column": f"v{name}", "unit": units["speed"]} for name in names],
    }
    parameters = {"path": str(path), "columns": columns, "masses": masses, **parameters}
    splits = ingest(validate(WorldConfig, {"world": "table", "parameters": parameters}, "mine"), "mine")
    found, test = {}, splits["test"]
    for (name, about), config in variants.items():
        kind = families.get(name)
        family = kind(kind.Config(**config), test.spec, (0,))
        train(family, as_tensors(splits["train"]), LEARNING)
        with torch.no_grad():
            states = family.eval().predict({"states": torch.tensor(test["states"][:, :1])}, test.spec.rows - 1)
        error = relative_error_by_step(states["states"].numpy(), test["states"])
        found[name, about] = horizon(error, np.arange(float(test.spec.rows)), THRESHOLD)
    return found, test.spec.rows


def solar_system():
    """The Sun, the Earth and Jupiter for five years: astronomical units and days, masses of the Sun, momentum zero."""
    masses, constant = np.array([1.0, 3.0404695e-6, 9.5459689e-4]), 2.959122e-4
    names = [f"{axis}{body}" for body in range(3) for axis in "xyz"]
    q = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 5.2, 0.1]])
    v = np.array([[0.0, 0.0, 0.0], [0.0, 0.0172, 0.0], [-0.00754, 0.0, 1e-5]])
    q, v = (x - (masses[:, None] * x).sum(0) / masses.sum() for x in (q, v))

    def field(z):
        q, v = z.reshape(-1, 2, 3, 3).swapaxes(0, 1)
        r = q[:, None] - q[:, :, None]
        pull = constant * masses[:, None] / (np.square(r).sum(-1, keepdims=True) + np.eye(3)[..., None]) ** 1.5 * r
        return np.stack([v, pull.sum(2)], 1).reshape(-1, 18)

    states = dop853(field, np.concatenate([q, v]).reshape(1, 18), 5.0, 360)[0]
    frame = pd.DataFrame(states, columns=[*names, *(f"v{name}" for name in names)])
    return frame.assign(t=5.0 * np.arange(361)), names, masses


def test_planets_in_astronomical_units_are_planets_in_plain_numbers(tmp_path):
    """In SI units momenta are 1e31, products of masses 1e60: beside those the constant coupling must not vanish."""
    frame, names, masses = solar_system()
    variants = {
        ("hamiltonian_regression", "structured"): {"structure": "declared", "features": 40},
        ("hnn", "pairs"): {**NETWORK, "method": "pairs", "structure": "declared", "order": 4},
    }
    declared = {"particles": 3, "space": 3, "structure": ["separable", "even", "pairwise"]}
    given = {"names": names, "variants": variants, **declared}
    plain, rows = judged(tmp_path / "plain.csv", frame, PLAIN, masses=masses.tolist(), **given)
    kilograms = [f"{1.98841e30 * m:.8e} kg" for m in masses]
    found, _ = judged(tmp_path / "au.csv", frame, ASTRONOMICAL, masses=kilograms, **given)
    assert plain["hamiltonian_regression", "structured"].tolist() == [[rows - 1]]
    for variant, horizons in found.items():
        assert abs(horizons - plain[variant]).max() <= 1, variant


def test_a_spring_of_atoms_is_a_spring_in_plain_numbers(tmp_path):
    """Four decimals in the table; in SI units coordinates are 1e-9, momenta 1e-19, a step 1e-17."""
    time, phase, size = np.arange(40) / 30, np.linspace(0, 6, 12)[:, None], np.linspace(15, 30, 12)[:, None]
    angle = 5.0 * time + phase
    frame = pd.DataFrame(
        {
            "run": np.repeat(np.arange(12), 40),
            "t": np.tile(time, 12).round(6),
            "x": (size * np.cos(angle)).ravel().round(4),
            "vx": (-5.0 * size * np.sin(angle)).ravel().round(4),
        }
    )
    schedule = {"steps": 150, "batch_size": 256, "learning_rate": 1e-2}
    variants = {
        ("hnn", "gradient"): {"hidden": (12, 12), "schedule": schedule},
        ("hnn", "pairs"): {"hidden": (16,), "method": "pairs", "order": 4, "schedule": {**schedule, "steps": 20}},
        ("hamiltonian_regression", "plain"): {"features": 60, "rows": 400},
    }
    given = {"names": ["x"], "variants": variants, "splits": {"train": 0.8, "test": 0.2}}
    plain, rows = judged(tmp_path / "plain.csv", frame, PLAIN, masses=[20.0], **given)
    found, _ = judged(tmp_path / "atoms.csv", frame, ATOMIC, masses=["20 Da"], **given)
    for variant in (("hnn", "gradient"), ("hamiltonian_regression", "plain")):
        assert (plain[variant] == rows - 1).all(), variant
    for variant, horizons in found.items():
        assert abs(horizons - plain[variant]).max() <= 1, variant
