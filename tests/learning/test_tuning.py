"""Tuning: a study is found again, shared, and refused where it makes no sense."""

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from wm_pipelines.errors import UserError
from wm_pipelines.learning.search_space import check_space, starting_point, tuning_config, tuning_configs
from wm_pipelines.learning.tuning import run_study
from wm_pipelines.mappings import Settings, deep_merge, nested

pytestmark = pytest.mark.training

SPAWN = multiprocessing.get_context("spawn")
RATE = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
SPACE = {
    "schedule.learning_rate": RATE,
    "schedule.steps": {"type": "int", "low": 1, "high": 9},
    "hidden": {"type": "categorical", "choices": [[4], [8, 8]]},
}


class ToySchedule(Settings):
    steps: int = Field(5, ge=1)
    learning_rate: float = Field(0.1, gt=0)


class ToyConfig(Settings):
    """Not a family's own: the processes below would import torch."""

    schedule: ToySchedule = ToySchedule()
    hidden: tuple[int, ...] = (4,)
    weight: float = Field(1.0, gt=0)


def study(**changes):
    return tuning_config({"family": "toy", "world": "pendulum", "trials": 6, "space": SPACE, **changes})


def bowl(parameters):
    """Smallest, 0, at steps = 5 and hidden = [8, 8]."""
    return (parameters["schedule.steps"] - 5) ** 2 + (parameters["hidden"] != [8, 8])


class BowlWithEvent:
    """The bowl for another process; something happens there before the last of so many answers."""

    def __init__(self, calls, event, *arguments):
        self.calls, self.event, self.arguments = calls, event, arguments

    def __call__(self, parameters):
        self.calls -= 1
        if self.calls == 0:
            self.event(*self.arguments)
        return bowl(parameters)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def meet_and_lose_one(barrier):
    if barrier.wait(60) == 0:
        die()


def hand_over(reached, go_on):
    reached.set()
    assert go_on.wait(60)


def points(result):
    complete = result.trials[result.trials["state"] == "COMPLETE"]
    return complete[[*SPACE, "value"]].reset_index(drop=True)


@pytest.fixture(params=["study.db", "study.journal"])
def path(request, tmp_path):
    """Where a study lies: of one machine, and of several that share a disk."""
    return tmp_path / request.param


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_study(study(trials=14), bowl, tmp_path_factory.mktemp("reference") / "study.db")


def test_the_best_trial_is_the_smallest_value_seen(reference):
    best = reference.trials.loc[reference.trials["value"].idxmin()]
    assert reference.best_value == best["value"]
    assert reference.best_trial == best["number"]
    assert reference.best_parameters["schedule"]["steps"] == best["schedule.steps"]
    assert (
        bowl({"schedule.steps": best["schedule.steps"], "hidden": reference.best_parameters["hidden"]}) == best["value"]
    )


def test_maximising_a_mirrored_metric_finds_the_same_points(reference, tmp_path):
    mirrored = run_study(study(trials=14, direction="maximize"), lambda p: -bowl(p), tmp_path / "study.db")
    assert mirrored.best_parameters == reference.best_parameters
    assert mirrored.best_value == -reference.best_value


def test_importances_find_the_parameter_that_matters(reference):
    assert max(reference.importances, key=reference.importances.get) == "schedule.steps"
    assert sum(reference.importances.values()) == pytest.approx(1.0)


def test_one_process_is_deterministic_and_extends_a_study(reference, path):
    path = path.parent / "deeper" / path.name
    half = run_study(study(trials=5), bowl, path)
    assert len(half.trials) == 5
    whole = run_study(study(trials=14), bowl, path)
    assert points(whole).equals(points(reference))


def test_other_seeds_sample_other_points(reference, tmp_path):
    other = run_study(study(trials=3, seed=1), bowl, tmp_path / "study.db")
    assert not points(other).equals(points(reference).head(3))


START = {"schedule.learning_rate": 0.1, "schedule.steps": 5, "hidden": "[4]"}


