"""Worlds of states as families are handed them, a pendulum to learn from, and how tests train."""

import numpy as np
import torch

from wm_pipelines.integrators import dop853
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families
from wm_pipelines.spec import Facts, Space, Spec

LEARNING = LearningConfig(progress=False)


def spec(size, step=0.1, rows=31, name="world", origin=None, **facts):
    """A world of states ``[size]`` with times and derivatives; ``facts`` are what a family may be told."""
    vector = Space("vector", (size,))
    views = {"times": Space("scalar"), "states": vector, "derivatives": vector}
    return Spec(name, step, views, rows, Facts(facts), origin or {})


def tensor(x):
    """Float64, whatever it was."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.float64)


def episodes(states, step=0.1, derivatives=None, times=None):
    """The views of episodes ``[E, T + 1, 2d]`` as families are handed them."""
    states = torch.as_tensor(states, dtype=torch.float64)
    times = step * torch.arange(states.shape[1], dtype=torch.float64) if times is None else torch.as_tensor(times)
    views = {"times": times.expand(states.shape[:2]), "states": states}
    return views if derivatives is None else views | {"derivatives": torch.as_tensor(derivatives, dtype=torch.float64)}


def without(views, name):
    """The same episodes without a view."""
    return {k: v for k, v in views.items() if k != name}


def simulated(field, start, step=0.1, steps=30, noise=0.0, derivatives=True, seed=0):
    """Episodes of ``dz/dt = field(z)`` to eleven digits; noise is on the states alone."""
    clean = dop853(field, start, step, steps, rtol=1e-11, atol=1e-11)
    slopes = field(clean.reshape(-1, clean.shape[-1])).reshape(clean.shape) if derivatives else None
    return episodes(clean + noise * np.random.default_rng(seed).standard_normal(clean.shape), step, slopes)


def fitted(name, world, views, seeds=(0, 1), **config):
    """A family trained by the loop, or in closed form, and the run."""
    kind = families.get(name)
    family = kind(kind.Config(**config), world, seeds)
    return family, train(family, views, LEARNING)


def rolled(family, start, steps, step=None):
    """Predicted states ``[S, E, steps + 1, 2d]`` from ``[E, 2d]``."""
    return family.predict({"states": torch.as_tensor(start, dtype=torch.float64)[:, None]}, steps, step=step)["states"]


# ---------------------------------------------------------------- a pendulum of unit mass, length and gravity

PENDULUM = spec(
    2,
    name="pendulum",
    angles=[0],
    structure=["even", "separable"],
    second_order=True,
    conserved=["energy"],
    energy={"law": "energy"},
    simulator=True,
    origin={"world": "pendulum", "parameters": {"gravity": 1.0}},
)


def pendulum_energy(z):
    """``p^2 / 2 + 1 - cos q``, with numpy or torch."""
    cos = torch.cos if isinstance(z, torch.Tensor) else np.cos
    return z[..., 1] ** 2 / 2 + 1 - cos(z[..., 0])


def pendulum_field(z):
    return np.stack([z[..., 1], -np.sin(z[..., 0])], -1)


def pendulum_starts(count, seed=0, angle=1.5, momentum=0.75):
    """Angles and momenta uniform within bounds."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)) * [angle, momentum]


def pendulum(count=20, steps=40, seed=0, **changes):
    """Episodes of the pendulum."""
    return simulated(pendulum_field, pendulum_starts(count, seed, **changes), steps=steps)
