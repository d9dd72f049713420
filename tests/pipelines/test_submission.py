"""Roll-outs made elsewhere stand in the table beside those of the project's own families."""

import json

import numpy as np
import pandas as pd
import pytest

from wm_pipelines.datasets.local import EpisodesByWorldDataset, EpisodesDataset
from wm_pipelines.errors import UserError
from wm_pipelines.integrators import dop853
from wm_pipelines.laws import laws_of
from wm_pipelines.pipelines.submission import SubmissionConfig, judge

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    from tests.pipelines.conftest import Project

    project = Project(tmp_path_factory.mktemp("submission"))
    project.list_only({"physics": {"worlds": ["mass_spring"], "families": ["persistence", "oracle"], "seeds": [0]}})
    project.run("--pipeline=physics_eval")
    return project


def stored(project):
    return EpisodesDataset(filepath=str(project.data / "03_primary/mass_spring")).load()["test"]


def exact(project):
    """The true law, integrated by the user's own means."""
    test = stored(project)
    field = laws_of(test.spec).dynamics
    return np.asarray(dop853(field, test["states"][:, 0], test.spec.step, test.spec.rows - 1, rtol=1e-10, atol=1e-10))


def submit(project, called, states, kind="npz", **card):
    """A folder with a card and roll-outs; the option that names it."""
    folder = project.folder / called
    folder.mkdir(exist_ok=True)
    said = {"name": called, "world": "mass_spring", "episodes": stored(project).content_hash, "knows": ["energy"]}
    (folder / "card.json").write_text(json.dumps(said | card))
    if kind == "npz":
        np.savez(folder / "rollouts.npz", states=states)
    else:
        axes = dict(zip(("seed", "episode", "row"), map(range, states.shape), strict=False))
        index = pd.MultiIndex.from_product(axes.values(), names=list(axes))
        table = pd.DataFrame(states.reshape(-1, states.shape[-1]), index).add_prefix("z").reset_index()
        table.sample(frac=1.0, random_state=0).to_parquet(folder / "rollouts.parquet")
    return f"--params=path={folder}"


def judged(project, option):
    """The rows that the node makes of it."""
    worlds = EpisodesByWorldDataset(filepath=str(project.data / "03_primary")).load()
    ((_, results),) = judge(SubmissionConfig(path=option.rpartition("=")[2]), worlds, {}).items()
    return results["scores"].set_index("metric")


def rows_of(project, name):
    board = project.leaderboard()
    return board[board["family"] == name]


def test_a_model_from_outside_is_judged_as_all_others(ran):
    """Integrated as the oracle does, it gets the oracle's figures; and it stays when the table is made again."""
    done = ran.run("--pipeline=submission", submit(ran, "my_model", exact(ran)))
    assert "my_model · outside" in done.stdout
    own, oracle = rows_of(ran, "my_model").set_index("metric"), rows_of(ran, "oracle")
    oracle = oracle[oracle["split"] == "test"].set_index("metric")
    assert set(own["variant"]) == {"outside"}
    assert set(own["knows"]) == {"energy"}
    for metric in ("horizon", "relative_error", "energy_error", "violation_rate"):
        np.testing.assert_allclose(own.loc[metric, "value"], oracle.loc[metric, "value"], rtol=1e-3, atol=1e-6)
    assert own.loc["horizon", ["ci_low", "ci_high"]].notna().all()
    assert "my_model" in (ran.reports / "physics.html").read_text()
    assert "my_model" in (ran.reports / "index.html").read_text()
    ran.run("--pipeline=physics_eval")
    assert len(rows_of(ran, "my_model")) == len(own)


def test_seeds_and_parquet(ran):
    good = exact(ran)
    states = np.stack([good, good + np.linspace(0.0, 0.3, good.shape[1])[:, None]])
    by_table, by_array = (judged(ran, submit(ran, f"by_{kind}", states, kind)) for kind in ("parquet", "npz"))
    pd.testing.assert_frame_equal(by_table.drop(columns="family"), by_array.drop(columns="family"))
    error = by_table.loc["relative_error"].query("step == -1").set_index("seed")["value"]
    assert error[0] < 1e-6 < error[1]


def test_a_roll_out_that_breaks_off_is_judged_as_one(ran):
    states = exact(ran)
    states[:, 5:] = np.nan
    assert judged(ran, submit(ran, "breaks_off", states)).loc["horizon", "value"] <= 5 * stored(ran).spec.step


def test_what_was_submitted_for_other_episodes_is_named_and_left_out(ran, caplog):
    ran.run("--pipeline=submission", submit(ran, "old", exact(ran)))
    ran.configure("parameters_mass_spring.yml", {"mass_spring": {"seed": 5}})
    try:
        with caplog.at_level("WARNING", logger="wm_pipelines"):
            ran.run("--pipeline=physics_eval")
        assert "old/mass_spring is left out: 'mass_spring' has other episodes now" in caplog.text
        assert not len(rows_of(ran, "old"))
    finally:
        ran.configure("parameters_mass_spring.yml", {"mass_spring": {"seed": 0}})
        ran.run("--pipeline=physics_eval")
    assert len(rows_of(ran, "old"))


def broken(states):
    shifted = states.copy()
    shifted[:, 0] += 0.1
    return shifted


@pytest.mark.parametrize(
    ("card", "change", "pattern"),
    [
        ({"name": "mlp"}, None, "'mlp' is the name of a family"),
        ({"name": "a model"}, None, r"card\.json\.name"),
        ({"world": "mass_sprin"}, None, "'mass_sprin'; did you mean 'mass_spring'"),
        ({"episodes": "0" * 64}, None, "roll-outs are of episodes 000000000000"),
        ({"knows": ["enery"]}, None, "'enery'; did you mean 'energy'"),
        ({"nam": "x"}, None, "nam"),
        ({}, lambda states: states[:, :-1], "these episodes need S x"),
        ({}, broken, "do not begin with the first states"),
        ({}, lambda states: states + 1j, "states are numbers, got complex128"),
    ],
)
def test_a_mistake_is_said(ran, card, change, pattern):
    states = exact(ran)
    option = submit(ran, "wrong", states if change is None else change(states), **card)
    with pytest.raises(UserError, match=pattern):
        judged(ran, option)


def test_a_file_that_was_cut_off_is_one_line(ran):
    option = submit(ran, "cut", exact(ran))
    file = ran.folder / "cut" / "rollouts.npz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"rollouts\.npz' cannot be read"):
        judged(ran, option)


def test_without_a_folder_it_is_asked_for_and_nothing_is_written(ran):
    before = {path: path.stat().st_mtime_ns for path in ran.reports.glob("*.html")}
    assert "--params path=FOLDER" in ran.error_of("--pipeline=submission")
    assert "card.json' is missing" in ran.error_of("--pipeline=submission", "--params=path=nowhere")
    assert before == {path: path.stat().st_mtime_ns for path in ran.reports.glob("*.html")}
