"""Planners: their noise, their optima, their weights; and that a plan is for one start alone."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.control.toys import COST, STEP, A, B, world
from wm_pipelines.control import planners
from wm_pipelines.control.planners import Planner, PlannerConfig, coloured
from wm_pipelines.control.policies import ObjectiveConfig, TruePlanned, reduced

KINDS = ("cem", "icem", "mppi")


def draws(samples, steps, beta, seed=0):
    return coloured(samples, steps, 2, beta, torch.Generator().manual_seed(seed)).numpy()


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [2, 3, 15, 32])
def test_noise_of_any_colour_has_unit_variance_and_no_mean(beta, steps):
    noise = draws(20_000, steps, beta)
    assert noise.shape == (20_000, steps, 2)
    np.testing.assert_allclose(noise.mean((0, 2)), 0.0, atol=0.03)
    assert noise.var() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(np.mean(noise[..., 0] * noise[..., 1]), 0.0, atol=0.03)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_its_power_falls_as_a_power_of_the_frequency(beta):
    power = np.square(np.abs(np.fft.rfft(draws(8_000, 64, beta), axis=1))).mean((0, 2))[1:-1]
    frequency = np.arange(1, 32)
    slope, _ = np.polyfit(np.log(frequency), np.log(power), 1)
    assert slope == pytest.approx(-beta, abs=0.02)


def quadratic(target):
    """Best at the target, ``[E, H, A]``."""

    def score(candidates):
        return -(candidates - target[:, None]).square().sum((-1, -2))

    return score


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_a_quadratic_is_found_within_bounds(kind):
    target = torch.tensor([[[0.3, -0.6], [-0.2, 0.5], [0.1, 0.0]], [[1.8, -0.4], [-3.0, 0.2], [0.0, 0.0]]])
    settings = {"samples": 300, "iterations": 12, "elites": 20, "horizon": 3, "beta": 0.0, "smallest_spread": 0.0}
    plan = Planner(PlannerConfig(kind=kind, temperature=0.1, **settings), 2).plan(quadratic(target), 2)
    assert plan.abs().max() <= 1.0
    torch.testing.assert_close(plan, target.clamp(-1, 1), atol=0.15 if kind == "mppi" else 0.05, rtol=0.0)


def test_mppi_weighs_all_candidates_by_the_exponential_of_their_standardised_score():
    seen = []

    def score(candidates):
        seen.append(candidates)
        return torch.arange(5.0).repeat(2, 1) * torch.tensor([[1.0], [40.0]])

    plan = Planner(PlannerConfig(kind="mppi", samples=5, iterations=1, elites=2, horizon=3, temperature=0.5), 1).plan(
        score, 2
    )
    weights = np.exp(np.arange(5) / (0.5 * np.arange(5).std()))  # of either start: a score's unit does not matter
    wanted = np.einsum("n,enha->eha", weights / weights.sum(), seen[0].numpy())
    np.testing.assert_allclose(plan.numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_does_not_depend_on_which_other_starts_are_planned_for(kind):
    target = torch.linspace(-1, 1, 4 * 5).reshape(4, 5, 1)
    alone, together = (Planner(PlannerConfig(kind=kind, horizon=5), 1, seed=3) for _ in range(2))
    for _ in range(3):  # decisions, each carrying the plan before on
        one, all_ = alone.plan(quadratic(target[2:3]), 1), together.plan(quadratic(target), 4)
        torch.testing.assert_close(one[0], all_[2], rtol=0.0, atol=1e-6)


def test_the_last_plan_is_carried_on_by_one_step():
    planner, seen = Planner(PlannerConfig(kind="icem", horizon=4, iterations=1), 1), []

    def score(candidates):
        seen.append(candidates)
        return candidates.sum((-1, -2))

    first = planner.plan(score, 1)
    planner.plan(score, 1)
    torch.testing.assert_close(seen[1][0, 0, :, 0], torch.cat([first[0, 1:, 0], torch.zeros(1)]))


def test_no_iteration_begins_after_the_limit_of_seconds(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(planners.time, "perf_counter", lambda: next(clock))
    calls = []

    def score(candidates):
        calls.append(1)
        return candidates.sum((-1, -2))

    Planner(PlannerConfig(iterations=6, seconds=25.0), 1).plan(score, 1)
    assert len(calls) == 3  # looked at the clock at 0, 10, 20 and 30 s
    Planner(PlannerConfig(iterations=6), 1).plan(score, 1)
    assert len(calls) == 3 + 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_without_a_score_is_never_chosen(kind):
    def score(candidates):
        value = candidates.sum((-1, -2))
        return torch.where(candidates.amax((-1, -2)) > 0.5, torch.nan, value)

    plan = Planner(PlannerConfig(kind=kind, horizon=3), 1).plan(score, 2)
    assert plan.isfinite().all()
    assert plan.max() <= 0.5


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValidationError, match="elites 9 are more than samples 8"):
        PlannerConfig(samples=8, elites=9)
    with pytest.raises(ValidationError, match="horizon"):
        PlannerConfig(horizon=0)


def best_actions(z, steps):
    """Actions ``[H]`` that maximise the return of the line without bounds: a least-squares problem."""
    free, pushed = [z], [np.zeros((2, steps))]
    for k in range(steps - 1):
        free.append(A @ free[-1])
        pushed.append(A @ pushed[-1])
        pushed[-1][:, k] += B[:, 0]
    x, m = np.stack(free)[:, 0], np.stack(pushed)[:, 0]
    return np.linalg.solve(m.T @ m + COST * np.eye(steps), -m.T @ x)


def test_on_a_linear_world_with_quadratic_rewards_the_planner_comes_to_the_optimum():
    plant, starts = world(), np.array([[0.2, 0.05], [-0.2, 0.1]])
    config = PlannerConfig(kind="icem", horizon=6, samples=300, iterations=15, elites=20, beta=1.0, smallest_spread=0.0)
    policy = TruePlanned(plant, STEP, config, ObjectiveConfig())
    policy.begin({}, starts)
    policy.act()
    best = np.stack([best_actions(z, 6) for z in starts])
    assert np.abs(best).max() < 1
    optimum = policy._score(torch.tensor(best[:, None, :, None]))[:, 0]
    assert (policy.expected <= optimum + 1e-9).all()
    torch.testing.assert_close(policy.expected, optimum, rtol=0.01, atol=0.0)


def test_distances_along_a_plan_as_one_number():
    d = torch.tensor([[3.0, 1.0, 2.0]])
    assert [float(reduced(d, where)) for where in ("last", "mean", "closest")] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi"])
@pytest.mark.parametrize("worth", [torch.nan, torch.inf, -torch.inf])
def test_where_nothing_imagined_is_a_number_nothing_is_done_and_others_plan_as_alone(kind, worth):
    def score(candidates):
        value = -candidates.square().sum((-1, -2)) + candidates.sum((-1, -2))
        value[1] = worth
        return value

    config = PlannerConfig(kind=kind, horizon=4, samples=16, iterations=3)
    both = Planner(config, 1).plan(score, 2)
    alone = Planner(config, 1).plan(lambda c: -c.square().sum((-1, -2)) + c.sum((-1, -2)), 1)
    torch.testing.assert_close(both[:1], alone)
    assert both.isfinite().all()
    if kind != "mppi":
        torch.testing.assert_close(both[1], torch.zeros(4, 1))
