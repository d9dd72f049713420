import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from wm_pipelines.reporting.content import LEADERBOARD_COLUMNS, ReportContent
from wm_pipelines.reporting.motions import build_report

VOID = {"meta", "link", "img", "source", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags balanced, ids collected, texts and scripts apart."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.texts, self.scripts, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        if tag not in VOID:
            self.open.append((tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attrs = self.open[-1] if self.open else ("", {})
        if tag == "script":
            self.scripts.append((attrs.get("type"), data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def report(content):
    return build_report(content)


@pytest.fixture(scope="module")
def page(report):
    return Page(report)


def test_is_self_contained(report, page):
    for tag, attrs in page.tags:
        for name in ("src", "srcset", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
    assert report.count("plotly.js v") == 1
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_every_plot_finds_its_figure(page):
    plots = {a["data-figure"] for _, a in page.tags if "data-figure" in a}
    figures = {a["id"]: a for t, a in page.tags if t == "script" and a.get("type") == "application/json"}
    assert plots == set(figures)
    assert len(plots) == 12
    for kind, text in page.scripts:
        if kind == "application/json":
            assert json.loads(text)["data"]


def test_headline_is_computed_from_the_leaderboard(content, page):
    assert "The smallest energy error in 2 of 2 worlds. hnn · structured breaks a conservation law in 0 %" in page.text
    swapped = content.leaderboard.replace({"family": {"hnn": "mlp", "mlp": "hnn"}})
    text = Page(build_report(replace(content, leaderboard=swapped, rollouts={}, curves={}))).text
    assert "mlp · structured breaks a conservation law" in text


def test_matrix_says_why_a_cell_is_empty(page):
    assert "not applicable: a field" in page.text


def test_leaderboard_has_all_models_with_sorting_keys(content, page):
    start = next(i for i, (_, a) in enumerate(page.tags) if a.get("id") == "leaderboard")
    rows = [a for t, a in page.tags[start:] if t == "tr" and "data-world" in a]
    assert len(rows) == 14
    keys = [a["data-key"] for t, a in page.tags[start:] if t == "td" and a.get("data-key")]
    assert all(np.isfinite(float(k)) for k in keys)
    assert len(keys) > 100


def test_sections_without_data_vanish(content):
    bare = ReportContent(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS)))
    page = Page(build_report(bare))
    assert "The leaderboard is empty" in page.text
    assert set(page.ids) & {"leaderboard", "provenance", "glossary", "world-0"} == set()
    assert not any(t == "img" for t, _ in page.tags)
    only_numbers = Page(build_report(replace(content, rollouts={}, curves={}, provenance={})))
    assert {"leaderboard", "glossary"} <= set(only_numbers.ids)
    assert "provenance" not in only_numbers.ids


def test_names_cannot_break_the_page(content):
    evil = "</script><script>alert(1)</script>&\"'<b>"
    rename = {"world": {"pendulum": evil}, "family": {"mlp": evil.replace("/", "")}}
    hostile = replace(
        content,
        leaderboard=content.leaderboard.replace(rename),
        rollouts={evil: content.rollouts["pendulum"]},
        curves={},
        title=evil,
        provenance={evil: evil, "nested": {evil: [evil]}},
        not_applicable=[(evil, evil, evil)],
    )
    text = build_report(hostile)
    assert "<script>alert" not in text
    page = Page(text)
    assert evil in page.text
    assert sum(t == "script" for t, _ in page.tags) == len(
        re.findall(r"<script[ >]", text.replace("\\u003cscript", ""))
    )


def test_divergence_is_spelled_out(content):
    broken = content.leaderboard.copy()
    mine = (broken["family"] == "mlp") & (broken["metric"] == "mse")
    broken.loc[mine, ["value", "ci_high"]] = np.inf
    page = Page(build_report(replace(content, leaderboard=broken, rollouts={}, curves={})))
    assert "diverged" in page.texts
    assert "nan" not in page.text.lower().split()


def test_other_reports_are_linked_to_and_not_the_page_itself(content):
    text = build_report(replace(content, rollouts={}, curves={}), beside=["video_eval", "physics_eval", "field_eval"])
    assert [text.find(f'href="{name}.html"') > 0 for name in ("fields", "videos", "images", "index")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert text.index("fields.html") < text.index("videos.html")


def test_equal_content_equal_bytes(content, report):
    assert build_report(content) == report


def test_a_leaderboard_without_its_columns_is_refused():
    with pytest.raises(ValueError, match="lacks the column"):
        ReportContent(pd.DataFrame({"world": []}))
