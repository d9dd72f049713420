"""Training steps of I-JEPA and V-JEPA: time and peak memory, beside torch's own transformer and a dense encoder.

A step draws masks, encodes the context, predicts the target blocks, compares them with the moving copy's encoding of
everything, goes back, updates (AdamW) and moves the copy. Images of 64 pixels, patches of 8, width 192, 6 blocks, 3
heads, predictor of width 96 with 3 blocks; 32 images with multi-block masks, or 8 clips of 8 frames with tubelets of 2
and both tube masks. Peers:

- plain: the same mathematics by ``nn.TransformerEncoder`` and a convolution; weights are copied from ours and the loss
  is verified to be the same in the same run;
- dense: our modules, but all tokens are encoded and the context picked afterwards (not the same function: here hidden
  pixels leak; it is what dropping tokens saves).

Steps are timed in turn, the best CPU time counts. Peak memory is the high-water mark of the resident set (``VmHWM``;
``ru_maxrss`` is inherited from the parent process) minus its value before the first full step, each measured in a
process of its own. Also: the share of mask sampling in a step, and the peak memory of encoding
64 frames in chunks of 16 against that of 16 frames. One thread.

Run: ``python -m benchmarks.jepa_step``; writes ``benchmarks/results/jepa_step.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, smooth_l1_loss

from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.masks import Masks
from wm_pipelines.blocks.transformer import Trunk, take
from wm_pipelines.blocks.vit import Predictor, VisionTransformer
from wm_pipelines.families.ijepa.masks import multi_block_masks
from wm_pipelines.families.mae.clips import encode_in_chunks
from wm_pipelines.families.vjepa.masks import spatiotemporal_masks

ROOT = Path(__file__).resolve().parent
ENCODER = {"width": 192, "depth": 6, "heads": 3}
PREDICTOR = {"width": 96, "depth": 3, "heads": 3}
CLIPS = {"ijepa": {"frames": 1, "tubelet": 1, "batch": 32}, "vjepa": {"frames": 8, "tubelet": 2, "batch": 8}}
CONTESTANTS = ("ours", "plain", "dense")
TUBES = ({"block": 3, "ratio": 0.72}, {"block": 6, "ratio": 0.9})  # V-JEPA's short and long range, at all times
CHUNK_BATCH, FRAMES_AT_ONCE = 8, 16


class PlainTrunk(nn.Module):
    """A trunk by torch's own encoder, with the weights of ours."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        width, heads = trunk.norm.weight.numel(), trunk.blocks[0].attention.heads
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        final = nn.LayerNorm(width, eps=1e-6)
        self.encoder = nn.TransformerEncoder(layer, len(trunk.blocks), final, enable_nested_tensor=False)
        self.register_buffer("table", trunk.table.clone())
        final.load_state_dict(trunk.norm.state_dict())
        with torch.no_grad():
            for to, of in zip(self.encoder.layers, trunk.blocks, strict=True):
                attention = of.attention
                to.self_attn.in_proj_weight.copy_(torch.cat((attention.query.weight, attention.key_value.weight)))
                to.self_attn.in_proj_bias.copy_(torch.cat((attention.query.bias, attention.key_value.bias)))
                pairs = (
                    (to.self_attn.out_proj, attention.out),
                    (to.linear1, of.mlp[0]),
                    (to.linear2, of.mlp[2]),
                    (to.norm1, of.norm1),
                    (to.norm2, of.norm2),
                )
                for mine, theirs in pairs:
                    mine.load_state_dict(theirs.state_dict())


class PlainEncoder(nn.Module):
    """Convolution, positions, selection, blocks."""

    def __init__(self, ours: VisionTransformer) -> None:
        super().__init__()
        size = (ours.tubelet, ours.patch, ours.patch)
        self.embed = nn.Conv3d(ours.channels, ours.width, size, stride=size)
        with torch.no_grad():
            kernel = ours.embed.weight.unflatten(1, (*size, ours.channels)).permute(0, 4, 1, 2, 3)
            self.embed.weight.copy_(kernel)
            self.embed.bias.copy_(ours.embed.bias)
        self.trunk = PlainTrunk(ours.trunk)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """As ours."""
        tokens = self.embed(x.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2) + self.trunk.table
        return self.trunk.encoder(tokens if keep is None else take(tokens, keep))


