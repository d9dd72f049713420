"""Many bodies: pairs in blocks are the same law as all at once, memory stays bounded, long work is spoken of."""

import logging
import math
import tracemalloc

import numpy as np
import pytest
import torch

from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import dop853
from wm_pipelines.worlds.n_body import NBody
from wm_pipelines.worlds.parts import simulation
from wm_pipelines.worlds.parts.simulation import Work, duration, energy_drift, simulate_separable

FORCES = ("springs", "charges", "gravity", "morse", "yukawa")


def world_of(bodies, force="gravity", **parameters):
    settings = {"force": force, "bodies": bodies, "masses": {"low": 0.5, "high": 1.5}, **parameters}
    return NBody(validate(NBody.Parameters, settings, "n_body"))


def starts(world, episodes=2, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("force", FORCES)
@pytest.mark.parametrize(("bodies", "dimension"), [(17, 3), (65, 2), (300, 2), (300, 3), (530, 2)])
def test_blocks_are_the_law_of_all_pairs_at_once(force, bodies, dimension):
    world = world_of(bodies, force, dimension=dimension)
    z = starts(world)
    q = world.positions(z)
    direct, found = world._force(q), world.force(z[:, : bodies * dimension]).reshape(q.shape)
    np.testing.assert_allclose(found, direct, rtol=1e-12, atol=1e-13 * np.abs(direct).max())
    np.testing.assert_allclose(world.potential(z), world._potential(q), rtol=1e-13)
    np.testing.assert_array_equal(world.distances(z), world._distances(q))


@pytest.mark.parametrize("force", FORCES)
def test_forces_of_many_bodies_add_up_to_nothing(force):
    world = world_of(400, force)
    z = starts(world)
    f = world.force(z[:, :800]).reshape(2, 400, 2)
    # Every pair's two forces are each other's opposites; what is left is the rounding of 400 additions.
    assert np.abs(f.sum(axis=1)).max() < 400 * np.finfo(np.float64).eps * np.abs(f).sum(axis=1).max() / 20
    path = world.simulate(z, 0.005, 3)
    change = world.momentum(path) - world.momentum(path[:, :1])
    assert np.abs(change).max() < 1e-13 * np.abs(world.momenta(path)).sum(axis=-2).max()


@pytest.mark.parametrize("bodies", [1, 2, 5, 16])
def test_few_bodies_are_computed_as_ever(bodies):
    world = world_of(bodies, "springs")
    z = starts(world, 6)
    q = world.positions(z)
    np.testing.assert_array_equal(world.force(z[:, : 2 * bodies]), world._force(q).reshape(6, -1))
    np.testing.assert_array_equal(world.potential(z), world._potential(q))


@pytest.mark.parametrize("bodies", [30, 100])
def test_any_leading_axes_and_none(bodies):
    world = world_of(bodies)
    z = starts(world, 6)
    # Attraction of 30 bodies comes in parts of 72 states: more states than one part.
    many = np.concatenate([z] * 20).reshape(4, 30, -1)
    np.testing.assert_array_equal(world.dynamics(many).reshape(20, 6, -1)[7], world.dynamics(z))
    np.testing.assert_array_equal(world.energy(many).reshape(20, 6)[7], world.energy(z))
    np.testing.assert_array_equal(world.dynamics(z)[3], world.dynamics(z[3]))
    assert world.energy(z[0]).shape == ()
    assert world.dynamics(z[:0]).shape == (0, 4 * bodies)


def test_torch_has_the_same_law_and_its_gradient(monkeypatch):
    monkeypatch.setattr("wm_pipelines.worlds.parts.particles._PAIRS_TORCH", 20_000)  # two states at a time
    world = world_of(100, "charges")
    z = starts(world, 5)
    tensor = torch.from_numpy(z).requires_grad_()
    energy = world.energy(tensor)
    np.testing.assert_allclose(energy.detach().numpy(), world.energy(z), rtol=1e-12)
    (gradient,) = torch.autograd.grad(energy.sum(), tensor)
    np.testing.assert_allclose(-gradient[:, :200].numpy(), world.force(z[:, :200]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bodies", [60, 300])
def test_memory_does_not_grow_with_the_number_of_states(bodies):
    world = world_of(bodies)
    z = np.tile(starts(world, 10), (100 if bodies == 60 else 10, 1))
    world.dynamics(z[:1])
    tracemalloc.start()
    world.dynamics(z)
    world.energy(z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All pairs of all states: 29 MB and 72 MB for each array of them, of which there are several.
    assert peak < 10 * z.nbytes + 8e6


def test_coincident_bodies_among_many_are_named():
    world = world_of(80, softening=0.0)
    z = starts(world, 3).copy()
    z[1, 2 * 71 : 2 * 72] = z[1, 2 * 4 : 2 * 5]
    with pytest.raises(UserError, match="bodies 4 and 71 coincide at the start of episode 1"):
        world.simulate(z, 0.1, 2)


# ---------------------------------------------------------------- attempts


@pytest.mark.training
def test_thrift_keeps_the_energy_check_and_computes_less():
    world = world_of(20, "springs", softening=0.05)
    z0 = starts(world, 3)
    count, paths = {}, {}

    def simulate(thrifty):
        def force(q):
            count[thrifty] = count.get(thrifty, 0) + len(q)
            return world.force(q)

        laws = {"velocity": world.velocity, "force": force, "energy": world.energy, "kinetic": world.kinetic}
        return simulate_separable("n_body", z0, 0.2, 12, longest=0.1, tolerance=1e-9, thrifty=thrifty, **laws)

    for thrifty in (False, True):
        paths[thrifty] = simulate(thrifty)
        assert energy_drift(paths[thrifty], world.energy, world.kinetic).max() <= 1e-9
    np.testing.assert_allclose(paths[True], paths[False], atol=1e-5)
    assert count[True] < 0.8 * count[False]


def test_rows_in_parts_are_the_rows_of_one_piece():
    world = world_of(100, softening=0.5)
    z0 = starts(world)
    laws = {"velocity": world.velocity, "force": world.force, "energy": world.energy, "kinetic": world.kinetic}
    whole, parts = (
        simulate_separable("n_body", z0, 0.05, 6, longest=0.02, tolerance=1e-6, thrifty=t, **laws)
        for t in (False, True)
    )
    np.testing.assert_array_equal(parts, whole)
    assert world.simulate(z0, 0.05, 0).shape == (2, 1, 400)
    assert world.simulate(z0[:0], 0.05, 3).shape == (0, 4, 400)


# ---------------------------------------------------------------- what a log says


class Clock:
    """A clock that every look at it moves on."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def monotonic(self):
        self.now += self.tick
        return self.now


@pytest.fixture
def slow(monkeypatch):
    def at(tick):
        monkeypatch.setattr(simulation, "time", Clock(tick))

    return at


def test_long_work_is_announced_and_followed(slow, caplog):
    slow(0.5)
    world = world_of(100, softening=0.5)
    with caplog.at_level(logging.INFO, "wm_pipelines.worlds.parts.simulation"):
        world.simulate(starts(world, 2), 0.05, 6)
    first, *others = caplog.messages
    assert first.startswith("n_body: 100 bodies, 4,950 pairs, about ")
    assert " force evaluations, about " in first
    assert others
    assert all("% done, about " in line or "again with" in line for line in others)


def test_short_work_is_done_without_a_line(slow, caplog):
    slow(0.001)
    world = world_of(100, softening=0.5)
    with caplog.at_level(logging.INFO, "wm_pipelines.worlds.parts.simulation"):
        world.simulate(starts(world, 2), 0.05, 6)
    assert not caplog.messages


def test_adaptive_work_is_announced_too(slow, caplog):
    slow(2.0)
    world = world_of(20, softening=0.0)
    with caplog.at_level(logging.INFO, "wm_pipelines.worlds.parts.simulation"):
        world.simulate(starts(world, 1), 0.05, 4)
    assert caplog.messages[0].startswith("n_body: 20 bodies, 190 pairs, about ")
    assert "% done" in caplog.messages[-1]


def test_estimates_are_the_rate_so_far(monkeypatch, caplog):
    clock = Clock(0.0)
    monkeypatch.setattr(simulation, "time", clock)
    with caplog.at_level(logging.INFO, "wm_pipelines.worlds.parts.simulation"), Work("w", "things") as work:
        work.expect(1000, "pieces")
        for _ in range(50):
            clock.now += 1.0
            work.add(10)
        work.note("half")
        work.drop(400)
        clock.now += 1.0
        work.add(10)
    assert caplog.messages == [
        "w: things, about 1,000 pieces, about 2 min.",
        "w: 21 % done, about 79 s left.",
        "w: 41 % done, about 59 s left.",
        "half",
    ]


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.4, 89.0, 150.0, 9000.0, math.inf)] == [
        "0 s", "89 s", "2 min", "2.5 h", "an unknown time",
    ]  # fmt: skip


def test_dop853_tells_how_far_it_is():
    told = []
    dop853(lambda z: -z, np.ones((3, 2)), 0.5, 4, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 4.0
    assert len(told) >= 4
