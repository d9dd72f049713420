"""A learned world as an environment of Gymnasium, for any agent that learns in one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Decodes, Family

Observation = NDArray[Any]


class LearnedEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """What one model of a family imagines, step by step, from starts that were seen.

    Observations are those of the view that the family works on: vectors, or frames 0 … 255. Actions are in [-1, 1],
    rewards what the model says, 0 where it has learned none. An episode ends by truncation alone.

    No observation comes in after the start: after ``t`` actions the model imagines ``t`` steps, anew from the
    start at each of them, so that a step costs as much as a roll-out to it.

    Args:
        family: a trained family that imagines and decodes (`Decodes`). episodes: that starts are drawn from.
        seed: index of the model among the family's seeds. context: rows that the model sees of a start, the actions
            between them among them. length: steps to truncation.

    Raises:
        UserError: the family does not decode what it imagines, the world takes no actions, or episodes are too short.
    """

    def __init__(
        self, family: Family, episodes: Episodes, *, seed: int = 0, context: int = 1, length: int = 100
    ) -> None:
        if not isinstance(family, Decodes):
            raise UserError(f"family '{family.name}' does not decode what it imagines; choose one that rolls out")
        if "actions" not in family.spec.views:
            raise UserError(f"world '{family.spec.name}' takes no actions; nothing can be steered there")
        if not 1 <= context <= episodes.spec.rows:
            raise UserError(f"episodes of {episodes.spec.rows} rows have no start of {context} rows; use a shorter one")
        if seed not in range(len(family.seeds)):
            raise UserError(f"seed: an index from 0 to {len(family.seeds) - 1}, got {seed!r}")
        self._model: Any = family
        self._dtype, self._seed, self._context, self._length = family.dtype, seed, context, length
        self._view = family.shown(family.spec)[0]
        self._seen, self._taken = episodes[self._view], episodes["actions"]
        space, actions = family.spec.views[self._view], family.spec.views["actions"]
        self.observation_space = (
            gymnasium.spaces.Box(0, 255, space.shape, np.uint8)
            if space.kind == "frames"
            else gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float64)
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, actions.shape, np.float32)
        self._belief, self._actions = torch.empty(0), torch.empty(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin from rows of an episode, both drawn; ``info`` tells the ``episode`` and its ``row`` that is shown."""
        super().reset(seed=seed, options=options)
        episode = int(self.np_random.integers(len(self._seen)))
        row = int(self.np_random.integers(self._seen.shape[1] - self._context + 1))
        shown = torch.from_numpy(np.array(self._seen[episode, row : row + self._context]))
        taken = self._tensor(self._taken[episode, row : row + self._context - 1])
        belief = self._model.start({self._view: shown[:1]}, self._seed)
        for k in range(1, self._context):
            belief = self._model.update(belief, taken[None, k - 1], {self._view: shown[k : k + 1]}, self._seed)
        self._belief, self._actions = belief, taken[None, :0]
        return self._as_observed(shown[-1]), {"episode": episode, "row": row + self._context - 1}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Imagine one step more.

        Raises:
            UserError: an action of another shape or one that is no number, a step before `reset`.
        """
        action = np.asarray(action)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(f"actions are {self.action_space.shape} finite numbers, got {action.shape}: {action}")
        if not self._belief.numel():
            raise UserError("reset() comes before step()")
        self._actions = torch.cat([self._actions, self._tensor(np.clip(action, -1.0, 1.0))[None, None]], 1)
        imagined = self._model.imagine(self._belief, self._actions, self._seed)
        seen = self._model.decode(imagined.features, self._seed)[0, -1]
        if self._view == "frames":
            seen = (255.0 * seen).round()
        reward = 0.0 if imagined.rewards is None else float(imagined.rewards[0, -1])
        return self._as_observed(seen), reward, False, self._actions.shape[1] >= self._length, {}

    def _tensor(self, actions: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(actions)).to(self._dtype)

    def _as_observed(self, seen: Tensor) -> Observation:
        return np.asarray(seen.numpy(), self.observation_space.dtype)
