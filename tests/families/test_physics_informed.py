"""A conservation penalty makes a black box conserve, with an energy it knows or has found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.specs import PENDULUM, fitted, pendulum, pendulum_energy, rolled, spec
from wm_pipelines.families.physics_informed import PhysicsInformed, PhysicsInformedConfig, partners, within_share
from wm_pipelines.spec import UndeclaredFact

SEEDS = (0, 1, 2)
SCHEDULE = {"steps": 400, "batch_size": 64, "learning_rate": 1e-2}


def swings(count=30, steps=60, seed=0):
    return pendulum(count, steps, seed, angle=2.2, momentum=0.6)


def trained(name="physics_informed", **config):
    return fitted(name, PENDULUM, swings(), SEEDS, **{"schedule": SCHEDULE, "hidden": (32, 32), **config})[0]


def built(seeds=(0,), world=PENDULUM, **config):
    return PhysicsInformed(PhysicsInformedConfig(**config), world, seeds)


@pytest.fixture(scope="module")
def black_box():
    return trained("mlp")


@pytest.fixture(scope="module")
def learned():
    return trained(energy="learned", energy_hidden=(16, 16), final_weight=3.0)


def energy_error(model, steps=100):
    """Mean |H(t) - H(0)| of each seed over held-out roll-outs."""
    h = pendulum_energy(rolled(model, swings(20, 1, seed=1)["states"][:, 0], steps))
    return (h - h[..., :1]).abs().mean((1, 2))


@pytest.mark.training
def test_a_known_energy_is_conserved_better_than_by_the_black_box_equally_trained(black_box):
    assert energy_error(trained(energy="known")).mean() < 0.8 * energy_error(black_box).mean()


@pytest.mark.training
def test_the_projection_conserves_it_up_to_the_integrator(black_box):
    assert energy_error(trained(energy="known", projected=True)).max() < 1e-3 * energy_error(black_box).min()


def test_lambda_keeps_the_gradients_at_the_weight_asked_for():
    model = built(SEEDS, weight=0.5, final_weight=0.5, hidden=(16,))
    batch = {k: v[None, :256].expand(len(SEEDS), -1, -1) for k, v in model.examples(swings()).items()}
    prediction, _ = model.loss(batch, 0.5)  # the first call sets lambda
    assert prediction.shape == (len(SEEDS),)
    parts = []
    for lam in (torch.zeros_like(model.lam), model.lam.clone()):
        model.lam, model.calls = lam, torch.tensor(1)
        model.zero_grad()
        model.loss(batch, 0.5)[0].sum().backward()
        parts.append(torch.cat([p.grad.flatten(1) for p in model.f_theta.parameters()], 1))
    torch.testing.assert_close((parts[1] - parts[0]).norm(dim=1), 0.5 * parts[0].norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.training
def test_the_learned_energy_is_the_true_one_up_to_a_scale(learned):
    z = swings(40, seed=2)["states"].flatten(0, 1)
    for of_seed in learned.energy(z.expand(len(SEEDS), -1, -1)).detach().numpy():
        assert abs(np.corrcoef(of_seed, pendulum_energy(z).numpy())[0, 1]) > 0.95


@pytest.mark.training
def test_the_learned_energy_is_constant_along_episodes_and_not_across_them(learned):
    found = learned.energy(swings(40, seed=2)["states"].expand(len(SEEDS), -1, -1, -1)).detach()
    assert (found.std(2).square().mean(1) < 1e-3 * found.mean(2).var(1)).all()


def test_an_energy_must_be_declared_to_be_known():
    undeclared = spec(2, angles=[0])
    known, found = PhysicsInformedConfig(energy="known"), PhysicsInformedConfig(energy="learned")
    assert PhysicsInformed.unsuitable(undeclared, known) == "no energy is declared"
    assert PhysicsInformed.unsuitable(undeclared, found) is None
    assert (PhysicsInformed.knows(known), PhysicsInformed.knows(found)) == ({"angles", "energy"}, {"angles"})
    model = built(energy="learned")
    assert model.extra_summary() == {"energy": "learned", "lambda": [0.0]}
    with pytest.raises(UndeclaredFact, match="energy"):
        model.spec.facts["energy"]


def test_one_episode_says_nothing_about_its_energy():
    """Nothing across to compare with: the share within is 1 and E_psi is not trusted."""
    model = built(energy="learned")
    batch = {k: v[None] for k, v in model.examples(swings(1, 400)).items()}
    _, terms = model.loss(batch, 0.0)
    assert terms["within"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "config", [{}, {"penalty": "rollout"}, {"visited": 4}, {"adaptive": False, "weight": 1.0, "final_weight": 1.0}]
)
@pytest.mark.parametrize("kind", ["known", "learned"])
@pytest.mark.parametrize("target", ["derivative", "integrator"])
def test_no_form_of_the_penalty_teaches_the_energy_to_be_flat(config, kind, target):
    model = built((0, 1), energy=kind, hidden=(8,), target=target, **config)
    batch = {k: v[None, :32].expand(2, *[-1] * v.ndim) for k, v in model.examples(swings(4, 10)).items()}
    loss, terms = model.loss(batch, 0.5)
    assert loss.shape == (2,)
    assert (terms["conservation"] > 0).all()
    penalty = loss - sum(terms.get(name, 0) for name in ("prediction", "within", "change"))
    torch.testing.assert_close(penalty.detach(), terms["lambda"] * terms["conservation"], rtol=1e-6, atol=1e-12)
    if kind == "learned":
        with_penalty = torch.autograd.grad(loss.sum(), list(model.E_psi.parameters()))
        model.config = model.config.model_copy(update={"projected": True})
        alone = torch.autograd.grad(model.loss(batch, 0.5)[0].sum(), list(model.E_psi.parameters()))
        for a, b in zip(with_penalty, alone, strict=True):
            torch.testing.assert_close(a, b)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0))
def test_the_projected_field_crosses_no_level_set(q, p):
    model = built(projected=True, hidden=(8,))
    model.f_theta.slope_scale.copy_(torch.tensor([0.5, 3.0]))
    gradient = torch.tensor([np.sin(q), p])
    slope = model.field(torch.tensor([[[q, p]]], dtype=torch.float64)).detach()[0, 0]
    assert abs(float((gradient * slope).sum())) <= 1e-12 * (1 + float(gradient.norm() * slope.norm()))


def test_at_rest_the_projection_is_defined():
    assert built(projected=True).field(torch.zeros(1, 1, 2, dtype=torch.float64)).isfinite().all()


def test_the_true_field_pays_no_penalty():
    """Up to the rounding of two products that cancel, of size 2 each, over the typical steepness."""
    model = built()
    examples = model.examples(swings())
    z, truth = examples["state"][None], examples["derivative"][None]
    assert model.rate(model.steepness(z), truth).abs().max() < 1e-12
    friction = truth - 0.1 * torch.tensor([0.0, 1.0]) * z
    assert model.rate(model.steepness(z), friction).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 1e3), st.floats(-1e3, 1e3))
def test_the_share_within_ignores_unit_and_origin_of_energy(unit, origin):
    draw = torch.Generator().manual_seed(0)
    e, e2 = torch.randn(2, 1, 50, dtype=torch.float64, generator=draw)
    torch.testing.assert_close(within_share(unit * e + origin, unit * e2 + origin), within_share(e, e2))


def test_the_share_within_of_a_constant_along_episodes_is_zero_and_of_noise_one():
    draw = torch.Generator().manual_seed(0)
    e, e2 = torch.randn(2, 1, 20_000, dtype=torch.float64, generator=draw)
    assert within_share(e, e) == 0
    assert float(within_share(e, e2)) == pytest.approx(1.0, abs=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(3, 9), st.integers(1, 2))
def test_partners_come_from_the_same_episode(episodes, rows, window):
    states = torch.arange(episodes, dtype=torch.float64)[:, None, None].expand(episodes, rows, 2)
    found = partners(states, episodes * (rows - window))
    assert torch.equal(found[:, 0], torch.arange(episodes, dtype=torch.float64).repeat_interleave(rows - window))


@pytest.mark.training
@pytest.mark.parametrize("kind", ["known", "learned"])
def test_same_seed_same_bits(kind):
    once, again = (trained(energy=kind, schedule=SCHEDULE | {"steps": 40}).state_dict() for _ in range(2))
    for a, b in zip(once.values(), again.values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.training
def test_a_seed_trained_among_others_is_the_seed_trained_alone():
    """lambda is balanced, E_psi scaled, per seed: no seed feels another.

    Products of other sizes may round otherwise. A gradient g known to 1e-17 moves a step of Adam by 1e-2 x 1e-17 / g:
    60 steps make 6e-14 of that for gradients above 1e-4. Parameters without any influence have g = 1e-17 itself, over
    Adam's epsilon of 1e-8: 1e-11 a step, all in one direction. There are none.
    """
    together, alone = (
        fitted("physics_informed", PENDULUM, swings(10), seeds, energy="learned", schedule=SCHEDULE | {"steps": 60})[0]
        for seeds in ((0, 1), (1,))
    )
    torch.testing.assert_close(together.lam[1:], alone.lam, rtol=1e-6, atol=0)
    of_both = dict(together.named_parameters())
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(of_both[name][1:], parameter, rtol=1e-9, atol=1e-12)
