"""Straight paths, solvers of known order, an SDE with the marginals of its ODE, a fork of which both ways are found."""

import math
from itertools import pairwise

import pytest
import torch
from threadpoolctl import threadpool_limits

from tests.families.driven import PUSHED, forked, pushed, spec_of
from tests.families.images import VIDEO, moving_dots, resumes, seeds_are_independent
from tests.families.images import spec_of as spec_of_videos
from tests.specs import LEARNING
from wm_pipelines.blocks.flow_sampling import euler, euler_maruyama, guided, heun, path, score
from wm_pipelines.families.base import Encodes, Imagines, Samples
from wm_pipelines.families.flow import Flow, FlowConfig
from wm_pipelines.families.flow.networks import VelocityField
from wm_pipelines.learning.loop import train

FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})
SMALL = {"hidden": 24, "rows": 4, "widths": (4, 8), "latent": 4}
MIDDLE, WIDTH = 1.5, 0.5  # of Gaussian data


def schedule(steps, batch_size=20, learning_rate=1e-2):
    return {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": 10,
        "gradient_clip": 1.0,
    }


def built(world=PUSHED, seeds=(0,), **changes):
    return Flow(FlowConfig(**{**SMALL, **changes}), world, seeds)


def moved(family):
    """The same family away from where it starts, as if it had been trained."""
    draw = generator(7)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return family


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def width(t):
    """Of ``x_t`` between noise and the Gaussian data."""
    return math.sqrt((1 - t) ** 2 + (t * WIDTH) ** 2)


def gaussian_flow(x, t):
    """``E[x_1 - x_0 | x_t = x]``: the covariance of the velocity with x_t over the variance of x_t."""
    return MIDDLE + (t * WIDTH**2 - (1 - t)) / width(t) ** 2 * (x - t * MIDDLE)


# ---------------------------------------------------------------- the path, the score, the solvers


def test_between_two_points_the_velocity_is_constant_and_one_step_goes_all_the_way():
    noise, data = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    points, velocities = zip(*(path(noise, data, t.expand(5, 1)) for t in times), strict=True)
    torch.testing.assert_close(torch.stack(velocities), (data - noise).expand(7, -1, -1), rtol=0, atol=0)
    torch.testing.assert_close(torch.stack(points).diff(dim=0), (data - noise).expand(6, -1, -1) / 6)
    torch.testing.assert_close(points[0], noise)
    torch.testing.assert_close(points[-1], data)
    for solve in (euler, heun):
        torch.testing.assert_close(solve(lambda x, t: data - noise, noise, 1), data)


@pytest.mark.parametrize(("solve", "order"), [(euler, 1), (heun, 2)])
def test_the_order_of_a_solver(solve, order):
    """On the flow to a Gaussian, ``x_1 = m + s x_0``."""
    start = torch.tensor([[-1.5], [0.7]], dtype=torch.float64)
    exact = MIDDLE + WIDTH * start
    errors = [float((solve(gaussian_flow, start, n) - exact).abs().max()) for n in (64, 128, 256)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order, order], abs=0.1)


