"""Energies whose gradient is a score, chains whose distribution is known, and a fork of which both ways are found."""

import math

import pytest
import torch

from tests.families.driven import PUSHED, forked, pushed, spec_of
from tests.families.images import VIDEO, moving_dots
from tests.specs import LEARNING
from wm_pipelines.families.base import Encodes, Imagines, Samples
from wm_pipelines.families.energy_based import EnergyBased, EnergyBasedConfig
from wm_pipelines.families.energy_based.energy import Energy, descend, ladder, langevin
from wm_pipelines.learning.loop import train

FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})
SMALL = {"hidden": 24, "rows": 4}
CD = {"objective": "contrastive_divergence", "smallest": 0.2, "largest": 2.0, "levels": 1}
CD |= {"langevin_steps": 20, "alpha": 0.3}


def schedule(steps, batch_size=20, learning_rate=1e-2):
    return {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": 10,
        "gradient_clip": 1.0,
    }


def built(world=PUSHED, seeds=(0,), **changes):
    return EnergyBased(EnergyBasedConfig(**{**SMALL, **changes}), world, seeds)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the energy


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_gradient_is_that_of_the_energy(depth):
    torch.manual_seed(0)
    energy = Energy(3, 4, 16, depth, 2.0, 0.1).double()
    torch.nn.init.normal_(energy.point.weight)  # which begins with nothing
    u, c = torch.randn(5, 3).double(), energy.conditioned(torch.randn(5, 4).double())
    sigma, h = torch.tensor([[0.1], [0.3], [0.5], [1.0], [2.0]]).double(), 1e-5
    found = energy.gradient(u, energy.given(c, sigma))
    torch.testing.assert_close(energy.slope(u, energy.given(c, sigma)), found)
    for k in range(3):
        moved = h * torch.eye(3).double()[k]
        slope = (energy(u + moved, c, sigma) - energy(u - moved, c, sigma)) / (2 * h)
        torch.testing.assert_close(found[:, k], slope, rtol=1e-6, atol=1e-6)


def test_it_has_a_gradient_where_none_is_wanted_otherwise():
    torch.manual_seed(0)
    energy = Energy(2, 1, 8, 2, 2.0, 0.1)
    with torch.no_grad():
        c = energy.conditioned(torch.ones(1, 1))
        assert energy.gradient(torch.ones(1, 2), energy.given(c, torch.ones(1, 1))).requires_grad


def test_scales_go_down_geometrically():
    assert ladder(3.0, 0.1, 1) == [3.0]
    found = torch.tensor(ladder(3.0, 0.03, 5))
    torch.testing.assert_close(found[1:] / found[:-1], torch.full((4,), 0.01**0.25))
    assert float(found[-1]) == pytest.approx(0.03)


def test_one_step_of_descent_reaches_the_middle_of_a_gaussian():
    middle, sigma = torch.tensor([1.0, -2.0]), 0.3
    found = descend(torch.zeros(4, 2), [(sigma, lambda u: (u - middle) / sigma**2)])
    torch.testing.assert_close(found, middle.expand(4, 2))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_langevin_samples_a_gaussian_with_the_variance_of_its_step(share):
    """``u' = (1 - alpha / 2 s^2) u + sqrt(alpha) xi`` has variance ``s^2 / (1 - alpha / 4 s^2)``; the mean is exact."""
    s, middle, draw = 0.5, 1.5, generator()
    alpha, u = share * s**2, torch.zeros(20_000, 1)
    u = langevin(
        u, lambda u: (u - middle) / s**2, alpha, round(12 / share), lambda: torch.randn(u.shape, generator=draw)
    )
    assert float(u.mean()) == pytest.approx(middle, abs=0.02)
    assert float(u.var()) == pytest.approx(s**2 / (1 - share / 4), rel=0.04)


# ---------------------------------------------------------------- what is learned


@pytest.mark.training
def test_the_score_of_a_mixture_of_gaussians_is_recovered():
    """At every sigma, where the data are under that noise; the analytic score from `torch.distributions`."""
    weights, means, width = torch.tensor([0.3, 0.7]), torch.tensor([-1.2, 0.8]), 0.15
    family, draw = built(spec_of(1), hidden=32, largest=2.0, smallest=0.1), generator()
    energy = family.members[0].transition
    optimizer = torch.optim.Adam(energy.parameters(), 1e-2)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / 800))
        chosen = torch.multinomial(weights, 512, replacement=True, generator=draw)
        u = (means[chosen] + width * torch.randn(512, generator=draw)).view(32, 16, 1)
        loss = family.transition_loss(energy, torch.zeros(32, 16, 1), u, draw)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    c = energy.conditioned(torch.zeros(1, 1)).detach()
    for sigma in (0.2, 0.5, 1.0, 2.0):
        spread = torch.full((2,), math.hypot(sigma, width))
        parts = torch.distributions.Normal(means, spread)
        mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
        torch.manual_seed(1)
        at = mixture.sample((2000, 1)).requires_grad_()
        (score,) = torch.autograd.grad(mixture.log_prob(at).sum(), at)
        found = -energy.slope(at.detach(), energy.given(c.expand(2000, -1), torch.tensor([[sigma]])))
        assert float((found - score).square().mean() / score.square().mean()) < 0.03


