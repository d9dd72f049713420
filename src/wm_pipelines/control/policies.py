"""Who acts: a planner on what a model imagines or on the true world, or a model's own policy.

Shapes: ``E`` starts, ``N`` candidates, ``H`` steps, ``A`` entries of an action. ``plant`` is a world that takes actions
(`worlds.base.ControlledWorld`), of which only those may know that judge, or that are given the laws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from wm_pipelines.control.planners import Planner, PlannerConfig
from wm_pipelines.control.waypoints import Guide, LandmarkGraph
from wm_pipelines.families.base import Acts, Imagines, Views
from wm_pipelines.mappings import Settings

Float = NDArray[np.float64]
Where = Literal["last", "mean", "closest"]


class ObjectiveConfig(Settings):
    """What plans are scored by: rewards where a world gives any, else the distance to the goal in features."""

    goal: Where = Field("mean", description="of the squared distances along a plan: the last, their mean, the smallest")
    landmarks: int = Field(
        0, ge=0, description="rows of training episodes among which the way to a goal is searched; 0: straight to it"
    )
    reach: float = Field(3.0, gt=0, description="steps to the next waypoint on that way, at most")


class Policy(Protocol):
    """Acts in a batch of episodes, from their first row on."""

    def begin(self, observation: Views, plant_states: Float) -> None:
        """The first observations ``[E, …]`` of the episodes; plant states are for those alone that know the world."""

    def act(self) -> Tensor:
        """Actions ``[E, A]``."""

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """What followed."""

    @property
    def expected(self) -> Tensor | None:
        """Return ``[E]`` that the last plan promised for its horizon; None where there is none."""


class _Believing:
    """Keeps a model's belief."""

    expected: Tensor | None = None

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = model, seed
        self.belief = torch.empty(0)

    def begin(self, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del plant_states
        self.belief = self.model.start(observation, self.seed)

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del plant_states
        self.belief = self.model.update(self.belief, action, observation, self.seed)


class OwnPolicy(_Believing):
    """What a model was trained to do."""

    model: Acts

    def act(self) -> Tensor:
        """See `Policy`."""
        return self.model.act(self.belief, self.seed)


class Planned(_Believing):
    """A planner on what a model imagines.

    Args:
        model: it. seed: which of its seeds. planner: its settings. action: ``A``. objective: how plans are scored.
        goal: observations ``[E, …]`` to reach; None: rewards are wanted. draw: seed of the planner's candidates.
        graph: of the model's features, to find waypoints in; None: straight to the goal.
    """

    model: Imagines

    def __init__(
        self,
        model: Imagines,
        seed: int,
        planner: PlannerConfig,
        action: int,
        objective: ObjectiveConfig,
        goal: Views | None = None,
        draw: int = 0,
        graph: LandmarkGraph | None = None,
    ) -> None:
        super().__init__(model, seed)
        self.planner, self.objective = Planner(planner, action, draw), objective
        self.goal = None if goal is None else model.features(goal, seed)
        self.guide = None if self.goal is None or graph is None else Guide(graph, self.goal, objective.reach)
        self.target = self.goal

    def begin(self, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        super().begin(observation, plant_states)
        self._look(observation)

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        super().observe(action, observation, plant_states)
        self._look(observation)

    def _look(self, observation: Views) -> None:
        if self.guide is not None:
            self.target = self.guide.waypoint(self.model.features(observation, self.seed))

    def act(self) -> Tensor:
        """See `Policy`."""
        plans = self.planner.plan(self._score, len(self.belief))
        if self.goal is None:
            self.expected = self._score(plans[:, None])[:, 0]
        return plans[:, 0]

    def _score(self, candidates: Tensor) -> Tensor:
        count = candidates.shape[1]
        belief = self.belief.repeat_interleave(count, 0)
        imagined = self.model.imagine(belief, candidates.flatten(0, 1), self.seed)
        if self.goal is None:
            assert imagined.rewards is not None, "a planner was asked for rewards of a model that predicts none"
            return imagined.rewards.sum(-1).unflatten(0, (-1, count))
        assert self.target is not None
        missing = imagined.features - self.target.repeat_interleave(count, 0)[:, None]
        return -reduced(missing.square().sum(-1), self.objective.goal).unflatten(0, (-1, count))


class TruePlanned:
    """A planner on the true world: what the same planner makes of a perfect model."""

    def __init__(
        self,
        plant: Any,
        step: float,
        planner: PlannerConfig,
        objective: ObjectiveConfig,
        goal: Float | None = None,
        draw: int = 0,
    ) -> None:
        self.plant, self.step, self.objective = plant, step, objective
        self.planner = Planner(planner, plant.action_size, draw)
        self.goal = goal
        self.states: Float = np.empty(0)
        self.expected: Tensor | None = None

    def begin(self, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del observation
        self.states = plant_states

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del action, observation
        self.states = plant_states

    def act(self) -> Tensor:
        """See `Policy`."""
        plans = self.planner.plan(self._score, len(self.states))
        if self.goal is None:
            self.expected = self._score(plans[:, None])[:, 0]
        return plans[:, 0]

    def _score(self, candidates: Tensor) -> Tensor:
        actions = candidates.double().numpy()
        z = np.repeat(self.states[:, None], actions.shape[1], 1)
        rewards: Float = np.zeros(z.shape[:2])
        distances = []
        for k in range(actions.shape[2]):
            if self.goal is None:
                rewards = rewards + self.plant.reward(z, actions[:, :, k])
            z = self.plant.advance(z, actions[:, :, k], self.step)
            if self.goal is not None:
                distances.append(self.plant.distance(z, np.broadcast_to(self.goal[:, None], z.shape)))
        if self.goal is None:
            return torch.from_numpy(rewards)
        return -reduced(torch.from_numpy(np.stack(distances, -1)), self.objective.goal)


class Fixed:
    """Acts without looking: ``random``, ``zero``, or the actions ``[E, T, A]`` it is given.

    Args:
        action: ``A``. kind: see above. seed: of random actions. given: actions to replay, from the first on.
    """

    expected: Tensor | None = None

    def __init__(self, action: int, kind: str, seed: int = 0, given: Tensor | None = None) -> None:
        self.action, self.kind, self.given = action, kind, given
        self._generator, self._row, self._starts = torch.Generator().manual_seed(seed), 0, 0

    def begin(self, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del observation
        self._row, self._starts = 0, len(plant_states)

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """See `Policy`."""
        del action, observation, plant_states
        self._row += 1

    def act(self) -> Tensor:
        """See `Policy`."""
        if self.given is not None:
            return self.given[:, self._row]
        if self.kind == "zero":
            return torch.zeros(self._starts, self.action)
        return 2 * torch.rand(self._starts, self.action, generator=self._generator) - 1


def graph_of(model: Imagines, seed: int, train: Views, objective: ObjectiveConfig) -> LandmarkGraph | None:
    """Landmarks among the observations ``[E, T, …]`` of training episodes; None where none are wanted."""
    if not objective.landmarks:
        return None
    episodes = range(len(next(iter(train.values()))))
    return LandmarkGraph(
        torch.stack([model.features({name: view[e] for name, view in train.items()}, seed) for e in episodes]),
        objective.landmarks,
    )


def reduced(distances: Tensor, where: Where) -> Tensor:
    """Distances ``[..., H]`` along plans as one number each."""
    if where == "last":
        return distances[..., -1]
    return distances.mean(-1) if where == "mean" else distances.amin(-1)


def observed(plant: Any, z: Float, views: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is shown of plant states ``[E, n]``: those of the views ``states`` and ``frames`` that there are."""
    shown = {}
    if "frames" in views:
        shown["frames"] = torch.from_numpy(plant.render(z, views["frames"].shape[0]))
    if "states" in views:
        shown["states"] = torch.from_numpy(np.ascontiguousarray(plant.observe(z)))
    return shown
