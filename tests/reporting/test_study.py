import json

import numpy as np
import pandas as pd
from html_page import Page

from wm_pipelines.reporting import study

TRIALS = pd.DataFrame(
    {
        "study": ["mlp/pendulum/plain/mse"] * 4,
        "metric": ["mse"] * 4,
        "number": [0, 1, 2, 3],
        "state": ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"],
        "value": [0.5, np.nan, 0.1, 0.3],
        "seconds": [1.0, 0.1, 1.2, 1.1],
        "error": [None, "UserError: no", None, None],
        "schedule.batch_size": [128, 128, 256, 512],
        "activation": ["tanh", "tanh", "silu", "silu"],
    }
)
SUMMARY = {
    "metric": "mse",
    "minimise": True,
    "start_value": 0.5,
    "best_trial": 2,
    "best_value": 0.1,
    "best_parameters": {"schedule": {"batch_size": 256}, "activation": "silu"},
    "importances": {"schedule.batch_size": 0.7, "activation": 0.3},
}


def test_the_best_so_far_never_gets_worse_and_failures_are_counted():
    shown = study.history(TRIALS, "mse", minimise=True)
    trials, best = shown.figure.data
    assert list(trials.y) == [0.5, 0.1, 0.3]
    assert (list(best.x), list(best.y)) == ([0, 2, 3], [0.5, 0.1, 0.1])
    assert list(study.history(TRIALS, "horizon", minimise=False).figure.data[1].y) == [0.5, 0.5, 0.5]
    assert shown.caption.endswith("Not drawn: 1 fail.")
    assert "schedule.batch_size: 256" in trials.text[1]


def test_importances_are_bars_where_they_can_be_told():
    (bars,) = study.importances(SUMMARY["importances"]).figure.data
    assert dict(zip(bars.y, bars.x, strict=True)) == SUMMARY["importances"]
    assert study.importances({}) is None


def test_the_page_shows_what_was_found_and_every_trial():
    studies = {"mlp/pendulum/plain/mse": SUMMARY}
    text = study.page(TRIALS, studies)
    page = Page(text)
    assert "MSE 0.100 in trial 2; the settings it started from reach 0.500 (trial 0)." in page.text
    assert "batch_size 256" in page.text
    assert {a["data-figure"] for _, a in page.tags if "data-figure" in a} == {"history", "importances"}
    rows = [json.loads(a["data-key"]) for tag, a in page.tags if tag == "td" and a.get("data-key")]
    assert rows.count(128) == 2
    assert study.page(TRIALS, studies) == text


def test_several_studies_are_told_one_by_one_without_figures():
    studies = {"mlp/pendulum/plain/mse": SUMMARY, "hnn/pendulum/pairs/mse": {**SUMMARY, "start_value": None}}
    page = Page(study.page(pd.concat([TRIALS, TRIALS.assign(study="hnn/pendulum/pairs/mse")]), studies))
    assert "hnn/pendulum/pairs/mse : MSE 0.100 in trial 2." in page.text.replace("mse:", "mse :")
    assert not [a for _, a in page.tags if "data-figure" in a]
