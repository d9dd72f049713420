from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.oscillators import (
    COLUMNS,
    ENERGY,
    HALVES,
    MASS,
    OMEGA,
    STEP,
    STIFFNESS,
    config,
    load,
    oscillator,
    save,
)
from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import dop853
from wm_pipelines.laws import Laws, laws_of
from wm_pipelines.spec import Spec
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest

ROOT = Path(__file__).parents[2]
# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_the_table_is_read_exactly(tmp_path, name):
    frame = oscillator()
    found = load(frame, tmp_path, name, splits={"train": [2, 1], "test": [10]})
    assert [e.metadata["episodes"] for e in found.values()] == [["2", "1"], ["10"]]
    for row, run in enumerate((2, 1)):
        rows = frame[frame.run == run]
        np.testing.assert_array_equal(found["train"]["states"][row], rows[["x", "p"]])
        np.testing.assert_allclose(found["train"]["times"][row], rows.t, atol=1e-14)
    assert found["train"].spec.step == pytest.approx(STEP, rel=1e-14)
    assert set(found["train"].views) == {"times", "states"}


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    length=st.sampled_from([("m", 1.0), ("cm", 0.01), ("inch", 0.0254)]),
    time=st.sampled_from([("s", 1.0), ("ms", 1e-3), ("min", 60.0)]),
    mass=st.sampled_from([("kg", 1.0), ("g", 1e-3), ("lb", 0.45359237)]),
)
def test_velocities_in_any_units_give_the_momenta_in_si(tmp_path_factory, length, time, mass):
    frame = oscillator(4)
    written = pd.DataFrame(
        {"run": frame.run, "t": frame.t / time[1], "x": frame.x / length[1], "v": frame.p / MASS / length[1] * time[1]}
    )
    columns = {
        "episode": "run",
        "time": {"column": "t", "unit": time[0]},
        "coordinates": [{"column": "x", "unit": length[0]}],
        "velocities": [{"column": "v", "unit": f"{length[0]}/{time[0]}"}],
    }
    masses = [f"{MASS / mass[1]!r} {mass[0]}"]
    found = load(
        written,
        tmp_path_factory.mktemp("t"),
        "t.parquet",
        columns=columns,
        masses=masses,
        splits={"train": [1, 2, 3], "test": [4]},
    )
    found, rows = found["train"], frame[frame.run < 4]
    np.testing.assert_allclose(found["states"].reshape(-1, 2), rows[["x", "p"]], rtol=1e-12, atol=1e-14)
    assert found.spec.step == pytest.approx(STEP, rel=1e-12)


def test_interleaved_episodes_keep_their_own_rows(tmp_path):
    frame = oscillator(3)
    mixed = frame.sort_values(["t", "run"], kind="stable")
    splits = {"train": [1, 2], "test": [3]}
    straight, crossed = (load(f, tmp_path, splits=splits)["train"] for f in (frame, mixed))
    assert straight.content_hash == crossed.content_hash


def test_jumps_of_an_angle_by_a_turn_are_taken_out(tmp_path):
    time = 0.05 * np.arange(200)
    angle = 3.0 * time - 0.1 * time**2
    frame = pd.DataFrame({"t": time, "x": np.degrees(np.angle(np.exp(1j * angle))), "p": 3.0 - 0.2 * time})
    columns = {
        "time": {"column": "t", "unit": "s"},
        "coordinates": [{"column": "x", "unit": "deg"}],
        "velocities": [{"column": "p", "unit": "rad/s"}],
    }
    parts = load(frame, tmp_path, columns=columns, masses=["0.5 kg*m^2"], angles=[0], splits=HALVES)
    state = np.concatenate([parts[split]["states"][0] for split in HALVES])
    np.testing.assert_allclose(state[:, 0], angle, atol=1e-12)
    np.testing.assert_allclose(state[:, 1], 0.5 * frame.p, rtol=1e-14)


