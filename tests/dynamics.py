"""Integrators and measures of chaos that only tests need."""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from wm_pipelines.integrators import Array, Field, gauss_legendre_step


def rollout_gauss_legendre(
    z0: Array, step: float, steps: int, field: Field, stages: int = 3, substeps: int = 1, tolerance: float = 1e-14
) -> Array:
    """Roll any Hamiltonian system out with the implicit Gauss method: ``[..., D] -> [..., steps + 1, D]``."""
    xp = array_namespace(z0)
    z, output = z0, [z0]
    for _ in range(steps):
        for _ in range(substeps):
            z = gauss_legendre_step(z, step / substeps, field, stages, tolerance)
        output.append(z)
    return xp.stack(output, axis=-2)


def lyapunov_exponent(
    simulate: Callable[[Any, float, int], Any],
    z0: Array,
    interval: float,
    repeats: int,
    distance: float = 1e-7,
    seed: int = 0,
) -> Array:
    """Largest Lyapunov exponent by following two neighbours and pulling them together again (Benettin et al. 1980).

    The first fifth of the time turns the separation into the fastest growing direction and is not counted.

    Args:
        simulate: ``(z0 [E, D], step, steps) -> [E, steps + 1, D]``, numpy.
        z0: start states ``[E, D]``.
        interval: time between two re-scalings, well below ``ln(1 / distance)`` Lyapunov times.
        repeats: how many intervals.
        distance: separation after each re-scaling.
        seed: of the first direction of the separation.

    Returns:
        ``[E]`` mean growth rates of the separation, per unit of time.
    """
    direction = np.random.default_rng(seed).standard_normal(z0.shape)
    a, b = z0, z0 + distance * direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    growth = np.zeros((repeats, z0.shape[0]))
    for k in range(repeats):
        a, b = np.split(simulate(np.concatenate([a, b]), interval, 1)[:, -1], 2)
        apart = np.linalg.norm(b - a, axis=-1, keepdims=True)
        growth[k] = np.log(apart[:, 0] / distance)
        b = a + (b - a) * (distance / apart)
    settled = growth[repeats // 5 :]
    return settled.sum(0) / (settled.shape[0] * interval)
