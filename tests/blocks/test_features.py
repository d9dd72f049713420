"""Random features and their least squares: gradients, where features lie, and accuracy beyond the normal equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.features import LeastSquares, RandomFeatures

COUNTS = {"linear": 3, "square": 6, "power": 4, "tanh": 7}


def points(seeds: int, rows: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(seeds, rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(counts: dict[str, int], seeds: tuple[int, ...], u: torch.Tensor) -> RandomFeatures:
    features = RandomFeatures(u.shape[-1], counts, seeds)
    features.draw(u, [1.0] * len(seeds))
    return features


def test_gradients_are_those_of_the_features():
    u = (0.3 * points(2, 11, 3)).requires_grad_()
    features = drawn(COUNTS, (0, 5), u.detach())
    phi, gradients = features(u), features.gradients(u)
    for k in range(features.size):
        (by_autograd,) = torch.autograd.grad(phi[..., k].sum(), u, retain_graph=True)
        torch.testing.assert_close(gradients[..., k], by_autograd)


def test_the_gradient_of_a_combination_is_the_combination_of_gradients():
    u, c = points(2, 11, 3), points(1, 2, 20)[0]
    features = drawn(COUNTS, (0, 5), u)
    expected = (features.gradients(u) @ c[:, None, :, None])[..., 0]
    torch.testing.assert_close(features.gradient(u, c), expected)


def test_each_seed_draws_its_own_features_whoever_is_beside_it():
    u = points(1, 40, 2).expand(3, -1, -1)
    together, alone = drawn(COUNTS, (0, 1, 2), u), drawn(COUNTS, (1,), u[:1])
    assert torch.equal(together.weight[1], alone.weight[0])
    assert torch.equal(together.bias[1], alone.bias[0])
    assert not torch.equal(together.weight[0], together.weight[1])


def test_tanh_features_ignore_directions_in_which_the_data_never_move():
    u = points(1, 50, 4)
    u[..., 2:] = -u[..., :2]  # two bodies about their centre of mass
    weight = drawn({"tanh": 30}, (0,), u).weight[0]
    silent = torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]], dtype=torch.float64)
    assert (silent @ weight).abs().max() < 1e-12 * weight.abs().max()


def test_steepness_is_measured_by_the_spread_of_the_data():
    u = points(1, 50, 3)
    torch.testing.assert_close(drawn({"tanh": 9}, (0,), 10 * u).weight, drawn({"tanh": 9}, (0,), u).weight / 10)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 59), seed=st.integers(0, 1000))
def test_least_squares_do_not_depend_on_how_rows_arrive(cut: int, seed: int):
    a, y = points(2, 60, 5, seed), points(1, 2, 60, seed + 1)[0]
    pieces, left, right = LeastSquares(), LeastSquares(), LeastSquares()
    for piece in ((a[:, :cut], y[:, :cut]), (a[:, cut:], y[:, cut:])):
        pieces.add(*piece)
    left.add(a[:, :cut], y[:, :cut])
    right.add(a[:, cut:], y[:, cut:])
    expected = torch.linalg.lstsq(a, y[..., None]).solution[..., 0]
    torch.testing.assert_close(pieces.solve([0.0])[0], expected)
    torch.testing.assert_close(left.merge(right).solve([0.0])[0], expected)


def test_the_residual_is_that_of_the_rows():
    a, y, c = points(2, 60, 5), points(1, 2, 60, 1)[0], points(1, 2, 5, 2)[0]
    system = LeastSquares()
    system.add(a, y)
    direct = ((a @ c[..., None])[..., 0] - y).square().mean(dim=1).sqrt()
    torch.testing.assert_close(system.residual(c), direct)


def test_accuracy_survives_a_condition_number_that_the_normal_equations_do_not():
    x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
    a = x ** torch.arange(14)  # condition 1e10: its square is beyond float64
    truth = torch.ones(14, dtype=torch.float64)
    system = LeastSquares()
    system.add(a[None], (a @ truth)[None])
    assert (system.solve([0.0])[0, 0] - truth).abs().max() < 1e-4
    normal = torch.linalg.solve(a.T @ a, a.T @ (a @ truth))
    assert (normal - truth).abs().max() > 1e-2


def test_a_ridge_tames_features_that_repeat_each_other():
    a = points(1, 30, 3)
    system = LeastSquares()
    system.add(torch.cat([a, a], dim=-1), a.sum(-1))
    torch.testing.assert_close(system.solve([1e-8])[0], torch.full((1, 6), 0.5, dtype=torch.float64), rtol=1e-5, atol=0)
    norms = system.solve([1e-6, 1e-2, 1.0]).norm(dim=-1)[:, 0]
    assert norms[0] > norms[1] > norms[2]


def test_a_least_squares_without_rows_says_so():
    with pytest.raises(ValueError, match="add rows"):
        LeastSquares().solve([0.0])