def test_an_irregular_grid_is_refused_or_resampled_as_asked(tmp_path):
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(0, 10, 400))
    frame = pd.DataFrame({"t": time, "x": np.cos(OMEGA * time), "p": -MASS * OMEGA * np.sin(OMEGA * time)})
    columns = {k: v for k, v in COLUMNS.items() if k != "episode"}
    with pytest.raises(UserError, match=r"time steps are not all equal: .* after row 1 of episode '0'.*set `resample"):
        load(frame, tmp_path, columns=columns, splits=HALVES)
    found = load(frame, tmp_path, columns=columns, splits=HALVES, resample="50 ms")["train"]
    grid = time[0] + found["times"][0]
    np.testing.assert_allclose(np.diff(grid), 0.05, rtol=1e-12)
    assert grid[-1] <= time[-1] + 1e-12
    np.testing.assert_allclose(found["states"][0, :, 0], np.cos(OMEGA * grid), atol=1e-3)


def test_times_rounded_in_a_text_file_are_regular(tmp_path):
    frame = oscillator(2, rows=200)
    frame["t"] = (frame.t / 3).round(5)
    found = load(frame, tmp_path, splits={"train": [1], "test": [2]})
    assert found["train"].spec.step == pytest.approx(STEP / 3, rel=1e-6)


# ---------------------------------------------------------------- splits


@settings(derandomize=True, deadline=None, max_examples=20)
@given(episodes=st.integers(8, 30), seed=st.integers(0, 5))
def test_fractions_give_every_episode_to_one_split(tmp_path_factory, episodes, seed):
    path = save(oscillator(episodes, rows=3), tmp_path_factory.mktemp("t") / "t.csv")
    parameters = {"splits": {"train": 0.5, "validation": 0.25, "test": 0.25}}
    made = config(path, **parameters).model_copy(update={"seed": seed})
    found = ingest(made)
    names = [name for e in found.values() for name in e.metadata["episodes"]]
    assert sorted(names, key=int) == [str(i) for i in range(1, episodes + 1)]
    assert abs(len(found["train"]) - episodes / 2) <= 1
    assert all(e.content_hash == ingest(made)[k].content_hash for k, e in found.items())


def test_one_single_episode_is_split_by_time(tmp_path):
    frame = oscillator(1, rows=100)
    found = load(frame, tmp_path, splits={"train": 0.6, "test": 0.4})
    assert found["test"].metadata["split_by"] == "time"
    assert any("split by time" in line for _, line in found["test"].metadata["found"])
    np.testing.assert_array_equal(found["train"]["states"][0], frame[["x", "p"]][:60])
    np.testing.assert_array_equal(found["test"]["states"][0], frame[["x", "p"]][60:])
    assert found["test"]["times"][0, 0] == 0.0


def test_stretches_of_equal_length_keep_clear_of_one_another(tmp_path):
    frame = pd.concat(
        [oscillator(1, rows=25), oscillator(1, rows=38, seed=1).assign(run=2), oscillator(1).assign(run=3)]
    )
    with pytest.raises(UserError, match="25 to 38 rows; set `steps: 24`"):
        load(frame, tmp_path, splits={"train": [1, 2], "test": [3]})
    found = load(frame, tmp_path, splits={"train": [1, 2], "test": [3]}, steps=9)["train"]
    assert found.metadata["episodes"] == ["1", "1", "2", "2", "2"]
    np.testing.assert_array_equal(found["states"][1], frame[["x", "p"]].iloc[10:20])
    assert len(np.unique(found["states"][:, :, 0])) == 50


# ---------------------------------------------------------------- laws


