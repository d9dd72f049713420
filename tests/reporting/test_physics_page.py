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
        "The smallest state error, or one that cannot be told from it, in 3 of 4 worlds; 1 of these shared; "
        "hnn not judged in 1; next mlp: 2. "
        "Median of hnn 1.00 state², of the best other family there 4.50."
    )


def carded(values, best, told=None):
    """Findings of one metric: world -> family -> value; (world, family) that are marked."""
    return headline(
        {
            (w, f"{f}/default"): {
                "horizon": {"value": v, "unit": "s", "best": (w, f) in best, "knows": (told or {}).get(f, "")}
            }
            for w, own in values.items()
            for f, v in own.items()
        }
    )


def test_shared_worlds_are_counted_among_those_won():
    values = {w: {"hnn": 3.0, "mlp": 2.0, "flow": 1.0} for w in "abcd"}
    best = {("a", "hnn"), ("a", "mlp"), ("b", "hnn"), ("c", "mlp"), ("c", "flow"), ("d", "hnn")}
    (found,) = carded(values, best, {"hnn": "angles,structure"})
    assert found.text.startswith(
        "The longest horizon, or one that cannot be told from it, in 3 of 4 worlds; 1 of these"
    )
    assert found.told == {"hnn/default": ["angles", "structure"]}


def test_a_card_counts_what_is_too_many_to_name(content):
    families = ("hnn", "mlp", "flow", "sequence", "rssm")
    values = {"w": {f: 1.0 + i for i, f in enumerate(families)}}
    (found,) = carded(values, {("w", f) for f in families[1:]})
    assert found.many == "4 of 5 cannot be told apart"
    assert found.text == "Longest mean: rssm 5.00 s, of the best other family there 4.00."
    (one,) = carded(values, {("w", "rssm")})
    assert one.text.startswith("The longest horizon, or one that cannot be told from it, in w. Mean of rssm 5.00 s")


def test_a_winner_s_card_says_what_it_was_told(page):
    start = next(i for i, (_, a) in enumerate(page.tags) if a.get("class") == "cards")
    end = next(i for i, (t, _) in enumerate(page.tags) if t == "table")
    assert ("small", {"class": "told"}) in page.tags[start:end]
    assert "hnn · structured told: angles, structure The smallest energy error" in page.text


def test_models_are_rows_of_the_matrix_and_worlds_its_columns_as_they_were_listed(content):
    from wm_pipelines.spec import Facts, Spec

    listed = {world: {"test": Spec(world, 0.25, {}, 81, Facts({}))} for world in ("two_body", "pendulum")}
    text = build(changed(content, specs=listed))
    head = text.split('<table class="matrix">')[1].split("</thead>")[0]
    assert head.index("two_<wbr>body") < head.index(">pendulum<") < head.index("burgers")
    assert text.index("<h2>two_body") < text.index("<h2>pendulum")
    assert text.split('<table class="matrix">')[1].split("</table>")[0].count("<tr>") == 1 + len(content.models) + 1


def test_own_data_are_described_under_the_heading_and_the_caption_is_of_an_episode(content):
    about = {
        "counts": {"test": 2, "train": 8, "validation": 2}, "in_time": True, "split_by": "episode",
        "found": [["INFO", "'a.csv': noise of 0.5 deg is taken out"], ["WARNING", "'a.csv': energy is lost"]],
    }  # fmt: skip
    page = Page(build(changed(content, about={"pendulum": about})))
    assert "12 episodes: 8 train, 2 validation, 2 test (whole recordings, none of them in two splits)." in page.text
    assert "'a.csv': noise of 0.5 deg is taken out." in page.text
    assert "'a.csv': energy is lost." in page.text
    assert "Split 'test' has 2 episodes: hardly any difference between models can be told" in page.text
    assert "In the episode shown: Synthetic motion" in page.text


def test_how_many_episodes_and_seeds_there_are_stands_by_the_tables(page):
    assert "Means over 6 held-out episodes, 3 seeds;" in page.text


def test_in_a_world_a_model_is_told_what_it_is_told_there(content):
    scores = content.results.scores.copy()
    scores.loc[(scores["world"] == "two_body") & (scores["variant"] == "structured"), "knows"] = "particles"
    text = build(changed(content, scores=scores))
    costs = text.split("<h2>two_body")[1].split("What it costs")[1].split("</table>")[0]
    assert "told: particles<" in costs
    assert "in some worlds" not in costs


def test_matrix_says_why_a_cell_is_empty(page):
    reasons = [a["title"] for tag, a in page.tags if tag == "td" and a.get("class") == "na" and "title" in a]
    assert {"not applicable: a field", "not applicable: no particles"} <= set(reasons)


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