def test_the_score_of_a_gaussian_path():
    x = torch.linspace(-2, 3, 9, dtype=torch.float64).requires_grad_()
    for t in (0.0, 0.3, 0.9):
        density = torch.distributions.Normal(t * MIDDLE, width(t))
        (wanted,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        torch.testing.assert_close(score(x, gaussian_flow(x, t), t), wanted)


@pytest.mark.parametrize("churn", [0.5, 2.0])
def test_the_sde_has_the_marginals_of_the_ode(churn):
    """Mean and variance of 20,000 samples, of which a 1.4 % error of the width is two standard errors."""
    draw = generator()

    def normal():
        return torch.randn(20_000, 1, generator=draw, dtype=torch.float64)

    ode = heun(gaussian_flow, normal(), 64)
    sde = euler_maruyama(gaussian_flow, normal(), 64, churn, normal)
    for found in (ode, sde):
        assert float(found.mean()) == pytest.approx(MIDDLE, abs=0.015)
        assert float(found.std()) == pytest.approx(WIDTH, rel=0.025)


def test_without_churn_the_sde_is_the_ode():
    start = torch.randn(4, 2, generator=generator())
    found = euler_maruyama(gaussian_flow, start, 5, 0.0, lambda: torch.full((), torch.nan))
    torch.testing.assert_close(found, euler(gaussian_flow, start, 5))


# ---------------------------------------------------------------- the velocity field


def test_gradients_of_the_velocity():
    torch.manual_seed(0)
    field = VelocityField(3, {"past": 2, "action": 0}, ("past",), 8, 2).double()
    torch.nn.init.normal_(field.point.weight)
    x, c = torch.randn(4, 3).double().requires_grad_(), torch.randn(4, 2).double().requires_grad_()
    t, known = torch.tensor([[0.0], [0.2], [0.5], [0.9]]).double(), torch.tensor([[True], [True], [False], [True]])
    assert torch.autograd.gradcheck(lambda x, c: field(x, t, field.condition(c, known)), (x, c))


def test_an_untrained_flow_is_straight_and_ends_in_what_the_condition_says():
    field = built().members[0].transition
    c = field.condition(torch.randn(6, 3, generator=generator()), torch.ones(6, 1, dtype=torch.bool))
    start = torch.randn(6, 2, generator=generator(1))
    found = [euler(lambda x, t: field(x, torch.full((1, 1), t), c), start, steps) for steps in (1, 2, 8)]
    torch.testing.assert_close(torch.stack(found), field.mean(c).expand(3, -1, -1))


def test_guidance_goes_from_the_unconditional_flow_over_the_conditional_one_beyond():
    flows = {w: moved(built(dropout=0.2, guidance=w)) for w in (0.0, 1.0, 3.0)}
    field = flows[1.0].members[0].transition
    condition, x = torch.randn(2, 5, 3, generator=generator())[0], torch.randn(5, 2, generator=generator(2))
    known = torch.ones(5, 1, dtype=torch.bool)
    t = torch.full((1, 1), 0.4)
    with_it, without = (field(x, t, field.condition(condition, k)) for k in (known, ~known))
    found = {w: flow.velocity(flow.members[0].transition, condition)(x, 0.4) for w, flow in flows.items()}
    torch.testing.assert_close(found[0.0], without)
    torch.testing.assert_close(found[1.0], with_it)
    torch.testing.assert_close(found[3.0], 3 * with_it - 2 * without)
    torch.testing.assert_close(guided(with_it, without, 1.0), with_it)
    other = flows[0.0].velocity(flows[0.0].members[0].transition, condition + 1.0)(x, 0.4)
    torch.testing.assert_close(other, found[0.0])  # nothing of the condition is in it
    assert not torch.allclose(with_it, without)


def test_parts_of_the_condition_can_be_left_out_alone():
    field = moved(built(dropout=0.2, dropped=("action",))).members[0].transition
    unknown = torch.zeros(2, 1, dtype=torch.bool)
    past, action = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0]])
    still = torch.zeros(2, 1)
    same = field.condition(torch.cat([past[:1].expand(2, -1), action], 1), unknown)
    torch.testing.assert_close(same[0], same[1])
    moving = field.condition(torch.cat([past, still], 1), unknown)
    assert not torch.allclose(moving[0], moving[1])


# ---------------------------------------------------------------- what is learned


