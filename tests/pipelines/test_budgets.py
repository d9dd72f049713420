"""What the parameter files of all environments come to: configurations that can be, and budgets that are kept."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines.checks import check_family_settings

CONF = Path(__file__).parents[2] / "conf"
PHYSICS = yaml.safe_load((CONF / "base/globals.yml").read_text())["tasks"]["physics"]


def read(family, *environments):
    """A family's parameters, environment over environment."""
    merged = {}
    for environment in environments:
        path = CONF / environment / f"parameters_{family}.yml"
        if path.exists():
            merged = deep_merge(merged, yaml.safe_load(path.read_text())[family])
    return FamilyParameters(**merged)


@pytest.mark.parametrize("environment", sorted(path.parent.name for path in CONF.glob("*/globals.yml")))
def test_every_configuration_that_runs_can_be(environment):
    base, own = (
        yaml.safe_load((CONF / name / "globals.yml").read_text()).get("tasks", {}) for name in ("base", environment)
    )
    for task, listed in deep_merge(base, own).items():
        for name in (listed or {}).get("families", ()):
            parameters = read(name, "base") if environment == "base" else read(name, "base", environment)
            here = SimpleNamespace(task=task, worlds=listed["worlds"], families=[name])
            check_family_settings(name, parameters, {task: here})


@pytest.mark.parametrize("family", PHYSICS["families"])
def test_full_trains_all_for_two_and_a_half_times_as_long(family):
    base, full = read(family, "base"), read(family, "base", "full")
    for world in PHYSICS["worlds"]:
        for variant in base.variants_for("physics", world):
            own, longer = (p.resolve("physics", variant, world).get("schedule") for p in (base, full))
            if own is not None:
                assert longer["steps"] == pytest.approx(2.5 * own["steps"], abs=1), (variant, world)