def test_the_present_settings_are_the_first_trial_so_that_the_gain_shows(reference, tmp_path):
    start = starting_point(study(), ToyConfig, {})
    assert start == START
    result = run_study(study(trials=14), bowl, tmp_path / "study.db", start=start)
    first = result.trials.iloc[0]
    assert {name: first[name] for name in SPACE} == START
    assert result.start_value == first["value"] == bowl({"schedule.steps": 5, "hidden": [4]})
    assert result.best_value <= result.start_value
    assert reference.start_value is None


def test_settings_outside_the_space_are_no_trial_and_a_warning_says_so(caplog):
    assert starting_point(study(), ToyConfig, {"schedule": {"steps": 10}}) is None
    assert "tuning.space.schedule.steps does not hold 10" in caplog.text
    assert starting_point(study(), ToyConfig, {"hidden": [7]}) is None


@pytest.mark.pipeline
def test_the_first_trial_is_begun_again_where_it_was_killed(path):
    process = SPAWN.Process(target=run_study, args=(study(trials=3), BowlWithEvent(1, die), path, "", START))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    resumed = run_study(study(trials=3), bowl, path, "", START)
    assert list(resumed.trials["state"]) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert all(resumed.trials.loc[i, name] == value for i in (0, 1) for name, value in START.items())
    assert not (resumed.trials.loc[2, list(START)] == pd.Series(START)).all()


def test_several_studies_share_what_stands_beside_their_list():
    common = {"family": "toy", "space": SPACE, "trials": 6}
    one, two = tuning_configs({**common, "studies": [{"world": "pendulum"}, {"world": "two_body", "trials": 2}]})
    assert (one.world, one.trials, two.world, two.trials) == ("pendulum", 6, "two_body", 2)
    assert tuning_configs({**common, "world": "pendulum"}) == [one]


@pytest.mark.parametrize(
    ("studies", "message"),
    [
        ([], "a list of settings"),
        ([{"world": "pendulum"}, {"world": "pendulum"}], "'toy/pendulum/plain/energy_error' stands there twice"),
        ([{"world": "pendulum", "trails": 3}], "trails.*trials"),
        ({"world": "pendulum"}, "a list of settings"),
    ],
)
def test_a_wrong_list_of_studies_is_one_line(studies, message):
    with pytest.raises(UserError, match=message):
        tuning_configs({"family": "toy", "space": SPACE, "studies": studies})


@pytest.mark.pipeline
def test_a_killed_study_goes_on_where_it_was(reference, path, tmp_path):
    process = SPAWN.Process(target=run_study, args=(study(trials=14), BowlWithEvent(4, die), path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    resumed = run_study(study(trials=14), bowl, path)
    assert resumed.trials["state"].value_counts().to_dict() == {"COMPLETE": 14, "FAIL": 1}
    assert resumed.trials.loc[3, "state"] == "FAIL"
    assert points(resumed).equals(points(reference))
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} - {"begin", "journal"} == {path.name}


def test_a_trial_cut_short_before_anything_is_known_of_it_is_drawn_again(path):
    run_study(study(trials=1), bowl, path)
    backend = optuna.storages.journal.JournalFileBackend
    storage = f"sqlite:///{path}" if path.suffix == ".db" else optuna.storages.JournalStorage(backend(str(path)))
    optuna.load_study(study_name=study().study_name, storage=storage).ask()
    assert run_study(study(trials=2), bowl, path).trials["state"].tolist() == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.pipeline
def test_two_workers_share_a_study_and_one_that_dies_leaves_its_trial_to_the_other(path):
    objective = BowlWithEvent(1, meet_and_lose_one, SPAWN.Barrier(2))
    result = run_study(study(trials=4, processes=2), objective, path)
    assert result.trials["state"].value_counts().to_dict() == {"COMPLETE": 4, "FAIL": 1}
    assert "FAIL" in result.trials["state"][:2].tolist()


@pytest.mark.pipeline
def test_a_trial_that_another_live_process_runs_is_left_alone(path):
    reached, go_on = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=run_study, args=(study(), BowlWithEvent(4, hand_over, reached, go_on), path))
    process.start()
    try:
        assert reached.wait(60)
        joined = run_study(study(), BowlWithEvent(2, go_on.set), path)  # waits for the fourth trial at the end
        assert joined.trials["state"].tolist() == ["COMPLETE"] * 6
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()


