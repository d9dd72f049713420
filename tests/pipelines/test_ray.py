"""Ray runs what Kedro's own runners run, to the same bytes, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

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


def killed_once(running, named, limit=240.0):
    """Kill the first worker of this run that does what is named; whether there was one."""
    until = time.monotonic() + limit
    while running.poll() is None and time.monotonic() < until:
        for process in psutil.process_iter(["cmdline", "environ"]):
            command = " ".join(process.info["cmdline"] or [])
            if command.startswith(f"ray::{named}"):
                process.send_signal(signal.SIGKILL)
                return True
        time.sleep(0.005)
    return False


def test_a_worker_that_dies_changes_nothing(finished, project):
    small(project)
    running = project.start("--pipeline=physics_eval", RUNNER)
    assert killed_once(running, "physics.hnn.train_two_body")
    assert running.wait() == 0
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
import subprocess, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for name in ("one", "two"):
    cluster.add_node(num_cpus=1, resources={name: 4}, env_vars={"WM_SCRATCH": f"{sys.argv[1]}/{name}"})
done = subprocess.run([sys.executable, "-m", "kedro", "run", *sys.argv[2:], f"--params=ray.storage=file://{sys.argv[1]}/s"],
                      env={**__import__("os").environ, "RAY_ADDRESS": cluster.address})
cluster.shutdown()
sys.exit(done.returncode)
"""


@pytest.mark.slow
def test_two_machines_without_a_common_disk(finished, project, tmp_path):
    small(project, resources={"mlp": {"resources": {"one": 1}}, "hnn": {"resources": {"two": 1}}})
    command = [f"--env={project.env}", "--pipeline=physics_eval", RUNNER]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path / "apart"), *command],
        cwd=project.folder,
        env={**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0
    the_same(project, finished)
    data = {name: tmp_path / "apart" / name / "data" / project.env for name in ("one", "two")}
    for name, family in {"one": "mlp", "two": "hnn"}.items():
        assert [path.name for path in (data[name] / "06_models/physics").iterdir() if path.name in ("mlp", "hnn")] == [
            family
        ]
