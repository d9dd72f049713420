"""Post-training of a flow: a policy with the probabilities it claims, a reward that the truth earns, no trick does."""

import numpy as np
import pytest
import torch

from tests.specs import LEARNING, PENDULUM
from wm_pipelines.blocks.flow_sampling import euler_maruyama
from wm_pipelines.errors import validate
from wm_pipelines.families.flow import Flow, FlowConfig
from wm_pipelines.families.flow.post_training import (
    PostTraining,
    advantages,
    divergence,
    log_probability,
    means,
    rolled_out,
    spreads,
)
from wm_pipelines.families.flow.rewards import FACTS, PhysicsReward, RewardWeights, impacts_due
from wm_pipelines.families.flow.steering import best, rewarded
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import UndeclaredFact
from wm_pipelines.worlds.making import generate
from wm_pipelines.worlds.thrown_ball import ThrownBall

TERMS = ("energy", "momentum", "gravity", "contact")
POLICY = PostTraining(pretrained=0.5, starts=2, group=4, horizon=3, sample_steps=3, exploration=0.1)


def thrown(episodes=6, steps=40, restitution=1.0, seed=0):
    world = ThrownBall(validate(ThrownBall.Parameters, {"restitution": restitution}, "thrown_ball"))
    return generate(world, step=0.05, steps=steps, episodes=episodes, seed=seed, derivative=False)


def states(episodes):
    return torch.tensor(np.asarray(episodes["states"]))


def reward_of(episodes, **weights):
    return PhysicsReward(episodes.spec.told(FACTS, "flow"), RewardWeights(**weights))


def family_of(episodes, seeds=(0,), steps=8, **changes):
    schedule = {"steps": steps, "batch_size": 4, "learning_rate": 1e-2, "gradient_clip": 1.0}
    config = {
        "schedule": schedule,
        "hidden": 12,
        "rows": 4,
        "reward": {},
        "post_training": POLICY.model_dump(),
    } | changes
    return Flow(FlowConfig(**config), episodes.spec, seeds)


def rolled(seed=0, batch=5):
    """A family away from its start, and roll-outs of it."""
    family = family_of(thrown())
    family.examples({"states": states(thrown())})
    family.double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
    noise = torch.randn(POLICY.horizon, POLICY.sample_steps + 1, batch, 4, generator=draw, dtype=torch.float64)
    belief = torch.randn(batch, 1, 4, generator=draw, dtype=torch.float64)
    return family.members[0], belief, noise, rolled_out(family.members[0], belief, noise, POLICY)


# ---------------------------------------------------------------- the policy


def test_a_roll_out_is_a_sample_of_the_sde_but_for_the_noise_of_the_last_step():
    member, belief, noise, paths = rolled()
    embedded = member.transition.condition(paths.condition[0], torch.ones(5, 1, dtype=torch.bool))
    draws = iter(noise[0, 1:])

    def velocity(x, t):
        return member.transition(x, torch.full((1, 1), t, dtype=x.dtype), embedded)

    sampled = euler_maruyama(velocity, noise[0, 0], POLICY.sample_steps, POLICY.churn, lambda: next(draws))
    torch.testing.assert_close(paths.x[0, -1], sampled + POLICY.exploration * noise[0, -1])
    torch.testing.assert_close(paths.z[:, 1], member.moved(belief[:, -1], paths.x[0, -1]))


def test_the_log_probability_of_a_path_is_that_of_its_gaussian_steps():
    member, _, noise, paths = rolled()
    mu = means(member.transition, paths, POLICY)
    sigma = torch.tensor(spreads(POLICY), dtype=torch.float64).view(-1, 1, 1)
    expected = torch.distributions.Normal(mu, sigma).log_prob(paths.x[:, 1:]).sum((1, 3))
    torch.testing.assert_close(log_probability(mu, paths.x, POLICY), expected)
    torch.testing.assert_close((paths.x[:, 1:] - mu) / sigma, noise[:, 1:])  # it knows the noise that was drawn


