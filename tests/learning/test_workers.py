"""Results do not depend on the number of workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.learning.gradient_families import CASES, trained
from wm_pipelines.blocks import workers
from wm_pipelines.blocks.augment import Augmentation, affine_view, random_windows
from wm_pipelines.learning.checkpoints import CheckpointStore

pytestmark = pytest.mark.pipeline


class KilledError(Exception):
    pass


class DyingStore(CheckpointStore):
    def save(self, name, checkpoint):
        super().save(name, checkpoint)
        raise KilledError


def launched(count, folder, *cases):
    """What each worker of a `torchrun` has after training: tensors and learning curve, by case."""
    root = Path(__file__).parents[2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    job = [*launcher, "tests.learning.gradient_families", str(folder), *cases]
    done = subprocess.run(job, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {case: [torch.load(folder / f"{case}.{rank}.pt") for rank in range(count)] for case in cases or CASES}


def assert_equal(together, alone):
    for tensors, curve in together:
        assert tensors.keys() == alone[0].keys()
        for name, wanted in alone[0].items():
            torch.testing.assert_close(tensors[name], wanted, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert curve == [pytest.approx(row, rel=1e-6, abs=1e-6, nan_ok=True) for row in alone[1]]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, launched(2, folder)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_equal_one(two, case):
    assert_equal(two[1][case], trained(case))


def test_one_worker_takes_over_what_two_have_trained(two):
    case = "vjepa rollout ema"
    wanted, curve = two[1][case][0]
    found = trained(case, CheckpointStore(two[0]))
    assert all(torch.equal(found[0][name], tensor) for name, tensor in wanted.items())
    assert found[1] == curve


def test_three_workers_equal_one_and_go_on_from_its_checkpoint(tmp_path):
    fresh, begun = "contrastive video", "ijepa ema"
    with pytest.raises(KilledError):
        trained(begun, DyingStore(tmp_path))
    for case, together in launched(3, tmp_path, fresh, begun).items():
        assert_equal(together, trained(case))


# ---------------------------------------------------------------- one worker, and the parts of many


def test_for_one_worker_all_is_what_it_was():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert workers.mine(x, 1) is x
    assert workers.averaged(x) is x
    assert workers.gathered(x, 1) is x
    assert workers.everyone(5) == 5
    assert all(map(torch.equal, workers.var_mean(x, (0, 1)), torch.var_mean(x, (0, 1), correction=0)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_example_meets_the_same_random_numbers_whoever_works_on_it(monkeypatch, count):
    frames = torch.rand(6, 9, 8, 8, 1, generator=torch.Generator().manual_seed(0))

    def seen(part):
        generator = torch.Generator().manual_seed(7)
        windows = random_windows(part, 4, generator)
        return affine_view(windows[:, 0], Augmentation(elastic=1.0), generator)

    whole = seen(frames)
    for rank in range(count):
        monkeypatch.setattr(workers, "world", lambda: count)
        monkeypatch.setattr(workers, "rank", lambda rank=rank: rank)
        torch.testing.assert_close(seen(frames[rank::count]), whole[rank::count], rtol=0, atol=1e-6)
        monkeypatch.undo()
