"""The recurrent state-space model: its bound, its roll-outs, and what it learns."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TrueCategorical
from torch.distributions import Independent, Normal, kl_divergence

from tests.families.state_space import FRAMES, KINDS, SMALL, batch, built, drawn, drivable
from tests.specs import LEARNING, PENDULUM, pendulum
from wm_pipelines.blocks.videos import pooled_frames
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Acts, Encodes, Imagines
from wm_pipelines.families.rssm.family import Rssm, RssmConfig, balanced_kl
from wm_pipelines.families.rssm.latents import Categorical, Gaussian
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Space

# ---------------------------------------------------------------- the bound


def test_divergence_of_gaussians_is_that_of_torch():
    latent, q, p = Gaussian(3, 0.1), drawn(5, 6), drawn(5, 6, seed=3)
    of = [Independent(Normal(*latent.moments(raw)), 1) for raw in (q, p)]
    torch.testing.assert_close(latent.kl(q, p), kl_divergence(*of))


def test_divergence_of_categories_is_that_of_torch():
    latent, q, p = Categorical(2, 4), drawn(5, 8), drawn(5, 8, seed=3)
    of = [Independent(TrueCategorical(probs=latent.probabilities(raw)), 1) for raw in (q, p)]
    torch.testing.assert_close(latent.kl(q, p), kl_divergence(*of))


def test_samples_of_categories_are_as_frequent_as_probable_and_one_hot():
    latent, raw = Categorical(2, 3), drawn(6)
    noise = latent.noise(20_000, generator=torch.Generator().manual_seed(0))
    samples = latent.sample(raw.expand(20_000, 6), noise).unflatten(-1, (2, 3))
    assert set(samples.round(decimals=12).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(samples.mean(0), latent.probabilities(raw), rtol=0, atol=0.015)


def test_balance_shares_the_gradient_of_the_divergence_and_free_nats_stop_it():
    latent, q, p = Gaussian(3, 0.1), drawn(2, 5, 6).requires_grad_(), drawn(2, 5, 6, seed=3).requires_grad_()
    whole = latent.kl(q, p).mean()
    to_q, to_p = torch.autograd.grad(whole, (q, p))
    loss, divergence = balanced_kl(latent, q, p, 0.8, 0.0)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(divergence, whole)
    of_q, of_p = torch.autograd.grad(loss, (q, p))
    torch.testing.assert_close(of_q, 0.2 * to_q)
    torch.testing.assert_close(of_p, 0.8 * to_p)
    held, _ = balanced_kl(latent, q, p, 0.8, float(whole.detach()) + 1.0)
    assert float(held.detach()) == pytest.approx(float(whole.detach()) + 1.0)
    assert all(float(g.abs().max()) == 0.0 for g in torch.autograd.grad(held, (q, p)))


def test_the_bound_is_that_of_the_paper():
    """Row by row: log-likelihoods by torch's distributions up to the constants of their deviations."""
    family = built(observation_deviation=0.5, reward_deviation=0.7, free_nats=0.0, feature_weight=0.0, balance=0.3)
    world, views = family.members[0].world, batch(rows=8)
    generator = torch.Generator().manual_seed(5)
    loss, _, belief, _ = family._bound(world, views, generator)
    noise = world.latent.noise(4, 1, 8, generator=torch.Generator().manual_seed(5))[:, 0].double()
    total, before = 0.0, None
    for t in range(8):
        x = views["states"][:, t]
        h = world.first(4) if before is None else world.step(before, views["actions"][:, t - 1])
        q, p = world.infer(h, world.encode(x)), world.prior(h)
        before = torch.cat([h, world.latent.sample(q, noise[:, t])], -1)
        torch.testing.assert_close(before, belief[:, t])
        seen = Normal(world.decode(world.predict_features(before)), 0.5)
        total = total - (seen.log_prob(x) + math.log(0.5 * math.sqrt(2 * math.pi))).sum(-1).mean() / 8
        total = total + kl_divergence(*(Independent(Normal(*world.latent.moments(r)), 1) for r in (q, p))).mean() / 8
        if t:
            given = Normal(world.reward(before), 0.7).log_prob(views["rewards"][:, t - 1])
            total = total - (given + math.log(0.7 * math.sqrt(2 * math.pi))).mean() / 7
    torch.testing.assert_close(loss, total / 3)


