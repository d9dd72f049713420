"""How families look and how numbers read, the same in every figure and table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

from wm_pipelines.metrics.descriptions import QUESTION_KINDS
from wm_pipelines.metrics.registry import described

REFERENCES = ("oracle", "persistence", "raw_pixels", "fixed_policies", "training_copy", "frequent_answer")
"""Ceiling and floors: always shown, never the winner."""

UNTRAINED = "_untrained"
"""How the variant of a model ends that was judged without training: a floor, too."""

_FLOORS = (
    "persistence/", "raw_pixels/", "fixed_policies/random", "frequent_answer/", "training_copy/", "token_vlm/blind",
)  # fmt: skip
_ABOVE_FLOOR = (
    "horizon*", "mse*", "relative_error*", "psnr", "ssim", "lpips", "fvd", "*_probe", "r2_*", "surprise_*", "answer_*",
    "retrieval_r1", "caption_*", "frame_exact*",
    *(f"*{score}" for score in ("normalised_score", "return", "success_rate", "over_random", "planning_gap")),
)  # fmt: skip

INK = "#1b1f24"
"""Colour of the truth on a light page; the report turns it light on a dark one (traces marked ``meta="ink"``)."""

# Chosen for a contrast of at least 3 : 1 on both the light and the dark page, in the hue order of Okabe and Ito's
# colour-blind-safe set. Position in the mapping is the order in which families are listed.
_FAMILY_COLOURS = {
    "oracle": "#9a7b1c",
    "hnn": "#2f7fd1",
    "hamiltonian_regression": "#d1478c",
    "momentum_gnn": "#00956d",
    "physics_informed": "#d55e00",
    "mlp": "#a35cc2",
    "random_feature_collocation": "#2f7fd1",
    "pinn": "#d55e00",
    "vjepa": "#2f7fd1",
    "ijepa": "#2f7fd1",
    "mae": "#d55e00",
    "contrastive": "#00956d",
    "latent_dynamics": "#c94a4a",
    "sequence": "#7a8b1f",
    "object_tracker": "#7a8b1f",
    "transfusion": "#2f7fd1",
    "text_flow": "#d55e00",
    "vljepa": "#00956d",
    "token_vlm": "#c94a4a",
    "dual_encoder": "#a35cc2",
    "raw_pixels": "#7f858f",
    "persistence": "#7f858f",
    "fixed_policies": "#7f858f",
    "training_copy": "#7f858f",
    "frequent_answer": "#7f858f",
}
_FIRST_FLOOR = "raw_pixels"
_SPARE_COLOURS = ("#1893b5", "#a8683f", "#6a74d8", "#d1478c", "#7a8b1f", "#c94a4a")
DASHES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 3", "longdashdot": "11 3 2 3"}
"""Plotly's dashes in the order in which variants take them, and their patterns in SVG."""
MARKERS = {
    "circle": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0Z",
    "square": "M-3.3 -3.3H3.3V3.3H-3.3Z",
    "diamond": "M0 -4.6L4.6 0L0 4.6L-4.6 0Z",
    "triangle-up": "M0 -4.2L4.2 3.4H-4.2Z",
    "cross": "M-1.4 -4.2H1.4V-1.4H4.2V1.4H1.4V4.2H-1.4V1.4H-4.2V-1.4H-1.4Z",
    "x": "M0 -1.9L2.2 -4.1L4.1 -2.2L1.9 0L4.1 2.2L2.2 4.1L0 1.9L-2.2 4.1L-4.1 2.2L-1.9 0L-4.1 -2.2L-2.2 -4.1Z",
}
"""Plotly's markers in the order in which variants take them, and their outlines in SVG about the origin."""
_UNNAMED_VARIANTS = {"", "default", "base"}


def split_model(model: str) -> tuple[str, str]:
    """``"family/variant"`` -> (family, variant); a missing variant is empty."""
    family, _, variant = model.partition("/")
    return family, variant


def model_label(model: str) -> str:
    """How a model ``"family/variant"`` is called in the report."""
    family, variant = split_model(model)
    trained, control = variant.removesuffix(UNTRAINED), " untrained" * variant.endswith(UNTRAINED)
    return f"{family}{control}" if trained in _UNNAMED_VARIANTS else f"{family} · {trained}{control}"


