"""Reading the files of the HNN paper, on small files of the same form."""

from __future__ import annotations

import numpy as np
import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.laws import world_of as world_of_spec
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest
from wm_pipelines.worlds.parts.paper_files import read_paper_files

BODIES = {"masses": [1.0, 1.0], "gravitational_constant": 1.0}


def world_of(name):
    return build_world(WorldConfig(world=name))


def body_columns(states: np.ndarray, bodies: int) -> np.ndarray:
    """The paper's order of columns, written out: qx of every body, qy of every body, px, py."""
    d = 2 * bodies
    q, p = states[..., :d], states[..., d:]
    return np.concatenate([q[..., 0::2], q[..., 1::2], p[..., 0::2], p[..., 1::2]], axis=-1)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    spring = {name: rng.normal(size=(60, 2)) for name in ("x", "dx", "test_x", "test_dx")}
    np.savez(tmp_path / "spring_seed0.npz", **spring)
    references = {f"ref_{s}": rng.normal(size=(3, 7, 2)) for s in "BC"}
    np.savez(tmp_path / "eval_spring.npz", t=np.linspace(0, 20, 7), **references)
    world = build_world(WorldConfig(world="two_body", parameters=BODIES))
    states = world.simulate(world.sample_initial_state(rng, 2), 20 / 49, 49).reshape(-1, 8)
    columns = {"coords": body_columns(states, 2), "dcoords": body_columns(world.dynamics(states), 2)}
    np.savez(tmp_path / "2body_seed0.npz", **columns, test_coords=columns["coords"], test_dcoords=columns["dcoords"])
    q, p = states[:5, :4].reshape(5, 2, 2), states[:5, 4:].reshape(5, 2, 2)
    bodies = np.concatenate([np.ones((5, 2, 1)), q, p], axis=-1)  # m, x, y, vx, vy
    np.savez(tmp_path / "eval_2body.npz", t=np.linspace(0, 1, 5), ref_DOP853_1e13=np.moveaxis(bodies, 0, -1)[None])
    return tmp_path


def test_spring_trajectories_are_consecutive_rows(folder):
    splits = read_paper_files(folder, world_of("mass_spring"))
    data = np.load(folder / "spring_seed0.npz")
    assert set(splits) == {"train", "validation", "B", "C"}
    np.testing.assert_array_equal(splits["train"]["states"][1], data["x"][30:60])
    np.testing.assert_array_equal(splits["train"]["derivatives"][1], data["dx"][30:60])
    assert splits["train"].spec.step == pytest.approx(3 / 29)
    assert splits["B"]["states"].shape == (3, 7, 2)


def test_body_columns_come_out_in_the_order_of_the_laws(folder):
    """A permutation that is wrong anywhere breaks Hamilton's equations of the world."""
    config = WorldConfig(world="two_body", parameters=BODIES, paper_files=str(folder))
    splits = ingest(config)
    train, world = splits["train"], world_of_spec(splits["train"].spec)
    assert world.laws().simulate(train["states"][:, 0], train.spec.step, 3).shape == (2, 4, 8)
    np.testing.assert_allclose(world.dynamics(train["states"]), train["derivatives"], rtol=1e-12)
    energy = world.energy(train["states"])
    np.testing.assert_allclose(energy, np.repeat(energy[:, :1], 50, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(splits["test"]["states"][0], train["states"][0, :5])


def test_faults_are_one_line(folder):
    with pytest.raises(UserError, match="hold no world 'n_body'"):
        read_paper_files(folder, world_of("n_body"))
    with pytest.raises(UserError, match=r"pend_seed0\.npz' is missing"):
        read_paper_files(folder, world_of("pendulum"))
    path = folder / "eval_spring.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"eval_spring\.npz' cannot be read"):
        read_paper_files(folder, world_of("mass_spring"))
    np.savez(path, t=np.zeros(3))
    with pytest.raises(UserError, match="lack the array 'ref_B'"):
        read_paper_files(folder, world_of("mass_spring"))
