"""What a model is asked beyond roll-outs: forces, pair law, symplecticity, reversal; and truths that lose energy."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.families.base import Family, build
from wm_pipelines.families.oracle import Oracle
from wm_pipelines.families.persistence import Persistence
from wm_pipelines.laws import Laws, laws_of
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.spec import Facts, Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.judgement import table
from wm_pipelines.tasks.physics import Physics
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest

STEP, GAMMA = 0.1, 0.3
CONFIG = {"error_steps": [1]}
SIZE = {"episodes": 3, "steps": 20}


class Linear(Family):
    """z' = A z, exactly; every seed another A."""

    name = "linear_for_tests"
    matrices: tuple = ()

    def predict(self, past, steps, actions=None, step=None):
        states = [past["states"][:, -1].expand(len(self.seeds), -1, -1)]
        flow = torch.tensor(np.array([expm(step * np.asarray(a)) for a in self.matrices]))
        for _ in range(steps):
            states.append(states[-1] @ flow.mT)
        return {"states": torch.stack(states, 2)}


def linear(spec, *matrices):
    model = build(Linear, Linear.Config(), spec, list(range(len(matrices))))
    model.matrices = matrices
    return model


def oscillator(gamma=0.0):
    """q'' = -4 q - gamma q'."""
    return [[0.0, 1.0], [-4.0, -gamma]]


def system(gamma, rows=201, **facts):
    """Exact episodes of the oscillator, its energy and its dynamics."""
    times = STEP * np.arange(rows)
    start = np.random.default_rng(0).uniform(-1, 1, (4, 2)) + 0.5
    states = np.einsum("tij,ej->eti", np.array([expm(t * np.asarray(oscillator(gamma))) for t in times]), start)
    views = {"times": np.tile(times, (4, 1)), "states": states}
    episodes = Episodes(Spec("mine", STEP, spaces_of(views), rows, Facts(facts)), views)
    matrix = np.asarray(oscillator(gamma))
    energy = lambda z: 0.5 * z[..., 1] ** 2 + 2.0 * z[..., 0] ** 2  # noqa: E731
    return episodes, Laws(energy=energy, dynamics=lambda z: z @ matrix.T)


def judge(model, episodes, laws, split="test", **config):
    both = {"train": episodes, "test": episodes} if isinstance(episodes, Episodes) else episodes
    return Physics().judge(model, both, split, laws, Physics().config({**CONFIG, **config}))


# ---------------------------------------------------------------- damped


@pytest.mark.parametrize("facts", [{}, {"conserved": ["energy"]}, {"conserved": []}])
def test_where_the_truth_loses_energy_the_exact_model_is_best_and_the_conserving_one_is_wrong(facts):
    episodes, laws = system(GAMMA, **facts)
    exact, keeps = (judge(linear(episodes.spec, oscillator(g)), episodes, laws) for g in (GAMMA, 0.0))
    assert exact.value("violation_rate") == 0.0
    assert exact.value("energy_error") < 1e-12
    assert exact.value("energy_drift") < 1e-12
    assert keeps.value("violation_rate") > 0.9
    assert keeps.value("energy_error") > 0.1
    assert list(exact.arrays["changing"]) == [1.0, 0.0, 0.0]
    # No flow of a Hamiltonian, and none that could be reversed: not asked.
    assert {"symplecticity_error", "reversal_error"}.isdisjoint(row["metric"] for row in exact.rows)
    assert exact.value("force_error") < 1e-6
    assert keeps.value("force_error") > 0.01


def test_without_friction_the_same_system_is_judged_by_conservation():
    episodes, laws = system(0.0)
    loses, keeps = (judge(linear(episodes.spec, oscillator(g)), episodes, laws) for g in (GAMMA, 0.0))
    assert list(keeps.arrays["changing"]) == [0.0, 0.0, 0.0]
    assert keeps.value("violation_rate") == 0.0
    assert loses.value("violation_rate") > 0.9
    assert keeps.value("symplecticity_error") < 1e-9
    assert loses.value("symplecticity_error") == pytest.approx(1 - np.exp(-GAMMA * STEP), rel=1e-6)
    assert keeps.value("reversal_error") < 1e-12
    assert loses.value("reversal_error") > 0.01
    assert keeps.arrays["symplecticity_resolution"] < 1e-6


def test_a_formula_of_the_energy_alone_says_nothing_of_friction():
    episodes, laws = system(GAMMA, conserved=["energy"])
    frictionless = Laws(energy=laws.energy, dynamics=system(0.0)[1].dynamics)
    judged = judge(linear(episodes.spec, oscillator(GAMMA)), episodes, frictionless)
    assert judged.value("force_error") is None


def test_every_seed_runs_back_by_itself():
    episodes, laws = system(0.0)
    both = judge(linear(episodes.spec, oscillator(0.0), oscillator(GAMMA)), episodes, laws)
    alone = judge(linear(episodes.spec, oscillator(GAMMA)), episodes, laws)
    by_seed = {row["seed"]: row["value"] for row in both.rows if row["metric"] == "reversal_error"}
    assert by_seed[0] < 1e-12
    assert by_seed[1] == pytest.approx(alone.value("reversal_error"), rel=1e-12)


def test_the_page_says_so_and_gives_no_prize_for_keeping_what_should_go():
    for gamma, kept in ((0.0, True), (GAMMA, False)):
        episodes, laws = system(gamma)
        rows, arrays = [], {}
        for family, g in (("follows", gamma), ("keeps", 0.0)):
            judged = judge(linear(episodes.spec, oscillator(g)), episodes, laws)
            rows += [{"family": family, **row} for row in judged.rows]
            arrays[f"{family}/plain"] = {f"test/{k}": a for k, a in judged.arrays.items()}
        scores = table(rows, task="physics", world="mine", variant="plain", view="states", knows="")
        page = Physics().page(Results(scores, specs={"mine": {"test": pendulum_spec()}}, arrays={"mine": arrays}))
        assert ("Who conserves energy?" in page) == kept
        assert ("The true motion does not keep its energy (it loses" in page) == (not kept)


