"""A body on a line with friction and a hand, known exactly: linear, with quadratic rewards or with goals."""

import numpy as np
import torch

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.families.base import Family, Imagined
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Facts, Spec
from wm_pipelines.worlds.base import ControlledWorld, WorldParameters

A, B = np.array([[1.0, 0.2], [0.0, 0.9]]), np.array([[0.02], [0.2]])
COST = 0.05  # of an action's square
STEP = 0.1


class Line(ControlledWorld):
    """``z' = A z + B a``, reward ``-(x^2 + COST a^2)`` of the state before."""

    name, Parameters, action_size = "test_line", WorldParameters, 1

    def sample_initial_state(self, rng, episodes):
        return rng.uniform(-1, 1, (episodes, 2))

    def advance(self, z, action, step):
        return z @ A.T + action @ B.T

    def reward(self, z, action):
        return -(z[..., 0] ** 2 + COST * action[..., 0] ** 2)

    def render(self, z, size=64):
        return np.zeros((*z.shape[:-1], size, size, 3), np.uint8)

    def laws(self):
        return Laws(plant=self)


class Goals(Line):
    """The same with places to reach instead of rewards."""

    name = "test_goals"
    near = 0.1

    def reward(self, z, action):
        return None

    def sample_goal(self, rng, starts):
        return rng.uniform(-1, 1, starts.shape) * [1.0, 0.0]

    def success(self, z, goal):
        """The place is less than 0.1 from the goal's."""
        return np.abs(z[..., 0] - goal[..., 0]) < self.near


def world(kind=Line):
    made = kind(kind.Parameters())
    made.entry = kind.name
    return made


def episodes(plant, count=12, steps=8, seed=0):
    """Random actions."""
    rng = np.random.default_rng(seed)
    z, actions, rewards = [plant.sample_initial_state(rng, count)], rng.uniform(-1, 1, (count, steps, 1)), []
    for k in range(steps):
        rewards.append(plant.reward(z[-1], actions[:, k]))
        z.append(plant.advance(z[-1], actions[:, k], STEP))
    views = {"states": np.stack(z, 1), "actions": actions}
    if rewards[0] is not None:
        views["rewards"] = np.stack(rewards, 1)
    spec = Spec(plant.entry, STEP, spaces_of(views), steps + 1, Facts({"simulator": True}))
    return Episodes(spec, views)


class Model(Family):
    """What is true of the line, but for what a test wants to be wrong.

    `hears`: how much of an action arrives; `praise`: added to every reward; `slip`: factor of all states.
    """

    name, uses = "test_model", ("actions", "rewards")
    hears, praise, slip = 1.0, 0.0, 1.0

    def start(self, observation, seed):
        return observation["states"].double()

    def update(self, belief, action, observation, seed):
        return observation["states"].double()

    def features(self, observation, seed):
        return observation["states"].double()

    def imagine(self, belief, actions, seed):
        z, states, rewards = belief.double(), [], []
        for action in actions.double().unbind(1):
            rewards.append(self.praise - z[:, 0] ** 2 - COST * action[:, 0] ** 2)
            z = self.slip * (z @ torch.tensor(A.T) + self.hears * action @ torch.tensor(B.T))
            states.append(z)
        rewarded = "rewards" in self.spec.views
        return Imagined(torch.stack(states, 1), torch.stack(rewards, 1) if rewarded else None)

    def predict(self, past, steps, actions=None, step=None):
        found = self.imagine(past["states"][:, -1], actions, 0)
        states = torch.cat([past["states"][:, -1:], found.features], 1)
        rewards = {} if found.rewards is None else {"rewards": found.rewards}
        return {name: torch.stack([x] * len(self.seeds)) for name, x in ({"states": states} | rewards).items()}


class Policy(Model):
    """Pulls towards zero, and predicts nothing."""

    name = "test_policy"
    imagine = features = None
    gain = 2.0

    behaves = True

    def act(self, belief, seed):
        return -self.gain * belief.sum(-1, keepdim=True)

    def extra_summary(self):
        return {"dream_return": [7.0 for _ in self.seeds]}