def drawn(result):
    """Points of the trials that count, in an order of their own."""
    return points(result).sort_values("schedule.learning_rate", ignore_index=True)


@pytest.mark.pipeline
def test_random_search_visits_the_same_points_whoever_works_and_dies(path):
    config = study(trials=6, sampler="random")
    alone = run_study(config, bowl, path.with_stem("alone"))
    objective = BowlWithEvent(2, meet_and_lose_one, SPAWN.Barrier(2))
    together = run_study(config.model_copy(update={"processes": 2}), objective, path)
    assert together.trials["state"].value_counts().to_dict() == {"COMPLETE": 6, "FAIL": 1}
    assert drawn(together).equals(drawn(alone))


@pytest.mark.pipeline
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_who_joins_a_study_draws_points_of_its_own(path, sampler):
    config, reached, go_on = study(trials=4, sampler=sampler), SPAWN.Event(), SPAWN.Event()
    first = SPAWN.Process(target=run_study, args=(config, BowlWithEvent(1, hand_over, reached, go_on), path))
    first.start()
    try:
        assert reached.wait(60)
        joined = run_study(config, BowlWithEvent(2, go_on.set), path)
        assert joined.trials["schedule.learning_rate"].nunique() == 4
    finally:
        first.kill()


def test_a_study_that_machines_share_lies_on_their_disk(tmp_path):
    here, there = study(), study(storage=str(tmp_path / "shared"))
    assert here.place(tmp_path) == tmp_path / "toy.pendulum.plain.energy_error.db"
    assert there.place(tmp_path) == tmp_path / "shared/toy.pendulum.plain.energy_error.journal"
    assert here.fingerprint("") == there.fingerprint("")


def test_a_diverging_trial_fails_alone(tmp_path):
    def objective(parameters):
        if parameters["hidden"] == [4]:
            raise UserError("the training loss of seed 0 is nan at step 50")
        return float("nan") if parameters["schedule.steps"] == 5 else bowl(parameters)

    result = run_study(study(), objective, tmp_path / "study.db")
    failed = result.trials[result.trials["state"] == "FAIL"]
    assert (result.trials["state"] == "COMPLETE").sum() == 6
    assert len(failed) > 0
    assert failed["error"].str.contains("nan").all()
    assert result.best_parameters["hidden"] == [8, 8]


def test_a_space_in_which_everything_fails_ends_with_one_line(tmp_path):
    with pytest.raises(UserError, match=r"10 trials .* failed, the last one with: UserError: energy_error is nan"):
        run_study(study(), lambda p: float("nan"), tmp_path / "study.db")


def test_a_fault_of_the_program_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_study(study(), lambda p: 1 / 0, tmp_path / "study.db")


def test_pruned_trials_end_early(tmp_path):
    reached = []

    def objective(parameters, report):
        for step in range(5):
            report(step, float(len(reached)))  # every trial is worse than the one before
        reached.append(parameters)
        return float(len(reached))

    result = run_study(study(trials=12, pruner="median"), objective, tmp_path / "study.db")
    counts = result.trials["state"].value_counts()
    assert counts["COMPLETE"] == len(reached)
    assert counts["PRUNED"] == 12 - len(reached) > 0