def is_floor(model: str) -> bool:
    """Whether a model ``"family/variant"`` is what everybody should beat: nothing changes, pixels, random actions."""
    return model.startswith(_FLOORS)


def above_floor(metric: str) -> bool:
    """Whether a metric says something only above the floor; “nothing changes” keeps every energy."""
    return any(fnmatchcase(metric, pattern) for pattern in _ABOVE_FLOOR)


def model_order(models: Iterable[str]) -> list[str]:
    """Known families in their fixed order, then unknown ones by name; variants by name. Duplicates removed."""
    known = list(_FAMILY_COLOURS)

    def place(model: str) -> tuple[int, str, str]:
        family, variant = split_model(model)
        # Unknown families stand between the trained ones and the floors.
        rank = known.index(family) if family in known else known.index(_FIRST_FLOOR) - 0.5
        return (int(2 * rank), family, variant)

    return sorted(set(models), key=place)


class Palette:
    """Colour, dash and marker of every model: the colour is the family's, dash and marker tell its variants apart."""

    def __init__(self, models: Iterable[str]) -> None:
        ordered = model_order(models)
        families = list(dict.fromkeys(split_model(m)[0] for m in ordered))
        unknown = sorted(f for f in families if f not in _FAMILY_COLOURS)
        spare = {f: _SPARE_COLOURS[i % len(_SPARE_COLOURS)] for i, f in enumerate(unknown)}
        self._colours = {**_FAMILY_COLOURS, **spare}
        self._place = {}
        for family in families:
            siblings = [m for m in ordered if split_model(m)[0] == family]
            self._place.update({m: i for i, m in enumerate(siblings)})

    def colour(self, model: str) -> str:
        """Hex colour of the model's family."""
        return self._colours[split_model(model)[0]]

    def dash(self, model: str) -> str:
        """Plotly dash of the variant."""
        return tuple(DASHES)[self._place[model] % len(DASHES)]

    def marker(self, model: str) -> str:
        """Plotly marker symbol of the variant."""
        place = self._place[model]
        # Once dashes start again, markers do so one later: six times six variants differ.
        return tuple(MARKERS)[(place + place // len(DASHES)) % len(MARKERS)]


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain_number(value: float, digits: int = 3) -> str:
    """A number for a terminal: ``0.0123``, ``1.2e-09``, ``12,300``, ``inf``; an empty string for NaN."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "inf"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 2}e}"


def pretty_number(value: float, digits: int = 3) -> str:
    """The same for a page: ``1.2·10⁻⁹``; ``diverged`` for infinity."""
    text = plain_number(value, digits)
    if text == "inf":
        return "diverged"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if e else text.replace("-", "−")


def plain_interval(low: float, high: float) -> str:
    """An interval for a terminal: both ends in one notation, with digits enough to show how far they are apart.

    ``0.99987 … 0.99991``, ``-0.05 … 0.41``, ``(1.2 … 3.4)e-09``, ``0.45 … inf``; an empty string where an end is
    unknown or no digit tells them apart.
    """
    if math.isnan(low) or math.isnan(high) or low == high:
        return ""
    ends = [abs(x) for x in (low, high) if math.isfinite(x)]
    largest = max(ends, default=0.0)
    if largest == 0.0:
        return f"{plain_number(low)} … {plain_number(high)}"
    exponent = 0 if 1e-3 <= largest < 1e6 else max(-300, math.floor(math.log10(largest)))
    scale = 10.0**exponent
    width = (high - low if len(ends) == 2 else largest) / scale
    # Two digits of the width, and never fewer than those of a small number; twelve are more than anyone reads.
    decimals = min(12, max(0, 1 - math.floor(math.log10(width))))
    texts = [f"{x / scale:,.{decimals}f}" for x in (low, high)]
    texts = [text.lstrip("-") if not text.strip("-0.") else text for text in texts]
    if texts[0] == texts[1]:
        return ""
    text = " … ".join("0" if not text.strip("0.") else text for text in texts)
    return f"({text})e{exponent:+03d}" if exponent else text


def pretty_interval(low: float, high: float) -> str:
    """The same for a page: ``(1.2 … 3.4)·10⁻⁹``."""
    text = plain_interval(low, high).replace("inf", "∞")
    digits, e, exponent = text.partition(")e")
    raised = f")·10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if e else ""
    return digits.replace("-", "−") + raised


_RULES = {"embedding": "by embedding", "pixels": "by pixels", "stride": "at intervals"}

METRIC_TITLES = {
    "horizon": "Horizon",
    "horizon_lyapunov": "Lyapunov horizon",
    "violation_rate": "Violations",
    "step_violation_rate": "Violations by single steps",
    "law_error": "Law error",
    "law_energy_error": "Energy error of the law",
    "linear_probe": "Linear probe",
    "knn_probe": "kNN probe",
    "attentive_probe": "Attentive probe",
    "r2_position_probed": "R² position",
    "r2_velocity_probed": "R² velocity",
    "mse": "MSE",
    "relative_error": "Relative error",
    "mse_per_frame": "MSE per frame",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "fvd": "FVD",
    "embedding_mmd": "Embedding MMD",
    "sample_frechet": "Fréchet distance of samples",
    "sample_ssim": "SSIM of samples",
    "sample_ssim_best": "SSIM of the best sample",
    "image_sample_frechet": "Fréchet distance of samples from one frame",
    "image_sample_ssim": "SSIM of samples from one frame",
    "image_sample_ssim_best": "SSIM of the best sample from one frame",
    "energy_error": "Energy error",
    "energy_drift": "Energy drift",
    "energy_mse": "Energy MSE",
    "momentum_error": "Momentum error",
    "angular_momentum_error": "Angular momentum error",
    "force_error": "Force error",
    "force_exponent": "Force exponent",
    "force_exponent_error": "Force exponent error",
    "diversity": "Diversity",
    "sample_spread": "Spread of samples",
    "symplecticity_error": "Symplecticity error",
    "reversal_error": "Reversal error",
    "feature_std": "Feature std",
    "effective_rank": "Effective rank",
    "rankme": "RankMe",
    "collapsed": "Collapsed",
    "normalised_score": "Score",
    "return": "Return",
    "success_rate": "Successes",
    "strict_success_rate": "Strict successes",
    "over_random": "Over random",
    "planning_gap": "Planning gap",
    "optimism": "Optimism",
    "policy_normalised_score": "Own policy: score",
    "policy_return": "Own policy: return",
    "policy_success_rate": "Own policy: successes",
    "policy_over_random": "Own policy: over random",
    "policy_planning_gap": "Own policy: gap",
    "dream_return": "Return in its dreams",
    "planner_headroom": "Planner's headroom",
    "action_sensitivity": "Action sensitivity",
    "ignores_actions": "Ignores actions",
    "reward_mse": "Reward MSE",
    "decision_ms": "Time per decision",
    "caption_exact_one": "Caption exact, one object",
    "caption_exact_up_to_two": "Caption exact, one or two",
    "caption_exact": "Caption exact",
    "caption_exact_chance": "Caption exact by chance",
    "frame_exact_one": "Frame exact, one object",
    "frame_exact_two": "Frame exact, two objects",
    "frame_exact": "Frame exact",
    "frame_exact_chance": "Frame exact by chance",
    "perplexity": "Perplexity of a token",
    "perplexity_per_byte": "Perplexity of a byte",
    "prior_perplexity": "Prior perplexity of a token",
    "prior_perplexity_per_byte": "Prior perplexity of a byte",
    "frechet_pixels": "Fréchet distance of pixels",
    "frechet_encoder": "Fréchet distance of features",
    "ms_per_answer": "Time per answer",
    "ms_per_caption": "Time per caption",
    "answer_accuracy": "Answers",
    "retrieval_r1": "Captions found first",
    "swapped_attribute": "Attributes swapped",
    "swapped_relation": "Places swapped",
    **{f"answer_{kind}": f"Answers: {kind}" for kind in QUESTION_KINDS},
    "scene_changes": "Changes per frame",
    "every_frame_right": "Right, one per frame",
    **{f"right_{name}": f"Right: {rule}" for name, rule in _RULES.items()},
    **{f"decodes_{name}": f"Captions per frame: {rule}" for name, rule in _RULES.items()},
    "fewer_than_stride": "Fewer than at intervals",
    "fewer_than_pixels": "Fewer than by pixels",
    "language_parameters": "Parameters without encoder",
    "text_parameters": "Parameters of the text tower",
    "train_seconds": "Training",
    "train_flops": "Training FLOPs",
    "step_ms": "Time per step",
    "parameters": "Parameters",
    "peak_memory_mb": "Peak memory",
}
"""Column titles, in the order in which tables list the metrics."""

COST_METRICS = ("train_seconds", "train_flops", "step_ms", "parameters", "peak_memory_mb")

COST_DESCRIPTIONS = {
    "train_seconds": "Time of a core spent on training one model; of the clock where a GPU trains. Families that train "
    "all seeds as one batch share it out.",
    "train_flops": "Floating-point operations spent on training one model.",
    "step_ms": "Time to predict one step, for all held-out episodes together.",
    "parameters": "Numbers that training may adjust.",
    "peak_memory_mb": "Largest memory in use while training.",
}

_HIGHER_IS_BETTER = {
    "psnr",
    "ssim",
    *(f"{which}{score}" for which in ("", "image_") for score in ("sample_ssim", "sample_ssim_best")),
    "linear_probe",
    "knn_probe",
    "attentive_probe",
    "effective_rank",
    "rankme",
    "action_sensitivity",
    "action_consistency",
    "strict_success_rate",
    *("delta_psnr", "delta_psnr_mapped", "code_ami_action", "code_ami_agent", "code_nmi_action", "code_nmi_agent"),
    *(
        f"{who}{score}"
        for who in ("", "policy_")
        for score in ("normalised_score", "return", "success_rate", "over_random")
    ),
    "coefficient_covered",
    "coefficient_identified",
}
_LOWER_IS_BETTER = {
    "distractor_share",
    "law_error",
    "law_energy_error",
    "lpips",
    "mse_per_frame",
    "embedding_mmd",
    *("sample_frechet", "image_sample_frechet"),
    "fvd",
    "fid",
    "residual_norm",
    "divergence",
    "boundary_error",
    "coefficient_error",
    "planning_gap",
    "policy_planning_gap",
    "ignores_actions",
    "reward_mse",
    "decision_ms",
    *COST_METRICS,
}


def lower_is_better(metric: str) -> bool | None:
    """Which way is good; None where a metric has no better or worse."""
    name = metric.removesuffix("_probed")
    if (known := described(name)) is not None:
        return known.lower_is_better
    if name.startswith(("relative_l2_", "defect_dynamics_")) or name.endswith("_balance_error"):
        return True
    if name.startswith("r2_") or name.endswith("_auc") or "_above_" in name or "_frechet_below_" in name:
        return False
    if name in _HIGHER_IS_BETTER or name in _LOWER_IS_BETTER:
        return name in _LOWER_IS_BETTER
    return None


def metric_title(metric: str) -> str:
    """Title of a metric's column."""
    if metric.startswith("relative_l2_"):
        return f"L2 error of {metric.removeprefix('relative_l2_')}"
    if metric.startswith("surprise_"):
        return f"Surprise AUC: {metric.removeprefix('surprise_').removesuffix('_auc').replace('_', ' ')}"
    if metric not in METRIC_TITLES and metric.endswith("_probed"):
        return metric_title(metric.removesuffix("_probed")) + ", probed"
    return METRIC_TITLES.get(metric, metric.replace("_", " ").capitalize())


def titled(metric: str, unit: str) -> str:
    """Title of a metric with its unit, where it has one."""
    return metric_title(metric) + (f" [{unit}]" if unit not in ("", "1") else "")


def metric_order(metrics: Iterable[str]) -> list[str]:
    """Known metrics in their fixed order, then unknown ones by name, costs last. Duplicates removed."""
    known = list(METRIC_TITLES)
    place = {m: (m in COST_METRICS, m not in known, known.index(m) if m in known else 0, m) for m in metrics}
    return sorted(place, key=lambda m: place[m])
