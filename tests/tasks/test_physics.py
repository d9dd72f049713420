"""Roll-outs judged from a world's own episodes to the page."""

import numpy as np
import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.families.base import build
from wm_pipelines.families.latent_dynamics import LatentDynamics
from wm_pipelines.families.mlp import MLP
from wm_pipelines.families.oracle import Oracle
from wm_pipelines.families.persistence import Persistence
from wm_pipelines.laws import laws_of
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.judgement import table
from wm_pipelines.tasks.physics import Physics
from wm_pipelines.worlds.making import WorldConfig, ingest


@pytest.fixture(scope="module")
def episodes():
    size = {"episodes": 3, "steps": 20}
    return ingest(WorldConfig(world="pendulum", step=0.1, splits={"train": size, "test": size}), "swing")


@pytest.fixture(scope="module")
def judged(episodes):
    laws, config = laws_of(episodes["test"].spec), Physics().config({"error_steps": [1, 99]})
    families = {
        kind.name: build(kind, kind.Config(), episodes["train"].spec.showing(Physics.shows), [0, 3], laws)
        for kind in (Oracle, Persistence)
    }
    return {name: Physics().judge(family, episodes, "test", laws, config) for name, family in families.items()}


def test_the_oracle_is_exact_and_persistence_conserves_what_it_does_not_predict(judged):
    oracle, persistence = judged["oracle"], judged["persistence"]
    assert oracle.value("horizon") == pytest.approx(2.0)
    assert oracle.value("mse") < 1e-20
    assert persistence.value("violation_rate") == 0
    assert 0 < persistence.value("horizon") < 1
    assert {row["step"] for row in oracle.rows if row["metric"] == "mse"} == {-1, 1}
    assert {row["seed"] for row in oracle.rows} == {0, 3}


def test_what_was_judged_becomes_a_page_and_figures(judged, episodes):
    rows = [{"family": name, **row} for name, one in judged.items() for row in one.rows]
    results = Results(
        table(rows, task="physics", world="swing", variant="default", view="states", knows=""),
        specs={"swing": {"test": episodes["test"].spec}},
        arrays={
            "swing": {
                f"{name}/default": {f"test/{k}": a for k, a in one.arrays.items()} for name, one in judged.items()
            }
        },
    )
    page = Physics().page(results)
    assert "lost at an error of 0.4 of how far" in page
    assert 'class="wide player" data-unit="t = {} s"' in page
    assert set(Physics().figures(results)) == {"swing_energy_error", "swing_error_growth"}
    assert "persistence" in Physics().summary(results.summary)


def test_states_of_the_wrong_shape_are_one_line(episodes):
    class Short(Persistence):
        def predict(self, past, steps, actions=None, step=None):
            return super().predict(past, steps - 1)

    spec = episodes["train"].spec
    with pytest.raises(UserError, match=r"predict returned states of shape \(1, 3, 20, 2\), expected \(1, 3, 21, 2\)"):
        Physics().judge(Short(Persistence.Config(), spec, [0]), episodes, "test", laws_of(spec), Physics().config({}))


def test_episodes_under_actions_are_predicted_under_the_same_actions():
    size = {"episodes": 3, "steps": 20}
    acted = ingest(
        WorldConfig(world="two_body_thruster", step=0.1, policy="random", splits={"train": size, "test": size}),
        "thrust",
    )
    given = []

    class Notes(Persistence):
        def predict(self, past, steps, actions=None, step=None):
            given.append(actions)
            return super().predict(past, steps)

    spec = acted["train"].spec.showing(Physics.shows)
    judged = Physics().judge(
        Notes(Persistence.Config(), spec, [0]), acted, "test", laws_of(spec), Physics().config({"samples": 4})
    )
    assert len(given) == 1, "there is no law to ask for without actions"
    np.testing.assert_array_equal(given[0].numpy(), acted["test"]["actions"])
    assert judged.value("mse") > 0
    takes, does_not, floor = (
        build(kind, kind.Config(), spec, [0], laws_of(spec)) for kind in (LatentDynamics, MLP, Persistence)
    )
    assert Physics().refuses(takes, acted["test"]) is None
    assert Physics().refuses(floor, acted["test"]) is None
    assert "takes no actions" in Physics().refuses(does_not, acted["test"])


def test_a_horizon_can_be_no_longer_than_the_episode(episodes, judged):
    longest = Physics().limits(episodes["test"].spec)["horizon"]
    assert longest == pytest.approx(2.0)
    rows = [{"family": name, **row} for name, one in judged.items() for row in one.rows]
    scores = table(rows, task="physics", world="swing", variant="default", view="states", knows="")
    results = Results(scores, limits={"swing": {"test": {"horizon": 0.3}}})
    horizon = results.summary[results.summary["metric"] == "horizon"].set_index("family")
    assert horizon.loc["persistence", "ci_high"] == pytest.approx(0.3)
