import numpy as np
import pandas as pd
import pytest
from html_page import Page

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.spec import Space, Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.images import Images
from wm_pipelines.tasks.videos import Videos

VALUES = {  # model -> linear probe, R² of velocities, SSIM, seconds, parameters
    ("vjepa", "default"): (0.93, 0.8, None, 9.0),
    ("vjepa", "default_untrained"): (0.7, 0.3, None, None),
    ("mae", "default"): (0.9, 0.6, 0.9, 7.0),
    ("contrastive", "default"): (0.85, 0.55, None, 8.0),
    ("raw_pixels", "default"): (0.8, 0.5, 0.7, 0.0),
    ("raw_pixels", "small"): (0.82, 0.4, 0.7, 0.0),
}


def results(task):
    """Made-up scores and arrays of one world."""
    rng, rows, arrays = np.random.default_rng(0), [], {}
    for (family, variant), values in VALUES.items():
        of_metric = zip(("linear_probe", "r2_velocity_probed", "ssim", "train_seconds"), values, strict=True)
        for metric, value in [*of_metric, ("collapsed", float(family == "mae")), ("surprise_jump_auc", 0.7)]:
            steps = [-1, 1, 4] if metric == "ssim" else [-1]
            for step in steps if value is not None else []:
                split = "train" if metric == "train_seconds" else "test"
                row = (task, "w", family, variant, "frames", "", 0, split, metric, step, value, value, value, 9, "1")
                rows.append(row)
        if not variant.endswith("untrained"):
            frames = rng.integers(0, 255, (6, 3, 8, 8, 1), dtype=np.uint8)
            arrays[f"{family}/{variant}"] = {
                "test/predicted_frames": frames, "test/true_frames": frames, "test/shown": np.array([0, 5]),
                "test/images": frames[:4, 0], "test/neighbours": frames[:4], "test/seen_mask": frames[:4],
                "test/patches": rng.integers(0, 255, (4, 16, 3), dtype=np.uint8),
            }  # fmt: skip
    scores = pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))
    curve = pd.DataFrame({"step": [0, 1, 2], "seed": 0, "loss": [3.0, 2.0, 1.0], "effective_rank": [5.0, 6.0, 7.0]})
    absent = [("w", "hnn", "no states")]
    return Results(scores, arrays={"w": arrays}, curves={"w/mae/default": curve}, not_applicable=absent)


@pytest.mark.parametrize("task", [Images(), Videos()])
def test_a_page_tells_the_best_beside_its_floors_and_shows_what_was_kept(task):
    text = task.page(results(task.name))
    page = Page(text)
    assert (
        "From vjepa, a linear probe reads the class of 93.0 % of the images (runner-up contrastive 85.0 %, raw pixels "
        "82.0 %, the same encoder untrained 70.0 %)."
    ) in page.text
    assert "Collapsed: mae ." in page.text
    assert "hnn does not apply: no states" in page.text
    for title in (
        "Nearest neighbours: vjepa",
        "Features of patches: mae",
        "Mask: raw_pixels · small",
        "Learning curves",
    ):
        assert title in page.text
    assert "frame {} of 2 × 3" in text
    assert task.file not in page.links
    assert task.page(results(task.name)) == text
    assert "Surprise AUC: jump" in page.text


DEFECTS = {  # model -> reading, encoding, dynamics
    ("vjepa", "default"): (0.2, 0.2, 0.9),
    ("latent_dynamics", "default"): (0.1, 0.7, 0.72),
    ("mae", "default"): (1.0, 1.0, 1.05),
}


def with_laws():
    """Made-up errors by stage, and energies that were read, of one world."""
    rows, arrays = [], {}
    for (family, variant), errors in DEFECTS.items():
        model = ("videos", "w", family, variant, "frames", "", 0, "test")
        for stage, error in zip(("reading", "encoding", "dynamics"), errors, strict=True):
            for step, share in ((-1, 0.5), (1, 0.5), (8, 1.0)):
                value = share * error
                name = f"defect_{stage}_energy_probed"
                rows.append((*model, name, step, value, value - 0.01, value + 0.01, 9, "1"))
        rows.append((*model, "r2_energy_probed", -1, 1 - errors[0] ** 2, 0.0, 1.0, 9, "1"))
        arrays[f"{family}/{variant}"] = {
            "test/read_energy": np.full((2, 4, 1), errors[0]), "test/true_energy": np.ones((2, 4, 1)),
            "test/read_times": 0.1 * np.arange(4.0), "test/repeated": np.array([3, 60]),
            "test/window": np.array([0.4, 4]),
        }  # fmt: skip
    spec = Spec("w", 0.1, {"frames": Space("frames", (8, 8, 1), "uint8")}, 20)
    scores = pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))
    return Results(scores, arrays={"w": arrays}, specs={"w": {"test": spec}})


def test_a_page_says_where_each_model_loses_the_law_and_what_its_probe_is_worth():
    text = Videos().page(with_laws())
    page = Page(text)
    assert (
        "vjepa loses the law in the dynamics: 0.8 s ahead the error of energy is 0.20 of the truth's spread read from "
        "the true frames, and 0.90 predicted."
    ) in page.text
    assert "latent_dynamics loses the law in the encoding" in page.text
    assert "0.70 after the round trip through its decoder" in page.text
    assert "mae loses the law in what can be read of its features at all" in page.text
    assert "Where the law is lost" in page.text
    assert "Energy over time" in page.text
    assert "R² of the energy read from true frames: vjepa 0.96, mae 0.00, latent_dynamics 0.99" in page.text
    assert "3 of the 60 test frames (5.0 %) are byte for byte frames of the training set" in page.text
    assert "Velocities are read from windows of 0.4 s (4 frames), whatever the model." in page.text
    assert Videos().page(with_laws()) == text


def test_a_page_of_nothing_says_so():
    assert "Nothing has been judged yet" in Images().page(Results(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))))


def test_the_terminal_shows_the_main_metrics():
    lines = Videos().summary(results("videos").summary).splitlines()
    assert lines[0].split()[:4] == ["world", "split", "model", "R²"]
    assert "0.800*" in next(line for line in lines if "vjepa " in line and "untrained" not in line)


def test_a_page_says_how_far_samples_are_above_the_floors():
    own = ("videos", "w", "flow", "plain", "frames", "", 0, "test")
    rows = [
        (*own, f"{prefix}_{metric}{end}", -1, value, low, high, 20, "1")
        for prefix in ("sample", "image_sample")
        for metric, sign in (("frechet", "below"), ("ssim", "above"))
        for end, value, low, high in (
            ("", 0.4, 0.3, 0.5),
            (f"_{sign}_persistence", 0.2, 0.1, 0.3),
            (f"_{sign}_mean_frame", 0.1, -0.1, 0.3),
        )
    ]
    text = Page(Videos().page(Results(pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))))).text
    told = "0.400 (0.200 below persistence, 0.10 … 0.30, 0.100 below mean frame, −0.10 … 0.30)"
    assert f"Futures sampled by flow · plain from several frames: Fréchet distance {told}; SSIM" in text
    assert "from one frame" in text
    assert "Below" not in text