def test_a_known_energy_gives_the_exact_motion(tmp_path):
    path = save(oscillator(5, rows=101), tmp_path / "t.parquet")
    made = config(path, **ENERGY, splits={"train": [1, 2, 3, 4], "test": [5]}, structure=["separable", "even"])
    test = ingest(made)["test"]
    assert test.spec.step == pytest.approx(STEP)
    system = laws_of(Spec.from_json(test.spec.to_json()))
    simulated = system.simulate(test["states"][:, 0], test.spec.step, 100)
    np.testing.assert_allclose(simulated, test["states"], atol=1e-10)
    energy = system.energy(test["states"])
    np.testing.assert_allclose(energy, energy[:, :1] + 0 * energy, rtol=1e-13)
    expected = np.stack([test["states"][..., 1] / MASS, -STIFFNESS * test["states"][..., 0]], -1)
    np.testing.assert_allclose(system.dynamics(test["states"]), expected, rtol=1e-14)
    np.testing.assert_allclose(system.dynamics(torch.tensor(test["states"])).numpy(), expected, rtol=1e-14)
    assert test.spec.facts["structure"] == ["even", "separable"]
    assert test.spec.facts["conserved"] == ["energy"]


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_simulator_does_not_care_for_the_size_of_the_units(tmp_path, scale):
    frame = oscillator(2, rows=51)
    frame[["x", "p"]] *= scale
    made = config(save(frame, tmp_path / "t.parquet"), **ENERGY, splits={"train": [1], "test": [2]})
    state = ingest(made)["train"]["states"]
    simulated = build_world(made).simulate(state[:, 0], STEP, 50)
    np.testing.assert_allclose(simulated, state, atol=1e-10 * scale)


def test_without_a_formula_there_is_no_true_law(tmp_path):
    path = save(oscillator(), tmp_path / "t.csv")
    world = build_world(config(path))
    assert world.facts() == {}
    assert world.laws() == Laws()
    with pytest.raises(UserError, match=r"energy behind 't\.csv' is unknown: set `energy`"):
        world.simulate(np.zeros((1, 2)), 0.1, 1)
    assert world.sample_initial_state(np.random.default_rng(0), 7).shape == (7, 2)


def particles(space, rows=12):
    """Two free particles: momenta and angular momentum are constant."""
    rng = np.random.default_rng(1)
    start, p = rng.normal(size=(2, space)), rng.normal(size=(2, space))
    masses = np.array([1.0, 2.0])[:, None]
    time = STEP * np.arange(rows)
    q = start + time[:, None, None] * p / masses
    names = [f"{axis}{i}" for i in (1, 2) for axis in "xyz"[:space]]
    frame = pd.DataFrame(q.reshape(rows, -1), columns=names).assign(t=time)
    for i, value in enumerate(p.ravel()):
        frame[f"p{i}"] = value
    columns = {
        "time": {"column": "t", "unit": "s"},
        "coordinates": [{"column": n, "unit": "m"} for n in names],
        "momenta": [{"column": f"p{i}", "unit": "kg*m/s"} for i in range(2 * space)],
    }
    parameters = {"columns": columns, "particles": 2, "space": space, "masses": ["1 kg", "2000 g"]}
    return frame, parameters, start, p


@pytest.mark.parametrize("space", [1, 2, 3])
def test_declared_pairwise_particles_have_conserved_momenta(tmp_path, space):
    frame, parameters, start, p = particles(space)
    made = config(save(frame, tmp_path / "t.parquet"), **parameters, structure=["pairwise"], splits=HALVES)
    state = ingest(made)["train"]["states"]
    system, facts = build_world(made).laws(), build_world(made).facts()
    assert (facts["particles"], facts["space"], facts["attributes"]["mass"]) == (2, space, [1.0, 2.0])
    assert facts["conserved"] == ["momentum", "angular_momentum"][: min(space, 2)]
    np.testing.assert_allclose(system.momentum(state), np.broadcast_to(p.sum(0), (1, 6, space)), rtol=1e-14)
    if space == 1:
        assert system.angular_momentum is None
    else:
        expected = np.cross(np.pad(start, [(0, 0), (0, 3 - space)]), np.pad(p, [(0, 0), (0, 3 - space)])).sum(0)
        expected = expected if space == 3 else expected[2:]
        np.testing.assert_allclose(system.angular_momentum(state), np.broadcast_to(expected, (1, 6, len(expected))))
        np.testing.assert_allclose(system.angular_momentum(torch.tensor(state)), system.angular_momentum(state))
    assert build_world(config(tmp_path / "t.parquet", **parameters)).laws().momentum is None


