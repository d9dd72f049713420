"""Small recurrent state-space models, and sequences for them."""

import pytest
import torch

from wm_pipelines.families.rssm.family import Rssm, RssmConfig
from wm_pipelines.spec import Space, Spec

SMALL = {"widths": (16,), "features": 6, "deterministic": 10, "stochastic": 4, "hidden": 16, "window": 8, "horizon": 5}
KINDS = [pytest.param({}, id="gaussian"), pytest.param({"classes": 3}, id="categorical")]
STATES = {"states": Space("vector", (3,))}
FRAMES = {"frames": Space("frames", (16, 16, 1), "uint8")}


def drivable(views=STATES, actions=2, rows=21):
    """A world that takes actions and gives rewards."""
    driven = {"actions": Space("vector", (actions,), per="transition"), "rewards": Space("scalar", per="transition")}
    return Spec("drivable", 0.05, views | driven, rows)


def built(spec=None, seeds=(0,), shake=0.1, **changes):
    """In float64, every weight moved at random, so that nothing holds by the first weights alone."""
    family = Rssm(RssmConfig(**{**SMALL, **changes}), spec or drivable(), seeds).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return family


def drawn(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(count=4, rows=12, actions=2):
    return {
        "states": drawn(count, rows, 3),
        "actions": drawn(count, rows - 1, actions, seed=3).tanh(),
        "rewards": drawn(count, rows - 1, seed=4),
    }