@pytest.mark.training
@pytest.mark.parametrize(("changes", "steps", "error"), [({}, 300, 0.1), (CD, 200, 0.15)])
def test_both_ways_of_a_fork_are_found_with_their_mass(changes, steps, error):
    family = built(spec_of(1, rows=2), (0,), schedule=schedule(steps, 128), **changes)
    train(family, forked(), FLOAT32)
    start = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)[:, None]
    belief = family.start({"states": start}, 0)
    drawn = family.sample(belief, torch.zeros(7, 1, 0), 400, 0, generator())[:, :, 0]
    moved = family.outputs(family.member_decode(family.members[0], drawn)) - start
    right, left = ((moved - way).abs() < 0.5 for way in (2.0, -2.0))
    share = right.double().mean(0)
    assert float((share - 0.7).abs().mean()) < error
    assert float((right | left).double().mean()) > 0.9
    likely = family.predict({"states": start[:, None]}, 1)["states"][0, :, 1] - start
    assert float(((likely.abs() - 2).abs() < 0.3).double().mean()) > 0.8  # on one of the two ways, not between them


@pytest.mark.training
def test_it_learns_what_pushes_do_and_what_they_earn():
    family = built(schedule=schedule(400), rows=16, seeds=(0, 1))
    train(family, pushed(), FLOAT32)
    truth = pushed(10, seed=1)
    past = {"states": truth["states"][:, :1]}
    found, idle = (family.predict(past, 20, a) for a in (truth["actions"], None))
    wrong, without = ((p["states"] - truth["states"]).square().mean((1, 2, 3)) for p in (found, idle))
    assert (wrong < 0.1 * without).all()
    rewards = (found["rewards"] - truth["rewards"]).square().mean((1, 2))
    assert (rewards < 0.1 * truth["rewards"].var()).all()


def test_energies_of_data_fall_and_those_of_samples_rise():
    """The gradient step of contrastive divergence, with the same samples before and behind it."""
    family, views = built(**CD, magnitude=0.0), pushed()
    family.examples(views)
    member, before = family.members[0], []
    optimizer = torch.optim.SGD(member.parameters(), 1e-3)
    for _ in range(2):
        loss, terms = family.member_loss(member, views, generator(), 0.0)
        before.append(float((terms["energy_data"] - terms["energy_samples"]).detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before[1] < before[0]


# ---------------------------------------------------------------- use


def test_features_are_standardised_states_and_beliefs_the_last_of_them():
    family, views = built(context=2), pushed()
    family.examples(views)
    assert isinstance(family, Imagines)
    assert isinstance(family, Samples)
    assert isinstance(family, Encodes)
    first, second = ({"states": views["states"][:, k]} for k in (0, 1))
    z = [family.features(o, 0) for o in (first, second)]
    units = views["states"].flatten(0, 1)
    expected = (views["states"][:, 0] - units.mean(0)) / units.std(0, correction=0)
    torch.testing.assert_close(z[0], expected.float())
    belief = family.start(first, 0)
    torch.testing.assert_close(belief, torch.stack([z[0], z[0]], 1))
    torch.testing.assert_close(family.update(belief, views["actions"][:, 0], second, 0), torch.stack(z, 1))


def test_samples_depend_on_their_generator_alone_and_are_independent():
    family = built()
    belief, actions = torch.randn(3, 1, 2, generator=generator()), torch.zeros(3, 4, 1)
    first, again, other = (family.sample(belief, actions, 5, 0, generator(s)) for s in (1, 1, 2))
    assert first.shape == (5, 3, 4, 2)
    assert torch.equal(first, again)
    # Independent draws of one spread differ by twice its variance, from call to call and within one.
    spread = first.double().var(0).mean()
    assert 0.5 < (first.double() - other.double()).square().mean() / (2 * spread) < 2.0
    assert 0.25 < (first[0].double() - first[1].double()).square().mean() / (2 * spread) < 4.0


def test_at_the_first_row_nothing_is_older():
    """A context before the episode is its first row, in training as in use."""
    family, views = built(context=3, rows=20), pushed(4)
    rows = torch.arange(20).expand(4, -1)
    seen = family._seen(views, rows)
    torch.testing.assert_close(seen[:, 0, :3], views["states"][:, :1].expand(-1, 3, -1).float())
    torch.testing.assert_close(seen[:, 5], views["states"][:, 3:7].float())


def test_no_gradient_of_a_transition_reaches_what_frames_are_encoded_by():
    frames, _ = moving_dots(6)
    family = EnergyBased(EnergyBasedConfig(**SMALL, context=2, latent=4, widths=(4, 8)), VIDEO, (0,))
    family.examples({"frames": frames})
    member, gradients = family.members[0], []
    for changed in (0.0, 1.0):
        with torch.no_grad():
            member.transition.point.weight.add_(changed)
        family.zero_grad()
        family.member_loss(member, {"frames": frames}, generator(), 0.0)[0].backward()
        gradients.append([p.grad.clone() for p in member.observer.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert any(float(g.abs().max()) > 0 for g in gradients[0])


def test_scales_must_be_in_order():
    with pytest.raises(ValueError, match="smallest 2"):
        EnergyBasedConfig(smallest=2.0, largest=1.0)
