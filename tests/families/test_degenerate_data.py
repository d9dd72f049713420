"""Data that say nothing of what is asked: an answer with its limits, never a traceback, and nobody else is stopped."""

import pytest
import torch

from tests.families.fields import posed
from tests.specs import LEARNING, episodes, rolled, spec, tensor
from wm_pipelines.learning import fitting
from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.learning.fitting import Assignment, fit_family
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families
from wm_pipelines.worlds.making import WorldConfig, ingest

pytestmark = pytest.mark.training

BLIND = {"initial": "0*x", "ends": [0.0, 0.0], "unknown": {"alpha": [0.01, 2.0]}}  # u = 0, whatever alpha is
SOLVERS = {
    "pinn": {
        "hidden": (10,),
        "adaptive_points": 20,
        "finish_steps": 10,
        "finish_points": 100,
        "schedule": {"steps": 20, "batch_size": 50},
    },
    "random_feature_collocation": {"features": 40, "steepness": (2.0,)},
}


@pytest.mark.parametrize("noise", [0.01, 0.0])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_coefficient_without_influence_is_not_determined(name, noise, caplog):
    rod, views, _ = posed(**BLIND, measurements={"count": 60, "noise": noise})
    kind = families.get(name)
    family = kind(kind.Config(**SOLVERS[name]), rod, (0, 1))
    train(family, views, LEARNING)
    found = family.found()["alpha"]
    assert not found["identified"].any()
    assert found["low"].tolist() == pytest.approx([0.01] * 2)
    assert found["high"].tolist() == pytest.approx([2.0] * 2)
    assert ((found["value"] >= 0.01) & (found["value"] <= 2.0)).all()
    assert f"{name} on heat_1d, seed 1: alpha is not determined by these measurements" in caplog.text
    assert family.predict({"points": views["validation"][0]})["fields"].isfinite().all()


@pytest.mark.parametrize("structure", ["none", "declared"])
@pytest.mark.parametrize("name", ["hnn", "hamiltonian_regression"])
@pytest.mark.parametrize("at", [[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.0, 0.0]])
def test_what_rests_is_predicted_to_rest(name, structure, at):
    """States that never change fill no phase space: nothing to divide by, no matrix to invert."""
    world = spec(4, structure=["separable"])
    states = tensor(at).expand(4, 6, 4)
    views = episodes(states, derivatives=torch.zeros_like(states))
    kind = families.get(name)
    small = {"features": 8} if name == "hamiltonian_regression" else {"hidden": (4,), "schedule": {"steps": 2}}
    family = kind(kind.Config(structure=structure, **small), world, (0,))
    train(family, views, LEARNING)
    found = rolled(family, states[:, 0], 5)
    assert found.isfinite().all()
    if name == "hamiltonian_regression":
        assert torch.equal(found, states[None])


@pytest.mark.parametrize("error", [torch.linalg.LinAlgError, fitting.np.linalg.LinAlgError])
def test_equations_without_a_solution_are_a_reason_and_other_variants_go_on(tmp_path, monkeypatch, caplog, error):
    splits = {"train": {"episodes": 3, "steps": 5}, "test": {"episodes": 1, "steps": 5}}
    config = WorldConfig(world="mass_spring", step=0.1, splits=splits)
    assignment = Assignment(
        "physics", "hamiltonian_regression", "mine", ("times", "states", "derivatives"),
        ingest(config, "mine")["train"], LEARNING, [0],
    )  # fmt: skip
    kind = families.get("hamiltonian_regression")
    fit = kind.fit

    def singular(self, views):
        if self.config.features == 7:
            raise error("the matrix is singular\nand more lines")
        return fit(self, views)

    monkeypatch.setattr(kind, "fit", singular)
    variants = {"odd": {"features": 7}, "plain": {"features": 8}}
    models, curves, cost = fit_family(assignment, FamilyParameters(variants=variants), tmp_path)
    assert set(models.variants) == set(cost) == set(curves["variant"]) == {"plain"}
    assert models.not_applicable == {"odd": "these episodes do not determine it (the matrix is singular)"}
    assert "hamiltonian_regression/odd on mine was not fitted: these episodes do not determine it" in caplog.text