def test_the_gradient_of_the_log_probability_has_mean_zero_over_the_policy():
    """``E[grad log p] = 0``: of 4,000 samples within four standard errors."""
    member, _, _, _ = rolled()
    draw = torch.Generator().manual_seed(3)
    noise = torch.randn(1, POLICY.sample_steps + 1, 4000, 4, generator=draw, dtype=torch.float64)
    paths = rolled_out(member, torch.zeros(4000, 1, 4, dtype=torch.float64), noise, POLICY)
    bias = torch.zeros(4000, 4, dtype=torch.float64, requires_grad=True)  # moves the mean of the last step
    mu = means(member.transition, paths, POLICY)
    log_p = log_probability(torch.cat([mu[:, :-1], mu[:, -1:] + bias], 1), paths.x, POLICY)
    (score,) = torch.autograd.grad(log_p.sum(), bias)
    assert (score.mean(0).abs() < 4 * score.std(0) / 4000**0.5).all()
    assert float(score.std()) == pytest.approx(1 / POLICY.exploration, rel=0.05)


def test_the_divergence_is_that_of_gaussians_zero_at_the_start_and_not_without_a_gradient():
    member, _, _, paths = rolled()
    before = means(member.transition, paths, POLICY).detach()
    mu = means(member.transition, paths, POLICY)
    assert float(divergence(mu.detach(), before, POLICY).abs().max()) == 0.0
    sigma = torch.tensor(spreads(POLICY), dtype=torch.float64).view(-1, 1, 1)
    other = before + 0.1 * torch.randn(before.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(other, sigma), normal(before, sigma)).sum((1, 3))
    torch.testing.assert_close(divergence(other, before, POLICY), expected)
    # Away from where it began it pulls back, by every weight that moves a mean.
    divergence(mu, other, POLICY).mean().backward()
    slopes = {name: p.grad for name, p in member.transition.named_parameters()}
    assert all(slope is not None and float(slope.abs().max()) > 0 for slope in slopes.values())


