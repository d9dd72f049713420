"""What a judge fills: rows with intervals over episodes, and values by episode for paired comparisons."""

import numpy as np
import pytest

from wm_pipelines.metrics.statistics import Summary, summarise
from wm_pipelines.tasks.judgement import BY_EPISODE, Judgement

VALUES = np.random.default_rng(0).random((2, 12))


def test_values_of_episodes_are_kept_with_their_mean_on_the_row():
    judged = Judgement([0, 7])
    judged.add("mse", VALUES, "1")
    judged.add("mse", VALUES, "1", step=3)
    judged.add("feature_std", VALUES[:, 0], "1")
    assert list(judged.arrays) == [BY_EPISODE + "mse"]
    rows = [row for row in judged.rows if row["metric"] == "mse" and row["step"] < 0]
    np.testing.assert_array_equal([row["value"] for row in rows], judged.arrays[BY_EPISODE + "mse"].mean(axis=1))
    assert [row["n"] for row in rows] == [12, 12]


def test_a_rate_gets_the_interval_of_rates_by_its_name():
    judged = Judgement([0])
    for metric in ("violation_rate", "mse"):
        judged.add(metric, np.zeros((1, 20)), "1")
    rate, error = judged.rows
    assert (rate["ci_low"], rate["ci_high"]) == (0, pytest.approx(0.18, abs=0.01))
    assert (error["ci_low"], error["ci_high"]) == (0, 0)


def test_a_summary_keeps_what_its_judge_says_of_the_episodes():
    judged = Judgement([0])
    judged.add("r2_position_probed", [Summary.scalar(0.5, 0.4, 0.6, 12)], "1")
    assert not judged.arrays
    judged.add("r2_velocity_probed", [summarise(VALUES[0])], "1", by_episode=VALUES[:1])
    np.testing.assert_array_equal(judged.arrays[BY_EPISODE + "r2_velocity_probed"], VALUES[:1])
