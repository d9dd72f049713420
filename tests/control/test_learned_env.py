"""A learned world as a Gymnasium environment: the interface, and that it moves as the world that was learned."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from tests.specs import LEARNING
from wm_pipelines.control.learned_env import LearnedEnv
from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Decodes, Imagined, Schedule, TrainedConfig
from wm_pipelines.families.parts.imagining import ImaginingFamily
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families
from wm_pipelines.spec import Spec

# A body on a line with friction, its place and speed, and a hand: z' = A z + B a; reward: minus the distance from 0.
A, B = np.array([[1.0, 0.1], [0.0, 0.8]]), np.array([[0.0], [0.5]])


class LinearConfig(TrainedConfig):
    schedule: Schedule = Schedule(steps=150, batch_size=32, learning_rate=5e-2)


class Linear(ImaginingFamily):
    """Observation and action -> the next observation, and a reward; the belief is what was last seen."""

    name, Config = "test_linear", LinearConfig

    def make_member(self):
        size = int(np.prod(self.space.shape))
        return nn.ModuleDict({"step": nn.Linear(size + self.action_size, size), "reward": nn.Linear(2 * size, 1)})

    def member_start(self, member, x):
        return x.flatten(1)

    def member_update(self, member, belief, action, x):
        return x.flatten(1)

    def member_imagine(self, member, belief, actions):
        features, rewards = [], []
        for k in range(actions.shape[1]):
            rewards.append(member["reward"](torch.cat([belief, belief**2], -1))[:, 0])
            belief = member["step"](torch.cat([belief, actions[:, k]], -1))
            features.append(belief)
        return Imagined(torch.stack(features, 1), torch.stack(rewards, 1) if self.rewarded else None)

    def member_features(self, member, x):
        return x.flatten(1)

    def member_decode(self, member, features):
        height, *rest = self.space.shape
        return features.unflatten(-1, (rest[-1], height, rest[0]) if rest else (height,))

    def member_loss(self, member, batch, generator, progress):
        x = self.inputs(batch)
        imagined = self.member_imagine(member, x[:, 0], batch["actions"].to(x.dtype))
        loss = (imagined.features - x[:, 1:]).square().mean()
        loss = loss + (imagined.rewards - batch["rewards"].to(x.dtype)).square().mean()
        return loss, {"mse": loss}


def line(episodes=40, steps=8, **views):
    rng = np.random.default_rng(0)
    z, actions = [rng.uniform(-1, 1, (episodes, 2))], rng.uniform(-1, 1, (episodes, steps, 1))
    for k in range(steps):
        z.append(z[-1] @ A.T + actions[:, k] @ B.T)
    z = np.stack(z, 1)
    views = {"states": z, "actions": actions, "rewards": -(z[:, :-1, 0] ** 2), **views}
    return Episodes(Spec("line", 0.1, spaces_of(views), steps + 1), views)


@pytest.fixture(scope="module")
def learned():
    episodes = line()
    family = Linear(LinearConfig(), episodes.spec, (0, 1))
    train(family, {name: torch.from_numpy(view) for name, view in episodes.views.items()}, LEARNING)
    return family, episodes


def filmed():
    frames = np.random.default_rng(1).integers(0, 256, (3, 5, 4, 6, 3)).astype(np.uint8)
    rng = np.random.default_rng(2)
    views = {"frames": frames, "actions": rng.uniform(-1, 1, (3, 4, 2))}
    episodes = Episodes(Spec("film", 0.1, spaces_of(views), 5), views)
    return Linear(LinearConfig(), episodes.spec, (0,)), episodes


@pytest.mark.parametrize("view", ["states", "frames"])
def test_it_is_an_environment_of_gymnasium(view, learned):
    family, episodes = learned if view == "states" else filmed()
    assert isinstance(family, Decodes)
    env = LearnedEnv(family, episodes, length=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that vectors are not bounded, and that there is no registered name
        check_env(env)


def test_it_moves_and_rewards_as_the_world_that_was_learned(learned):
    family, episodes = learned
    for seed in (0, 1):
        env = LearnedEnv(family, episodes, seed=seed, length=12)
        z, info = env.reset(seed=3)
        np.testing.assert_array_equal(z, episodes["states"][info["episode"], info["row"]])
        assert z.dtype == np.float64
        rng = np.random.default_rng(0)
        for k in range(12):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            wanted, earned = A @ z + B @ action, -(z[0] ** 2)
            z, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_allclose(z, wanted, atol=0.02)  # of what it showed last: each step is the learned step
            assert reward == pytest.approx(earned, abs=0.1)
            assert not terminated
            assert truncated == (k == 11)


def test_starts_are_drawn_by_the_seed_and_context_is_seen(learned):
    family, episodes = learned
    env = LearnedEnv(family, episodes, context=4)
    (first, where), (again, same) = env.reset(seed=5), env.reset(seed=5)
    assert where == same
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, episodes["states"][where["episode"], where["row"]])
    rows = {env.reset()[1]["row"] for _ in range(60)}
    assert rows == {3, 4, 5, 6, 7, 8}


def test_frames_are_shown_in_bytes_and_rewards_are_nothing_where_none_were_learned():
    family, episodes = filmed()
    env = LearnedEnv(family, episodes)
    start, _ = env.reset(seed=0)
    frame, reward, *_ = env.step(np.zeros(2, np.float32))
    assert start.shape == frame.shape == (4, 6, 3)
    assert frame.dtype == np.uint8
    assert reward == 0.0


def test_actions_that_are_none_are_refused(learned):
    family, episodes = learned
    env = LearnedEnv(family, episodes)
    with pytest.raises(UserError, match="reset"):
        env.step(np.zeros(1))
    env.reset(seed=0)
    for wrong in (np.array([np.nan]), np.zeros(2), 0.0):
        with pytest.raises(UserError, match=r"actions are \(1,\) finite numbers"):
            env.step(wrong)


def test_what_cannot_be_steered_is_refused(learned):
    family, episodes = learned
    with pytest.raises(UserError, match="seed: an index from 0"):
        LearnedEnv(family, episodes, seed=-1)
    with pytest.raises(UserError, match="episodes of 9 rows have no start of 10 rows"):
        LearnedEnv(family, episodes, context=10)
    still = Episodes(Spec("still", 0.1, spaces_of({"states": episodes["states"]}), 9), {"states": episodes["states"]})
    with pytest.raises(UserError, match="world 'still' takes no actions"):
        LearnedEnv(Linear(LinearConfig(), still.spec, (0,)), still)
    kind = families.get("persistence")
    with pytest.raises(UserError, match="family 'persistence' does not decode what it imagines"):
        LearnedEnv(kind(kind.Config(), episodes.spec, (0,)), episodes)
