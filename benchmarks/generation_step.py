"""Training steps of `flow` and `latent_action` beside the public packages for flow matching and vector quantisation.

- `flow` on states, as the base configuration trains it: three seeds, float64. Peer: the loop of the documentation of
  ``flow_matching`` (Meta): ``AffineProbPath`` with ``CondOTScheduler``, mean squared error of the velocity,
  ``torch.optim.Adam``; the same networks, data on the device, batches drawn by index, one seed after the other. It
  clips no gradients, and has no weight that depends on t.
- `latent_action` in its second stage, the discovery of codes, float32. Peer: the same encoder, decoder, inverse model,
  dynamics, loss and batch in torch's own memory layout, frames encoded at every step, codes by ``VectorQuantize`` of
  ``vector-quantize-pytorch`` (k-means start, running means, dead codes replaced, commitment and entropy terms),
  ``torch.optim.Adam``.
- the quantiser alone: nearest codes, running means, dead codes, both terms and their gradients.

Losses of the contestants are verified to be the same in the same run. Ours is what `learning.loop.train` takes, all
that it does besides included, divided by the steps. Contestants take turns; medians of CPU time count. One thread.

Run: ``pip install 'wm_pipelines[bench]'``, then ``python -m benchmarks.generation_step``; writes
``benchmarks/results/generation_step.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.mappings import deep_merge
from wm_pipelines.registry import families
from wm_pipelines.worlds.making import WorldConfig, ingest

ROOT = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
CODED = 32  # transitions of a step of `latent_action`


def read(name: str) -> dict[str, Any]:
    """An entry of the base parameters."""
    return dict(yaml.safe_load((ROOT.parent / f"conf/base/parameters_{name}.yml").read_text())[name])


def episodes_of(world: str, views: tuple[str, ...], episodes: int) -> tuple[Any, dict[str, Tensor]]:
    """Spec and views of a few training episodes."""
    splits = {name: {"episodes": episodes, "steps": 60} for name in ("train", "validation", "test")}
    found = ingest(WorldConfig(**{**read(world), "splits": splits}), world)["train"]
    return found.spec.showing(views), {view: torch.tensor(found[view]) for view in views}


def family_of(name: str, task: str, world: str, spec: Any, seeds: tuple[int, ...], **changes: Any) -> Any:
    """An untrained family with the settings of the base configuration."""
    kind = families.get(name)
    settings = FamilyParameters(**read(name)).resolve(task, "plain", world)
    return kind(kind.Config(**deep_merge(settings, changes)), spec, seeds)


# ------------------------------------------------------------------------------------------------------------- flow


class FlowMatching:
    """The documented loop of ``flow_matching``, for the networks of a `flow`."""

    def __init__(self, family: Any, steps: int) -> None:
        member, c = family.members[0], family.config
        z = family._codes(member)
        now, change = z[:, :-1].flatten(0, 1), z.diff(dim=1).flatten(0, 1)
        self.condition, self.data = now, (change - member.change_mean) / member.change_scale
        self.networks = [copy.deepcopy(m.transition) for m in family.members]
        self.path = AffineProbPath(scheduler=CondOTScheduler())
        self.batch, self.rate, self.steps = c.schedule.batch_size * c.rows, c.schedule.learning_rate, steps

    def loss(self, network: nn.Module, x_1: Tensor, x_0: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """``|v(x_t, t | c) - dx_t|^2``."""
        sample = self.path.sample(t=t, x_0=x_0, x_1=x_1)
        known = torch.ones(len(t), 1, dtype=torch.bool)
        velocity = network(sample.x_t, sample.t[:, None], network.condition(condition, known))
        return torch.pow(velocity - sample.dx_t, 2).mean()

    def __call__(self) -> None:
        """All steps of every seed."""
        for network in map(copy.deepcopy, self.networks):
            optimizer = torch.optim.Adam(network.parameters(), lr=self.rate)
            for _ in range(self.steps):
                optimizer.zero_grad()
                rows = torch.randint(len(self.data), (self.batch,))
                x_1 = self.data[rows]
                x_0, t = torch.randn_like(x_1), torch.rand(len(x_1), dtype=x_1.dtype)
                self.loss(network, x_1, x_0, t, self.condition[rows]).backward()
                optimizer.step()


def flow_row(repeats: int, steps: int) -> dict[str, Any]:
    """`flow` on the states of a pendulum."""
    spec, views = episodes_of("pendulum", ("states",), 40)
    schedule = {"schedule": {"steps": steps}}
    learning = LearningConfig(precision="64-true", progress=False)

    def made(**more: Any) -> Any:
        return family_of("flow", "physics", "pendulum", spec, SEEDS, **schedule, **more).double()

    unweighted = made(nearest=1e-12)
    unweighted.examples(views)
    peer = FlowMatching(unweighted, steps)
    difference = same_flow_loss(unweighted, peer)

    def ours() -> None:
        train(made(), views, learning)

    times = in_turn({"ours": ours, "peer": peer}, repeats, steps * len(SEEDS))
    told = "flow_matching: AffineProbPath, the same network, Adam, no clipping"
    return row("generation_step: flow, states, float64", times, "CPU ms per step and seed", told, difference)


def same_flow_loss(family: Any, peer: FlowMatching) -> float:
    """Relative difference of the losses of the same transitions, noise and times."""
    shape = (20, 16)
    rows = torch.randint(len(peer.data), shape, generator=torch.Generator().manual_seed(0))
    u, condition = peer.data[rows], peer.condition[rows]
    ours = family.transition_loss(peer.networks[0], condition, u, torch.Generator().manual_seed(1))[0]
    generator = torch.Generator().manual_seed(1)  # noise and times come from it in this order
    x_0 = torch.randn(u.shape, generator=generator).double().flatten(0, 1)
    t = torch.rand((*shape, 1), generator=generator).double().flatten()
    return agreement(ours, peer.loss(peer.networks[0], u.flatten(0, 1), x_0, t, condition.flatten(0, 1)))


# ---------------------------------------------------------------------------------------------------- latent actions


def quantiser(c: Any) -> VectorQuantize:
    """What a `Codebook` and the terms of its loss are in ``vector-quantize-pytorch``."""
    return VectorQuantize(
        dim=c.code, codebook_size=c.codes, decay=c.kept, commitment_weight=c.commitment, kmeans_init=True,
        threshold_ema_dead_code=c.dead * CODED / c.codes, codebook_diversity_loss_weight=c.entropy,
    )  # fmt: skip


class Quantised:
    """Stage 2 with the networks of a `latent_action` in torch's own layout, and codes of ``VectorQuantize``."""

    def __init__(self, family: Any, frames: Tensor, steps: int) -> None:
        self.config, self.steps = family.config, steps
        self.member = copy.deepcopy(family.members[0]).to(memory_format=torch.contiguous_format)
        self.frames = frames.movedim(-1, 2)  # [E, T, C, H, W]

    def batch(self) -> Tensor:
        """Pieces ``[N, context + 1, C, H, W]`` in [0, 1]."""
        episode = torch.randint(len(self.frames), (CODED, 1))
        row = torch.randint(self.frames.shape[1] - self.config.context, (CODED, 1))
        return self.frames[episode, row + torch.arange(self.config.context + 1)].float() / 255

    @staticmethod
    def predicted(member: Any, x: Tensor, code: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """The last frame of every piece, from those before it and the code of what happened."""
        with torch.no_grad():
            z = member.frames.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        found = member.dynamics(z[:, :-1], code(member.inference(z[:, -2], z[:, -1])), given)
        return member.frames.decode(found)

    def error(self, member: Any, found: Tensor, x: Tensor) -> Tensor:
        """Squared error, the foreground weighted, beside that of a copy of the frame before."""
        before, after = x[:, -2], x[:, -1]
        inside = (x[:, -2:] - member.frames.still).abs().amax((1, 2), keepdim=False)[:, None] > 0.04
        weight = 1 + self.config.foreground * inside.float()
        moved = (weight * (after - before).square()).mean()
        return (weight * (found - after).square()).mean() / (moved + 1e-6)

    def __call__(self) -> None:
        """All steps."""
        member, vq, terms = copy.deepcopy(self.member), quantiser(self.config), []
        trained = [p for part in (member.inference, member.dynamics, member.frames.dec) for p in part.parameters()]
        optimizer = torch.optim.Adam(trained, lr=self.config.schedule.learning_rate)

        def coded(found: Tensor) -> Tensor:
            codes, _, loss = vq(found[None])
            terms[:] = [loss.sum()]
            return codes[0]

        for _ in range(self.steps):
            optimizer.zero_grad()
            x = self.batch()
            given = (torch.rand(len(x)) >= self.config.withheld).float()
            found = self.predicted(member, x, coded, given)
            (self.error(member, found, x) + terms[0]).backward()
            optimizer.step()


def coded_rows(repeats: int, steps: int) -> Iterator[dict[str, Any]]:
    """`latent_action` on the frames of pushed balls: the step of its second stage, and the quantiser alone."""
    spec, views = episodes_of("pushed_balls", ("frames",), 40)
    # One step of the first stage and one of the third are among those of the second.
    stages = {"schedule": {"steps": steps}, "prediction_share": 0.5 / steps, "discovery_share": 1 - 1.0 / steps}
    learning = LearningConfig(precision="32-true", progress=False)

    def made() -> Any:
        return family_of("latent_action", "videos", "pushed_balls", spec, (0,), **stages, continuous=0.0)

    family = made()
    family.examples(views)
    peer = Quantised(family, views["frames"], steps)
    difference = same_coded_loss(family, peer)
    times = in_turn({"ours": lambda: train(made(), views, learning), "peer": peer}, repeats, steps)
    told = "vector-quantize-pytorch, the same networks in torch's own layout, Adam, no clipping"
    yield row("generation_step: latent_action, discovery", times, "CPU ms per step", told, difference)
    times = in_turn(quantisers(family.config, steps), repeats, steps)
    yield row("generation_step: quantiser", times, "CPU ms per step", "vector-quantize-pytorch: VectorQuantize", 0.0)


def same_coded_loss(family: Any, peer: Quantised) -> float:
    """Relative difference of the losses of the same pieces without a code."""
    torch.manual_seed(0)
    x, ours = peer.batch(), family.members[0].eval()
    with torch.no_grad():
        z = family._encoded(ours, x)
        code, given = torch.zeros(len(x), family.config.code), torch.zeros(len(x))
        mine, _ = family._error(ours, ours.dynamics(z[:, :-1], code, given)[:, None], x[:, -1:], x[:, -2:])
        theirs = peer.error(peer.member, peer.predicted(peer.member.eval(), x, lambda _: code, given), x)
    ours.train()
    peer.member.train()
    return agreement(mine, theirs)


def quantisers(c: Any, steps: int) -> dict[str, Callable[[], None]]:
    """Steps of each on the same vectors."""
    from wm_pipelines.families.latent_action.codebook import Codebook

    x, generator = torch.randn(CODED, c.code), torch.Generator().manual_seed(0)
    book, vq = Codebook(c.codes, c.code, c.kept, c.dead), quantiser(c)
    book.start(x, generator)

    def ours() -> None:
        found = x.clone().requires_grad_()
        passed, chosen = book(found)
        book.follow(found, generator)
        distance = (found - book.vectors[chosen]).square().sum(1).mean()
        (passed.sum() + c.commitment * distance + c.entropy * book.crowding(found)).backward()

    def peer() -> None:
        found = x.clone().requires_grad_()
        passed, _, loss = vq(found[None])
        (passed.sum() + loss.sum()).backward()

    return {"ours": lambda: [ours() for _ in range(steps)], "peer": lambda: [peer() for _ in range(steps)]}


# ----------------------------------------------------------------------------------------------------------- timing


def in_turn(contestants: dict[str, Callable[[], object]], repeats: int, steps: int) -> dict[str, list[float]]:
    """CPU milliseconds per step, of every repetition; the first one warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats + 1):
        for name, run in contestants.items():
            began = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - began) / steps)
    return {name: values[1:] for name, values in times.items()}


def agreement(a: Tensor, b: Tensor) -> float:
    """Relative difference of two losses; ends the program if it is one."""
    difference = abs(float(a.detach()) - float(b.detach())) / abs(float(a.detach()))
    if difference > 1e-4:
        raise SystemExit(f"the contestants differ: losses {float(a)} and {float(b)}; there is nothing to time")
    return difference


def row(name: str, times: dict[str, list[float]], unit: str, peer_is: str, difference: float) -> dict[str, Any]:
    """A comparison; ratio of the medians, above one: ours is faster."""
    ours, peer = (float(np.median(times[who])) for who in ("ours", "peer"))
    more = {"peer_is": peer_is, "relative_difference_of_losses": difference, "all_ms": times}
    return {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit, **more}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=150, help="of a training that is timed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for one in (flow_row(given.repeats, given.steps), *coded_rows(given.repeats, given.steps)):
        rows.append(one)
        print(
            f"{one['name']:44} {one['ours']:8.3f} {one['peer']:8.3f}  x {one['ratio']:.2f}  {one['unit']}", flush=True
        )
    packages = ("numpy", "torch", "flow_matching", "vector-quantize-pytorch")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    result = {**rows[0], "repeats": given.repeats, "threads": 1, "versions": versions, "comparisons": rows[1:]}
    (ROOT / "results" / "generation_step.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
