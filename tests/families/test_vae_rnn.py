"""World models: densities and divergences against torch's, phases, dreams that are the same for the same seed."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from tests.families.images import moving_dots, spec_of
from tests.specs import PENDULUM, pendulum, spec
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Acts, Encodes, Imagines
from wm_pipelines.families.vae_rnn import VAERNN, VAERNNConfig
from wm_pipelines.families.vae_rnn.controller import Controller, dream, train_in_dreams, wander
from wm_pipelines.families.vae_rnn.evolution import evolve
from wm_pipelines.families.vae_rnn.mixture import Mixture
from wm_pipelines.families.vae_rnn.networks import MDNRNN, divergence
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Space, Spec

SMALL = {
    "widths": (8,), "features": 8, "latent": 3, "hidden": 6, "components": 3, "piece": 6,
    "population": 6, "generations": 3, "rollouts": 4, "dream_steps": 5,
    "schedule": {"steps": 4, "batch_size": 4, "learning_rate": 1e-2},
}  # fmt: skip
DRIVEN = Spec(
    "driven",
    0.05,
    {
        "states": Space("vector", (3,)),
        "actions": Space("vector", (1,), per="transition"),
        "rewards": Space("scalar", per="transition"),
    },
    21,
)
LEARNING = LearningConfig(precision="32-true", progress=False)


def driven(count=8, rows=21, seed=0):
    """A point pushed along a line, shown as position, speed and their sum; paid for being near the origin."""
    draw = torch.Generator().manual_seed(seed)
    actions = 2 * torch.rand(count, rows - 1, 1, generator=draw, dtype=torch.float64) - 1
    speed = torch.cat([torch.zeros(count, 1, 1, dtype=torch.float64), 0.3 * actions.cumsum(1)], 1)
    place = torch.randn(count, 1, 1, generator=draw, dtype=torch.float64) + 0.1 * speed.cumsum(1)
    states = torch.cat([place, speed, place + speed], -1)
    return {"states": states, "actions": actions, "rewards": -place[:, :-1, 0].square()}


def built(world=DRIVEN, seeds=(0,), shake=0.3, **changes):
    """In float64, every weight moved at random, so that nothing holds by the first weights alone."""
    family = VAERNN(VAERNNConfig(**{**SMALL, **changes}), world, seeds).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return family


def trained(seeds=(0, 1), **changes):
    family = VAERNN(VAERNNConfig(**{**SMALL, **changes}), DRIVEN, seeds)
    return family, train(family, driven(), LEARNING)


def some_mixture(shape=(500, 2), components=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Mixture(*(torch.randn(*shape, components, generator=draw, dtype=torch.float64) for _ in range(3)))


# ---------------------------------------------------------------- mixtures


def test_the_density_is_that_of_torchs_mixture():
    found = some_mixture()
    wanted = MixtureSameFamily(Categorical(logits=found.logits), Normal(found.mean, found.log_std.exp()))
    z = torch.randn(500, 2, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(z), wanted.log_prob(z))
    torch.testing.assert_close(found.expected(), wanted.mean)


def test_samples_have_the_mixtures_mean_and_variance():
    one = some_mixture((1, 2))
    many = Mixture(*(part.expand(200_000, -1, -1) for part in (one.logits, one.mean, one.log_std)))
    draw = torch.Generator().manual_seed(3)
    uniform = torch.rand(200_000, 2, generator=draw, dtype=torch.float64)
    z = many.sample(uniform, torch.randn(200_000, 2, generator=draw, dtype=torch.float64), 1.0)
    wanted = MixtureSameFamily(Categorical(logits=one.logits), Normal(one.mean, one.log_std.exp()))
    error = (wanted.variance[0] / len(z)).sqrt()
    assert ((z.mean(0) - wanted.mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0), wanted.variance[0], rtol=0.03, atol=0)


def test_limits_of_the_temperature():
    found, draw = some_mixture((2000, 1)), torch.Generator().manual_seed(4)
    uniform, normal = (f(2000, 1, generator=draw, dtype=torch.float64) for f in (torch.rand, torch.randn))
    mode = found.mean.gather(-1, found.logits.argmax(-1, keepdim=True))[..., 0]
    cold = found.sample(uniform, normal, 1e-6)
    assert ((cold - mode).abs() < 0.05).double().mean() > 0.999  # but for ties
    # hot: every component as often as any other; without their widths the means can be counted
    narrow = Mixture(found.logits, torch.arange(3.0, dtype=torch.float64).expand(2000, 1, 3), found.log_std)
    counts = narrow.sample(uniform, 0 * normal, 1e6).flatten().long().bincount(minlength=3)
    assert ((counts - 2000 / 3).abs() < 5 * math.sqrt(2000 * 2 / 9)).all()
    # and samples spread as the root of tau
    spread = [(narrow.sample(uniform, normal, t) - narrow.sample(uniform, 0 * normal, t)) for t in (1.0, 4.0)]
    same = narrow.sample(uniform, 0 * normal, 1.0) == narrow.sample(uniform, 0 * normal, 4.0)
    torch.testing.assert_close(2 * spread[0][same], spread[1][same])


# ---------------------------------------------------------------- V and M


def test_the_divergence_is_torchs():
    mu, log_std = torch.randn(2, 7, 4, dtype=torch.float64)
    own = Independent(Normal(mu, log_std.exp()), 1)
    unit = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    torch.testing.assert_close(divergence(mu, log_std), kl_divergence(own, unit))
    assert divergence(torch.zeros(3), torch.zeros(3)) == 0


def test_vs_loss_is_the_negative_lower_bound():
    """Without the constant ``n log(s sqrt(2 pi))`` of the density of what is decoded."""
    family, views = built(observation_std=0.5, vae_rows=1), driven(5, rows=2)
    views = {"states": views["states"][:, :1], "actions": views["actions"][:, :0], "rewards": views["rewards"]}
    one = family.examples(views)
    member = family.members[0]
    loss, terms = family.member_loss(member, one, torch.Generator().manual_seed(0), 0.0)
    member.v.train()
    x = family.inputs(views)[:, 0]
    mu, log_std = member.v.encode(x)
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (5, 1), generator=generator)
    z = mu + log_std.exp() * torch.randn(5, 1, 3, generator=generator)[:, 0].double()
    units = member.v.scale
    density = Normal(member.v.decode(z) / units, 0.5).log_prob(x / units).sum(1).mean()
    constant = 3 * math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(loss, -density - constant + divergence(mu, log_std).mean())
    assert set(terms) == {"reconstruction", "kl"}
    tolerant = built(kl_tolerance=100.0)
    tolerant.examples(views)
    loss, terms = tolerant.member_loss(tolerant.members[0], one, torch.Generator().manual_seed(0), 0.0)
    assert terms["kl"] == 300  # nothing is gained below what is tolerated


def test_v_is_trained_first_and_frozen_while_m_is_trained():
    family = built(vae_share=0.5)
    views = family.examples(driven())
    member = family.members[0].requires_grad_(True)
    for progress, moved, resting in ((0.0, "v", "m"), (0.49, "v", "m"), (0.5, "m", "v"), (0.99, "m", "v")):
        family.zero_grad(set_to_none=True)
        before = {n: b.clone() for n, b in member.v.named_buffers()}
        family.member_loss(member, views, torch.Generator().manual_seed(0), progress)[0].backward()
        assert any(p.grad is not None for p in getattr(member, moved).parameters())
        assert all(p.grad is None for p in getattr(member, resting).parameters())
        still = all(torch.equal(b, before[n]) for n, b in member.v.named_buffers())
        assert still == (progress > 0)  # statistics of batches rest from three quarters of V's phase on


def test_an_untrained_memory_is_an_echo_of_which_the_heads_alone_learn():
    before = VAERNN(VAERNNConfig(**SMALL, recurrence="random"), DRIVEN, (0,))
    family, _ = trained((0,), recurrence="random", schedule={"steps": 8, "batch_size": 4})
    now, then = (dict(f.members[0].m.named_parameters()) for f in (family, before))
    assert {name for name in now if torch.equal(now[name], then[name])} == {n for n in now if n.startswith("rnn.")}
    assert before.unsuitable(DRIVEN, before.config) is None
    assert before.unsuitable(PENDULUM, before.config) == "recurrence: random needs actions and rewards"


def test_noise_on_what_m_is_given_has_a_strength_of_its_own_in_each_piece():
    """Uniform below ``input_noise``; M is asked for what follows in truth."""
    family = built(input_noise=0.4, pieces=3)
    noise = family._disturbance(torch.zeros(600, 2000, 1), torch.Generator().manual_seed(0))
    strength = noise.std((1, 2))
    assert float(strength.max()) < 0.43
    torch.testing.assert_close(strength.mean(), torch.tensor(0.2), rtol=0.05, atol=0)
    torch.testing.assert_close(strength.var(), torch.tensor(0.4**2 / 12), rtol=0.1, atol=0)


@pytest.mark.parametrize("first", [True, False])
def test_dreams_begin_with_what_is_believed_after_the_first_frames(first):
    world, episodes = filmed()
    family = VAERNN(VAERNNConfig(**{**SMALL, "widths": (4, 8), "context": 3}), world, (0,)).eval()
    family.examples(episodes)
    member = family.members[0]
    with torch.no_grad():
        found = family._dreams(member, family._codes(member).mu, first)
        belief = family.start({"frames": episodes["frames"][:, 0]}, 0)
        for k in range(2):
            belief = family.update(belief, episodes["actions"][:, k], {"frames": episodes["frames"][:, k + 1]}, 0)
    torch.testing.assert_close(found[0], belief[0])
    if first:
        torch.testing.assert_close(found, belief)
    else:
        last = family._codes(member).mu[-1, -1]
        torch.testing.assert_close(found[-1, : len(last)], last)


def test_one_step_at_a_time_is_the_whole_sequence():
    family, views = built(), driven(3, rows=7)
    m, z = family.members[0].m, torch.randn(3, 6, 3, dtype=torch.float64)
    mixture, rewards = m(z, views["actions"])
    h = c = torch.zeros(3, 6, dtype=torch.float64)
    for k in range(6):
        one, reward, h, c = m.step(z[:, k], views["actions"][:, k], h, c)
        torch.testing.assert_close(one.mean, mixture.mean[:, k])
        torch.testing.assert_close(one.log_std, mixture.log_std[:, k])
        torch.testing.assert_close(reward, rewards[:, k])


def test_rewards_are_told_in_the_worlds_units_and_within_those_of_training():
    m = MDNRNN(2, 1, 4, 2, True, True)
    m.learn_rewards(torch.tensor([[-3.0, -1.0], [-2.0, -2.0]]))
    torch.testing.assert_close(m.in_units(torch.tensor([0.0, 9.0, -9.0])), torch.tensor([-2.0, -1.0, -3.0]))
    m.learn_rewards(torch.full((2, 2), 5.0))
    assert m.in_units(torch.tensor([-1.0, 1.0])).tolist() == [5.0, 5.0]


# ---------------------------------------------------------------- beliefs


def test_a_belief_is_the_latent_and_the_memory_and_its_rows_do_not_touch():
    for choice in ("mu", "z"):
        family, views = built(controller_input=choice), driven(5)
        assert isinstance(family, Imagines)
        observed, action = ({"states": views["states"][:, k]} for k in (0, 1)), views["actions"][:, 0]
        first, second = observed
        belief = family.start(first, 0)
        after = family.update(belief, action, second, 0)
        assert after.shape == (5, 3 + 6 + 6 + (choice == "z"))
        rows = torch.tensor([3, 1])
        alone = family.update(belief[rows], action[rows], {"states": second["states"][rows]}, 0)
        torch.testing.assert_close(alone, after[rows])
        mu = family.features(second, 0)
        assert torch.equal(after[:, :3], mu) == (choice == "mu")
        found = family.imagine(after, views["actions"][:, 1:5], 0)
        part = family.imagine(after[rows], views["actions"][rows, 1:5], 0)
        torch.testing.assert_close(part.features, found.features[rows])
        torch.testing.assert_close(part.rewards, found.rewards[rows])


def test_what_is_imagined_is_the_chain_of_means():
    family, views = built(), driven(4)
    belief = family.start({"states": views["states"][:, 0]}, 0)
    found = family.imagine(belief, views["actions"][:, :3], 0)
    m, (z, h, c) = family.members[0].m, belief.split([3, 6, 6], 1)
    for k in range(3):
        mixture, reward, h, c = m.step(z, views["actions"][:, k], h, c)
        z = mixture.expected()
        torch.testing.assert_close(found.features[:, k], z)
        torch.testing.assert_close(found.rewards[:, k], m.in_units(reward))


def test_a_short_prediction_is_the_beginning_of_a_long_one_with_and_without_actions():
    for world, views in ((DRIVEN, driven(3)), (PENDULUM, pendulum(3, 20))):
        family = built(world)
        past = {"states": views["states"][:, :1]}
        actions = views.get("actions")
        short, long = (family.predict(past, k, None if actions is None else actions[:, :k]) for k in (3, 9))
        assert set(short) == {"states", "latents"} | ({"rewards"} if actions is not None else set())
        torch.testing.assert_close(long["states"][:, :, :4], short["states"])
        assert torch.equal(short["states"][0, :, 0], past["states"][:, 0])


def test_single_observations_have_no_future():
    config = VAERNNConfig()
    assert VAERNN.unsuitable(spec(2, rows=1), config) == "needs episodes of two states or more"
    assert VAERNN.unsuitable(spec_of(1, 16, 16, 1), config) == "needs videos"
    assert VAERNN.unsuitable(spec(2), config) is None
    assert VAERNN.knows(config) == set()
    family = built(PENDULUM)
    belief = family.start({"states": pendulum(2, 3)["states"][:, 0]}, 0)
    with pytest.raises(UserError, match="has a controller where there are actions and rewards"):
        family.act(belief, 0)


# ---------------------------------------------------------------- C


def test_evolution_finds_the_highest_point_of_a_quadratic():
    """A badly scaled one; and the same numbers come again with the same seed."""
    top, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 10.0, 0.3])

    def score(x, generation):
        assert x.shape == (12, 3)
        assert 0 <= generation < 120
        return -(scale * (x - top).square()).sum(1)

    torch.testing.assert_close(evolve(score, torch.zeros(3), 0.5, 12, 120, 0), top, atol=1e-3, rtol=0)
    found, again, other = (evolve(score, torch.zeros(3), 0.5, 12, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


def test_a_score_that_is_no_number_is_the_worst():
    def score(x, generation):
        return torch.where(x[:, 0] > 1.0, torch.nan, x[:, 0])

    assert 0.8 < float(evolve(score, torch.zeros(1), 0.3, 10, 60, 0)) <= 1.05


def test_controllers_of_a_generation_act_as_each_alone():
    c, x = Controller(3, 2), torch.randn(4, 5, 3)
    c.learn_units(7 * torch.randn(20, 3) + 1)
    weights = torch.randn(4, 8)
    together = c.of(weights, x)
    for k in range(4):
        c.weights.copy_(weights[k])
        torch.testing.assert_close(c(x[k]), together[k])
        table = weights[k].reshape(4, 2)
        torch.testing.assert_close(together[k], torch.tanh((x[k] - c.centre) / c.scale @ table[:3] + table[3]))
    c.learn_units(torch.ones(4, 3))
    assert c.scale.tolist() == [1.0] * 3


def test_dreams_are_the_same_for_the_same_seed_and_for_whoever_dreams_beside():
    family = built()
    m, c, z = family.members[0].m, family.members[0].c, torch.randn(4, 3 + 2 * 6, dtype=torch.float64)
    weights = torch.randn(5, 10, dtype=torch.float64)

    def dreamt(some, seed):
        return dream(m, c, some, z, 6, 1.2, torch.Generator().manual_seed(seed))

    found = dreamt(weights, 0)
    assert found.shape == (5, 4)
    assert torch.equal(found, dreamt(weights, 0))
    assert not torch.equal(found, dreamt(weights, 1))
    torch.testing.assert_close(dreamt(weights[2:4], 0), found[2:4])


def test_units_are_those_of_what_is_met_in_dreams_of_random_actions():
    """Of a point that is moved by half an action a step, uniform in -1 … 1: variances add up, 1/12 each."""
    met = wander(Line(1, 1, 1, 1, True, True), torch.zeros(20_000, 3), 1, 4, 1.0, torch.Generator().manual_seed(0))
    x = met.unflatten(0, (4, -1))
    torch.testing.assert_close(x[..., 0].var(1), torch.arange(4) / 12, rtol=0.05, atol=1e-6)
    assert (x[..., 1] == 0).all()  # its memory


class Line(MDNRNN):
    """A known law in M's place: a point moved by the action, paid for being near 1; nothing is left to chance."""

    def step(self, z, action, h, c):
        after = z + 0.5 * action
        sharp = torch.full_like(after[..., None], -20.0)
        return Mixture(0 * sharp, after[..., None], sharp), -(after[:, 0] - 1).square(), h, c