@pytest.mark.training
def test_the_velocity_to_a_mixture_of_gaussians_is_recovered():
    """``E[x_1 - x_0 | x_t]``, the mean over the components of their own velocities, weighed by what x says of them.

    Errors are in units of the variance of ``x_1 - x_0``.
    """
    weights, means, spread = torch.tensor([0.3, 0.7]), torch.tensor([-1.2, 0.8]), 0.15
    family, draw = built(spec_of(1), hidden=32), generator()
    field, steps = family.members[0].transition, 600
    optimizer = torch.optim.Adam(field.parameters(), 1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.multinomial(weights, 512, replacement=True, generator=draw)
        u = (means[chosen] + spread * torch.randn(512, generator=draw)).view(32, 16, 1)
        loss = family.transition_loss(field, torch.zeros(32, 16, 1), u, draw)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unit = 1 + (weights * means**2).sum() - (weights * means).sum() ** 2 + spread**2
    velocity = family.velocity(field, torch.zeros(1000, 1))
    for t in (0.1, 0.5, 0.8):
        variance = (1 - t) ** 2 + (t * spread) ** 2
        chosen = torch.multinomial(weights, 1000, replacement=True, generator=draw)
        x = t * means[chosen, None] + variance**0.5 * torch.randn(1000, 1, generator=draw)
        apart = x - t * means
        chance = (weights.log() - apart.square() / (2 * variance)).softmax(1)
        true = (chance * (means + (t * spread**2 - (1 - t)) / variance * apart)).sum(1, keepdim=True)
        with torch.no_grad():
            assert float((velocity(x, t) - true).square().mean() / unit) < 0.04


@pytest.mark.training
@pytest.mark.parametrize("changes", [{}, {"sampling": "sde"}])
def test_both_ways_of_a_fork_are_found_with_their_mass(changes):
    family = built(spec_of(1, rows=2), schedule=schedule(400, 128), **changes)
    train(family, forked(), FLOAT32)
    start = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)[:, None]
    belief = family.start({"states": start}, 0)
    drawn = family.sample(belief, torch.zeros(7, 1, 0), 400, 0, generator())[:, :, 0]
    gone = family.outputs(family.member_decode(family.members[0], drawn)) - start
    right, left = ((gone - way).abs() < 0.5 for way in (2.0, -2.0))
    assert float((right.double().mean(0) - 0.7).abs().mean()) < 0.1
    assert float((right | left).double().mean()) > 0.9
    likely = family.predict({"states": start[:, None]}, 1)["states"][0, :, 1] - start
    assert float(((likely - 2).abs() < 0.3).double().mean()) > 0.8  # on the likelier way, not between them


@pytest.mark.training
def test_it_learns_what_pushes_do_and_what_they_earn():
    family = built(schedule=schedule(250), rows=16, seeds=(0, 1))
    train(family, pushed(), FLOAT32)
    truth = pushed(10, seed=1)
    past = {"states": truth["states"][:, :1]}
    found, idle = (family.predict(past, 20, a) for a in (truth["actions"], None))
    wrong, without = ((p["states"] - truth["states"]).square().mean((1, 2, 3)) for p in (found, idle))
    assert (wrong < 0.1 * without).all()
    rewards = (found["rewards"] - truth["rewards"]).square().mean((1, 2))
    assert (rewards < 0.1 * truth["rewards"].var()).all()


@pytest.mark.training
def test_chunks_of_the_future_are_learned_at_once():
    views = {"states": pushed(30)["states"] - pushed(30)["states"].mean()}
    still = {"states": views["states"][:, :1].expand(-1, 9, -1)}
    family = built(spec_of(2), schedule=schedule(300), rows=8, chunk=4)
    train(family, views, FLOAT32)
    found = family.predict({"states": views["states"][:, :1]}, 8)["states"][0]
    truth = views["states"][:, :9]
    assert float((found - truth).square().mean()) < 0.2 * float((still["states"] - truth).square().mean())


# ---------------------------------------------------------------- predictions and samples


def test_it_is_what_planners_and_judges_ask_for():
    family = built(context=2)
    family.examples(pushed())
    assert isinstance(family, Imagines)
    assert isinstance(family, Samples)
    assert isinstance(family, Encodes)
    assert not family.learned_features


