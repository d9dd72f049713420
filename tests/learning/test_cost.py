"""What a computation costs."""

from types import SimpleNamespace

import pytest

from wm_pipelines.learning import cost
from wm_pipelines.learning.cost import CostMeter


@pytest.mark.parametrize(("wall", "seconds"), [(False, 3.0), (True, 7.0)])
def test_seconds_are_those_of_a_core_unless_something_else_computes(wall, seconds, monkeypatch):
    core, clock = iter((10.0, 12.0, 13.0)), iter((100.0, 104.0, 107.0))
    monkeypatch.setattr(
        cost, "time", SimpleNamespace(process_time=lambda: next(core), perf_counter=lambda: next(clock))
    )
    with CostMeter(wall) as meter:
        assert meter.elapsed() == (4.0 if wall else 2.0)
    assert meter.seconds == seconds
