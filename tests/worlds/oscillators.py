"""Tables of oscillators, as a user would have measured them."""

import numpy as np
import pandas as pd

from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest

HALVES = {"train": 0.5, "test": 0.5}
STEP, MASS, STIFFNESS = 0.1, 2.0, 3.0
OMEGA = np.sqrt(STIFFNESS / MASS)


def oscillator(episodes=10, rows=21, seed=0):
    """q = a cos(wt + phi), p = -m w a sin(wt + phi): the exact motion, in SI units."""
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.5, 1.5, (episodes, 1)), rng.uniform(0, 6, (episodes, 1))
    time = STEP * np.arange(rows)
    angle = OMEGA * time + phase
    columns = {
        "run": np.repeat(np.arange(1, episodes + 1), rows),
        "t": np.tile(time, episodes),
        "x": (amplitude * np.cos(angle)).ravel(),
        "p": (-MASS * OMEGA * amplitude * np.sin(angle)).ravel(),
    }
    return pd.DataFrame(columns)


COLUMNS = {
    "episode": "run",
    "time": {"column": "t", "unit": "s"},
    "coordinates": [{"column": "x", "unit": "m"}],
    "momenta": [{"column": "p", "unit": "kg*m/s"}],
}
ENERGY = {"energy": "p1**2/(2*m1) + 0.5*k*q1**2", "constants": {"k": "3 N/m"}, "masses": ["2 kg"]}


def save(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def config(path, **parameters):
    data = {"world": "table", "parameters": {"path": str(path), "columns": COLUMNS, **parameters}}
    return validate(WorldConfig, data, "mine")


def load(frame, tmp_path, name="mine.csv", **parameters):
    return ingest(config(save(frame, tmp_path / name), **parameters), "mine")
