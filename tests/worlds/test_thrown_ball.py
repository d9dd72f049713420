"""A thrown ball: sideways nothing acts on it, upwards it is a bouncing ball."""

import numpy as np
import pytest

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.bouncing_ball import BouncingBall
from wm_pipelines.worlds.making import generate
from wm_pipelines.worlds.thrown_ball import ThrownBall


def world_of(kind=ThrownBall, **parameters):
    return kind(validate(kind.Parameters, parameters, kind.name))


@pytest.mark.parametrize("restitution", [1.0, 0.7])
def test_it_is_uniform_motion_beside_a_bouncing_ball(restitution):
    world = world_of(mass=0.5, restitution=restitution)
    z0 = world.sample_initial_state(np.random.default_rng(0), 8)
    z = world.simulate(z0, 0.05, 60)
    vertical = world_of(BouncingBall, mass=0.5, restitution=restitution).simulate(z0[:, [1, 3]], 0.05, 60)
    np.testing.assert_array_equal(z[..., [1, 3]], vertical)
    np.testing.assert_allclose(np.diff(z[..., 0], axis=1), (0.05 * z0[:, 2:3] / 0.5).repeat(60, 1), rtol=1e-9)
    np.testing.assert_array_equal(world.momentum(z)[..., 0], z0[:, 2:3].repeat(61, 1))
    assert world.allowed(z).all()


def test_energy_is_kept_by_elastic_impacts_and_never_gained():
    for restitution, kept in ((1.0, True), (0.7, False)):
        world = world_of(restitution=restitution)
        z = world.simulate(world.sample_initial_state(np.random.default_rng(1), 8), 0.05, 60)
        change = np.diff(world.energy(z), axis=1)
        assert change.max() < 1e-9
        assert (np.abs(world.energy(z)[:, -1] - world.energy(z)[:, 0]).max() < 1e-9) == kept
        assert ("energy" in world.facts()["conserved"]) == kept


def test_speeds_are_those_asked_for_in_all_directions():
    world = world_of(mass=2.0, initial={"law": "thrown", "height": ["1 m", "1.5 m"], "speed": ["2 m/s", "3 m/s"]})
    z0 = world.sample_initial_state(np.random.default_rng(0), 400)
    speed = np.linalg.norm(z0[:, 2:], axis=1) / 2.0
    assert speed.min() >= 2.0
    assert speed.max() <= 3.0
    assert (np.abs((z0[:, 2:] > 0).mean(0) - 0.5) < 0.1).all()
    assert z0[:, 1].min() >= 1.0
    assert z0[:, 1].max() <= 1.5


def test_images_and_words():
    world = world_of()
    z = np.array([[0.0, 1.0, 0.0, 0.0], [0.1, 1.0, 0.0, 0.0]])
    still, moved = world.render(z, 48)
    assert (still != moved).any()  # the marks on the floor pass by
    episodes = generate(world, step=0.05, steps=40, episodes=2, seed=0, captions=True)
    assert all("moves sideways at" in str(words) for words in episodes["captions"])


def test_mistakes_are_told():
    with pytest.raises(UserError, match="below the floor"):
        world_of().simulate(np.array([[0.0, -1.0, 0.0, 0.0]]), 0.1, 2)
    with pytest.raises(UserError, match="swap them"):
        world_of(initial={"law": "thrown", "speed": [2.0, 1.0]})
