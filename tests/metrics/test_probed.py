"""What is read by a probe is compared with the truth, never with itself."""

import numpy as np
import pytest

from wm_pipelines.metrics.defects import STAGES, law_errors, losses
from wm_pipelines.metrics.probed import PROBED_METRICS, evaluate_probed
from wm_pipelines.metrics.registry import Rollout


def oscillators(episodes=12, rows=9, seed=0):
    """Unit oscillators of different energies: ``[E, K, 2]``, and their energy ``(q² + p²) / 2``."""
    rng = np.random.default_rng(seed)
    size, phase = rng.uniform(0.5, 2.0, (episodes, 1)), rng.uniform(0, 6.28, (episodes, 1))
    angle = phase + 0.3 * np.arange(rows)
    return np.stack([size * np.cos(angle), -size * np.sin(angle)], axis=-1)


def energy(z):
    return 0.5 * (z**2).sum(-1)


def rollout(read, truth, **laws):
    return Rollout(read[None], truth, np.arange(truth.shape[1]) * 0.3, energy, **laws)


def test_energy_errors_are_distances_from_the_true_energy_at_the_same_time():
    truth = oscillators()
    read = truth + 0.1 * np.random.default_rng(1).normal(size=truth.shape)
    found = evaluate_probed(rollout(read, truth))
    off = np.abs(energy(read) - energy(truth))
    np.testing.assert_allclose(found["energy_error"][0], off[:, 1:].mean(1))
    np.testing.assert_allclose(PROBED_METRICS["energy_error"].by_step(rollout(read, truth))[0], off)
    assert "energy_drift" not in found


def test_a_reading_that_is_right_violates_nothing_and_a_constant_one_nearly_always():
    truth = oscillators()
    right = evaluate_probed(rollout(truth, truth, tolerance=0.1))
    constant = evaluate_probed(rollout(np.broadcast_to([1.0, 0.0], truth.shape), truth, tolerance=0.1))
    assert right["violation_rate"].max() == 0
    assert right["energy_error"].max() == 0
    assert constant["violation_rate"].mean() > 0.8
    assert constant["energy_error"].min() > 0


def test_momenta_are_vectors():
    truth = oscillators()
    laws = {"momentum": lambda z: z[..., 1:], "angular_momentum": lambda z: z[..., :1]}
    found = evaluate_probed(rollout(truth + 1.0, truth, **laws))
    np.testing.assert_allclose(found["momentum_error"], 1.0)
    np.testing.assert_allclose(found["angular_momentum_error"], 1.0)


def test_a_reading_that_is_no_number_is_infinitely_far_off():
    truth = oscillators()
    read = truth.copy()
    read[0, 3] = np.nan
    assert evaluate_probed(rollout(read, truth))["energy_error"][0, 0] == np.inf
    assert all(values[0, 0, 3] == np.inf for values in law_errors(read[None], truth, energy).values())


def test_errors_are_in_units_of_the_truths_spread():
    """Other units of length change nothing, and guessing the mean scores about 1."""
    truth = oscillators(200)
    read = np.broadcast_to(truth.mean((0, 1)), truth.shape)[None]
    found = law_errors(read, truth, energy)
    assert np.sqrt(np.square(found["position"]).mean()) == pytest.approx(1)
    assert np.sqrt(np.square(found["velocity"]).mean()) == pytest.approx(1)
    scaled = law_errors(1000 * read, 1000 * truth, energy)
    for name, values in found.items():
        np.testing.assert_allclose(scaled[name], values)
    mean = np.full((1, *truth.shape), np.sqrt(energy(truth).mean()))
    assert np.sqrt(np.square(law_errors(mean, truth, energy)["energy"]).mean()) == pytest.approx(1)


def test_where_all_have_the_same_energy_its_natural_scale_is_the_unit():
    truth = oscillators()
    truth /= np.sqrt(2 * energy(truth))[..., None]
    found = law_errors((np.sqrt(1.5) * truth)[None], truth, energy)
    kinetic = 0.5 * np.square(truth[..., 1]).mean()
    np.testing.assert_allclose(found["energy"][0], 0.5 / kinetic * energy(truth), rtol=1e-6)


def test_an_angle_a_turn_further_is_the_same():
    truth = oscillators()
    np.testing.assert_allclose(
        law_errors((truth + np.array([2 * np.pi, 0]))[None], truth, angles=(0,))["position"], 0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("errors", "added"),
    [((0.3, 0.5, 1.3), (0.09, 0.16, 1.44)), ((0.3, 0.2, 0.5), (0.09, 0.0, 0.16)), ((0.0, 0.0, np.inf), (0, 0, np.inf))],
)
def test_what_stages_add_are_differences_of_squares(errors, added):
    found = losses(dict(zip(STAGES, errors, strict=True)))
    np.testing.assert_allclose([found[stage] for stage in STAGES], added)