class PlainPredictor(nn.Module):
    """Mask tokens beside the context, blocks over all."""

    def __init__(self, ours: Predictor) -> None:
        super().__init__()
        self.enter = nn.Linear(ours.enter.in_features, ours.enter.out_features)
        self.leave = nn.Linear(ours.leave.in_features, ours.leave.out_features)
        self.enter.load_state_dict(ours.enter.state_dict())
        self.leave.load_state_dict(ours.leave.state_dict())
        self.mask_token = nn.Parameter(ours.mask_token.detach().clone())
        self.trunk = PlainTrunk(ours.trunk)

    def forward(self, context: Tensor, context_indices: Tensor, target_indices: Tensor) -> Tensor:
        """As ours."""
        context = self.enter(context) + self.trunk.table[context_indices]
        groups = target_indices.shape[1] if target_indices.dim() == 3 else 1
        wanted = self.trunk.table[target_indices] + self.mask_token
        tokens = torch.cat((context.repeat_interleave(groups, dim=0), wanted.flatten(0, -3)), dim=1)
        found = self.trunk.encoder(tokens)[:, context.shape[1] :]
        return self.leave(found).reshape(*target_indices.shape, -1)


class DenseEncoder(nn.Module):
    """Ours over all tokens; what is asked for is picked afterwards."""

    def __init__(self, ours: VisionTransformer) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """As ours, but for the leak."""
        tokens = self.ours(x)
        return tokens if keep is None else take(tokens, keep)


