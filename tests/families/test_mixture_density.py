"""Mixtures of Gaussians: their likelihood, their samples, and the fork at which one Gaussian fails."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.families.driven import forked, spec_of
from tests.specs import LEARNING
from wm_pipelines.families.base import Imagines, Samples
from wm_pipelines.families.mixture_density import Mixture, MixtureDensity, MixtureDensityConfig
from wm_pipelines.learning.loop import train

FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})


def mixture(components, seed=0):
    torch.manual_seed(seed)
    return Mixture(3, 2, components, 8, 1, 0.1).double()


@pytest.mark.parametrize("components", [1, 4])
def test_the_density_is_that_of_torch(components):
    own, condition = mixture(components), torch.randn(6, 2, dtype=torch.float64)
    u = torch.randn(6, 3, dtype=torch.float64)
    log_pi, mu, sigma = own(condition)
    theirs = MixtureSameFamily(Categorical(logits=log_pi), Independent(Normal(mu, sigma), 1))
    torch.testing.assert_close(own.log_density(u, condition), theirs.log_prob(u))
    assert float(sigma.detach().min()) > 0.1


def test_samples_have_the_moments_of_the_mixture():
    family = MixtureDensity(MixtureDensityConfig(components=3, hidden=8), spec_of(3), (0,))
    own, condition = mixture(3), torch.ones(1, 2, dtype=torch.float64)
    log_pi, mu, sigma = own(condition)
    theirs = MixtureSameFamily(Categorical(logits=log_pi), Independent(Normal(mu, sigma), 1))
    drawn = family.drawn(own, condition.expand(40_000, -1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), theirs.mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.var(0), theirs.variance[0], atol=0.03, rtol=0.05)
    most = mu[0, log_pi[0].argmax()]
    torch.testing.assert_close(family.likely(own, condition), most[None])


@pytest.mark.training
@pytest.mark.parametrize(("components", "between"), [(1, True), (5, False)])
def test_at_a_fork_one_gaussian_lies_between_the_ways_and_a_mixture_on_them(components, between):
    schedule = {"steps": 300, "batch_size": 128, "learning_rate": 1e-2, "warmup": 10, "gradient_clip": 1.0}
    config = MixtureDensityConfig(schedule=schedule, components=components, hidden=24, rows=1)
    family = MixtureDensity(config, spec_of(1, rows=2), (0,))
    train(family, forked(), FLOAT32)
    assert isinstance(family, Imagines)
    assert isinstance(family, Samples)
    start = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)[:, None]
    belief = family.start({"states": start}, 0)
    drawn = family.sample(belief, torch.zeros(7, 1, 0), 400, 0, torch.Generator().manual_seed(0))[:, :, 0]
    moved = family.outputs(family.member_decode(family.members[0], drawn)) - start
    right, left = ((moved - way).abs() < 0.5 for way in (2.0, -2.0))
    off = 1 - float((right | left).double().mean())
    assert off > 0.4 if between else off < 0.05
    if not between:
        assert float((right.double().mean(0) - 0.7).abs().mean()) < 0.1