def test_sequences_keep_observations_actions_and_rewards_together():
    family = built(window=5, crops=3)
    row = torch.arange(12.0, dtype=torch.float64).expand(4, 12)
    views = {"states": row[..., None].expand(4, 12, 3), "actions": row[:, :-1, None].expand(4, 11, 2)}
    cut = family._sequences(views | {"rewards": row[:, :-1]}, torch.Generator().manual_seed(0))
    assert [tuple(v.shape) for v in cut.values()] == [(12, 5, 3), (12, 4, 2), (12, 4)]
    assert len(cut["states"][:, 0, 0].unique()) > 1
    torch.testing.assert_close(cut["states"][:, 1:, 0] - cut["states"][:, :-1, 0], torch.ones(12, 4).double())
    torch.testing.assert_close(cut["states"][:, :-1, 0], cut["actions"][..., 0])
    torch.testing.assert_close(cut["states"][:, :-1, 0], cut["rewards"])


# ---------------------------------------------------------------- roll-outs


@pytest.mark.parametrize("kind", KINDS)
def test_a_roll_out_is_repeated_single_steps(kind):
    family = built(**kind)
    belief, actions = family.start({"states": drawn(3, 3)}, 0), drawn(3, 6, 2).tanh()
    whole, world = family.imagine(belief, actions, 0), family.members[0].world
    now = belief
    for k in range(6):
        one = family.imagine(now, actions[:, k : k + 1], 0)
        torch.testing.assert_close(whole.features[:, k : k + 1], one.features)
        torch.testing.assert_close(whole.rewards[:, k : k + 1], one.rewards)
        h = world.step(now, actions[:, k])
        now = torch.cat([h, world.latent.mode(world.prior(h))], -1)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_beliefs_are_independent(kind):
    family = built(**kind)
    x, action, later = drawn(4, 3), drawn(4, 2, seed=3).tanh(), drawn(4, 3, seed=4)
    belief = family.update(family.start({"states": x}, 0), action, {"states": later}, 0)
    for i in range(4):
        one = family.update(family.start({"states": x[i : i + 1]}, 0), action[i : i + 1], {"states": later[[i]]}, 0)
        torch.testing.assert_close(one, belief[i : i + 1])
    imagined = family.imagine(belief[[2, 2]], drawn(2, 5, 2, seed=5).tanh(), 0).features
    torch.testing.assert_close(imagined[1:], family.imagine(belief[[2]], drawn(2, 5, 2, seed=5).tanh()[1:], 0).features)


def test_filtering_at_modes_is_updating():
    family = built()
    world, views = family.members[0].world, batch(rows=6)
    x, quiet = views["states"], torch.zeros(4, 6, 4, dtype=torch.float64)
    features = world.encode(x.flatten(0, 1)).unflatten(0, (4, 6))
    filtered = world.filter(features, views["actions"], quiet).belief
    belief = family.start({"states": x[:, 0]}, 0)
    torch.testing.assert_close(filtered[:, 0], belief)
    for k in range(1, 6):
        belief = family.update(belief, views["actions"][:, k - 1], {"states": x[:, k]}, 0)
        torch.testing.assert_close(filtered[:, k], belief)


