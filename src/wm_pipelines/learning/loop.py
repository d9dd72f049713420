"""The training loop. There is one; no family has its own."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from wm_pipelines.blocks import workers
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, Schedule, TrainedConfig
from wm_pipelines.learning.batches import BatchSource
from wm_pipelines.learning.checkpoints import (
    Checkpoint,
    CheckpointStore,
    load_optimizer_tensors,
    optimizer_tensors,
)
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.cost import CostMeter, FlopCounter
from wm_pipelines.learning.group import agree, company, is_first_worker, meet, worker_count
from wm_pipelines.learning.sharing import check_shared
from wm_pipelines.provenance import source_hash
from wm_pipelines.threads import threads

if TYPE_CHECKING:  # takes as long to import as torch; what is fitted in closed form needs none of it
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)

_SILENCE = 60  # seconds, after which a training that shows no bar says how far it is


@dataclass
class TrainingRun:
    """What a training leaves behind beside the fitted family.

    `curve` holds one row per seed and logged step: ``step, seed, loss`` and the family's named terms. `seconds` are
    those of all workers.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    memory_mb: float = 0.0
    flops: float = math.nan
    steps: int = 0


def train(
    family: Family,
    episodes: Mapping[str, Tensor],
    learning: LearningConfig,
    store: CheckpointStore | None = None,
    name: str = "model",
    data_hash: str = "",
    called: str | None = None,
    elsewhere: Callable[[], None] | None = None,
) -> TrainingRun:
    """Fit a family in place: in closed form if it can, else by gradient.

    World size and rank are those of torch.distributed's environment (`group`; without it there is one worker). The
    workers share the examples of every step, and end with the weights that one alone would have; all of them must see
    the store's folder, and the first one writes there.

    Args:
        family: an untrained family (all its seeds are trained together).
        episodes: training episodes as tensors, see `Family.examples`.
        learning: accelerator, precision, checkpoints. store: where checkpoints go; None keeps none.
        name: of the checkpoint's file. data_hash: of the episodes. called: what messages call the training.
        elsewhere: does the training by gradient in the place of this process, as far as the finished checkpoint.

    Raises:
        UserError: the loss became NaN or infinite, the data do not fit the family, workers do not begin alike or one
            of them is gone, or they cannot share the family's batches.
    """
    called, fingerprint = called or name, training_fingerprint(family, learning, data_hash)
    with company(), threads(learning.threads), _seeded(family.seeds), _first_speaks():
        meet(learning.accelerator)
        found = store.load(name, fingerprint) if store is not None and learning.resume else None
        agree((fingerprint, None if found is None else found.facts.get("step", "finished")), called)
        if found is not None and found.facts["finished"]:
            logger.info("%s: unchanged (settings, data, code): reusing the checkpoint.", called)
            return _taken_over(family, found)
        run = _fit(family, episodes, learning, store, name, fingerprint, found, called, elsewhere)
        if run is None:  # was done elsewhere
            assert store is not None
            found = store.load(name, fingerprint)
            assert found is not None
            return _taken_over(family, found)
        if store is not None and is_first_worker():
            facts = {"fingerprint": fingerprint, "finished": True, "run": vars(run)}
            store.save(name, Checkpoint(_prefixed("model", family.state_dict()), facts))
    return run


def _taken_over(family: Family, finished: Checkpoint) -> TrainingRun:
    family.to(family.dtype).load_state_dict(finished.under("model"))
    return TrainingRun(**finished.facts["run"])


def _fit(
    family: Family,
    episodes: Mapping[str, Tensor],
    learning: LearningConfig,
    store: CheckpointStore | None,
    name: str,
    fingerprint: str,
    found: Checkpoint | None,
    called: str,
    elsewhere: Callable[[], None] | None,
) -> TrainingRun | None:
    with CostMeter() as cost:  # of whatever is done with the training data
        closed_form = family.fit(episodes)
        if closed_form is None and elsewhere is not None and isinstance(family.config, TrainedConfig):
            elsewhere()
            return None
        examples = family.examples(episodes) if closed_form is None else {}
    if closed_form is not None:
        rows = [
            {"step": 0, "seed": seed, **{k: float(v[i]) for k, v in closed_form.items()}}
            for i, seed in enumerate(family.seeds)
        ]
        return TrainingRun(rows, cost.seconds, max(cost.memory_mb, 0.0))
    if not examples:
        return TrainingRun()
    run = _Gradient(family, examples, learning, store, name, fingerprint, called).run(found)
    run.seconds += cost.seconds
    run.memory_mb = max(run.memory_mb, cost.memory_mb)
    return run


