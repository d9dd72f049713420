import json
import re

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from synthetic import changed

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.reporting.library import figure_library
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.physics.content import Content
from wm_pipelines.tasks.physics.headline import headline
from wm_pipelines.tasks.physics.report import build


@pytest.fixture(scope="module")
def report(content):
    return build(content)


@pytest.fixture(scope="module")
def page(report):
    return Page(report)


def test_is_self_contained(report, page):
    loaded = [a[name] for tag, a in page.tags for name in ("src", "srcset", "href") if tag != "a" and name in a]
    assert [source for source in loaded if not source.startswith(("#", "data:"))] == ["plotly.min.js"]
    assert "plotly.js v" in figure_library()
    assert len(report) < 2_000_000  # without the library
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    within, beside = ({x for x in page.links if x.startswith("#") == inside} for inside in (True, False))
    assert {link[1:] for link in within} <= set(page.ids)
    assert beside == {"index.html", "leaderboard.csv"}  # no report that may not be there


def test_every_plot_finds_its_figure(page):
    plots = {a["data-figure"] for _, a in page.tags if "data-figure" in a}
    figures = {a["id"]: a for t, a in page.tags if t == "script" and a.get("type") == "application/json"}
    assert plots == set(figures)
    assert len(plots) == 12
    for kind, text in page.scripts:
        if kind == "application/json":
            assert json.loads(text)["data"]


def test_headline_is_computed_from_the_leaderboard(content, page):
    said = "The smallest energy error, or one that cannot be told from it, in 2 of 2 worlds. Median of hnn · structured"
    assert said in page.text
    assert "an error of 0.4 of how far the true state ranges" in page.text
    assert "by more than 1 %" in page.text
    swapped = content.results.scores.replace({"family": {"hnn": "mlp", "mlp": "hnn"}})
    assert "Median of mlp · structured" in Page(build(changed(content, {}, scores=swapped, curves={}))).text


def test_headline_names_ties_the_runner_up_and_where_a_model_was_not_judged():
    values = {"a": {"hnn": 1.0, "mlp": 1.0}, "b": {"hnn": 1.0, "mlp": 8.0}, "c": {"mlp": 2.0, "oracle": 0.0}, "d": {}}
    values["d"] = {"hnn": 0.5, "mlp": np.inf}
    main = {
        (w, f"{f}/default"): {
            "mse": {"value": v, "unit": "state²", "best": (w, f) in {("b", "hnn"), ("c", "mlp"), ("d", "hnn")}}
        }
        for w, own in values.items()
        for f, v in own.items()
    }
    (found,) = headline(main)
    assert found.models == ("hnn/default",)
    assert found.text == (
        "The smallest state error, or one that cannot be told from it, in 3 of 4 worlds; 1 shared; "
        "hnn not judged in 1; next mlp: 2. "
        "Median of hnn 1.00 state², of the best other family there 4.50."
    )


def test_matrix_says_why_a_cell_is_empty(page):
    assert "not applicable: a field" in page.text
    assert "not applicable: no particles" in page.text


def test_leaderboard_has_all_models_with_sorting_keys(content, page):
    start = next(i for i, (_, a) in enumerate(page.tags) if a.get("id") == "leaderboard")
    rows = [a for t, a in page.tags[start:] if t == "tr" and "data-world" in a]
    assert len(rows) == 14
    keys = [a["data-key"] for t, a in page.tags[start:] if t == "td" and a.get("data-key")]
    assert all(np.isfinite(float(k)) for k in keys)
    assert len(keys) > 100


def test_sections_without_data_vanish(content):
    bare = Content(Results(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))))
    page = Page(build(bare))
    assert "The leaderboard is empty" in page.text
    assert set(page.ids) & {"leaderboard", "provenance", "glossary", "world-0"} == set()
    assert not any(t == "img" for t, _ in page.tags)
    only_numbers = Page(build(changed(content, {}, curves={}, provenance={})))
    assert {"leaderboard", "glossary"} <= set(only_numbers.ids)
    assert "provenance" not in only_numbers.ids


def test_names_cannot_break_the_page(content):
    evil = "</script><script>alert(1)</script>&\"'<b>"
    rename = {"world": {"pendulum": evil}, "family": {"mlp": evil.replace("/", "")}}
    hostile = changed(
        content,
        {evil: content.rollouts["pendulum"]},
        scores=content.results.scores.replace(rename),
        curves={},
        provenance={evil: evil, "nested": {evil: [evil]}},
        not_applicable=[(evil, evil, evil)],
    )
    text = build(hostile, title=evil)
    assert "<script>alert" not in text
    page = Page(text)
    assert evil in page.text
    assert sum(t == "script" for t, _ in page.tags) == len(
        re.findall(r"<script[ >]", text.replace("\\u003cscript", ""))
    )


def test_divergence_is_spelled_out(content):
    broken = content.results.scores.copy()
    mine = (broken["family"] == "mlp") & (broken["metric"] == "mse")
    broken.loc[mine, ["value", "ci_high"]] = np.inf
    page = Page(build(changed(content, {}, scores=broken, curves={})))
    assert "diverged" in page.texts
    assert "nan" not in page.text.lower().split()


def test_equal_content_equal_bytes(content, report):
    assert build(content) == report


def test_what_a_model_is_told_stands_beside_its_name_and_can_be_filtered_by(page):
    assert page.text.count("told: angles, structure") > 3
    assert any(tag == "select" and a.get("data-filter") == "knows" for tag, a in page.tags)
    assert {a["data-knows"] for tag, a in page.tags if "data-knows" in a} == {"", "angles,structure"}


def test_the_key_shows_the_dash_and_the_marker_of_every_model(content):
    from wm_pipelines.reporting.page import legend
    from wm_pipelines.reporting.style import DASHES, MARKERS, Palette
    from wm_pipelines.tasks.physics.figures import world_figures

    key, palette = legend(world_figures(content, "pendulum")), Palette(content.models)
    assert [entry["model"] for entry in key] == content.models
    for entry in key:
        dash, marker = (getattr(palette, what)(entry["model"]) for what in ("dash", "marker"))
        assert (entry["dash"], entry["marker"]) == (DASHES[dash], MARKERS[marker])
    assert len({(e["model"].split("/")[0], e["dash"], e["marker"]) for e in key}) == len(key)


def test_animations_can_be_paused_and_tell_the_time(page):
    (first, second) = [a for _, a in page.tags if a.get("class") == "wide player"]
    assert first == second == {"class": "wide player", "data-unit": "t = {} s", "data-scale": "0.5", "data-first": "0"}
