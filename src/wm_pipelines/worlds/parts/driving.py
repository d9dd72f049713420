"""Episodes of worlds that take actions: who acts, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.worlds.base import ControlledWorld, Float

Policy = Literal["random", "smooth", "zero", "scripted", "mixed"]
"""``random``: every action uniform and independent; ``smooth``: uniform in the long run, correlated over `_MEMORY`
steps; ``scripted``: the world's own; ``mixed``: every episode one of these three, in turn."""

_MEMORY = 8  # steps over which smooth actions forget half


def drive(
    world: ControlledWorld,
    *,
    step: float,
    steps: int,
    episodes: int,
    seed: int | Sequence[int],
    policy: Policy = "random",
    noise: float = 0.0,
    frame_size: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Episodes:
    """Let a policy act in a world.

    Start states, actions and noise have random streams of their own.

    Args:
        world: the world. step: seconds between rows. steps: ``T``. episodes: ``E``. seed: entropy of the streams.
        policy: who acts. noise: standard deviation of the Gaussian noise on the view ``states``; frames show the
            noise-free state. frame_size: side of the rendered frames in pixels; None for no frames.
        metadata: further facts for the header, JSON types.
    """
    starts, acting, disturbance = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    z, actions, rewards = roll(world, world.sample_initial_state(starts, episodes), step, steps, policy, acting)
    states = world.observe(z)
    facts: dict[str, Any] = {"noise": noise, "policy": policy, "generator": __version__, **(metadata or {})}
    facts["seed"] = list(seed) if isinstance(seed, Sequence) else seed
    views = {
        "times": np.tile(step * np.arange(steps + 1.0), (episodes, 1)),
        "states": states + noise * disturbance.standard_normal(states.shape) if noise > 0 else states,
        "frames": None if frame_size is None else world.render(z, frame_size),
        "actions": actions,
        "rewards": rewards,
    }
    return world.episodes(views, step, facts)


def roll(
    world: ControlledWorld, z0: Float, step: float, steps: int, policy: Policy, rng: np.random.Generator
) -> tuple[Float, Float, Float | None]:
    """Plant states ``[E, steps + 1, n]``, actions ``[E, steps, A]`` and rewards ``[E, steps]`` or None."""
    states, actions, rewards = [np.asarray(z0, np.float64)], [], []
    smooth = rng.standard_normal((len(z0), world.action_size))
    for row in range(steps):
        smooth = _next(smooth, rng)
        action = _action(world, policy, states[-1], row, rng, smooth)
        rewards.append(world.reward(states[-1], action))
        actions.append(action)
        states.append(world.advance(states[-1], action, step))
    given = [r for r in rewards if r is not None]
    return np.stack(states, 1), np.stack(actions, 1), np.stack(given, 1) if given else None


def _next(smooth: Float, rng: np.random.Generator) -> Float:
    """An Ornstein-Uhlenbeck process of unit variance."""
    kept = 0.5 ** (1.0 / _MEMORY)
    return kept * smooth + np.sqrt(1.0 - kept * kept) * rng.standard_normal(smooth.shape)


def _action(
    world: ControlledWorld, policy: Policy, z: Float, row: int, rng: np.random.Generator, smooth: Float
) -> Float:
    shape = (len(z), world.action_size)
    if policy == "zero":
        return np.zeros(shape)
    if policy == "random":
        return rng.uniform(-1.0, 1.0, shape)
    if policy == "smooth":
        return np.clip(smooth, -1.0, 1.0)
    scripted = np.clip(world.scripted(rng, z, row), -1.0, 1.0)
    if policy == "scripted":
        return scripted
    choices = np.stack([rng.uniform(-1.0, 1.0, shape), np.clip(smooth, -1.0, 1.0), scripted])
    return choices[np.arange(len(z)) % 3, np.arange(len(z))]
