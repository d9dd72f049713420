"""Results do not depend on the number of workers; none waits for one that is gone."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing import ProcessRaisedException

from tests.learning.gradient_families import CASES, main, trained
from tests.learning.toy import LEARNING, Toy, fitted
from tests.specs import PENDULUM, pendulum
from wm_pipelines.blocks import workers
from wm_pipelines.blocks.augment import Augmentation, affine_view, random_windows
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import TrainedConfig
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.fitting import Assignment, fit_variant
from wm_pipelines.learning.group import together
from wm_pipelines.registry import families

pytestmark = pytest.mark.pipeline

QUICK = ["physics_informed known", "contrastive video", "ijepa sigreg", "latent_action", "token_vlm"]
"""What losses take from a batch: a balance of gradients; statistics and pairs; a codebook; sums over words."""

RESUMED = "ijepa ema"


class Dying(CheckpointStore):
    """Whoever writes the second checkpoint ends there."""

    left = 2

    def save(self, name, checkpoint):
        super().save(name, checkpoint)
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no room")


def shared(count, folder, *cases):
    """What each of so many workers has after training: tensors and learning curve, by case."""
    together(count, main, folder, *cases)
    return {case: [torch.load(folder / f"{case}.{rank}.pt") for rank in range(count)] for case in cases}


def assert_equal(found, alone):
    for tensors, curve in found:
        assert tensors.keys() == alone[0].keys()
        for name, wanted in alone[0].items():
            torch.testing.assert_close(tensors[name], wanted, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert curve == [pytest.approx(row, rel=1e-6, abs=1e-6, nan_ok=True) for row in alone[1]]


def test_every_family_that_is_trained_by_gradient_is_tried():
    own = (kind for kind in map(families.get, families.names()) if kind.__module__.startswith("wm_pipelines."))
    assert {name for name, *_ in CASES.values()} == {
        kind.name for kind in own if issubclass(kind.Config, TrainedConfig)
    }


# ---------------------------------------------------------------- as many as there are


def begun(folder, case):
    trained(case, Dying(folder))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with pytest.raises(MemoryError):
        begun(folder, RESUMED)
    return folder, shared(3, folder, *QUICK, RESUMED)


@pytest.mark.parametrize("case", [*QUICK, RESUMED])
def test_three_workers_with_unequal_shares_equal_one(three, case):
    assert_equal(three[1][case], trained(case))


def test_one_worker_takes_over_what_three_have_trained(three):
    case = QUICK[0]
    wanted, curve = three[1][case][0]
    found = trained(case, CheckpointStore(three[0]))
    assert all(torch.equal(found[0][name], tensor) for name, tensor in wanted.items())
    assert found[1] == curve


@pytest.fixture(scope="module")
def alone():
    return {case: trained(case) for case in CASES}


@pytest.fixture(scope="module", params=[2, 3])
def many(request, tmp_path_factory):
    return shared(request.param, tmp_path_factory.mktemp("many"), *CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_and_three_workers_equal_one_for_every_family(many, alone, case):
    assert_equal(many[case], alone[case])


@pytest.mark.slow
def test_two_workers_go_on_from_a_checkpoint_of_three(tmp_path):
    with pytest.raises(ProcessRaisedException, match="no room"):
        together(3, begun, tmp_path, RESUMED)
    assert_equal(shared(2, tmp_path, RESUMED)[RESUMED], trained(RESUMED))


@pytest.mark.slow
def test_torchrun_starts_them_too(tmp_path):
    root, case = Path(__file__).parents[2], "mlp"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]), "OMP_NUM_THREADS": "1"}
    job = [*launcher, "tests.learning.gradient_families", str(tmp_path), case]
    done = subprocess.run(job, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_equal([torch.load(tmp_path / f"{case}.{rank}.pt") for rank in range(2)], trained(case))


def test_the_parameter_starts_workers_and_changes_nothing_else(tmp_path):
    views = {name: view.numpy() for name, view in pendulum(6, 12).items()}
    spec = replace(PENDULUM, rows=13)
    learning = LEARNING.model_copy(update={"checkpoint_every": 3})
    one = Assignment("physics", "mlp", "pendulum", ("states", "derivatives"), Episodes(spec, views), learning, [0, 1])
    two = replace(one, learning=learning.model_copy(update={"workers": 2}))
    settings = {"hidden": [8], "schedule": {"steps": 20, "batch_size": 7}}
    wanted = fit_variant(one, "plain", settings, None)
    found = fit_variant(two, "plain", settings, CheckpointStore(tmp_path))
    assert found.model.card == wanted.model.card
    for name, tensor in wanted.model.tensors.items():
        torch.testing.assert_close(found.model.tensors[name], tensor, rtol=1e-9, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.safetensors"]


# ---------------------------------------------------------------- what goes wrong


def train_until_worker_1(leaves):
    def monitor(self):
        if os.environ["RANK"] == "1":
            leaves()
        return {}

    Toy.monitor = monitor  # of this process alone
    fitted(dropout=False)


def killed():
    train_until_worker_1(lambda: os.kill(os.getpid(), signal.SIGKILL))


def gone():
    train_until_worker_1(lambda: os._exit(0))


@pytest.mark.parametrize(
    ("job", "message"),
    [(killed, r"worker 1 of 2 .* was killed by SIGKILL"), (gone, r"worker 0 of 2 .* lost another one")],
)
def test_a_worker_that_dies_ends_the_others_and_is_named(job, message):
    with pytest.raises(UserError, match=message):
        together(2, job)


def refused(folder):
    """All workers are told the same, and can go on to something else."""
    with pytest.raises(UserError, match="a batch of 2 examples is too small for 3 workers"):
        fitted(dropout=False, batch_size=2)
    with pytest.raises(UserError, match=r"toy: workers cannot share its batches: .* differs by .* train it with one"):
        fitted()  # drops entries at random, each worker for itself
    with pytest.raises(UserError, match=r"toy: the workers do not begin alike; .* one folder of checkpoints"):
        fitted(dropout=False, store=CheckpointStore(folder / os.environ["RANK"]))
    summed()
    raise UserError("as wished")


def summed():
    """Losses of unequal shares, weighed, have the gradient of the mean over all; a ratio of sums is one of all."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    x = torch.arange(1.0, 8.0, dtype=torch.float64).requires_grad_()
    with workers.sharing(7, rank, world):
        mine = workers.mine(x)
        spread = workers.gathered(mine).var() + workers.var_mean(mine, (0,))[0] * workers.averaged(mine.mean())
        loss = workers.weighed(mine.square().mean() * spread + workers.ratio(mine.sum(), mine.square().sum()))
    (found,) = torch.autograd.grad(loss, x)
    distributed.all_reduce(found)
    spread = x.var() + x.var(correction=0) * x.mean()
    (wanted,) = torch.autograd.grad(x.square().mean() * spread + x.sum() / x.square().sum(), x)
    torch.testing.assert_close(found / world, wanted, rtol=1e-12, atol=0)


