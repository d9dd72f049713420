"""Whole runs of image_eval and video_eval at smoke sizes, as a user starts them."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from tests.pipelines.conftest import Project, content_hash

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("seen"))
    for kind in ("image", "video"):
        done = project.kedro("run", "--env=smoke", f"--pipeline={kind}_eval")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Report:" in done.stdout
    return project


def part(project: Project, kind: str) -> pd.DataFrame:
    return pd.read_parquet(project.data / f"08_reporting/leaderboard_parts/{kind}_eval.parquet")


def test_every_model_of_pictures_stands_beside_raw_pixels_and_its_untrained_self(seen):
    rows = part(seen, "image")
    probes = rows[rows["metric"] == "linear_probe"]
    trained = {(f, v) for f, v in zip(probes["family"], probes["variant"], strict=True) if not v.endswith("_untrained")}
    assert {f for f, _ in trained} == {"raw_pixels", "ijepa", "mae", "contrastive"}
    for family, variant in trained - {("raw_pixels", "plain")}:
        assert ((probes["family"] == family) & (probes["variant"] == f"{variant}_untrained")).any()
    assert probes["value"].between(0, 1).all()
    assert (probes["n"] == 200).all()
    assert {"knn_probe", "attentive_probe", "effective_rank", "rankme", "collapsed"} <= set(rows["metric"])


def test_videos_are_judged_by_physics_pictures_and_surprise(seen):
    rows = part(seen, "video")
    for family in ("raw_pixels", "vjepa"):
        assert {
            "r2_position_probed",
            "r2_velocity_probed",
            "energy_error_probed",
            "horizon_probed",
            "surprise_teleport_auc",
            "surprise_energy_jump_auc",
        } <= set(rows[rows["family"] == family]["metric"])
    steps = rows[(rows["metric"] == "r2_position_predicted_probed") & (rows["family"] == "raw_pixels")]["step"]
    assert set(steps) == {1, 2, 3, 4}
    assert {"mse", "psnr", "ssim", "mse_per_frame", "embedding_mmd"} <= set(rows[rows["family"] == "mae"]["metric"])
    assert rows[["value"]].notna().all(axis=None)


def test_both_parts_are_in_one_leaderboard_and_no_row_stands_twice(seen):
    whole = pd.read_parquet(seen.data / "08_reporting/leaderboard.parquet")
    assert len(whole) == len(part(seen, "image")) + len(part(seen, "video"))
    key = ["world", "family", "variant", "seed", "split", "metric", "step"]
    assert not whole.duplicated(key).any()


@pytest.mark.parametrize("page", ["images", "videos"])
def test_reports_need_nothing_but_a_browser(seen, page):
    text = (seen.data / f"08_reporting/{page}.html").read_text()
    tags = re.findall(
        r"<(?:img|source|link|script|a|iframe)\b[^>]*>", re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    )
    sources = [source for tag in tags for source in re.findall(r'(?:src|href|srcset)="([^"]*)"', tag)]
    assert sources
    assert all(s.startswith(("data:", "#")) or s in ("images.html", "videos.html", "index.html") for s in sources)
    assert "Collapsed" in text


def test_the_same_seed_gives_the_same_bytes(seen):
    models = sorted((seen.data / "06_models").rglob("*.safetensors"))
    before = {path: content_hash(path) for path in models}
    nodes = "ijepa.train_mnist,mae.train_pendulum_video,vjepa.train_pendulum_video,contrastive.train_mnist"
    for kind in ("image", "video"):
        own = ",".join(n for n in nodes.split(",") if n.endswith("mnist") == (kind == "image"))
        done = seen.kedro(
            "run", "--env=smoke", f"--pipeline={kind}_eval", f"--nodes={own}", "--params=pixel_learning.resume=false"
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert {path: content_hash(path) for path in models} == before


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("image", "mnist.parameters.source=nowhere", "nowhere"),
        ("image", "mae.patch=5", "28"),
        ("image", "mae.mask_ratio=1.0", "mask_ratio"),
        ("video", "video_evaluation.steps=100", "100 steps"),
        ("video", "pixel_seeds=[]", "pixel_seeds"),
    ],
)
def test_a_mistake_is_one_line(seen, kind, params, message):
    done = seen.kedro("run", "--env=smoke", f"--pipeline={kind}_eval", f"--params={params}")
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(last) == 1, done.stderr[-2000:]
    assert message in last[0]
    assert "Traceback" not in done.stderr