def test_the_bundled_example_obeys_its_own_formula(monkeypatch):
    monkeypatch.chdir(ROOT / "src")  # paths start at the project's root, wherever inside it one stands
    entry = yaml.safe_load((ROOT / "conf/own_table_example/parameters_my_oscillators.yml").read_text())[
        "my_oscillators"
    ]
    made = validate(WorldConfig, entry, "my_oscillators")
    test = ingest(made)["test"]
    simulated = laws_of(test.spec).simulate(test["states"][:, 0], test.spec.step, test.spec.rows - 1)
    rounding = 0.5e-5 * 0.01  # the file has five decimals of a centimetre
    assert np.abs(simulated - test["states"]).max() < 10 * rounding
    assert (ROOT / "data/01_raw/coupled_oscillators.csv").stat().st_size < 300_000


# ---------------------------------------------------------------- views


def test_frames_show_where_the_coordinates_are(tmp_path):
    made = config(save(oscillator(), tmp_path / "t.csv"))
    z = np.array([[[-0.5, 0.0], [0.5, 0.0]]])
    frames = build_world(made).render(z, 64)
    assert frames.shape == (1, 2, 64, 64, 3)
    ink = 255.0 - frames.astype(float).mean(-1)
    centre = (ink * np.arange(64)).sum((-1, -2)) / ink.sum((-1, -2))
    assert centre[0, 0] < 31 < 33 < centre[0, 1]
    np.testing.assert_allclose(centre.sum(), 63, atol=6)  # the data's range is almost symmetric


def test_the_caption_tells_ranges_in_the_users_units(tmp_path):
    frame = oscillator()
    frame["x"] *= 100
    columns = {**COLUMNS, "coordinates": [{"column": "x", "unit": "cm"}]}
    made = config(save(frame, tmp_path / "t.csv"), columns=columns)
    text = build_world(made).describe(np.array([[0.25, 0.0]] * 20 + [[-1.5, 0.0]]))
    assert text == "Measured over 2 s: x from -150 to 25 cm."


def test_the_example_of_the_documentation_works(tmp_path):
    text = (ROOT / "docs/bring-your-own-data.md").read_text()
    entry = yaml.safe_load(text.split("```yaml")[1].split("```")[0])["pendulum_lab"]
    mass, gravity, length = 0.08, 9.81, 0.5
    starts = np.random.default_rng(0).uniform([-2.5, -1.0], [2.5, 1.0], (20, 2))  # rad, rad/s

    def law(z):
        return np.stack([z[..., 1], -gravity / length * np.sin(z[..., 0])], axis=-1)

    motion = dop853(law, starts, 0.02, 50)
    table = pd.DataFrame(
        {
            "run": np.repeat(np.arange(20), 51),
            "t_ms": np.tile(20.0 * np.arange(51), 20),
            "angle": (np.degrees(motion[..., 0]).ravel() + 180) % 360 - 180,
            "rate": np.degrees(motion[..., 1]).ravel(),
        }
    )
    entry["parameters"]["path"] = str(save(table, tmp_path / "pendulum_lab.csv"))
    made = validate(WorldConfig, entry, "pendulum_lab")
    episodes = ingest(made, "pendulum_lab")
    assert [len(e) for e in episodes.values()] == [14, 3, 3]
    spec, test = episodes["test"].spec, episodes["test"]["states"]
    assert np.abs(laws_of(spec).simulate(test[:, 0], spec.step, 50) - test).max() < 1e-9
    # m l^2 = 0.02 kg m^2 is the moment of inertia of the example, so its formula is the law that made the table.
    assert mass * length**2 == pytest.approx(0.02)