def test_what_cannot_be_shared_is_refused_in_one_line_and_gradients_pass_through_what_is_shared(tmp_path):
    with pytest.raises(MemoryError):
        fitted(dropout=False, store=Dying(tmp_path / "1"))
    with pytest.raises(UserError, match="as wished"):
        together(3, refused, tmp_path)


# ---------------------------------------------------------------- one worker, and the parts of many


def test_for_one_worker_all_is_what_it_was():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert workers.mine(x, 1) is x
    assert workers.averaged(x) is x
    assert workers.weighed(x) is x
    assert workers.gathered(x, 1) is x
    assert workers.everyone(5) == 5
    assert all(map(torch.equal, workers.var_mean(x, (0, 1)), torch.var_mean(x, (0, 1), correction=0)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_example_meets_the_same_random_numbers_whoever_works_on_it(count):
    frames = torch.rand(6, 9, 8, 8, 1, generator=torch.Generator().manual_seed(0))

    def seen(part):
        generator = torch.Generator().manual_seed(7)
        windows = random_windows(part, 4, generator)
        return affine_view(windows[:, 0], Augmentation(elastic=1.0), generator)

    whole = seen(frames)
    for rank in range(count):
        with workers.sharing(6, rank, count):
            torch.testing.assert_close(seen(frames[rank::count]), whole[rank::count], rtol=0, atol=1e-6)


def test_an_axis_that_is_not_that_of_the_examples_is_an_error():
    """Of 7 examples the second of three workers has 2: what is drawn for their 3 pieces each has an axis for both."""
    with workers.sharing(7, 1, 3):
        assert workers.everyone(2) == 7
        assert workers.everyone(6) == 21
        assert workers.mine(torch.arange(7)).tolist() == [1, 4]
        assert workers.mine(torch.arange(21).view(7, 3)).tolist() == [[3, 4, 5], [12, 13, 14]]
        for wrong in (partial(workers.mine, torch.arange(21)), partial(workers.gathered, torch.arange(6))):
            with pytest.raises(ValueError, match=r"axis 0 .* is not that of the . examples"):
                wrong()
        with pytest.raises(ValueError, match="5 are not equally many of each of the 2"):
            workers.everyone(5)
