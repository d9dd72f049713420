"""The pipeline that writes the page to play on."""

from __future__ import annotations

import re

import pytest

from tests.pipelines.conftest import Project

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.pipeline


def test_the_page_is_written_from_nothing_and_again_from_the_model_that_is_there(project: Project):
    without = {"tasks": {"control": {"variants": {"stochastic": None, "ensemble": None}}}}
    project.configure("parameters_latent_dynamics.yml", {"latent_dynamics": without})
    done = project.run("--pipeline=play")
    page = project.reports / "play.html"
    assert f"To be steered: {page.resolve()}" in done.stdout
    assert sorted(p.name for p in project.reports.iterdir()) == ["play.html"]
    first = page.read_bytes()
    assert str(project.folder).encode() not in first
    page.unlink()
    project.run("--pipeline=play", "--nodes=play.page")
    assert page.read_bytes() == first
    project.run("--pipeline=play", "--nodes=play.page", "--params=play.worlds.driven_pendulum.seed=1")
    assert page.read_bytes() != first

    def error(parameters: str) -> str:
        return project.error_of("--pipeline=play", "--nodes=play.page", f"--params={parameters}")

    assert "trained were 0, 1, not 7" in error("play.worlds.driven_pendulum.seed=7")
    variant = error("play.worlds.driven_pendulum.variant=determinist")
    assert re.search(r"'determinist' was not trained; did you mean 'deterministic'\?; there is deterministic", variant)
    family = error("play.worlds.driven_pendulum.family=rssm")
    assert "which models are read is said in the parameter files" in family