def test_advantages_sum_to_zero_in_a_group_and_count_what_is_earned_later():
    rewards = torch.rand(5, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for discount in (0.0, 0.5, 1.0):
        found = advantages(rewards, discount)
        assert float(found.sum(1).abs().max()) < 1e-9
        torch.testing.assert_close(found.std(1), torch.ones(5, 4, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(advantages(rewards, 0.0)[..., :3], advantages(rewards[..., :3], 0.0))
    whole = rewards.sum(-1)
    torch.testing.assert_close(
        advantages(rewards, 1.0)[..., 0], (whole - whole.mean(1, keepdim=True)) / (whole.std(1, keepdim=True) + 1e-6)
    )
    assert float(advantages(torch.ones(2, 3, 4), 0.9).abs().max()) == 0.0  # all alike: nothing to learn


# ---------------------------------------------------------------- the reward


@pytest.mark.parametrize("restitution", [1.0, 0.8])
def test_the_truth_breaks_no_law_down_to_rounding(restitution):
    steps = 40 if restitution == 1.0 else 24  # flights become shorter than two rows
    episodes = thrown(20, steps, restitution)
    reward = reward_of(episodes)
    errors = reward.errors(states(episodes), reward.units(states(episodes)))
    assert set(errors) == set(TERMS)
    assert all(float(e.max()) < 1e-12 for e in errors.values())


@pytest.mark.parametrize(
    ("term", "broken"),
    [
        ("energy", lambda z: z * torch.tensor([1.0, 1.0, 1.0, 1.02])),
        ("momentum", lambda z: z + torch.tensor([0.0, 0.0, 0.1, 0.0])),
        ("gravity", lambda z: z + torch.tensor([0.0, 0.0, 0.0, 0.1])),
        ("contact", lambda z: z - torch.tensor([0.0, 3.0, 0.0, 0.0])),
    ],
)
def test_every_term_sees_its_law_broken(term, broken):
    episodes = thrown(20)
    z, reward = states(episodes), reward_of(episodes)
    z = torch.stack([z[:, :-1], broken(z[:, 1:])], 2).flatten(0, 1)  # every step alone
    errors = reward.errors(z, reward.units(states(episodes)))
    assert float(errors[term].mean()) > 0.01


def test_impacts_are_due_when_the_simulator_has_them():
    for restitution in (1.0, 0.8):
        z = states(thrown(20, 24, restitution))
        due = impacts_due(z[:, 0, 1], z[:, 0, 3], 0.05, 25, 9.81, restitution)
        seen = ((z[:, :-1, 3] < 0) & (z[:, 1:, 3] > 0)).cumsum(1)
        assert torch.equal(due[:, 1:], seen)
        assert int(seen.max()) > 0


def test_where_nothing_moves_only_the_contact_term_objects():
    """Without it standing still is the best that can be done; with it, worse than a wrong motion."""
    episodes = thrown(20, 40)
    z = states(episodes)
    still = z[:, :1].expand_as(z)
    weak = z.clone()
    weak[..., 3] *= 0.9  # moves, bounces in time, and is wrong by a tenth in every other law
    units = reward_of(episodes).units(z)
    blind, seeing = reward_of(episodes, contact=0.0), reward_of(episodes)
    assert float(blind(still, units).abs().max()) == 0.0
    assert (blind(still, units).mean(1) >= blind(weak, units).mean(1)).all()
    assert (seeing(still, units).mean(1) < seeing(weak, units).mean(1)).all()
    errors = seeing.errors(still, units)
    assert all(float(errors[name].max()) == 0.0 for name in TERMS if name != "contact")
    assert float(errors["contact"].mean()) > 0.5


@pytest.mark.training
def test_a_flow_that_may_slow_down_stops_unless_contact_counts():
    """The share of every predicted change that is carried out, chosen by the reward of the roll-outs."""
    episodes = thrown(12)
    family = family_of(episodes, steps=300, hidden=32, rows=16, post_training=None)
    train(family, {"states": states(episodes)}, LEARNING)
    held, member = states(thrown(20, 20, seed=5)), family.members[0].eval()

    def slowed(share):
        belief, path = family.start({"states": held[:, 0]}, 0), [held[:, 0]]
        for _ in range(20):
            u = family.likely(member.transition, member.condition(belief, belief.new_zeros(len(belief), 0)))
            now = belief[:, -1]
            belief = (now + share * (member.moved(now, u) - now))[:, None]
            path.append(family.outputs(member.observer.decode(belief[:, -1])))
        return torch.stack(path, 1)

    shares = (0.0, 0.5, 0.9, 1.0)
    with torch.no_grad():
        paths = [slowed(share) for share in shares]
    earned = {
        contact: [float(reward_of(episodes, contact=contact)(path, family.reward_units).mean()) for path in paths]
        for contact in (0.0, 1.0)
    }
    assert shares[int(np.argmax(earned[0.0]))] == 0.0
    assert shares[int(np.argmax(earned[1.0]))] == 1.0


def test_an_error_that_is_no_number_counts_fully():
    episodes = thrown(2)
    z = states(episodes)
    z[:, 3:] = torch.nan
    reward = reward_of(episodes)
    errors = reward.errors(z, reward.units(states(episodes)))
    assert all(torch.isfinite(e).all() for e in errors.values())
    assert float(errors["energy"][:, 2:].min()) == 1.0


# ---------------------------------------------------------------- training


@pytest.mark.training
def test_a_killed_post_training_ends_in_the_same_bits(tmp_path):
    views = {"states": states(thrown())}
    learning = LEARNING.model_copy(update={"checkpoint_every": 3, "log_every": 2})
    whole = family_of(thrown(), (0, 1))
    train(whole, views, learning)

    class KilledError(RuntimeError):
        pass

    for last in (3, 7):  # before post-training begins, and within it
        family, store = family_of(thrown(), (0, 1)), CheckpointStore(tmp_path / str(last))
        step, done = family.after_step, []

        def after_step(progress, step=step, done=done, last=last):
            step(progress)
            done.append(progress)
            if len(done) == last:
                raise KilledError

        family.after_step = after_step
        with pytest.raises(KilledError):
            train(family, views, learning, store)
        again = family_of(thrown(), (0, 1))
        train(again, views, learning, store)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (last, name)


@pytest.mark.training
def test_until_it_begins_post_training_changes_no_bit_and_what_was_before_is_kept():
    views = {"states": states(thrown())}
    alone, beside = family_of(thrown(), post_training=None, reward=None), family_of(thrown())
    learned = []

    def note(progress):
        Flow.after_step(beside, progress)
        if progress == POLICY.pretrained:
            learned.append(beside._weights().clone())

    beside.after_step = note
    halfway = []
    alone.after_step = lambda progress: halfway.append(alone._weights()) if progress == POLICY.pretrained else None
    train(alone, views, LEARNING)
    train(beside, views, LEARNING)
    assert torch.equal(learned[0], halfway[0])
    assert torch.equal(learned[0].float(), beside.before)  # weights are kept in float32
    assert not torch.equal(beside._weights(), beside.before)


@pytest.mark.training
def test_what_is_rewarded_becomes_likelier():
    """On the policy alone, without an anchor or a divergence: the reward rises above what it was."""
    episodes = thrown(12)
    views, reward = {"states": states(episodes)}, reward_of(episodes)
    post = PostTraining(pretrained=0.5, starts=4, group=8, horizon=2, sample_steps=2, kl=0.0, anchor=0.0, weight=1.0)
    family = family_of(episodes, steps=240, hidden=24, post_training=post.model_dump())
    train(family, views, LEARNING)
    held = states(thrown(12, seed=5))
    starts, units = {"states": held[:, :-1].flatten(0, 1)[:, None]}, family.reward_units
    trained = reward(family.predict(starts, 1)["states"][0], units).mean()
    torch.nn.utils.vector_to_parameters(family.before[0], family.members[0].transition.parameters())
    before = reward(family.predict(starts, 1)["states"][0], units).mean()
    assert float(trained) > float(before)


# ---------------------------------------------------------------- steering


def test_the_best_of_several_is_taken_row_by_row_and_the_first_of_equals():
    one, two = torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([[0.0], [3.0], [2.0]])
    found = best([one, two, two + 0.5], lambda u: -(u[:, 0] - 1.0).abs())
    torch.testing.assert_close(found, torch.tensor([[1.0], [0.0], [2.0]]))
    assert torch.equal(best([one, two], lambda u: u[:, 0] * 0), one)


def test_guidance_follows_the_slope_of_the_reward_at_the_expected_data():
    x, target = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, -2.0])
    velocity = rewarded(lambda x, t: torch.ones_like(x), lambda u: -(u - target).square().sum(1), 0.5)
    torch.testing.assert_close(velocity(x, 0.25), 1.0 + 0.5 * 2.0 * (target - (x + 0.75)))


@pytest.mark.training
@pytest.mark.parametrize("changes", [{"best_of": 4}, {"reward_guidance": 0.5}])
def test_steered_predictions_earn_more_and_are_the_same_every_time(changes):
    episodes = thrown()
    plain, steered = (family_of(episodes, post_training=None, **c) for c in ({}, changes))
    train(plain, {"states": states(episodes)}, LEARNING)  # an untrained flow has no spread to choose from
    steered.load_state_dict(plain.state_dict())
    past, reward = {"states": states(episodes)[:, :1]}, reward_of(episodes)
    found = [f.predict(past, 1)["states"][0] for f in (plain, steered, steered)]
    assert torch.equal(found[1], found[2])
    assert float(reward(found[1], steered.reward_units).mean()) > float(reward(found[0], plain.reward_units).mean())


# ---------------------------------------------------------------- what is told


def test_the_laws_of_the_reward_are_declared_and_nothing_else_is_told():
    spec = thrown().spec
    assert Flow.knows(FlowConfig()) == frozenset()
    assert Flow.knows(FlowConfig(reward={})) == FACTS
    plain = Flow(FlowConfig(), spec, (0,))
    with pytest.raises(UndeclaredFact):
        plain.spec.facts["gravity"]
    assert "before" not in plain.state_dict()


def test_mistakes_are_told():
    for changes in ({"post_training": {}}, {"best_of": 2}, {"reward_guidance": 1.0}):
        with pytest.raises(ValueError, match="need a reward"):
            FlowConfig(**changes)
    with pytest.raises(ValueError, match="chunk: 1"):
        FlowConfig(reward={}, chunk=2)
    spec = thrown().spec
    config = FlowConfig(reward={})
    assert Flow.unsuitable(spec.told(Flow.knows(config), "flow"), config) is None
    assert Flow.unsuitable(PENDULUM.told(Flow.knows(config), "flow"), config) == "its reward needs attributes"