@pytest.mark.parametrize(
    "changes", [{}, {"chunk": 4}, {"predicts": "sample"}, {"predicts": "sample", "sampling": "sde"}]
)
def test_predictions_begin_like_longer_ones_repeat_and_do_not_depend_on_other_rows(changes):
    family = moved(built(spec_of(2), **changes)).eval()
    past = {"states": torch.randn(5, 1, 2, generator=generator(), dtype=torch.float64)}
    long = family.predict(past, 6)["states"]
    assert long.shape == (1, 5, 7, 2)
    assert torch.equal(long, family.predict(past, 6)["states"])
    for steps in (1, 3, 5):
        torch.testing.assert_close(family.predict(past, steps)["states"], long[:, :, : steps + 1])
    alone = family.predict({"states": past["states"][2:3]}, 6)["states"]
    torch.testing.assert_close(alone, long[:, 2:3], rtol=1e-5, atol=1e-5)  # sums of another shape round differently


def test_what_is_done_later_changes_nothing_before():
    family = moved(built()).eval()
    belief, actions = torch.randn(3, 1, 2, generator=generator()), torch.zeros(3, 6, 1)
    other = actions.clone()
    other[:, 4:] = 1.0
    one, two = (family.imagine(belief, a, 0) for a in (actions, other))
    for a, b in ((one.features, two.features), (one.rewards, two.rewards)):
        assert torch.equal(a[:, :4], b[:, :4])
        assert not torch.allclose(a[:, 4:], b[:, 4:])


@pytest.mark.parametrize("changes", [{}, {"sampling": "sde"}, {"predicts": "sample"}])
def test_samples_depend_on_their_generator_alone_and_are_independent(changes):
    family = moved(built(**changes))
    belief, actions = torch.randn(3, 1, 2, generator=generator()), torch.zeros(3, 4, 1)
    torch.manual_seed(5)
    first = family.sample(belief, actions, 64, 0, generator(1))
    torch.manual_seed(6)
    again, other = (family.sample(belief, actions, 64, 0, generator(s)) for s in (1, 2))
    assert first.shape == (64, 3, 4, 2)
    assert torch.equal(first, again)
    # Independent draws of one spread differ by twice its variance, from call to call and from row to row.
    spread = first.double().var(0).mean((1, 2))
    assert (spread > 0).all()
    across = (first.double() - other.double()).square().mean((0, 2, 3)) / (2 * spread)
    within = (first.double()[1:] - first.double()[:-1]).square().mean((0, 2, 3)) / (2 * spread)
    assert ((across > 0.5) & (across < 2)).all()
    assert ((within > 0.5) & (within < 2)).all()


# ---------------------------------------------------------------- frames


def test_an_autoencoder_is_trained_first_and_frozen_after():
    frames, _ = moving_dots(6)
    family = built(VIDEO, context=2)
    batch = family.examples({"frames": frames})
    member = family.members[0]
    moving = {True: member.observer, False: member.transition}
    for progress in (0.1, 0.9):
        family.zero_grad()
        family.member_loss(member, batch, generator(), progress)[0].backward()
        for observer, part in moving.items():
            told = any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in part.parameters())
            assert told == (observer == (progress < family.config.encoder_share))
        assert not member.observer.training or progress < 0.2
    assert family.learned_features


def of_frames(seeds=(0, 1)):
    return built(VIDEO, seeds, context=2, schedule={"steps": 12, "batch_size": 8, "warmup": 2}, encoder_rows=4)


@pytest.mark.training
def test_a_killed_training_ends_in_the_same_bits_in_either_phase(tmp_path):
    resumes(of_frames, tmp_path, moving_dots(12)[0])


@pytest.mark.training
def test_its_curve_on_pixels_is_the_same_on_any_number_of_cores():
    """The features that are watched for collapse are the pixels: wide enough for libraries to share out their sums."""
    frames = moving_dots(21, 12, size=24)[0].expand(-1, -1, -1, -1, 3)
    few = {"steps": 2, "batch_size": 4, "warmup": 1}
    curves = []
    for cores in (1, 2):
        family = built(spec_of_videos(12, 24, 24, 3), latent=0, widths=(8, 8), schedule=few)
        with threadpool_limits(cores):
            curves.append(train(family, {"frames": frames}, FLOAT32.model_copy(update={"log_every": 1})).curve)
    assert curves[0] == curves[1]


@pytest.mark.training
def test_a_seed_is_trained_alike_alone_and_beside_another():
    seeds_are_independent(of_frames, moving_dots(12)[0])