def test_time_up_begins_no_trial(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("wm_pipelines.learning.tuning.time", SimpleNamespace(time=lambda: clock[0]))

    def objective(parameters):
        clock[0] += 1.0
        return bowl(parameters)

    assert len(run_study(study(trials=1000, timeout=2.5), objective, tmp_path / "study.db").trials) == 3


def test_a_study_is_not_resumed_as_another(path):
    run_study(study(trials=1), bowl, path, context="data a")
    with pytest.raises(UserError, match="begun with another context"):
        run_study(study(trials=2), bowl, path, context="data b")
    narrower = SPACE | {"schedule.learning_rate": RATE | {"high": 0.1}}
    with pytest.raises(UserError, match="begun with another space"):
        run_study(study(trials=2, space=narrower), bowl, path, context="data a")


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"type": "float", "low": 1.0, "high": 0.1}, "not below"),
        ({"type": "float", "low": 0.0, "high": 0.1, "log": True}, "low > 0"),
        ({"type": "float", "low": 0.0}, "`low` and `high`"),
        ({"type": "int", "low": 0.5, "high": 3}, "whole numbers"),
        ({"type": "categorical", "choices": []}, "non-empty list"),
        ({"type": "categorical", "choices": [1], "low": 0}, "nothing else"),
        ({"type": "real", "low": 0, "high": 1}, "'float', 'int' or 'categorical'"),
        ({"type": "float", "low": 0, "high": 1, "lgo": True}, "lgo"),
    ],
)
def test_a_bad_dimension_is_refused_in_one_line(dimension, message):
    with pytest.raises(UserError, match=message) as caught:
        study(space={"schedule.steps": dimension})
    assert "\n" not in str(caught.value)
    assert "schedule.steps" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "schedule.learning_rte",
            "'toy.schedule.learning_rte'; did you mean 'toy.schedule.learning_rate'",
        ),
        ("wieght", "unknown parameter 'toy.wieght'; did you mean 'toy.weight'"),
        ("weight.deeper", "'toy.weight': input should be a valid number"),
    ],
)
def test_unknown_parameters_are_refused_against_the_family(name, message):
    with pytest.raises(UserError, match=message):
        check_space(study(space={name: RATE}), ToyConfig)


def test_ranges_that_the_family_refuses_are_refused():
    check_space(study(), ToyConfig)
    with pytest.raises(UserError, match=r"space\.weight: parameter 'toy\.weight': .* greater than 0, got -1\.0"):
        check_space(study(space={"weight": {"type": "float", "low": -1.0, "high": 1.0}}), ToyConfig)


def test_a_file_that_is_no_study_is_refused(path):
    path.write_text("time,q,p\n0,1,2\n")
    with pytest.raises(UserError, match="not a study's database"):
        run_study(study(), bowl, path)
    assert path.read_text() == "time,q,p\n0,1,2\n"


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the study"):
        run_study(study(), bowl, tmp_path / "file" / "study.db")


NAMES = st.lists(st.sampled_from("abcd"), min_size=3, max_size=3).map(".".join)


@given(st.dictionaries(NAMES, st.integers(), max_size=6))
def test_nesting_keeps_every_value(dotted):
    tree = nested(dotted)
    for name, value in dotted.items():
        node = tree
        for part in name.split("."):
            node = node[part]
        assert node == value


@given(st.dictionaries(NAMES, st.integers(), max_size=6), st.dictionaries(NAMES, st.integers(), max_size=6))
def test_merging_nested_is_nesting_merged(base, overlay):
    assert deep_merge(nested(base), nested(overlay)) == nested(base | overlay)


def test_a_parameter_and_its_part_cannot_both_be_searched():
    with pytest.raises(UserError, match="search one of the two"):
        study(
            space={
                "schedule": {"type": "categorical", "choices": [{"steps": 1}]},
                "schedule.steps": SPACE["schedule.steps"],
            }
        )


def test_no_samplers_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install cmaes"):
        study(sampler="cmaes")


def test_the_storage_may_be_given_as_text(tmp_path):
    assert len(run_study(study(trials=1), bowl, str(tmp_path / "study.db")).trials) == 1
    assert Path(tmp_path / "study.db").exists()
