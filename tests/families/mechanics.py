"""Mechanical systems with known Hamiltonians: particles with pair forces, two coupled rotors."""

import math

import numpy as np
import torch

from tests.specs import spec

MASSES, CHARGES = (1.0, 2.0, 0.5), (1.0, -1.0, 0.5)


def bodies(masses, space=2, step=0.1, **attributes):
    """Particles with declared masses (and charges …) and pair forces."""
    given = {"mass": list(masses), **{name: list(values) for name, values in attributes.items()}}
    structure = ["even", "pairwise", "separable"]
    size = 2 * len(masses) * space
    return spec(size, step, name="bodies", particles=len(masses), space=space, attributes=given, structure=structure)


BODIES, TWO_BODY = bodies(MASSES, charge=CHARGES), bodies((1.0, 2.0))
COUPLED = spec(4, name="coupled", structure=["even"])  # H mixes q and p


def bodies_field(masses, charges):
    """Gravity and charges in the plane, G = k = 1."""
    n, m, c = len(masses), np.array(masses), np.array(charges)

    def field(z):
        q, p = z[..., : 2 * n].reshape(*z.shape[:-1], n, 2), z[..., 2 * n :].reshape(*z.shape[:-1], n, 2)
        r = q[..., None, :, :] - q[..., :, None, :]  # from i to j
        distance = np.linalg.norm(r, axis=-1) + np.eye(n)
        strength = (np.outer(m, m) - np.outer(c, c)) / distance**3
        force = (strength[..., None] * r).sum(-2)
        return np.concatenate([p / m[:, None], force], axis=-2).reshape(*z.shape[:-1], 4 * n)

    return field


def body_starts(masses, count, seed=0):
    """Bodies on a ring, turning, with scatter; centre of mass at rest at the origin."""
    rng = np.random.default_rng(seed)
    angle = 2 * math.pi * (np.arange(len(masses)) / len(masses) + rng.uniform(0, 1, (count, 1)))
    q = rng.uniform(0.8, 1.4, (count, 1, 1)) * np.stack([np.cos(angle), np.sin(angle)], -1)
    v = 0.6 * np.stack([-np.sin(angle), np.cos(angle)], -1) + 0.05 * rng.standard_normal(q.shape)
    m = np.array(masses)[:, None]
    q, v = (x - (m * x).sum(1, keepdims=True) / m.sum() for x in (q, v))
    return np.concatenate([q.reshape(count, -1), (m * v).reshape(count, -1)], -1)


def coupled_energy(z):
    """Two rotors whose inertia depends on the angle between them."""
    xp = torch if isinstance(z, torch.Tensor) else np
    q, p = z[..., :2], z[..., 2:]
    return (1 + 0.3 * xp.cos(q[..., 0] - q[..., 1])) * (p**2).sum(-1) / 2 + (2 - xp.cos(q).sum(-1))


def coupled_field(z):
    z = torch.as_tensor(z).requires_grad_()
    (g,) = torch.autograd.grad(coupled_energy(z).sum(), z)
    return torch.cat([g[..., 2:], -g[..., :2]], -1).numpy()


def coupled_starts(count, seed=0):
    return np.random.default_rng(seed).uniform(-0.8, 0.8, (count, 4))
