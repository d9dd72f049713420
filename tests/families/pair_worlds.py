"""Particles with laws of our own, and the momenta that a roll-out must keep."""

import numpy as np

from tests.families.mechanics import bodies
from tests.specs import episodes
from wm_pipelines.families.momentum_gnn.particles import cross, split_particles
from wm_pipelines.integrators import dop853, rollout_separable


class PairWorld:
    """Particles with a potential slope ``phi'(r)`` and a drag along the line of centres, per pair."""

    def __init__(self, spec, slope, coupling=1.0, drag=0.0):
        self.spec, self.slope, self.drag = spec, slope, drag
        self.n, self.space = spec.facts["particles"], spec.facts["space"]
        self.mass = np.asarray(spec.facts["attributes"]["mass"])
        self.coupling = np.broadcast_to(coupling, (self.n, self.n))

    def velocity(self, p):
        return p / np.repeat(self.mass, self.space)

    def force(self, q, p=None):
        x = q.reshape(*q.shape[:-1], self.n, self.space)
        r = x[..., :, None, :] - x[..., None, :, :]
        d = np.sqrt((r**2).sum(-1) + np.eye(self.n))
        pull = self.coupling * self.slope(d)
        if p is not None and self.drag:
            v = self.velocity(p).reshape(x.shape)
            pull = pull + self.drag * ((v[..., :, None, :] - v[..., None, :, :]) * r).sum(-1) / d
        return -((pull / d * (1 - np.eye(self.n)))[..., None] * r).sum(-2).reshape(q.shape)

    def field(self, z):
        d = z.shape[-1] // 2
        return np.concatenate([self.velocity(z[..., d:]), self.force(z[..., :d], z[..., d:])], axis=-1)

    def run(self, z0, steps):
        if self.drag:
            z = dop853(self.field, z0, self.spec.step, steps, 1e-10, 1e-10)
        else:
            z = rollout_separable(z0, self.spec.step, steps, self.velocity, self.force, "kahan_li8", 2)
        return episodes(z, self.spec.step, self.field(z))


def near_circular(rng, episodes):
    """Two unit masses about their centre, radius 0.5 to 1.5, speeds within a few per cent of the circle's."""
    half = rng.uniform(0.5, 1.5, (episodes, 1))
    angle = rng.uniform(0, 2 * np.pi, (episodes, 1))
    q = half * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    speed = np.sqrt(1.0 / (4.0 * half)) * (1 + 0.05 * rng.standard_normal((episodes, 1)))
    p = speed * np.concatenate([-np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([q, -q, p, -p], axis=1)


def cluster(rng, episodes, mass, space=2, spacing=1.2, heat=0.4):
    """Particles near the sites of a lattice, with thermal and drifting momenta."""
    side = int(np.ceil(len(mass) ** (1 / space)))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * space, indexing="ij"), -1).reshape(-1, space)[: len(mass)]
    q = spacing * (sites + rng.uniform(-0.2, 0.2, (episodes, len(mass), space)))
    p = np.asarray(mass)[:, None] * (heat * rng.standard_normal(q.shape) + 0.1)
    return np.concatenate([q.reshape(episodes, -1), p.reshape(episodes, -1)], axis=1)


def gravity(rng_seed=0, steps=100):
    world = PairWorld(bodies((1.0, 1.0), step=0.2), lambda d: 1 / d**2)
    return world, world.run(near_circular(np.random.default_rng(rng_seed), 30), steps)


def five_springs(drag=0.0, episodes=20):
    world = PairWorld(bodies(np.random.default_rng(3).uniform(0.5, 2.0, 5)), lambda d: d - 1.0, drag=drag)
    return world, world.run(cluster(np.random.default_rng(4), episodes, world.mass), 30)


def momenta(states, particles):
    """Linear ``[..., D]`` and angular momentum, and the sums of the absolute values of their terms."""
    q, p = split_particles(states, particles)
    turning = cross(q, p)
    size = q.square().sum(-2).sqrt() * p.square().sum(-2).sqrt()
    return p.sum(-1), p.square().sum(-2).sqrt().sum(-1), turning.sum(-1), size.sum(-1)


def assert_momenta_stay(states, particles, linear=1e-12, angular=1e-11, spin=0.0):
    p, p_size, turning, turning_size = momenta(states, particles)
    turning = turning + spin
    assert bool(states.isfinite().all())
    assert float(((p - p[..., :1, :]).abs().amax(-1) / p_size).max()) <= linear
    assert float(((turning - turning[..., :1, :]).abs().amax(-1) / turning_size).max()) <= angular
