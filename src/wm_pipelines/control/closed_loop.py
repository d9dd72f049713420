"""A policy in the true world, episode by episode, all episodes in one batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.control.policies import Policy, observed
from wm_pipelines.errors import UserError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """What happened.

    Attributes:
        states: of the plant, ``[E, T + 1, n]``. actions: ``[E, T, A]``. rewards: ``[E, T]``; None: there are goals.
        reached: ``[E, T + 1]``, whether a row counts as the goal; None: there are none.
        expected: ``[E, T]``, return over its horizon that each decision's plan promised; None: nothing was planned.
        seconds: that all decisions took.
    """

    states: Float
    actions: Float
    rewards: Float | None
    reached: NDArray[np.bool_] | None
    expected: Float | None
    seconds: float

    @property
    def returns(self) -> Float:
        """Sum of rewards, ``[E]``."""
        assert self.rewards is not None
        return np.asarray(self.rewards.sum(1))

    @property
    def succeeded(self) -> Float:
        """1 where the goal was reached within the budget, else 0: ``[E]``."""
        assert self.reached is not None
        return np.asarray(self.reached.any(1), np.float64)

    @property
    def score(self) -> Float:
        """Success where there are goals, else the return: ``[E]``."""
        return self.returns if self.reached is None else self.succeeded


def run(
    policy: Policy,
    plant: Any,
    starts: Float,
    goals: Float | None,
    step: float,
    steps: int,
    views: Mapping[str, Any],
) -> Course:
    """Let a policy act.

    Args:
        policy: who acts. plant: the world (`worlds.base.ControlledWorld`). starts, goals: plant states ``[E, n]``.
        step: seconds between rows. steps: ``T``, the budget. views: spaces of what is shown.

    Raises:
        UserError: the policy's actions are not those of the world.
    """
    z = np.array(starts, np.float64)
    states, actions, rewards, expected = [z], [], [], []
    reached = None if goals is None else [plant.success(z, goals)]
    seconds = 0.0
    policy.begin(observed(plant, z, views), z)
    for _ in range(steps):
        began = time.perf_counter()
        chosen = policy.act()
        seconds += time.perf_counter() - began
        if chosen.shape != (len(z), plant.action_size):
            raise UserError(
                f"world '{plant.entry}' takes {plant.action_size} action(s) of {len(z)} episodes, the policy gave an "
                f"array of shape {tuple(chosen.shape)}; train it on episodes of this world"
            )
        action = chosen.clamp(-1, 1).double().numpy()
        if goals is None:
            rewards.append(plant.reward(z, action))
        z = plant.advance(z, action, step)
        policy.observe(torch.from_numpy(action).to(chosen.dtype), observed(plant, z, views), z)
        states.append(z)
        actions.append(action)
        if policy.expected is not None:
            expected.append(policy.expected.double().numpy())
        if reached is not None:
            reached.append(plant.success(z, goals))
    return Course(
        np.stack(states, 1),
        np.stack(actions, 1),
        np.stack(rewards, 1) if rewards else None,
        None if reached is None else np.stack(reached, 1),
        np.stack(expected, 1) if expected else None,
        seconds,
    )
