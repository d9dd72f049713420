from dataclasses import replace

import numpy as np
import pytest

from wm_pipelines.metrics.registry import STATE_METRICS, Rollout, evaluate

STEPS, DT = 50, 0.1


def free_particles(rng, episodes=4):
    """Two free unit masses in the plane: every law holds exactly."""
    q, p = rng.normal(size=(episodes, 1, 4)), rng.normal(size=(episodes, 1, 4))
    time = DT * np.arange(STEPS + 1)
    truth = np.concatenate([q + time[:, None] * p, p + 0.0 * time[:, None]], axis=-1)
    return truth, time


def energy(z):
    return 0.5 * np.square(z[..., 4:]).sum(axis=-1)


def momentum(z):
    return z[..., 4:].reshape(*z.shape[:-1], 2, 2).sum(axis=-2)


def angular_momentum(z):
    q, p = z[..., :4].reshape(*z.shape[:-1], 2, 2), z[..., 4:].reshape(*z.shape[:-1], 2, 2)
    return (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(axis=-1, keepdims=True)


def possible(z):
    """No wall before a distance of 1,000."""
    return (np.abs(z[..., :4]) < 1e3).all(axis=-1)


def free_flight(z0, step, steps):
    time = step * np.arange(steps + 1)[:, None]
    return np.concatenate([z0[:, None, :4] + time * z0[:, None, 4:], z0[:, None, 4:] + 0.0 * time], axis=-1)


@pytest.fixture
def exact():
    truth, time = free_particles(np.random.default_rng(0))
    laws = {"energy": energy, "momentum": momentum, "angular_momentum": angular_momentum}
    laws |= {"allowed": possible, "simulate": free_flight}
    return Rollout(np.repeat(truth[None], 3, axis=0), truth, time, **laws, lyapunov_time=2.0)


def test_truth_itself_is_perfect(exact):
    values = evaluate(exact)
    assert list(values) == list(STATE_METRICS)
    for name, value in values.items():
        assert value.shape == (3, 4)
        ideal = {"horizon": STEPS * DT, "horizon_lyapunov": STEPS * DT / 2.0}.get(name, 0.0)
        np.testing.assert_allclose(value, ideal, atol=1e-12, err_msg=name)


def test_every_metric_prefers_the_truth_to_a_damped_copy(exact):
    worse = exact.predicted.copy()
    worse[..., 4:] *= np.exp(-exact.time)[:, None]
    worse[..., :4] += exact.time[:, None] ** 2
    damped = evaluate(replace(exact, predicted=worse))
    for name, value in evaluate(exact).items():
        sign = 1 if STATE_METRICS[name].lower_is_better else -1
        assert sign * value.mean() < sign * damped[name].mean(), name


def test_a_law_the_world_does_not_have_is_skipped(exact):
    lawless = replace(exact, energy=None, momentum=None, angular_momentum=None, lyapunov_time=None, allowed=None)
    assert list(evaluate(lawless)) == ["mse", "relative_error", "horizon"]
    only_energy = replace(lawless, energy=energy)
    assert "violation_rate" in evaluate(only_energy)
    assert "momentum_error" not in evaluate(only_energy)
    with pytest.raises(ValueError, match="no such law"):
        STATE_METRICS["energy_error"](lawless)


def test_a_step_is_judged_by_itself_from_where_the_prediction_is(exact):
    """A single kick is one violation, however far it leads; where nothing can be, no step is lawful."""
    kicked = exact.predicted.copy()
    kicked[:, :, 20:, 4:] *= 1.5
    kicked[:, :, 20:, :4] = (
        kicked[:, :, 19:20, :4] + (exact.time[20:] - exact.time[19])[:, None] * kicked[:, :, 20:, 4:]
    )
    metric = STATE_METRICS["step_violation_rate"]
    np.testing.assert_allclose(metric(replace(exact, predicted=kicked)), 1 / STEPS)
    assert (STATE_METRICS["violation_rate"](replace(exact, predicted=kicked)) > 0.5).all()
    outside = exact.predicted.copy()
    outside[:, :, 30, 0] = 2e3  # neither into it nor out of it
    np.testing.assert_allclose(metric(replace(exact, predicted=outside)), 2 / STEPS)


@pytest.mark.filterwarnings("error")
def test_divergence_is_infinite_error_never_nan_never_a_warning(exact):
    predicted = exact.predicted.copy()
    predicted[0, 0, 20:] = np.nan
    predicted[1, 1, 30:] = 1e200  # finite, but its square is not
    predicted[2, 2, 40:] = np.inf
    values = evaluate(replace(exact, predicted=predicted))
    for name, value in values.items():
        assert not np.isnan(value).any(), name
        if name.startswith("horizon"):
            continue
        if name not in ("violation_rate", "step_violation_rate"):
            assert np.isinf(value[[0, 2], [0, 2]]).all(), name
        assert np.isfinite(value[0, 1:]).all(), name
    np.testing.assert_allclose(values["horizon"][[0, 1, 2], [0, 1, 2]], [1.9, 2.9, 3.9])
    np.testing.assert_allclose(values["violation_rate"][0, 0], 31 / 50)


def test_error_by_step_averages_to_the_error(exact):
    noisy = replace(exact, predicted=exact.predicted + np.random.default_rng(1).normal(size=exact.predicted.shape))
    by_step = STATE_METRICS["mse"].by_step(noisy)
    np.testing.assert_allclose(by_step[..., 1:].mean(axis=-1), STATE_METRICS["mse"](noisy))


# ---------------------------------------------------------------- what must not matter


MASSES = np.array([1.0, 3.0])


def bound_pair(episodes=5, velocity=(0.0, 0.0), origin=(0.0, 0.0), damping=0.0):
    """Two bodies on circles about their centre of mass, joined by a spring, seen from any frame; exact."""
    rng, time = np.random.default_rng(1), DT * np.arange(STEPS + 1)
    reduced = MASSES.prod() / MASSES.sum()
    omega, radius = 1.0 / np.sqrt(reduced), rng.uniform(1.0, 2.0, (episodes, 1))
    radius = radius * np.exp(-damping * time)
    angle = omega * time + rng.uniform(0, 6, (episodes, 1))
    r = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    v = omega * radius[..., None] * np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    share = np.array([MASSES[1], -MASSES[0]]) / MASSES.sum()
    q = share[:, None] * r[..., None, :] + np.asarray(origin) + time[:, None, None] * np.asarray(velocity)
    p = MASSES[:, None] * (share[:, None] * v[..., None, :] + np.asarray(velocity))
    return np.concatenate([a.reshape(episodes, len(time), 4) for a in (q, p)], axis=-1), time


def pair_energy(zero=0.0):
    def law(z):
        q, p = z[..., :4].reshape(*z.shape[:-1], 2, 2), z[..., 4:].reshape(*z.shape[:-1], 2, 2)
        kinetic = (np.square(p).sum(-1) / (2 * MASSES)).sum(-1)
        return kinetic + 0.5 * np.square(q[..., 0, :] - q[..., 1, :]).sum(-1) + zero

    return law


def pair_rollout(zero=0.0, **frame):
    """A prediction with errors in positions and momenta that are the same in every frame."""
    truth, time = bound_pair(**frame)
    rng = np.random.default_rng(2)
    wrong = truth + 0.02 * (time / time[-1])[:, None] * rng.normal(size=(2, *truth.shape))
    laws = {"energy": pair_energy(zero), "momentum": momentum, "angular_momentum": angular_momentum}
    return Rollout(wrong, truth, time, **laws, masses=tuple(MASSES), tolerance=0.02)


def test_violations_know_no_zero_of_the_potential_no_origin_and_no_common_velocity():
    expected = STATE_METRICS["violation_rate"](pair_rollout())
    assert 0.1 < expected.mean() < 0.9
    for frame in ({"zero": 1e3}, {"zero": -7.0}, {"origin": (40.0, -90.0)}, {"velocity": (5.0, -3.0)}):
        np.testing.assert_allclose(STATE_METRICS["violation_rate"](pair_rollout(**frame)), expected, err_msg=str(frame))


def test_what_the_truth_loses_is_found_and_is_no_violation_of_those_who_follow_it():
    truth, time = bound_pair(damping=0.05)
    laws = {"energy": pair_energy(), "momentum": momentum, "angular_momentum": angular_momentum}
    follows = Rollout(truth[None], truth, time, **laws, masses=tuple(MASSES))
    assert follows.changing == {"energy", "angular_momentum"}
    values = evaluate(follows)
    for name in ("energy_error", "energy_drift", "angular_momentum_error", "violation_rate"):
        np.testing.assert_allclose(values[name], 0.0, atol=1e-12, err_msg=name)
    rests = evaluate(replace(follows, predicted=np.broadcast_to(truth[None, :, :1], (1, *truth.shape)).copy()))
    assert rests["energy_error"].min() > 0.1
    assert rests["violation_rate"].min() > 0.9


def test_what_a_drive_does_to_the_energy_is_asked_of_the_models_too():
    """``q'' = -q + F cos(w t)`` from rest, exactly: its energy only swings."""
    time, w = np.linspace(0.0, 60.0, 601), np.array([0.55, 0.7, 1.6])[:, None]
    pull = 1.0 / (1.0 - w**2)
    q, p = pull * (np.cos(w * time) - np.cos(time)), pull * (np.sin(time) - w * np.sin(w * time))
    truth = np.stack([q, p], axis=-1)
    follows = Rollout(truth[None], truth, time, energy=lambda z: 0.5 * np.square(z).sum(-1), conserved=None)
    assert follows.changing == {"energy"}
    np.testing.assert_allclose(evaluate(follows)["energy_error"], 0.0, atol=1e-12)


def test_a_conserving_truth_is_judged_as_ever(exact):
    assert exact.changing == frozenset()
    noisy = replace(exact, predicted=exact.predicted + np.random.default_rng(1).normal(size=exact.predicted.shape))
    energies = energy(noisy.predicted)
    expected = np.abs(energies - energies[..., :1])[..., 1:].mean(axis=-1)
    np.testing.assert_array_equal(STATE_METRICS["energy_error"](noisy), expected)


def test_what_a_world_says_it_does_not_keep_is_not_asked_of_the_truth(exact):
    driven = replace(exact, conserved=("momentum", "angular_momentum"))
    assert driven.changing == {"energy"}
    np.testing.assert_allclose(STATE_METRICS["energy_error"](driven), 0.0)


def test_the_relative_error_has_no_unit(exact):
    """Other errors are in units of coordinates and momenta mixed: of planets 1e45, whatever they mean."""
    rng = np.random.default_rng(1)
    noisy = exact.predicted + 0.1 * rng.normal(size=exact.predicted.shape)
    units = np.repeat([1.5e11, 3e34], 4)
    natural, planets = (
        evaluate(replace(exact, predicted=unit * noisy, truth=unit * exact.truth)) for unit in (np.ones(8), units)
    )
    np.testing.assert_allclose(planets["relative_error"], natural["relative_error"], rtol=1e-12)
    assert (natural["relative_error"] < 1).all()
    assert planets["mse"].min() > 1e60
