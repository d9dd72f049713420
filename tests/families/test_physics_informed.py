"""A conservation penalty makes a black box conserve, with an energy it knows or has found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.families import get_family
from wm_pipelines.families.physics_informed import PhysicsInformedConfig, partners, within_share
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.system import System

STEP = 0.1
SEEDS = (0, 1, 2)
SCHEDULE = {"steps": 800, "batch_size": 64, "learning_rate": 1e-2}


def energy(z):
    """H = p^2 / 2 + 1 - cos q, with numpy or torch."""
    cos = torch.cos if isinstance(z, torch.Tensor) else np.cos
    return z[..., 1] ** 2 / 2 + 1 - cos(z[..., 0])


PENDULUM = System(name="pendulum", dof=1, step=STEP, angles=(0,), energy=energy)
UNKNOWN = System(name="table", dof=1, step=STEP, angles=(0,))


def pendulum(episodes=30, steps=60, seed=0, derivative=True):
    rng = np.random.default_rng(seed)
    start = rng.uniform(-1, 1, (episodes, 2)) * [2.2, 0.6]
    z = rollout_separable(start, STEP, steps, lambda p: p, lambda q: -np.sin(q))
    time = torch.arange(steps + 1, dtype=torch.float64).mul(STEP).expand(episodes, -1)
    found = {"state": torch.from_numpy(z), "time": time}
    if derivative:
        found["derivative"] = torch.from_numpy(np.concatenate([z[..., 1:], -np.sin(z[..., :1])], axis=-1))
    return found


def fitted(name="physics_informed", system=PENDULUM, episodes=None, **config):
    family = get_family(name)
    model = family(family.Config(**{"schedule": SCHEDULE, **config}), system, SEEDS)
    run = train(model, pendulum() if episodes is None else episodes, LearningConfig(progress=False))
    return model, run


@pytest.fixture(scope="module")
def black_box():
    return fitted("mlp")[0]


@pytest.fixture(scope="module")
def known():
    return fitted(energy="known")


@pytest.fixture(scope="module")
def learned():
    return fitted(energy="learned", final_weight=3.0)


def energy_error(model, steps=200):
    """Mean |H(t) - H(0)| of each seed over held-out roll-outs."""
    start = pendulum(episodes=20, steps=1, seed=1)["state"][:, :1]
    h = energy(model.predict(start, steps).states)
    return (h - h[..., :1]).abs().mean((1, 2))


def test_a_known_energy_is_kept_better_than_by_the_black_box_equally_trained(black_box, known):
    assert energy_error(known[0]).mean() < 0.7 * energy_error(black_box).mean()


def test_the_projection_keeps_it_up_to_the_integrator(black_box):
    model, _ = fitted(energy="known", projected=True)
    assert energy_error(model).max() < 1e-3 * energy_error(black_box).min()


def test_lambda_keeps_the_gradients_at_the_weight_asked_for():
    config = PhysicsInformedConfig(weight=0.5, final_weight=0.5, hidden=(16,))
    model = get_family("physics_informed")(config, PENDULUM, SEEDS)
    examples = model.examples(pendulum())
    batch = {k: v[None, :256].expand(len(SEEDS), -1, -1) for k, v in examples.items()}
    prediction, _ = model.loss(batch, 0.5)  # the first call sets lambda
    parts = []
    for lam in (torch.zeros_like(model.lam), model.lam.clone()):
        model.lam, model.calls = lam, torch.tensor(1)
        model.zero_grad()
        model.loss(batch, 0.5)[0].sum().backward()
        parts.append([p.grad.clone() for p in model.f_theta.parameters()])
    norm = [sum(g.flatten(1).square().sum(1) for g in gradients).sqrt() for gradients in
            (parts[0], [b - a for a, b in zip(*parts, strict=True)])]  # fmt: skip
    torch.testing.assert_close(norm[1], 0.5 * norm[0], rtol=1e-6, atol=0)
    assert prediction.shape == (len(SEEDS),)


def test_the_learned_energy_is_the_true_one_up_to_a_scale(learned):
    model, _ = learned
    z = pendulum(episodes=40, steps=60, seed=2)["state"].flatten(0, 1)
    found = model.energy(z.expand(len(SEEDS), -1, -1)).detach().numpy()
    for of_seed in found:
        assert abs(np.corrcoef(of_seed, energy(z).numpy())[0, 1]) > 0.95


def test_the_learned_energy_is_constant_along_episodes_and_not_across_them(learned):
    model, _ = learned
    z = pendulum(episodes=40, steps=60, seed=2)["state"]
    found = model.energy(z.expand(len(SEEDS), -1, -1, -1)).detach()
    within = found.std(2).square().mean(1)
    across = found.mean(2).var(1)
    assert (within < 1e-3 * across).all()


def test_a_system_without_a_formula_gets_a_learned_energy():
    model = get_family("physics_informed")(PhysicsInformedConfig(energy="known"), UNKNOWN, [0])
    assert model.extra_summary()["energy"] == "learned"
    assert get_family("physics_informed").unsuitable(UNKNOWN) is None


def test_one_episode_says_nothing_about_its_energy():
    """Nothing across to compare with: the share within is 1 and E_psi is not trusted."""
    model = get_family("physics_informed")(PhysicsInformedConfig(energy="learned"), PENDULUM, [0])
    examples = model.examples(pendulum(episodes=1, steps=400))
    batch = {k: v[None] for k, v in examples.items()}
    _, terms = model.loss(batch, 0.0)
    assert terms["within"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "config", [{}, {"penalty": "rollout"}, {"visited": 4}, {"adaptive": False, "weight": 1.0, "final_weight": 1.0}]
)
@pytest.mark.parametrize("kind", ["known", "learned"])
@pytest.mark.parametrize("derivative", [True, False])
def test_no_form_of_the_penalty_teaches_the_energy_to_be_flat(config, kind, derivative):
    model = get_family("physics_informed")(PhysicsInformedConfig(energy=kind, hidden=(8,), **config), PENDULUM, [0, 1])
    examples = model.examples(pendulum(episodes=4, steps=10, derivative=derivative))
    batch = {k: v[None, :32].expand(2, *[-1] * v.ndim) for k, v in examples.items()}
    loss, terms = model.loss(batch, 0.5)
    assert loss.shape == (2,)
    assert (terms["conservation"] > 0).all()
    penalty = loss - sum(terms.get(name, 0) for name in ("prediction", "within", "change"))
    torch.testing.assert_close(penalty.detach(), terms["lambda"] * terms["conservation"], rtol=1e-6, atol=1e-12)
    if kind == "learned":
        with_penalty = torch.autograd.grad(loss.sum(), list(model.E_psi.parameters()), allow_unused=True)
        model.config = model.config.model_copy(update={"projected": True})
        alone = torch.autograd.grad(model.loss(batch, 0.5)[0].sum(), list(model.E_psi.parameters()), allow_unused=True)
        for a, b in zip(with_penalty, alone, strict=True):
            torch.testing.assert_close(a, b)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0))
def test_the_projected_field_crosses_no_level_set(q, p):
    config = PhysicsInformedConfig(projected=True, hidden=(8,))
    model = get_family("physics_informed")(config, PENDULUM, [0])
    model.f_theta.slope_scale.copy_(torch.tensor([0.5, 3.0]))
    z = torch.tensor([[[q, p]]], dtype=torch.float64)
    gradient = torch.tensor([np.sin(q), p])
    slope = model.field(z).detach()[0, 0]
    assert abs(float((gradient * slope).sum())) <= 1e-12 * (1 + float(gradient.norm() * slope.norm()))


def test_at_rest_the_projection_is_defined():
    model = get_family("physics_informed")(PhysicsInformedConfig(projected=True), PENDULUM, [0])
    assert model.field(torch.zeros(1, 1, 2, dtype=torch.float64)).isfinite().all()


def test_the_true_field_pays_no_penalty():
    model = get_family("physics_informed")(PhysicsInformedConfig(), PENDULUM, [0])
    examples = model.examples(pendulum())
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
    state = torch.arange(episodes, dtype=torch.float64)[:, None, None].expand(episodes, rows, 2)
    count = episodes * (rows - window)
    found = partners(state, count)
    assert torch.equal(found[:, 0], torch.arange(episodes, dtype=torch.float64).repeat_interleave(rows - window))


@pytest.mark.parametrize("kind", ["known", "learned"])
def test_same_seed_same_bits(kind):
    once, again = (fitted(energy=kind, schedule=SCHEDULE | {"steps": 40})[0].state_dict() for _ in range(2))
    for a, b in zip(once.values(), again.values(), strict=True):
        assert torch.equal(a, b)


def test_a_seed_trained_among_others_is_the_seed_trained_alone():
    """lambda is balanced, E_psi scaled, per seed: no seed feels another."""
    config = PhysicsInformedConfig(energy="learned", schedule=SCHEDULE | {"steps": 60})
    models = []
    for seeds in ((0, 1), (1,)):
        model = get_family("physics_informed")(config, PENDULUM, seeds)
        train(model, pendulum(episodes=10), LearningConfig(progress=False))
        models.append(model)
    together, alone = (dict(model.named_parameters()) for model in models)
    torch.testing.assert_close(models[0].lam[1:], models[1].lam, rtol=1e-6, atol=0)
    for name, parameter in alone.items():
        torch.testing.assert_close(together[name][1:], parameter, rtol=1e-6, atol=1e-9)