def test_a_controller_learns_in_a_dream_that_is_known():
    m, c = Line(1, 1, 1, 1, True, True), Controller(2, 1)
    m.reward_ends.copy_(torch.tensor([-100.0, 0.0]))
    z = torch.linspace(-1, 3, 9)[:, None]
    settings = {"steps": 12, "temperature": 1.0, "rollouts": 9, "population": 12, "generations": 60, "spread": 0.5}
    train_in_dreams(m, c, torch.cat([z, torch.zeros(9, 2)], 1), **settings, seed=0)
    x = z
    for _ in range(12):
        x = x + 0.5 * c(torch.cat([x, torch.zeros_like(x)], 1))
    assert ((x - 1).abs() < 0.05).all()


def test_after_training_the_return_of_dreams_is_told_and_kept():
    family, run = trained()
    last = {row["seed"]: row for row in run.curve if row["step"] == 5}
    summary = family.extra_summary()
    assert isinstance(family, Acts)
    assert isinstance(family, Encodes)
    assert summary["dream_return"] == pytest.approx([last[s]["dream_return"] for s in (0, 1)])
    assert summary["dream_return_steps"] == 20
    again, _ = trained()
    assert all(
        torch.equal(a, b) for a, b in zip(family.state_dict().values(), again.state_dict().values(), strict=True)
    )
    restored = VAERNN(family.config, DRIVEN, (0, 1))
    restored.load_state_dict(family.state_dict())
    assert restored.extra_summary() == summary
    belief = restored.eval().start({"states": driven(3)["states"][:, 0].float()}, 1)
    assert torch.equal(restored.act(belief, 1), family.eval().act(belief, 1))
    assert restored.act(belief, 1).abs().max() <= 1