class Step:
    """A training step of one contestant."""

    def __init__(self, kind: str, who: str, batch: int | None = None) -> None:
        clip = CLIPS[kind]
        self.kind, self.batch = kind, batch or clip["batch"]
        torch.manual_seed(0)
        encoder = VisionTransformer((64, 64), 8, frames=clip["frames"], tubelet=clip["tubelet"], **ENCODER)
        predictor: nn.Module = Predictor(encoder.grid, encoder.width, **PREDICTOR)
        self.grid = encoder.grid
        self.encoder: nn.Module = encoder
        if who == "plain":
            self.encoder, predictor = PlainEncoder(encoder), PlainPredictor(predictor)
        elif who == "dense":
            self.encoder = DenseEncoder(encoder)
        self.predictor, self.copy = predictor, EMA(self.encoder, 0.996, 10**6)
        self.trained = [*self.encoder.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        self.generator = torch.Generator().manual_seed(0)
        self.video = torch.rand(self.batch, clip["frames"], 64, 64, 3, generator=self.generator)

    def masks(self) -> list[Masks]:
        """Of one step."""
        if self.kind == "ijepa":
            return [multi_block_masks(self.batch, self.grid[1:], generator=self.generator)]
        return [
            spatiotemporal_masks(self.batch, self.grid, self.grid[0], **how, generator=self.generator) for how in TUBES
        ]

    def loss(self, masks: list[Masks]) -> Tensor:
        """Distance of predictions from the copy's normalised tokens."""
        aim = self.copy(self.video)
        aim = layer_norm(aim, aim.shape[-1:])
        losses = []
        for context, targets in masks:
            found = self.predictor(self.encoder(self.video, context), context, targets)
            losses.append(smooth_l1_loss(found, take(aim, targets)))
        return torch.stack(losses).mean()

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.loss(self.masks()).backward()
        self.optimizer.step()
        self.copy.update_parameters(self.encoder)


def peak_kb() -> int:
    """High-water mark of this process's resident set."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory_of_steps(kind: str, who: str) -> float:
    """MB that two steps need beyond a process in which a step of one example has run."""
    Step(kind, who, batch=1)()
    before = peak_kb()
    step = Step(kind, who)
    for _ in range(2):
        step()
    return (peak_kb() - before) / 1024


def memory_of_encoding(frames: int, at_once: int) -> float:
    """MB that encoding needs beyond the video."""
    torch.manual_seed(0)
    encoder = VisionTransformer((64, 64), 8, frames=at_once, tubelet=2, **ENCODER)
    encode_in_chunks(encoder, torch.rand(1, 2, 64, 64, 3))
    video = torch.rand(CHUNK_BATCH, frames, 64, 64, 3)
    before = peak_kb()
    encode_in_chunks(encoder, video)
    return (peak_kb() - before) / 1024


def in_fresh_process(*what: str) -> float:
    """A measurement of memory made by this file in another process."""
    command = [sys.executable, "-m", "benchmarks.jepa_step", "--memory", *what]
    return float(subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, text=True).stdout)


def cpu_seconds(run: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of one run, the mean of a few in a row."""
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def verify(ours: Step, plain: Step) -> float:
    """Relative difference of the two losses on the same masks; ends the program if it is one."""
    masks = ours.masks()
    a, b = (float(step.loss(masks).detach()) for step in (ours, plain))
    if abs(a - b) > 1e-4 * abs(a):
        raise SystemExit(f"the contestants differ: loss {a} and {b}; there is nothing to time")
    return abs(a - b) / abs(a)


def row(name: str, ours: float, peer: float, unit: str, **more: object) -> dict[str, object]:
    """A comparison; ratio above one: ours is better."""
    return {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": unit, **more}


def main() -> None:
    """Verify, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # what a fresh process measures
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        first, second = given.memory
        by_steps = first in CLIPS
        print(memory_of_steps(first, second) if by_steps else memory_of_encoding(int(first), int(second)))
        return

    rows, differences = [], {}
    for kind in CLIPS:
        steps = {who: Step(kind, who) for who in CONTESTANTS}
        differences[kind] = verify(steps["ours"], steps["plain"])
        times: dict[str, list[float]] = {who: [] for who in CONTESTANTS}
        sampling = []
        for step in steps.values():
            step()
        for _ in range(given.repeats):
            for who, step in steps.items():
                times[who].append(cpu_seconds(step))
            sampling.append(cpu_seconds(steps["ours"].masks, 5))
        best = {who: min(values) for who, values in times.items()}
        memory = {who: in_fresh_process(kind, who) for who in CONTESTANTS}
        for peer in ("plain", "dense"):
            rows += [
                row(
                    f"jepa_step: {kind} step, {peer}",
                    1e3 * best["ours"],
                    1e3 * best[peer],
                    "CPU ms per step",
                    all_ms={who: [1e3 * t for t in times[who]] for who in ("ours", peer)},
                ),
                row(f"jepa_step: {kind} memory, {peer}", memory["ours"], memory[peer], "peak MB of a step"),
            ]
        share = min(sampling) / best["ours"]
        rows.append(
            row(f"jepa_step: {kind} masks", 100 * share, 2.0, "% of a step (peer: allowed)", ms=1e3 * min(sampling))
        )
    short, long, whole = (
        in_fresh_process(str(frames), str(at_once))
        for frames, at_once in ((16, FRAMES_AT_ONCE), (64, FRAMES_AT_ONCE), (64, 64))
    )
    rows += [
        row("jepa_step: 64 frames in chunks", long, whole, "peak MB (peer: at once)", chunk=FRAMES_AT_ONCE),
        row("jepa_step: 64 frames over 16", long / short, 1.5, "of the memory (peer: allowed)", mb=[long, short]),
    ]

    versions = {p: version(p) for p in ("numpy", "torch")} | {"python": platform.python_version()}
    result = {
        **rows[0],
        "repeats": given.repeats,
        "threads": 1,
        "versions": versions,
        "peers": {
            "plain": "nn.TransformerEncoder, same weights and loss",
            "dense": "ours, all tokens encoded, context picked afterwards",
        },
        "relative_difference_of_losses": differences,
        "comparisons": rows[1:],
    }
    path = ROOT / "results" / "jepa_step.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for r in rows:
        print(f"{r['name']:36} {r['ours']:10.4g} {r['peer']:10.4g}  x {r['ratio']:.2f}  {r['unit']}")


if __name__ == "__main__":
    main()
