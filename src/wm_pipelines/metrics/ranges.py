"""Between which values a metric can lie: where its interval has to end, and whether it is a rate."""

from __future__ import annotations

import math

from wm_pipelines.metrics.descriptions import FLOW_METRICS, LANGUAGE_METRICS, LANGUAGE_RATES, SAMPLE_METRICS
from wm_pipelines.metrics.registry import STATE_METRICS

RATE = (0.0, 1.0)
"""The range of rates: shares of examples, episodes or steps, probabilities."""

_ANY, _ERROR = (-math.inf, math.inf), (0.0, math.inf)

_RANGES = {
    **dict.fromkeys((*STATE_METRICS, *FLOW_METRICS, *SAMPLE_METRICS), _ERROR),
    **dict.fromkeys(LANGUAGE_METRICS, _ERROR),
    **dict.fromkeys(LANGUAGE_RATES, RATE),
    "force_exponent": _ANY,
    **dict.fromkeys(("violation_rate", "step_violation_rate", "collapsed", "success_rate", "codebook_usage"), RATE),
    **dict.fromkeys(("coefficient_covered", "coefficient_identified"), RATE),
    **dict.fromkeys(("mse_per_frame", "lpips", "fid", "fvd", "residual_norm", "divergence"), _ERROR),
    **dict.fromkeys(("boundary_error", "coefficient_error", "feature_std", "effective_rank", "rankme"), _ERROR),
    **dict.fromkeys(("train_seconds", "train_flops", "step_ms", "parameters", "peak_memory_mb"), _ERROR),
    **dict.fromkeys(("action_sensitivity", "reward_mse", "decision_ms", "law_error", "law_energy_error"), _ERROR),
    **dict.fromkeys(("policy_success_rate", "strict_success_rate", "ignores_actions"), RATE),
    **dict.fromkeys(("action_consistency", "action_consistency_chance", "distractor_share"), RATE),
    "psnr": (0.0, 100.0),
    **dict.fromkeys(
        ("ssim", "sample_ssim", "sample_ssim_best", "image_sample_ssim", "image_sample_ssim_best"), (-1.0, 1.0)
    ),
}


def value_range(metric: str) -> tuple[float, float]:
    """Least and largest value of a metric by its name; infinite where nothing limits it or nothing is known."""
    name = metric.removesuffix("_probed")
    if name in _RANGES:
        return _RANGES[name]
    if name.startswith("r2_"):
        return -math.inf, 1.0
    if name.endswith(("_auc", "_probe", "_probe_by_labels")):
        return RATE
    if name.startswith(("relative_l2_", "defect_")) or name.endswith("_balance_error"):
        return _ERROR
    return _ANY
