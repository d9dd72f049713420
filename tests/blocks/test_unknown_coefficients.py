"""Least squares, and how far coefficients are known from measurements."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.least_squares import least_squares
from wm_pipelines.blocks.unknown_coefficients import UnknownCoefficients, alikeness
from wm_pipelines.equations import Coefficient, Equation, Problem


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 10), st.integers(1, 3), st.integers(0, 99))
def test_least_squares_leave_a_residual_orthogonal_to_the_columns(seeds, size, extra, targets, seed):
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(seeds, size + extra, size, generator=generator, dtype=torch.float64)
    right = torch.randn(seeds, size + extra, targets, generator=generator, dtype=torch.float64)
    left = right - design @ least_squares(design, right, 1e-15)
    assert (design.mT @ left).abs().max() < 1e-6


def test_a_column_of_zeros_gets_no_weight():
    design = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]], dtype=torch.float64)
    solution = least_squares(design, torch.tensor([[[2.0], [4.0]]], dtype=torch.float64), 1e-12)
    torch.testing.assert_close(solution, torch.tensor([[[2.0], [0.0]]], dtype=torch.float64))


def test_noise_is_not_alike_between_neighbours_and_a_missed_region_is():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(100, 2, generator=generator, dtype=torch.float64) * torch.tensor([1e-3, 50.0])
    index = torch.arange(100) % 2
    noise = torch.randn(500, 100, generator=generator, dtype=torch.float64)
    found = alikeness(noise, points, index)
    assert abs(float(found.mean())) < 0.3
    assert 0.8 < float(found.std()) < 1.2
    trend = 2 * torch.sin(2 * torch.pi * points[:, 0] / 1e-3)
    assert float(alikeness(noise + trend, points, index).median()) > 3.5
    # Far apart by the coordinate with the larger unit, not by the number: units do not matter.
    torch.testing.assert_close(alikeness(noise, points * torch.tensor([1e6, 1.0]), index), found)
    assert (alikeness(noise[:, :5], points[:5], index[:5]) == 0).all()


@pytest.fixture
def two():
    """``a`` in [0.1, 10] and ``b`` in [1, 4], two seeds; the middle of both is found."""
    coefficients = {"a": Coefficient(None, bounds=(0.1, 10.0)), "b": Coefficient(None, bounds=(1.0, 4.0))}
    decay = {"decay": Equation("u_t + a*u + b")}
    return UnknownCoefficients(Problem("p", ("t",), ("u",), {"t": (0.0, 1.0)}, decay, (), coefficients), (0, 1))


def test_an_interval_is_that_of_the_normal_distribution_of_the_logarithm(two):
    two.determine(torch.diag_embed(torch.tensor([[1e4, 4e4], [1e4, 4e4]], dtype=torch.float64)))
    found = two.found()
    assert found["a"]["identified"].all()
    assert found["a"]["value"].tolist() == pytest.approx([1.0, 1.0])
    assert found["b"]["low"][0].item() == pytest.approx(2.0 * math.exp(-1.96 * 0.005), rel=1e-6)


@pytest.mark.parametrize("unusable", [0.0, math.nan])
def test_a_singular_matrix_identifies_nothing_for_that_seed_alone(two, unusable, caplog):
    precision = torch.diag_embed(torch.full((2, 2), 1e4, dtype=torch.float64))
    precision[1, 0, 0] = unusable
    two.determine(precision)
    left, points = torch.randn(2, 4, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    two.check(left, points, torch.zeros(4, dtype=torch.long), "solver on rod", "Try harder.")
    assert two.identified.tolist() == [[True, True], [False, False]]
    found = two.found()["a"]
    assert (found["low"][1].item(), found["high"][1].item()) == (0.1, 10.0)
    assert "solver on rod, seed 1: a, b are not determined by these measurements" in caplog.text
    assert "seed 0" not in caplog.text


def test_an_interval_that_leaves_nothing_out_identifies_nothing(two):
    """``a`` is known, ``b`` is not: each is judged by itself."""
    two.determine(torch.diag_embed(torch.tensor([[1e4, 1e-2]] * 2, dtype=torch.float64)))
    found = two.found()
    assert found["a"]["identified"].all()
    assert not found["b"]["identified"].any()
    assert (found["b"]["low"][0].item(), found["b"]["high"][0].item()) == (1.0, 4.0)