def test_frames_are_averaged_before_they_are_encoded_and_interpolated_after():
    family = built(drivable(FRAMES), pool=4, widths=(4,))
    frames = torch.randint(256, (2, 3, 16, 16, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    predicted = family.predict({"frames": frames, "actions": drawn(2, 2, 2)}, 4, drawn(2, 4, 2))
    assert predicted["frames"].shape == (1, 2, 4, 16, 16, 1)
    assert predicted["rewards"].shape == (1, 2, 4)
    mean = frames.unflatten(2, (4, 4)).unflatten(4, (4, 4)).double().mean((3, 5))
    torch.testing.assert_close(pooled_frames(frames, 4).double(), mean, rtol=0, atol=0.5)
    torch.testing.assert_close(family.inputs({"frames": frames}), mean.movedim(-1, 2).float() / 255)
    torch.testing.assert_close(
        family.inputs({"frames": pooled_frames(frames, 4)}), mean.movedim(-1, 2).float() / 255, rtol=0, atol=1 / 255
    )
    flat = family.outputs(torch.full((1, 1, 1, 4, 4), 0.3))
    torch.testing.assert_close(flat, torch.full((1, 1, 16, 16, 1), 0.3))


def test_a_pool_that_does_not_divide_the_frames_is_told():
    with pytest.raises(UserError, match="pool 3 does not divide frames of 16 x 16 pixels"):
        built(drivable(FRAMES), pool=3)


# ---------------------------------------------------------------- what is learned


@pytest.fixture(scope="module")
def cart():
    """A point moved by an action, ``x' = x + 0.3 a``, rewarded for being near 0; a policy of its own."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (40, 20, 1))
    steps = np.concatenate([rng.uniform(-1.5, 1.5, (40, 1, 1)), 0.3 * actions], 1)
    x = np.cumsum(steps, 1)
    views = {"states": x, "actions": actions, "rewards": -(x[:, 1:, 0] ** 2)}
    spec = drivable({"states": Space("vector", (1,))}, actions=1)
    schedule = {"steps": 250, "batch_size": 40, "learning_rate": 5e-3, "warmup": 5, "gradient_clip": 1.0}
    config = RssmConfig(
        **{**SMALL, "hidden": 32, "deterministic": 24}, schedule=schedule, behaviour=True, discount=0.9, starts=3
    )
    family = Rssm(config, spec, (0,))
    run = train(family, {k: torch.from_numpy(v) for k, v in views.items()}, LEARNING)
    return family.eval(), run


def test_actions_matter(cart):
    family, _ = cart
    past, push = {"states": torch.zeros(1, 1, 1).double()}, torch.full((1, 4, 1), 0.8)
    right, left = (family.predict(past, 4, a)["states"][0, 0, :, 0] for a in (push, -push))
    torch.testing.assert_close(right, 0.24 * torch.arange(5).double(), rtol=0, atol=0.15)
    torch.testing.assert_close(left, -0.24 * torch.arange(5).double(), rtol=0, atol=0.15)


def test_the_policy_goes_where_it_is_rewarded(cart):
    family, _ = cart
    x = torch.tensor([[-1.2], [-0.6], [0.6], [1.2]]).double()
    belief = family.start({"states": x}, 0)
    for _ in range(10):
        action = family.act(belief, 0)
        assert float(action.abs().max()) <= 1.0
        x = x + 0.3 * action.double()
        belief = family.update(belief, action, {"states": x}, 0)
    assert float(x.abs().max()) < 0.3


def test_the_learning_curve_tells_of_every_part(cart):
    family, run = cart
    assert {"kl", "reconstruction", "features", "reward", "imagined_return", "value", "entropy"} <= set(run.curve[-1])
    assert run.curve[-1]["imagined_return"] > run.curve[1]["imagined_return"]
    assert isinstance(family, Imagines)
    assert isinstance(family, Acts)
    assert isinstance(family, Encodes)


def test_without_actions_there_is_no_policy_and_states_are_predicted_from_one():
    family = Rssm(RssmConfig(**SMALL, behaviour=True, schedule={"steps": 3, "batch_size": 4}), PENDULUM, (0, 1))
    views = pendulum(6, 12)
    train(family, views, LEARNING)
    predicted = family.eval().predict({"states": views["states"][:, :1]}, 5)["states"]
    assert predicted.shape == (2, 6, 6, 2)
    torch.testing.assert_close(predicted[:, :, 0], views["states"][:, 0].expand(2, -1, -1))
    with pytest.raises(UserError, match="rssm has no policy of its own; set behaviour: true"):
        family.act(torch.zeros(1, 14), 0)


def test_one_class_is_no_choice():
    with pytest.raises(ValueError, match="classes: 0 for Gaussian states, else 2 or more"):
        RssmConfig(classes=1)
