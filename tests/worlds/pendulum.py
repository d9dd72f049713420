"""Pendulums as a video measures them: an angle at 30 Hz, noise, friction, three decimals, no velocity."""

from functools import cache

import numpy as np
import pandas as pd

from wm_pipelines.integrators import dop853

OMEGA, RATE = np.sqrt(9.81 / 0.5), 30
DEGREES = np.linspace(15, 70, 12)  # at which the runs are released
COLUMNS = {
    "episode": "run",
    "time": {"column": "t", "unit": "s"},
    "coordinates": [{"column": "angle", "unit": "deg"}],
    "velocities": "estimate",
}


@cache
def motion(quality=100.0):
    """20 s of clean angle and rate ``[E, K, 2]`` in rad and rad/s: q'' = -w^2 sin q - (w / Q) q'."""

    def law(z):
        return np.stack([z[..., 1], -(OMEGA**2) * np.sin(z[..., 0]) - OMEGA / quality * z[..., 1]], axis=-1)

    start = np.stack([np.radians(DEGREES), np.zeros(len(DEGREES))], axis=-1)
    z = dop853(law, start, 1 / RATE, 20 * RATE)
    z.flags.writeable = False  # all tests share it
    return z


def energy(z):
    """Per unit of the moment of inertia."""
    return z[..., 1] ** 2 / 2 + OMEGA**2 * (1 - np.cos(z[..., 0]))


def measured(clean, noise=0.5, decimals=3, seed=0):
    """The table: noise in degrees."""
    runs, rows = clean.shape[:2]
    angle = np.degrees(clean[..., 0]) + noise * np.random.default_rng(seed).standard_normal((runs, rows))
    columns = {
        "run": np.repeat(np.arange(1, runs + 1), rows),
        "t": np.tile(np.arange(rows) / RATE, runs).round(decimals),
        "angle": angle.ravel().round(decimals),
    }
    return pd.DataFrame(columns)
