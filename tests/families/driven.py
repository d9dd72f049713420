"""Small worlds under actions: a mass that is pushed, and a walk that forks."""

import torch

from tests.specs import tensor
from wm_pipelines.spec import Facts, Space, Spec

STEP = 0.1


def spec_of(size, rows=21, actions=0, rewards=False):
    """States ``[size]``, actions and rewards where there are any."""
    views = {"states": Space("vector", (size,))}
    if actions:
        views["actions"] = Space("vector", (actions,), per="transition")
    if rewards:
        views["rewards"] = Space("scalar", per="transition")
    return Spec("driven", STEP, views, rows, Facts({}), {})


PUSHED = spec_of(2, actions=1, rewards=True)


def pushed(episodes=30, steps=20, seed=0):
    """A mass on a spring that actions push, rewarded for being near 0: ``q' = q + p h, p' = p + (2 a - q) h``."""
    draw = torch.Generator().manual_seed(seed)
    actions = 2 * torch.rand(episodes, steps, 1, generator=draw, dtype=torch.float64) - 1
    z = torch.randn(episodes, 2, generator=draw, dtype=torch.float64)
    states, rewards = [z], []
    for a in actions.unbind(1):
        rewards.append(-z[:, 0].square())
        z = torch.stack([z[:, 0] + STEP * z[:, 1], z[:, 1] + STEP * (2 * a[:, 0] - z[:, 0])], 1)
        states.append(z)
    return {"states": torch.stack(states, 1), "actions": actions, "rewards": torch.stack(rewards, 1)}


def forked(episodes=400, chance=0.7, seed=0):
    """Two rows: from anywhere in [-1, 1] two to the right, with that probability, or else two to the left."""
    draw = torch.Generator().manual_seed(seed)
    start = 2 * torch.rand(episodes, 1, generator=draw, dtype=torch.float64) - 1
    right = torch.rand(episodes, 1, generator=draw) < chance
    return {"states": torch.stack([start, start + tensor(torch.where(right, 2.0, -2.0))], 1)}
