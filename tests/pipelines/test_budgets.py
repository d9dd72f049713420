"""The environment `full` trains every variant of the table of states for twice base's steps: nobody is forgotten."""

from pathlib import Path

import pytest
import yaml

from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.mappings import deep_merge

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


@pytest.mark.parametrize("family", PHYSICS["families"])
def test_full_trains_all_for_twice_as_long(family):
    base, full = read(family, "base"), read(family, "base", "full")
    for world in PHYSICS["worlds"]:
        for variant in base.variants_for("physics", world):
            own, longer = (p.resolve("physics", variant, world).get("schedule") for p in (base, full))
            if own is not None:
                assert longer["steps"] == pytest.approx(2 * own["steps"], abs=1), (variant, world)
