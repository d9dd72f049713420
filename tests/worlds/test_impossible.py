"""Impossible futures: lawful before, lawful after, and broken in one row by what was asked for."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.episodes import read, write
from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.making import WorldConfig, build_world, generate, ingest
from wm_pipelines.worlds.parts.impossible import Impossible

WORLDS = {
    "pendulum": {},
    "double_pendulum": {},
    "mass_spring": {},
    "two_body": {},
    "n_body": {"bodies": 3},
    "n_body gravity": {"force": "gravity", "bodies": 3, "softening": 0.3},
    "bouncing_balls": {"masses": [1.0, 2.0], "radii": [0.2, 0.3]},
}
MEETING = {**WORLDS["bouncing_balls"], "radii": [0.3, 0.35]}


def world_of(name, parameters=None):
    return build_world(
        WorldConfig(world=name.split()[0], parameters=WORLDS[name] if parameters is None else parameters)
    )


def broken(world, kind, amount=None, episodes=12, steps=24, seed=0, **more):
    breach = validate(Impossible, {"kind": kind, "amount": amount, **more}, "impossible")
    made = generate(world, step=0.1, steps=steps, episodes=episodes, seed=seed, impossible=breach)
    return made["states"], np.array(made.metadata["altered_row"]), made


def assert_lawful_but_in_one_row(world, z, rows):
    """The law leads from every row to the next, but for the altered one; the altered row is out of its reach."""
    for states, row in zip(z, rows, strict=True):
        leads_to = world.simulate(states[:-1], 0.1, 1)[:, 1]
        error = np.abs(leads_to - states[1:]).max(axis=-1)
        assert error[row - 1] > 1e-6
        assert np.delete(error, row - 1).max() < 1e-6


@pytest.mark.parametrize("name", sorted(WORLDS))
@pytest.mark.parametrize("kind", ["teleport", "energy_jump"])
def test_the_law_is_broken_once_and_in_the_middle(name, kind):
    world = world_of(name)
    z, rows, _ = broken(world, kind, episodes=3)
    assert_lawful_but_in_one_row(world, z, rows)
    assert rows.min() >= 8
    assert rows.max() <= 16


def test_rows_are_random_and_spread_over_the_middle():
    _, rows, _ = broken(world_of("pendulum"), "teleport", episodes=200)
    assert set(rows) == set(range(8, 17))
    _, late, _ = broken(world_of("pendulum"), "teleport", episodes=60, between=[0.5, 0.75])
    assert set(late) == set(range(12, 19))


@pytest.mark.parametrize("kind", ["teleport", "energy_jump"])
def test_until_then_episodes_are_those_of_the_same_seed_without_a_breach(kind):
    world = world_of("pendulum")
    z, rows, _ = broken(world, kind, seed=[3, 4])
    lawful = generate(world, step=0.1, steps=24, episodes=12, seed=[3, 4])["states"]
    for states, plain, row in zip(z, lawful, rows, strict=True):
        np.testing.assert_array_equal(states[:row], plain[:row])
        assert np.abs(states[row] - plain[row]).max() > 1e-3


@settings(derandomize=True, deadline=None, max_examples=10)
@given(st.floats(0.05, 1.0), st.integers(0, 1000))
def test_an_angle_jumps_by_the_stated_share_of_half_a_turn(amount, seed):
    world = world_of("pendulum")
    z, rows, _ = broken(world, "teleport", amount, seed=seed)
    before = np.stack([world.simulate(s[r - 1 : r], 0.1, 1)[0, 1] for s, r in zip(z, rows, strict=True)])
    jump = z[np.arange(12), rows] - before
    np.testing.assert_allclose(np.abs(jump[:, 0]), amount * math.pi, rtol=1e-9)
    np.testing.assert_allclose(jump[:, 1], 0.0, atol=1e-9)
    assert len(set(np.sign(jump[:, 0]))) == 2


@pytest.mark.parametrize("name", ["bouncing_balls", "n_body", "two_body"])
def test_one_particle_jumps_and_stays_where_particles_are(name):
    world = world_of(name)
    z, rows, _ = broken(world, "teleport", 0.4, episodes=40)
    lawful = generate(world, step=0.1, steps=24, episodes=40, seed=0)["states"]
    dof, particles = lawful.shape[-1] // 2, world.facts()["particles"]
    here = np.arange(40)
    jump = (z[here, rows] - lawful[here, rows])[:, :dof].reshape(40, particles, world.facts()["space"])
    length = np.linalg.norm(jump, axis=-1)
    assert ((length > 0).sum(axis=1) == 1).all()
    assert set(length.argmax(axis=1)) == set(range(particles))
    q = lawful[..., :dof]
    np.testing.assert_allclose(length.max(axis=1), 0.4 * np.ptp(q, axis=(0, 1)).max(), rtol=1e-9)
    landed = z[here, rows][:, :dof]
    assert (landed >= q.min(axis=(0, 1))).all()
    assert (landed <= q.max(axis=(0, 1))).all()
    assert world.allowed(z).all()


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_energy_jumps_by_the_stated_factor_and_positions_do_not(name):
    world, factor = world_of(name), 2.5
    z, rows, _ = broken(world, "energy_jump", factor, episodes=3)
    energy, here, d = world.energy(z), np.arange(3), z.shape[-1] // 2
    lawful = generate(world, step=0.1, steps=24, episodes=3, seed=0)["states"]
    rise = energy[here, rows] - energy[here, rows - 1]
    np.testing.assert_allclose(rise, (factor - 1) * np.abs(energy[here, rows - 1]), rtol=1e-6)
    np.testing.assert_array_equal(z[here, rows, :d], lawful[here, rows, :d])


def test_energy_falls_where_there_is_enough_to_lose():
    world = world_of("pendulum")
    z, rows, _ = broken(world, "energy_jump", 0.8, between=[0.0, 1.0])
    energy = world.energy(z)
    np.testing.assert_allclose(energy[np.arange(12), rows], 0.8 * energy[:, 0], rtol=1e-6)
    with pytest.raises(UserError, match=r"never moves fast enough to keep 0\.001"):
        broken(world, "energy_jump", 0.001, between=[0.4, 0.6])


def test_a_resting_body_sets_off():
    hanging = build_world(
        WorldConfig(world="pendulum", parameters={"initial": {"law": "given", "states": [[0.0, 0.0]]}})
    )
    z, _, _ = broken(hanging, "energy_jump", episodes=1)
    assert np.isfinite(z).all()
    tilted = {"gravity": 1e-9, "initial": {"law": "given", "states": [[1.0, 0.0]]}}
    world = build_world(WorldConfig(world="pendulum", parameters=tilted))
    z, rows, _ = broken(world, "energy_jump", 3.0, episodes=1)
    assert world.energy(z)[0, rows[0]] == pytest.approx(3 * world.energy(z)[0, 0], rel=1e-6)


def test_balls_pass_through_each_other_where_they_would_have_bounced():
    world = world_of("bouncing_balls", MEETING)
    ghosts = world.ghostly()
    z, rows, made = broken(world, "pass_through", episodes=30, steps=30)
    for states, row in zip(z, rows, strict=True):
        leads_to = world.simulate(states[:row], 0.1, 1)[:, 1]
        np.testing.assert_allclose(leads_to[:-1], states[1:row], atol=1e-9)
        assert np.abs(leads_to[-1] - states[row]).max() > 1e-6, "nothing was broken"
        np.testing.assert_allclose(ghosts.simulate(states[row - 1 : row], 0.1, 30 - row)[0, 1], states[row], atol=1e-9)
    inside = ~world.allowed(z)
    assert (inside.sum(axis=1) >= 2).all()
    assert not any(seen[:row].any() for seen, row in zip(inside, rows, strict=True))
    assert rows.min() >= 10
    assert rows.max() <= 20
    energy = world.energy(z)
    np.testing.assert_allclose(energy, np.broadcast_to(energy[:, :1], energy.shape), rtol=1e-12)
    assert made.metadata["impossible"]["kind"] == "pass_through"


def test_the_row_is_written_down_and_read_again(tmp_path):
    splits = {
        "train": {"episodes": 2, "steps": 9},
        "test": {"episodes": 2, "steps": 9},
        "odd": {"episodes": 5, "steps": 9, "impossible": {"kind": "teleport"}},
    }
    parts = ingest(WorldConfig(world="pendulum", step=0.1, frame_size=16, splits=splits))
    write(tmp_path / "odd.arrow", parts["odd"])
    found = read(tmp_path / "odd.arrow")
    assert found.metadata["impossible"] == {"kind": "teleport", "amount": 0.5, "between": [1 / 3, 2 / 3]}
    assert [3 <= row <= 6 for row in found.metadata["altered_row"]] == [True] * 5
    assert json.dumps(found.metadata["altered_row"])
    assert "altered_row" not in parts["train"].metadata
    world = build_world(WorldConfig(world="pendulum"))
    np.testing.assert_array_equal(found["frames"], world.render(found["states"], 16))
    again = ingest(WorldConfig(world="pendulum", step=0.1, frame_size=16, splits=splits))
    assert again["odd"].content_hash == found.content_hash


@pytest.mark.parametrize(
    ("breach", "message"),
    [
        ({"kind": "levitate"}, "impossible.kind"),
        ({"kind": "pass_through", "amount": 2.0}, "'pass_through' has none"),
        ({"kind": "energy_jump", "amount": 1.0}, "a factor of 1"),
        ({"kind": "teleport", "amount": -1.0}, "greater than 0"),
        ({"kind": "teleport", "between": [0.7, 0.2]}, "rising"),
        ({"kind": "teleport", "between": [0.41, 0.43]}, "no row lies there"),
        ({"kind": "pass_through"}, "do not collide"),
    ],
)
def test_what_cannot_be_broken_is_refused(breach, message):
    part = {"episodes": 2, "steps": 9}
    splits = {"train": part | {"impossible": breach}, "test": part}
    with pytest.raises(UserError, match=message):
        ingest(validate(WorldConfig, {"world": "n_body", "step": 0.1, "splits": splits}, "n_body"))


def test_a_jump_that_has_no_room_is_refused():
    with pytest.raises(UserError, match="has no room for a teleport of 3 of its range"):
        broken(world_of("bouncing_balls"), "teleport", 3.0)
    alone = {"balls": 2, "radii": 0.01, "side": 50.0}
    with pytest.raises(UserError, match="hardly ever meet"):
        broken(world_of("bouncing_balls", alone), "pass_through", episodes=2, steps=6)