@pytest.mark.training
def test_frames_are_continued():
    frames, _ = moving_dots(48)
    family = built(VIDEO, context=2, schedule=schedule(160, 16, 1e-2), rows=8, hidden=48, widths=(8, 16), latent=8)
    train(family, {"frames": frames}, FLOAT32)
    held, _ = moving_dots(16, seed=1)
    found = family.predict({"frames": held[:, :2]}, 4)["frames"][0]
    truth = held[:, 2:6] / 255
    rest = (held[:, 1:2] / 255 - truth).square().mean()
    assert float((found - truth).square().mean()) < float(rest)


def test_pixels_can_be_their_own_latents():
    frames, _ = moving_dots(4)
    family = built(VIDEO, latent=0, pool=2, widths=(8, 8), patch=2)
    family.examples({"frames": frames})
    member, x = family.members[0], family.inputs({"frames": frames})[:, 0]
    z = family.member_features(member, x)
    assert z.shape == (4, 64)
    torch.testing.assert_close(family.member_decode(member, z[:, None])[:, 0], x)
    assert family.predict({"frames": frames[:, :1]}, 3)["frames"].shape == (1, 4, 3, 16, 16, 1)
    assert not family.learned_features


def test_the_velocity_of_frames_leads_to_the_data_it_expects():
    family = moved(built(VIDEO, latent=0, pool=2, context=2, chunk=2, widths=(8, 16), patch=2))
    field = family.members[0].transition
    x, condition = torch.randn(2, 3, 2 * 64, generator=generator())
    c = field.condition(condition, torch.ones(3, 1, dtype=torch.bool))
    t = torch.full((1, 1), 0.3)
    torch.testing.assert_close(x + 0.7 * field(x, t, c), field.data(x, t, c))
    # Which past was seen, and where on the path x is, makes a difference.
    other = field.condition(condition.flip(0), torch.ones(3, 1, dtype=torch.bool))
    assert not torch.allclose(field.data(x, t, other), field.data(x, t, c), atol=1e-3)
    assert not torch.allclose(field.data(x, 2 * t, c), field.data(x, t, c), atol=1e-3)


def test_probes_read_coarse_pixels_of_frames_seen_and_predicted():
    family = built(spec_of_videos(5, 40, 40, 1), latent=0, widths=(8, 8), patch=4)
    frames = torch.randint(256, (2, 5, 40, 40, 1), dtype=torch.uint8, generator=generator())
    family.examples({"frames": frames})
    found = family.encode({"frames": frames}).pooled
    assert found.shape == (1, 2, 5, 16 * 16)
    member = family.members[0]
    whole = (frames.float().movedim(-1, 2) / 255 - member.observer.centre) / member.observer.scale
    torch.testing.assert_close(found.mean(-1)[0], whole.mean((2, 3, 4)), rtol=0.05, atol=0.05)
    predicted = family.predict({"frames": frames[:, :1]}, 3)
    again = family.encode({"frames": (255 * predicted["frames"][0]).round().to(torch.uint8)}).pooled
    torch.testing.assert_close(predicted["latents"], again, rtol=0, atol=0.05)


def test_of_a_past_that_is_forgotten_the_last_observation_remains():
    seen = torch.randn(4, 6, 3, 2, generator=generator())
    assert torch.equal(built()._forgotten(seen, generator()), seen)
    found = built(alone=0.5)._forgotten(seen, generator())
    alone = (found == seen[:, :, -1:]).all(-1).all(-1)
    assert 4 < int(alone.sum()) < 20
    assert torch.equal(found[~alone], seen[~alone])


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="guidance needs dropout"):
        FlowConfig(guidance=2.0)
    assert Flow.unsuitable(PUSHED, FlowConfig(chunk=2)) == "chunk: 1 alone takes actions"
    assert Flow.unsuitable(spec_of(2, rows=4), FlowConfig(chunk=4)) == "needs episodes of 5 rows or more"
    assert Flow.unsuitable(spec_of(2, rows=5), FlowConfig(chunk=4)) is None