def pendulum_spec():
    """Of a world that can draw states of two numbers."""
    return ingest(WorldConfig(world="mass_spring", step=STEP, splits={"train": SIZE, "test": SIZE}), "mine")[
        "test"
    ].spec


# ---------------------------------------------------------------- worlds


@pytest.fixture(scope="module")
def gravity():
    far = {**SIZE, "parameters": {"initial": {"law": "near_circular", "radius": [3.0, 4.0]}}}
    splits = {"train": SIZE, "test": SIZE, "ood": far, "dt": {**SIZE, "step": 0.2}}
    return ingest(WorldConfig(world="two_body", step=0.1, splits=splits, parameters={"masses": [1.0, 2.0]}), "pair")


def of(kind, episodes, split="test"):
    return build(
        kind, kind.Config(), episodes["train"].spec.showing(Physics.shows), [0, 3], laws_of(episodes[split].spec)
    )


@pytest.mark.parametrize("split", ["test", "ood", "dt"])
def test_the_oracle_knows_every_law_on_every_split(gravity, split):
    judged = judge(of(Oracle, gravity, split), gravity, laws_of(gravity[split].spec), split)
    if split != "dt":  # where the law is that of test
        assert judged.value("force_error") < 1e-6
        assert judged.value("force_exponent") == pytest.approx(-2.0, abs=1e-3)
        assert judged.value("force_exponent_error") < 1e-3
    if split == "test":
        assert judged.value("symplecticity_error") < 1e-6
        assert judged.value("reversal_error") < 1e-6
    else:
        assert judged.value("symplecticity_error") is None
    assert judged.value("horizon") == pytest.approx(20 * gravity[split].spec.step)
    assert {row["split"] for row in judged.rows} == {split}


def test_nothing_changes_has_no_force_and_no_pair_law(gravity):
    judged = judge(of(Persistence, gravity), gravity, laws_of(gravity["test"].spec))
    assert judged.value("force_error") == pytest.approx(1.0, abs=0.2)
    assert judged.value("force_exponent") is None
    assert judged.value("symplecticity_error") < 1e-11
    assert np.isnan(judged.arrays["pair_force"][1]).all()


def test_it_is_not_asked_where_nobody_wants_to_know(gravity):
    judged = judge(of(Oracle, gravity), gravity, laws_of(gravity["test"].spec), asked_episodes=0)
    assert judged.value("force_error") is None
    assert judged.value("horizon") is not None


def test_models_of_one_step_are_not_asked_for_another(gravity):
    class OneStep(Persistence):
        any_step = False

    model = OneStep(OneStep.Config(), gravity["train"].spec, [0])
    assert Physics().refuses(model, gravity["test"]) is None
    assert Physics().refuses(model, gravity["dt"]) == "predicts steps of 0.1 s only"
    assert Physics().refuses(of(Persistence, gravity), gravity["dt"]) is None


def test_the_page_shows_the_main_split_and_the_others_in_tables_of_their_own(gravity):
    rows, arrays = [], {}
    for kind in (Oracle, Persistence):
        for split in ("test", "ood", "dt"):
            if (kind, split) != (Persistence, "dt"):
                judged = judge(of(kind, gravity, split), gravity, laws_of(gravity[split].spec), split)
                rows += [{"family": kind.name, **row} for row in judged.rows]
                arrays.setdefault(f"{kind.name}/plain", {}).update(
                    {f"{split}/{k}": a for k, a in judged.arrays.items()}
                )
    scores = table(rows, task="physics", world="pair", variant="plain", view="states", knows="")
    specs = {split: gravity[split].spec for split in ("test", "ood", "dt")}
    page = Physics().page(Results(scores, specs={"pair": specs}, arrays={"pair": arrays}))
    assert "−2.00 r^−2.00 (explains 100.0 %)" in page
    assert "steps of 0.2 s instead of 0.1 s" in page
    assert "Not judged there: persistence · plain" in page
    assert page.count("Elsewhere: <code>") == 2
    assert page.split('id="leaderboard"')[1].count('data-split="ood"') == 0
    said = Physics().summary(summary_table(scores))
    main, others = said.split("Other splits")
    assert "ood" not in main
    assert {"dt", "ood"} <= set(others.split())


# ---------------------------------------------------------------- impacts


def test_a_slope_across_an_impact_is_no_force_and_the_oracle_knows_the_law():
    size = {"episodes": 6, "steps": 120}
    splits = {"train": size, "test": size}
    ball = ingest(WorldConfig(world="bouncing_ball", step=0.05, splits=splits), "ball")
    laws = laws_of(ball["test"].spec)
    judged = judge(of(Oracle, ball), ball, laws, asked_rows=12)
    assert judged.value("force_error") < 1e-8
    assert judge(of(Persistence, ball), ball, laws, asked_rows=12).value("force_error") == pytest.approx(1.0, abs=0.2)


def test_an_impact_is_met_when_the_ball_has_fallen_and_not_before():
    world = build_world(WorldConfig(world="bouncing_ball", parameters={"mass": 2.0, "gravity": 10.0}))
    falling, rising, resting = [0.2, 0.0], [0.0, 2.0], [0.0, 0.0]
    z = np.array([falling, falling, rising, rising, resting])
    np.testing.assert_array_equal(
        [bool(world.laws().meets(s, t)) for s, t in zip(z, [0.19, 0.21, 0.19, 0.21, 0.0], strict=True)],
        [False, True, False, True, True],
    )