class _Gradient:
    """Training by gradient: the state of one run, and its steps."""

    def __init__(
        self,
        family: Family,
        examples: Mapping[str, Tensor],
        learning: LearningConfig,
        store: CheckpointStore | None,
        name: str,
        fingerprint: str,
        called: str,
    ) -> None:
        self.learning, self.store, self.name, self.fingerprint = learning, store, name, fingerprint
        self.called = called
        self.schedule = family.schedule
        self.fabric = _fabric(learning)
        dtype = torch.float64 if learning.precision == "64-true" else torch.float32
        self.family = family.to(dtype)
        optimizer = torch.optim.AdamW(
            parameter_groups(self.family),
            lr=self.schedule.learning_rate,
            betas=self.schedule.betas,
            weight_decay=self.schedule.weight_decay,
            fused=True,  # one pass: of small networks, a tenth to a fifth of a step
        )
        self.module, self.optimizer = self.fabric.setup(self.family, optimizer)
        self.module.mark_forward_method("loss")
        self.apart = family.parameters_by_seed()
        device, place = self.fabric.device, (self.fabric.global_rank, self.fabric.world_size)
        examples = {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in examples.items()}
        self.batches = BatchSource(examples, family.seeds, self.schedule.batch_size, *place)
        self.sharing = partial(workers.sharing, self.batches.batch_size, *place)
        if self.fabric.world_size > 1:
            check_shared(self.family, examples, self.batches.batch_size, called)
        self.result = TrainingRun(steps=self.schedule.steps, flops=0.0)
        self._spoken = time.monotonic()

    def run(self, found: Checkpoint | None) -> TrainingRun:
        """Train from the beginning, or on from a checkpoint, to the last step."""
        start = self._restore(found) if found is not None else 0
        spent = self.result.seconds
        with CostMeter(wall=self.fabric.device.type != "cpu") as cost, self._progress(start) as bar, self.sharing():
            for step in range(start, self.schedule.steps):
                counted = step % self.learning.log_every == 0  # roll-outs may grow during training
                with FlopCounter() if counted else nullcontext() as counter:
                    terms = self._step(step)
                if counter is not None:
                    alike = min(self.learning.log_every, self.schedule.steps - step)
                    self.result.flops += counter.flops * alike * self.batches.shares
                done = step + 1
                if done % self.learning.log_every == 0 or done == self.schedule.steps:
                    self._log(done, terms, bar)
                if self.store is not None and done % self.learning.checkpoint_every == 0 and done < self.schedule.steps:
                    cost_so_far = spent + cost.elapsed() * self.fabric.world_size
                    self._save(done, cost_so_far)
                bar.update()
            self.family.cpu().to(self.family.dtype)
            self._finish()
        self.result.seconds = spent + cost.seconds * self.fabric.world_size
        self.result.memory_mb = max(self.result.memory_mb, cost.memory_mb)
        return self.result

    def _finish(self) -> None:
        """What the family does after the last step, as one more point of the learning curve."""
        if (terms := self.family.finish()) is not None:
            for i, seed in enumerate(self.family.seeds):
                row = {"step": self.schedule.steps + 1, "seed": seed, **{k: float(v[i]) for k, v in terms.items()}}
                self.result.curve.append(row)

    def _step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; returns loss and terms, each ``[S]``."""
        rate = learning_rate(self.schedule, step)
        factors = self.family.rate_factors(step / self.schedule.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * factors.get(group["part"], 1.0)
        accumulate = self.schedule.accumulate
        for part in range(accumulate):
            batch = self.batches.batch(step * accumulate + part)
            with self.fabric.no_backward_sync(self.module, enabled=part < accumulate - 1):
                with self.fabric.autocast():  # of one worker Fabric would not see to it
                    loss, terms = self.module.loss(batch, (step + part / accumulate) / self.schedule.steps)
                # Seeds share no parameter: the gradient of the sum is each seed's own gradient.
                self.fabric.backward(workers.weighed(loss.sum() / accumulate))
        if self.schedule.gradient_clip is not None:
            self._clip(self.schedule.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.family.after_step((step + 1) / self.schedule.steps)
        return {"loss": loss.detach(), **terms}

    def _clip(self, largest: float) -> None:
        if self.apart is None:
            clip_gradients_per_seed(self.family.parameters(), largest)
            return
        for parameters in self.apart:
            torch.nn.utils.clip_grad_norm_(parameters, largest)

    def _log(self, done: int, terms: Mapping[str, Tensor], bar: tqdm) -> None:
        """Add a point to the learning curve; stop at once where the loss is no longer a number."""
        terms = {**terms, **self.family.monitor()}
        device = self.fabric.device
        values = {name: workers.averaged(value.to(device)).cpu().tolist() for name, value in terms.items()}
        for i, seed in enumerate(self.family.seeds):
            if not math.isfinite(values["loss"][i]):
                raise UserError(
                    f"{self.called}: the training loss of seed {seed} is {values['loss'][i]} at step {done} of "
                    f"{self.schedule.steps}; lower schedule.learning_rate or set schedule.gradient_clip"
                )
            self.result.curve.append({"step": done, "seed": seed, **{k: v[i] for k, v in values.items()}})
        loss = f"{sum(values['loss']) / len(values['loss']):.3e}"
        bar.set_postfix(loss=loss, refresh=False)
        silent = bar.disable and self.learning.progress and self.fabric.is_global_zero
        if silent and time.monotonic() > self._spoken + _SILENCE:
            self._spoken = time.monotonic()
            logger.info("%s: step %d of %d, loss %s.", self.called, done, self.schedule.steps, loss)

    def _save(self, done: int, seconds: float) -> None:
        tensors = {
            **_prefixed("model", self.family.state_dict()),
            **_prefixed("optimizer", optimizer_tensors(self.optimizer)),
            "random.cpu": torch.get_rng_state(),
        }
        if self.fabric.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        facts = {
            "fingerprint": self.fingerprint,
            "finished": False,
            "step": done,
            "run": {**vars(self.result), "seconds": seconds},
        }
        if self.fabric.is_global_zero:
            assert self.store is not None
            self.store.save(self.name, Checkpoint(tensors, facts))
        self.fabric.barrier()

    def _restore(self, found: Checkpoint) -> int:
        self.family.load_state_dict(found.under("model"))
        load_optimizer_tensors(self.optimizer, found.under("optimizer"))
        torch.set_rng_state(found.tensors["random.cpu"])
        if self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(found.tensors["random.cuda"], self.fabric.device)
        self.result = TrainingRun(**found.facts["run"])
        logger.info("%s: going on from step %d of %d.", self.called, found.facts["step"], self.schedule.steps)
        return int(found.facts["step"])

    def _progress(self, start: int) -> tqdm:
        return tqdm(
            total=self.schedule.steps,
            initial=start,
            desc=self.called,
            unit="step",
            mininterval=0.5,
            leave=False,
            # None: only on a terminal, so that a log file is not filled with bars.
            disable=None if self.learning.progress and self.fabric.is_global_zero else True,
        )


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a cosine from ``learning_rate`` to ``final_learning_rate`` at the last step.

    It begins anew at each of ``restarts`` (Loshchilov & Hutter, *SGDR*, ICLR 2017).
    """
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    borders = [schedule.warmup, *(round(share * schedule.steps) for share in schedule.restarts), schedule.steps]
    begins = max(border for border in borders[:-1] if border <= step)
    ends = min(border for border in borders[1:] if border > step)
    share = (step - begins) / max(1, ends - 1 - begins)
    final = min(schedule.final_learning_rate, schedule.learning_rate)
    return final + (schedule.learning_rate - final) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(family: Family) -> list[dict[str, Any]]:
    """Parameters by the first part of their names that `Family.rate_factors` names, all others first; none is empty."""
    parts = ["", *family.rate_factors(0.0)]
    groups: dict[str, list[torch.nn.Parameter]] = {part: [] for part in parts}
    for name, parameter in family.named_parameters():
        groups[next((part for part in parts[1:] if f".{part}." in f".{name}."), "")].append(parameter)
    return [{"params": group, "part": part} for part, group in groups.items() if group]


