"""The training loop: the same bits, killed or not, alone or together, on one device or two."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from tests.learning.toy import LEARNING, SPEC, Toy, ToyConfig, fitted, toy_episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Schedule
from wm_pipelines.learning.batches import BatchSource
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.loop import clip_gradients_per_seed, learning_rate, parameter_groups, train

pytestmark = pytest.mark.training

TRUTH = torch.tensor([[0.9, 0.4], [-0.4, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize(("precision", "accuracy"), [("64-true", 1e-3), ("32-true", 1e-3), ("bf16-mixed", 3e-2)])
def test_learns_the_matrix_of_a_linear_map_in_any_precision_and_hands_back_float64(precision, accuracy):
    learning = LEARNING.model_copy(update={"precision": precision})
    family, _ = fitted((0, 1, 2), learning=learning, dropout=False, steps=500, batch_size=64)
    assert family.A.dtype == torch.float64
    assert (family.A - TRUTH).abs().max() < accuracy


def test_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, run = fitted()
    again, rerun = fitted()
    other, _ = fitted(seeds=(5, 1))
    assert torch.equal(first.A, again.A)
    assert run.curve == rerun.curve
    assert not torch.equal(first.A[0], other.A[0])


def test_seeds_trained_together_equal_seeds_trained_alone():
    """Up to gradients known to 1e-16: over values of 1e-4 at least, 60 steps of 0.05 make 3e-12 of that."""
    config = {"dropout": False, "gradient_clip": 0.5}
    together, _ = fitted((0, 7), **config)
    for i, seed in enumerate((0, 7)):
        alone, _ = fitted((seed,), **config)
        torch.testing.assert_close(together.A[i], alone.A[0], rtol=0, atol=1e-11)


def test_accumulated_gradients_equal_one_large_batch():
    # 160 examples, 2 x 40 against 1 x 80: the same 80 examples make up each optimiser step.
    one, _ = fitted((0,), dropout=False, steps=20, batch_size=80)
    two, _ = fitted((0,), dropout=False, steps=20, batch_size=40, accumulate=2)
    torch.testing.assert_close(one.A, two.A, rtol=1e-9, atol=1e-9)


class _KilledError(Exception):
    pass


class _DyingStore(CheckpointStore):
    """A store whose process dies right after the n-th checkpoint was written."""

    def __init__(self, folder, deadline):
        super().__init__(folder)
        self.left = deadline

    def save(self, name, checkpoint):
        super().save(name, checkpoint)
        self.left -= 1
        if self.left == 0:
            raise _KilledError


@pytest.mark.parametrize("deaths", [[1], [4], [2, 3], [1, 1, 1]])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, deaths):
    whole, run = fitted()
    for deadline in deaths:
        with pytest.raises(_KilledError):
            fitted(store=_DyingStore(tmp_path, deadline))
    resumed, rerun = fitted(store=CheckpointStore(tmp_path))
    assert torch.equal(whole.A, resumed.A)
    assert torch.equal(whole.ema, resumed.ema)
    assert run.curve == rerun.curve


@pytest.mark.pipeline
def test_a_process_killed_by_sigkill_leaves_a_checkpoint_that_resumes_to_the_same_bits(tmp_path):
    code = f"""
        import os, signal
        from tests.learning.toy import fitted
        from wm_pipelines.learning.checkpoints import CheckpointStore
        class Store(CheckpointStore):
            def save(self, name, checkpoint):
                super().save(name, checkpoint)
                if checkpoint.facts.get("step") == 28:
                    os.kill(os.getpid(), signal.SIGKILL)
        fitted(store=Store({str(tmp_path)!r}))
    """
    root = Path(__file__).parents[2]
    dead = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL
    resumed, _ = fitted(store=CheckpointStore(tmp_path))
    assert torch.equal(resumed.A, fitted()[0].A)


def test_a_finished_training_is_not_run_again_unless_something_changed(tmp_path):
    store = CheckpointStore(tmp_path)
    first, run = fitted(store=store)
    again, rerun = fitted(store=store)
    assert torch.equal(first.A, again.A)
    assert rerun.seconds == run.seconds  # taken over, not measured again
    _, changed = fitted(store=store, learning_rate=0.06)
    assert changed.curve != run.curve
    _, forced = fitted(store=store, learning=LEARNING.model_copy(update={"resume": False}), learning_rate=0.06)
    assert forced.seconds != changed.seconds


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"nonsense" + b[8:]])
def test_a_damaged_checkpoint_means_a_fresh_start_not_a_wrong_result(tmp_path, damage):
    store = CheckpointStore(tmp_path)
    first, _ = fitted(store=store)
    path = tmp_path / "toy.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    again, _ = fitted(store=store)
    assert torch.equal(first.A, again.A)


def test_a_loss_that_is_not_a_number_stops_the_training_at_once():
    family = Toy(ToyConfig(schedule=Schedule(steps=60), explode_at=0.5), SPEC, (3,))
    with pytest.raises(UserError, match=r"loss of seed 3 is (nan|inf) at step 3[05] of 60.*learning_rate"):
        train(family, toy_episodes(), LEARNING)


@given(st.integers(1, 50), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_pass_shows_every_example_once(length, batch, passes):
    source = BatchSource({"x": torch.arange(length)}, [0, 1], batch)
    count = (passes + 1) * length
    steps = -(-count // source.batch_size)
    shown = torch.cat([source.indices(k) for k in range(steps)], 1)[:, :count]
    for row in shown.reshape(2, passes + 1, length).flatten(0, 1):
        assert sorted(row.tolist()) == list(range(length))


@given(st.integers(1, 30), st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_workers_share_a_batch_without_overlap(step, world):
    whole = BatchSource({"x": torch.arange(64)}, [0, 3], 16).batch(step)["x"]
    shares = [BatchSource({"x": torch.arange(64)}, [0, 3], 16, rank, world).batch(step)["x"] for rank in range(world)]
    assert torch.equal(torch.sort(torch.cat(shares, 1)).values, torch.sort(whole).values)


def test_learning_rate_warms_up_then_falls_along_a_cosine():
    schedule = Schedule(steps=101, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(schedule, k) for k in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_learning_rate_begins_anew_at_each_restart():
    schedule = Schedule(steps=101, warmup=1, learning_rate=1.0, final_learning_rate=0.1, restarts=(0.6, 0.3))
    rates = [learning_rate(schedule, k) for k in range(101)]
    assert [k for k in range(1, 101) if rates[k] > rates[k - 1]] == [30, 61]
    assert rates[0] == rates[1] == rates[30] == rates[61] == 1.0
    assert rates[29] == rates[60] == rates[100] == pytest.approx(0.1)


def test_clipping_bounds_each_seed_alone():
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    parameter.grad = torch.tensor([[3.0, 4, 0, 0], [0.3, 0.4, 0, 0], [0, 0, 0, 0]])
    clip_gradients_per_seed(iter([parameter]), 1.0)
    assert parameter.grad.norm(dim=1).tolist() == pytest.approx([1.0, 0.5, 0.0])


class Counting(Toy):
    """Notes the threads of every pool that what it does has."""

    def note(self):
        self.noted |= {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}

    def fit(self, episodes):
        self.note()

    def loss(self, batch, progress):
        self.note()
        return super().loss(batch, progress)

    def monitor(self):
        self.note()
        return {}

    def finish(self):
        self.note()


@pytest.mark.parametrize("count", [1, 2])
def test_all_sums_of_a_training_are_made_on_as_many_threads_as_it_is_told_whatever_was_set_before(count):
    """Torch has a pool of its own, numpy's linear algebra another."""
    model, before = Counting(ToyConfig(schedule=Schedule(steps=5)), SPEC, (0,)), torch.get_num_threads()
    model.noted = set()
    torch.set_num_threads(3 - count)
    try:
        with threadpool_limits(3 - count):
            train(model, toy_episodes(), LEARNING.model_copy(update={"threads": count}))
            after = {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}
    finally:
        torch.set_num_threads(before)
    assert model.noted == {count}
    assert after == {3 - count}


