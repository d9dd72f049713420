import numpy as np
import pandas as pd
import pytest
from html_page import Page

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
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


def test_a_page_of_nothing_says_so():
    assert "Nothing has been judged yet" in Images().page(Results(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))))


def test_the_terminal_shows_the_main_metrics():
    lines = Videos().summary(results("videos").scores).splitlines()
    assert lines[0].split()[:4] == ["world", "split", "model", "R²"]
    assert "0.800*" in next(line for line in lines if "vjepa " in line and "untrained" not in line)
