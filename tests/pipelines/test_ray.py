"""Ray runs what Kedro's own runners run, to the same bytes, whatever dies on the way."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.object_store import object_store
from wm_pipelines.registry import tasks

ray = pytest.importorskip("ray")

RUNNER = "--runner=wm_pipelines.runners.RayRunner"
ONE_WORLD = {"physics": {"worlds": ["two_body"], "families": ["persistence", "mlp", "hnn"], "seeds": [0, 1]}}


def small(project, **settings):
    """Three families on one world, as in the environment `smoke`."""
    project.list_only(ONE_WORLD)
    project.configure("parameters_ray.yml", {"ray": settings})


def the_same(project, finished):
    """Whether models, judgements and episodes are those of the sequential run."""
    expected = finished.hashes()
    found = {n: d for n, d in project.hashes().items() if n.startswith(("03_primary", "06_models", "07_model_output"))}
    assert len(found) > 10
    assert {name for name, digest in found.items() if expected[name] != digest} == set()


def at_work(running, named=""):
    """Workers of this run, and of no other on this machine, that do what is named."""
    for process in psutil.Process(running.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"ray::{named}"):
                yield process


def killed_once(running, named, limit=240.0):
    """Kill the first worker of this run that does what is named; whether there was one."""
    until = time.monotonic() + limit
    while running.poll() is None and time.monotonic() < until:
        for process in at_work(running, named):
            process.send_signal(signal.SIGKILL)
            return True
        time.sleep(0.005)
    return False


def killed_at_random(running, times, seed=0, longest=10.0):
    """Kill workers that are at a node, one after the other, at random moments; what they were at.

    Moments are drawn in processor seconds of the workers, whatever else the machine has to do.
    """
    random, killed, seen, spent = np.random.default_rng(seed), [], {}, 0.0
    moments = random.uniform(0.0, longest, times).cumsum()
    while running.poll() is None and len(killed) < times:
        time.sleep(0.05)
        busy = {}
        for process in at_work(running, "physics."):
            with contextlib.suppress(psutil.Error):
                used = sum(process.cpu_times()[:2])
                spent += used - seen.get(process.pid, 0.0)
                seen[process.pid] = used
                busy[process] = process.cmdline()[0]
        if busy and spent >= moments[len(killed)]:
            chosen = list(busy)[random.integers(len(busy))]
            chosen.send_signal(signal.SIGKILL)
            killed.append(busy[chosen])
    return killed


def test_a_worker_that_dies_changes_nothing(finished, project):
    small(project)
    running = project.start("--pipeline=physics_eval", RUNNER)
    assert killed_once(running, "physics.hnn.train_two_body")
    assert running.wait() == 0
    the_same(project, finished)


@pytest.mark.slow
def test_ten_workers_that_die_at_random_moments_change_nothing(finished, project):
    project.configure("parameters_ray.yml", {"ray": {"retries": 10}})
    running = project.start("--pipeline=physics_eval", RUNNER)
    killed = killed_at_random(running, 10)
    assert running.wait() == 0
    assert len(killed) == 10
    print("killed:", *killed)
    the_same(project, finished)


def test_what_no_machine_has_is_said_at_once(project):
    small(project, resources={"train": {"num_gpus": 7}})
    message = project.error_of("--pipeline=physics_eval", RUNNER)
    assert "no machine has what physics." in message
    assert "'GPU': 7" in message


def test_a_mistake_of_a_user_is_one_line_as_ever(project):
    small(project)
    message = project.error_of("--pipeline=physics_eval", RUNNER, "--nodes=physics.mlp.train_two_body")
    assert "data_ingestion" in message


CLUSTER = """
import os, subprocess, sys
from ray.cluster_utils import Cluster
place, command = sys.argv[1], sys.argv[2:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for name in ("one", "two"):
    cluster.add_node(num_cpus=1, resources={name: 4}, env_vars={"WM_SCRATCH": f"{place}/{name}"})
environment = {**os.environ, "RAY_ADDRESS": cluster.address}
done = subprocess.run([sys.executable, "-m", "kedro", "run", *command], env=environment)
cluster.shutdown()
sys.exit(done.returncode)
"""


def on_two_machines(project, place, *arguments, **environment):
    """A run on a cluster of two machines, one processor each; where no disk is shared, theirs lie below a place."""
    return subprocess.run(
        [sys.executable, "-c", CLUSTER, str(place), f"--env={project.env}", RUNNER, *arguments],
        cwd=project.folder,
        env={**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


@pytest.mark.slow
def test_two_machines_run_every_task_to_the_same_bytes(finished, project, tmp_path):
    assert on_two_machines(project, tmp_path).returncode == 0
    expected, found = finished.hashes(), project.hashes()
    assert {name.split("/")[1] for name in found if name.startswith("06_models")} == set(tasks.names())
    assert found.keys() == expected.keys()
    assert [name for name, digest in expected.items() if found[name] != digest] == []


def apart(project, finished, place, storage, **environment):
    """Two machines without a common disk give each other what they make, through a storage."""
    small(project, resources={"mlp": {"resources": {"one": 1}}, "hnn": {"resources": {"two": 1}}}, storage=storage)
    assert on_two_machines(project, place, "--pipeline=physics_eval", **environment).returncode == 0
    the_same(project, finished)
    data = {name: place / name / "data" / project.env for name in ("one", "two")}
    for name, family in {"one": "mlp", "two": "hnn"}.items():
        assert [path.name for path in (data[name] / "06_models/physics").iterdir() if path.name in ("mlp", "hnn")] == [
            family
        ]


@pytest.mark.slow
def test_two_machines_without_a_common_disk(finished, project, tmp_path):
    place = tmp_path / "apart"
    apart(project, finished, place, f"file://{place / 's'}")


@pytest.mark.slow
def test_two_machines_exchange_over_an_object_store(finished, project, tmp_path):
    with object_store() as environment:
        apart(project, finished, tmp_path / "apart", "s3://bucket/runs", **environment)
