"""The example of captions of one's own, through the whole pipeline, in few steps."""

import pandas as pd
import pytest

from tests.pipelines.conftest import Project

FAMILIES = ("text_flow", "transfusion", "vljepa", "token_vlm", "dual_encoder")


@pytest.mark.pipeline
def test_the_example_of_own_captions_runs_to_its_page(tmp_path):
    project = Project(tmp_path, "own_captions_example")
    project.configure("globals.yml", {"tasks": {"language": {"seeds": [0]}}})
    for family in FAMILIES:
        project.configure(f"parameters_{family}.yml", {family: {"schedule": {"steps": 4}}})
    project.configure("parameters_transfusion.yml", {"transfusion": {"sample_steps": 1}})
    project.configure("parameters_language.yml", {"language": {"drawn": 8, "retrieved": 8}})
    project.run("--pipeline=language_eval")
    board = pd.read_csv(project.reports / "leaderboard.csv", keep_default_na=False)
    found = {model: set(rows["metric"]) for model, rows in board.groupby(["family", "variant"])}
    drawing, asked = {"frechet_pixels", "perplexity_per_byte", "prior_perplexity_per_byte"}, {"retrieval_r1"}
    assert drawing <= found["transfusion", "plain"]
    assert "prior_perplexity_per_byte" in found["transfusion", "text_only"]
    assert not {"frechet_pixels", "perplexity_per_byte"} & found["transfusion", "text_only"]
    for model in (
        ("vljepa", "plain"),
        ("token_vlm", "plain"),
        ("token_vlm", "blind"),
        ("frequent_answer", "text_only"),
    ):
        assert asked <= found[model], model
    read_off = [m for m in board["metric"] if m.startswith(("caption_", "frame_", "parser_", "swapped_"))]
    assert not read_off  # nobody knows what these captions should say
    assert "my_captions" in (project.reports / "language.html").read_text(encoding="utf-8")
