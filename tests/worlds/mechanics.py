"""Mechanical worlds as tests build them, by a short name."""

import numpy as np

from wm_pipelines.errors import validate
from wm_pipelines.registry import worlds

BASE = {
    "mass_spring": {},
    "pendulum": {},
    "double_pendulum": {"masses": [1.3, 0.7], "lengths": [0.8, 1.1]},
    "two_body": {"masses": [1.0, 0.4]},
    "three_body": {"masses": [1.0, 0.8, 1.2]},
    "n_body springs": {"masses": [1.0, 0.5, 2.0, 1.5, 1.0]},
    "n_body charges": {"force": "charges", "masses": {"low": 0.5, "high": 2.0, "seed": 3}},
    "n_body gravity": {"force": "gravity", "bodies": 4, "dimension": 3},
    "n_body morse": {"force": "morse", "masses": [1.0, 0.5, 2.0, 1.5, 1.0]},
    "n_body yukawa": {"force": "yukawa", "masses": {"low": 0.5, "high": 2.0, "seed": 3}, "softening": 0.2},
    "henon_heiles": {},
}


def world_of(name, **parameters):
    World = worlds.get(name.split()[0])
    return World(validate(World.Parameters, {**BASE.get(name, {}), **parameters}, name))


def starts(world, episodes=4, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)