def clip_gradients_per_seed(parameters: Iterator[torch.nn.Parameter], largest: float) -> None:
    """Scale each seed's gradient down to a norm of at most ``largest``; other seeds' gradients stay untouched."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (largest / (norm + 1e-12)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.reshape(-1, *[1] * (gradient.ndim - 1)))


def training_fingerprint(family: Family, learning: LearningConfig, data_hash: str) -> str:
    """A hash of everything that decides the outcome of a training: settings, seeds, data, spec, code, versions.

    The number of workers is not among it.
    """
    what = {
        "family": family.name,
        "config": family.config.model_dump(mode="json"),
        "seeds": family.seeds,
        "learning": learning.model_dump(mode="json", include={"accelerator", "precision", "threads", "log_every"}),
        "data": data_hash,
        "spec": family.spec.identity(),
        "code": source_hash(type(family).__module__, __name__),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _fabric(learning: LearningConfig) -> Fabric:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    world = worker_count()
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    strategy: Any = learning.strategy
    if world > 1 and strategy in ("auto", "ddp"):
        # Phases of a training may leave parts of a family out; buffers are computed alike by all.
        strategy = DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=learning.accelerator,
            devices=devices,
            num_nodes=world // devices,
            strategy=strategy,
            plugins=TorchElasticEnvironment() if world > 1 else None,  # also where Slurm has an environment of its own
            # The loop itself chooses the type of numbers; Fabric would do it by torch's default type, which also
            # decides what random generators draw, and for several workers alone.
            precision="32-true" if learning.precision.endswith("true") else learning.precision,
        )
    fabric.launch()
    return fabric


def _prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


@contextmanager
def _first_speaks() -> Iterator[None]:
    """Messages come from the first worker alone; from others, errors."""
    before = logging.root.manager.disable
    if not is_first_worker():
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _seeded(seeds: Sequence[int]) -> Iterator[None]:
    """Torch's global generator, seeded for the time of a training (noise drawn inside a loss comes from it)."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(sum((i + 1) * (seed + 1) for i, seed in enumerate(seeds)))
        yield
