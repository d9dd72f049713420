"""Regularisers against closed forms, references and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from wm_pipelines.blocks.info_nce import info_nce
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.errors import UserError
from wm_pipelines.families.ijepa.vicreg import vicreg_terms

NORMAL = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))  # mean for normal samples


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draw(seed), dtype=torch.float64)


def epps_pulley(x):
    """The statistic of one column in closed form: all integrals are Gaussian."""
    pairs = torch.exp(-(x[:, None] - x).square() / 2).mean()
    cross = math.sqrt(2) * torch.exp(-x.square() / 4).mean()
    return len(x) * math.sqrt(2 * math.pi) * (pairs - cross + 1 / math.sqrt(3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 200), st.floats(0.0, 2.0), st.floats(-2.0, 2.0))
def test_sigreg_is_the_epps_pulley_statistic(seed, batch, scale, shift):
    x = shift + scale * normal(batch, 1, seed=seed)
    exact = float(epps_pulley(x[:, 0]))
    assert float(sigreg(x, draw(), 3, knots=65, reach=8.0)) == pytest.approx(exact, rel=1e-6, abs=1e-9)
    # Nine knots are 0.625 apart: values whose distance, from each other or from the normal distribution's, nears
    # 2 pi / 0.625 = 10 look alike to them.
    if float(x.max() - x.min()) < 6 and float(x.abs().max()) < 4:
        assert float(sigreg(x, draw(), 3)) == pytest.approx(exact, rel=0.02, abs=0.02)


def test_sigreg_of_normal_samples_is_its_mean_whatever_the_batch():
    for batch in (32, 512):
        found = [float(sigreg(normal(batch, 16, seed=k), draw(k))) for k in range(40)]
        assert sum(found) / 40 == pytest.approx(NORMAL, rel=0.1)


@pytest.mark.parametrize(
    "deform",
    [
        lambda z: 0 * z,
        lambda z: z[:1].expand_as(z),
        lambda z: z + 1,
        lambda z: 2 * z,
        lambda z: z / 2,
        lambda z: z * torch.linspace(0.2, 1.8, z.shape[1]),
        lambda z: z[:, :1].expand_as(z),
        lambda z: z * (torch.arange(z.shape[1]) < 2),
        lambda z: (z.argsort(0).argsort(0) / len(z) - 0.5) * 8,
        lambda z: z.sign() * (1 + 0.1 * z.abs()) * 1.5,
    ],
    ids=["zero", "point", "shifted", "wide", "narrow", "stretched", "line", "plane", "uniform", "two-humped"],
)
def test_sigreg_of_anything_else_is_larger(deform):
    z = normal(512, 8)
    assert float(sigreg(deform(z), draw())) > 2.5 * float(sigreg(z, draw()))


def test_descending_sigreg_makes_samples_isotropic():
    z = (0.1 * normal(256, 4) + 2).requires_grad_()
    optimizer, generator = torch.optim.SGD([z]), draw()
    for lr in (4.0, 1.0, 0.25):
        optimizer.param_groups[0]["lr"] = lr
        for _ in range(50):
            optimizer.zero_grad()
            sigreg(z, generator, 32).backward()
            optimizer.step()
    covariance = torch.cov(z.detach().T)
    assert float(z.detach().mean(0).abs().max()) < 0.15
    assert float((covariance - torch.eye(4)).abs().max()) < 0.25


def test_directions_are_new_at_every_call_and_repeatable():
    z, generator = 2 * normal(32, 8), draw()
    first, second = sigreg(z, generator), sigreg(z, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, sigreg(z, draw()))


def test_gradients_agree_with_finite_differences():
    z, other = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    ignore = torch.rand(6, 6, generator=draw()) < 0.3
    assert gradcheck(lambda z: sigreg(z, draw(), 5), (z,))
    assert gradcheck(lambda z: vicreg_terms(z), (z,))
    assert gradcheck(lambda a, b: info_nce(a, b, 0.3, ignore), (z, other))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20), st.integers(1, 6))
def test_vicreg_is_made_of_variances_and_covariances(seed, batch, width):
    z = 0.8 * normal(batch, width, seed=seed) @ normal(width, width, seed=seed + 1)
    covariance = torch.cov(z.T).view(width, width)
    spread = (covariance.diagonal() + 1e-4).sqrt()
    variance, off = vicreg_terms(z)
    torch.testing.assert_close(variance, (1 - spread).clamp(min=0).mean())
    torch.testing.assert_close(off, (covariance - covariance.diag().diag()).square().sum() / width)


def test_vicreg_vanishes_for_white_samples_only():
    white = normal(400, 5)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
    assert max(map(float, vicreg_terms(1.01 * white))) < 1e-12
    assert float(vicreg_terms(torch.zeros(8, 3))[0]) == pytest.approx(0.99)
    assert float(vicreg_terms(white[:, :1].expand(-1, 5))[1]) == pytest.approx(4.0)
    with pytest.raises(UserError, match="at least 2"):
        vicreg_terms(torch.zeros(1, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.floats(0.05, 2.0))
def test_info_nce_is_the_cross_entropy_of_cosines(seed, batch, temperature):
    a, b = normal(batch, 4, seed=seed), normal(batch, 4, seed=seed + 1)
    ignore = torch.rand(batch, batch, generator=draw(seed)) < 0.3
    for given_ignore in (None, ignore):
        losses = []
        for x, y, out in ((a, b, ignore), (b, a, ignore.T)):
            for i in range(batch):
                cosines = torch.nn.functional.cosine_similarity(x[i : i + 1], y)
                kept = [j for j in range(batch) if j == i or given_ignore is None or not out[i, j]]
                scores = cosines[kept] / temperature
                losses.append(torch.nn.functional.cross_entropy(scores[None], torch.tensor([kept.index(i)])))
        expected = torch.stack(losses).mean()
        torch.testing.assert_close(info_nce(a, b, temperature, given_ignore), expected)
        torch.testing.assert_close(
            info_nce(b, 3 * a, temperature, None if given_ignore is None else ignore.T), expected
        )


def test_ignoring_all_others_leaves_nothing_to_tell_apart():
    a, b = normal(5, 3), normal(5, 3, seed=1)
    assert float(info_nce(a, b, 0.1, torch.ones(5, 5, dtype=torch.bool))) == 0.0


def test_impossible_settings_are_refused():
    z = normal(4, 2)
    with pytest.raises(UserError, match="temperature must be positive"):
        info_nce(z, z, 0.0)
    with pytest.raises(UserError, match="at least 1 direction"):
        sigreg(z, draw(), 0)
