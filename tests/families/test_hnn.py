"""Hamiltonian neural networks: the flow of a perceptron H is matched to data."""

import math

import pytest
import torch

from tests.specs import (
    PENDULUM,
    fitted,
    pendulum,
    pendulum_energy,
    pendulum_field,
    pendulum_starts,
    rolled,
    tensor,
    without,
)
from wm_pipelines.errors import UserError
from wm_pipelines.families.hnn import HNN
from wm_pipelines.integrators import dop853


@pytest.mark.training
@pytest.mark.parametrize(
    ("method", "structure", "steps", "recorded"),
    [
        ("derivative", "none", 250, True),
        ("derivative", "none", 250, False),
        ("pairs", "declared", 50, False),
        ("pairs", "none", 30, False),
    ],
)
def test_it_learns_the_pendulum(method, structure, steps, recorded):
    """Errors of the energy far below those of a body that stays where it is."""
    views = pendulum(25, 30)
    schedule = {"steps": steps, "batch_size": 128, "learning_rate": 1e-2}
    config = {"method": method, "structure": structure, "hidden": (24, 24), "order": 4, "schedule": schedule}
    model, run = fitted("hnn", PENDULUM, views if recorded else without(views, "derivatives"), **config)
    batch = {name: x[None].expand(2, *x.shape) for name, x in model.examples(views).items()}
    untrained = HNN(model.config, PENDULUM, (0, 1))
    untrained.examples(views)
    with torch.enable_grad():
        before, terms = untrained.loss(batch, 0.0)
    assert all(term.shape == (2,) and not term.requires_grad for term in terms.values())
    assert all(row["loss"] < before[row["seed"]] / 10 for row in run.curve[-2:])
    start = pendulum_starts(6, 9)
    energy = pendulum_energy(rolled(model, start, 60)) - pendulum_energy(tensor(start))[:, None]
    resting = pendulum_energy(start) ** 2
    assert (energy.square().mean((1, 2)) < resting.mean() / 30).all()


def test_derivatives_that_were_not_recorded_are_those_of_splines():
    """Of degree 5: their slopes miss the true ones by O(step^5), 1e-4 of the largest slope at 60 rows a swing."""
    views = pendulum(6, 40)
    model = HNN(HNN.Config(use_derivative=False), PENDULUM, (0,))
    found = model.examples(views)["derivative"].unflatten(0, (6, 41))[:, 3:-3]
    torch.testing.assert_close(found, views["derivatives"][:, 3:-3], rtol=0, atol=1e-4)


@pytest.mark.parametrize("structure", ["declared", "none"])
def test_the_order_of_the_step_bounds_what_pairs_can_teach(structure):
    """The true H does not solve the pair equations of a scheme of order k: it misses them by O(dt^(k+1))."""
    z = tensor(pendulum_starts(20, 3))[None]
    exact = {step: tensor(dop853(pendulum_field, z[0].numpy(), step, 1, 1e-13, 1e-13))[:, 1] for step in (0.5, 0.25)}
    for order in (2, 4, 6):
        model = HNN(HNN.Config(structure=structure, order=order), PENDULUM, (0,))
        model.field_function = lambda: lambda z: torch.stack([z[..., 1], -z[..., 0].sin()], -1)
        model._part_gradient = {"p": lambda p: p, "q": torch.sin}.get
        coarse, fine = (
            float((model.flow(z, torch.full((1, 20, 1), step, dtype=torch.float64))[0] - end).abs().max())
            for step, end in exact.items()
        )
        assert order + 0.5 < math.log2(coarse / fine) < order + 2.2


@pytest.mark.training
def test_the_same_seed_gives_the_same_bits_and_alone_the_same_model():
    """Products of other sizes round otherwise; 40 steps of Adam may multiply that by its rate over its epsilon."""
    config = {"schedule": {"steps": 40, "batch_size": 64}, "hidden": (16, 16)}
    first, again, alone = (fitted("hnn", PENDULUM, pendulum(), seeds, **config)[0] for seeds in ((0, 1), (0, 1), (1,)))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    z = tensor(pendulum_starts(7))[None]
    torch.testing.assert_close(alone.field(z)[0], first.field(z.expand(2, -1, -1))[1], rtol=1e-6, atol=1e-8)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(UserError, match="order 8 needs a separable H") as refusal:
        HNN(HNN.Config(method="pairs", order=8), PENDULUM, (0,))
    assert "\n" not in str(refusal.value)