def test_curve_holds_every_seed_at_every_logged_step():
    _, run = fitted(seeds=(4, 9))
    assert [(row["step"], row["seed"]) for row in run.curve] == [(k, s) for k in range(5, 61, 5) for s in (4, 9)]
    assert all(math.isfinite(row["mse"]) for row in run.curve)
    assert run.flops > 0


def test_flops_are_those_of_the_matrix_products_forward_and_backward():
    _, run = fitted(seeds=(0, 1), steps=10, batch_size=16)
    # z A: [16, 2] x [2, 2] per seed forward, and once more for the gradient of A; 2 operations per multiply-add.
    assert run.flops == 10 * 2 * (2 * 16 * 2 * 2) * 2


class Growing(Toy):
    """Its roll-out grows from one product to two half-way."""

    def loss(self, batch, progress):
        z = batch["z"] @ self.A
        if progress >= 0.5:
            z = z @ self.A
        error = ((z - batch["after"]) ** 2).mean((1, 2))
        return error, {}


def test_flops_follow_the_length_of_the_roll_out_and_not_that_of_the_first_step():
    schedule = {"steps": 40, "batch_size": 16}
    model = Growing(ToyConfig(schedule=schedule), SPEC, (0,))
    run = train(model, toy_episodes(), LEARNING.model_copy(update={"log_every": 5}))
    product = 16 * 2 * 2 * 2
    # Forward and the gradient of A; the second product has two gradients, of A and of what goes in.
    assert run.flops == 20 * 2 * product + 20 * (2 + 3) * product


class TwoRates(Toy):
    """A second matrix with a rate of its own: none for the first half of training, then a tenth."""

    def __init__(self, config, spec, seeds):
        super().__init__(config, spec, seeds)
        self.slow = torch.nn.ParameterDict({"B": torch.nn.Parameter(torch.zeros_like(self.A))})

    def rate_factors(self, progress):
        return {"slow": 0.0 if progress < 0.5 else 0.1}

    def loss(self, batch, progress):
        error = ((batch["z"] @ (self.A + self.slow["B"]) - batch["after"]) ** 2).mean((1, 2))
        return error, {"mse": error.detach()}


@pytest.mark.parametrize(("steps", "factor"), [(1, 0.0), (2, 0.1)])
def test_parts_learn_at_rates_of_their_own_that_may_follow_the_progress(steps, factor):
    """A step of Adam is as long as its rate where gradients stay alike, whatever their size."""
    schedule = Schedule(steps=steps, batch_size=8, learning_rate=1e-5, final_learning_rate=1e-5)
    family = TwoRates(ToyConfig(schedule=schedule), SPEC, [0])
    assert [(g["part"], len(g["params"])) for g in parameter_groups(family)] == [("", 1), ("slow", 1)]
    before = family.A.detach().clone()
    train(family, toy_episodes(), LEARNING)
    moved = (family.A - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, steps * 1e-5), rtol=0.2, atol=0)
    slow = family.slow["B"].detach().abs()
    torch.testing.assert_close(slow, torch.full_like(slow, factor * 1e-5), rtol=0.2, atol=0)