def test_a_world_without_actions_has_no_controller_and_no_dream():
    family = VAERNN(VAERNNConfig(**SMALL), PENDULUM, (0, 1))
    run = train(family, pendulum(6, 12), LEARNING)
    assert max(row["step"] for row in run.curve) == 4
    assert family.extra_summary() == {}
    assert all(member.c is None for member in family.members)


@pytest.mark.training
def test_it_learns_to_predict_and_to_act():
    """A pushed point: what is predicted under actions is nearer than standing still, C is paid more than no action."""
    changes = {
        "widths": (32,), "features": 16, "hidden": 24, "piece": 12, "observation_std": 0.03, "vae_rows": 16,
        "population": 16, "generations": 25, "rollouts": 8, "dream_steps": 20,
        "schedule": {"steps": 600, "batch_size": 32, "learning_rate": 1e-2, "gradient_clip": 1.0},
    }  # fmt: skip
    family = VAERNN(VAERNNConfig(**{**SMALL, **changes}), DRIVEN, (0,))
    train(family, driven(64), LEARNING)
    truth = driven(16, seed=1)
    found = family.eval().predict({"states": truth["states"][:, :1]}, 10, truth["actions"][:, :10])["states"][0]
    error = (found - truth["states"][:, :11]).square().mean()
    assert error < 0.1 * (truth["states"][:, :1] - truth["states"][:, :11]).square().mean()
    place, speed = truth["states"][:, 0, :1], torch.zeros(16, 1, dtype=torch.float64)
    paid, idle = torch.zeros(16, dtype=torch.float64), -20 * place[:, 0].square()
    belief = family.start({"states": torch.cat([place, speed, place + speed], 1)}, 0)
    for _ in range(20):
        action = family.act(belief, 0)
        paid -= place[:, 0].square()
        speed = speed + 0.3 * action.double()
        place = place + 0.1 * speed
        belief = family.update(belief, action, {"states": torch.cat([place, speed, place + speed], 1)}, 0)
    assert paid.mean() > 0.7 * idle.mean()


def filmed():
    """Dots that move as they like, with actions and with rewards for being in the middle."""
    world = spec_of(12, 16, 16, 1)
    views = {**world.views, **{name: DRIVEN.views[name] for name in ("actions", "rewards")}}
    world = Spec("dots", 0.1, views, 12)
    frames, place = moving_dots(6)
    draw = torch.Generator().manual_seed(0)
    episodes = {
        "frames": frames,
        "actions": torch.rand(6, 11, 1, generator=draw, dtype=torch.float64),
        "rewards": -place[:, :-1].square().sum(-1).double(),
    }
    return world, episodes


def test_frames_are_encoded_predicted_and_dreamt_of():
    world, episodes = filmed()
    frames = episodes["frames"]
    family = VAERNN(VAERNNConfig(**{**SMALL, "widths": (4, 8)}), world, (0,))
    train(family, episodes, LEARNING)
    found = family.eval().predict({"frames": frames[:, :4], "actions": episodes["actions"][:, :3]}, 5)
    assert found["frames"].shape == (1, 6, 5, 16, 16, 1)
    assert found["rewards"].shape == (1, 6, 5)
    assert math.isfinite(family.extra_summary()["dream_return"][0])
