"""Transfusion: a training step and batched sampling, beside the package transfusion-pytorch.

Both are transformers of width 192, 6 blocks, 3 heads of 64, over 16 documents of 8 text tokens and an image of 8 x 8
patches of 48 numbers, with 400 tokens of text, flow matching and one loss over text and images. They are not the same
function: the peer has gates, adaptive norms, skips between blocks and rotary positions, ours has none of them; numbers
of parameters stand in the file. A step is everything from token numbers and pixels to updated weights (AdamW). A sample
reads a caption and takes 15 Euler steps with guidance 3: the numbers of passes through the transformer are counted, and
verified to be the same, in the same run.

Runs take turns, the best CPU time of each counts. One thread. The peer comes with the extra ``bench``.

Run: ``python -m benchmarks.transfusion_step``; writes ``benchmarks/results/transfusion_step.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from wm_pipelines.families.transfusion import Transfusion, TransfusionConfig
from wm_pipelines.families.transfusion.family import text_first
from wm_pipelines.families.transfusion.layout import lay_out
from wm_pipelines.families.transfusion.sampling import Painter
from wm_pipelines.families.transfusion.vocabulary import BOI, BOS, SPECIAL
from wm_pipelines.spec import Space, Spec

ROOT = Path(__file__).resolve().parent
BATCH, TOKENS, VOCABULARY, SIDE, PATCH = 16, 8, 400, 32, 4
SIZE = {"width": 192, "depth": 6, "heads": 3}
STEPS, GUIDANCE = 15, 3.0
VIEWS = {
    "frames": Space("frames", (SIDE, SIDE, 3), "uint8"),
    "captions": Space("text", (), "str", "episode"),
}


class Ours:
    """The family's own loss and painter."""

    def __init__(self) -> None:
        config = TransfusionConfig(
            **SIZE, vocabulary=VOCABULARY, longest=TOKENS, patch=PATCH, stem="linear", prediction="flow", dropout=0.1
        )
        self.family = Transfusion(config, Spec("benchmark", 1.0, VIEWS, 1), (0,)).float()
        self.member: Any = self.family.members[0]
        self.model: nn.Module = self.member.network
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def loss(self, texts: Tensor, images: Tensor) -> Tensor:
        """Of texts ``[B, 8]`` and images ``[B, 3, 32, 32]``."""
        layout = lay_out([text_first(row, self.model.size.patches) for row in texts.tolist()])
        levels = torch.randint(1, 1001, (len(images),))
        return self.family._losses(self.member, layout, images, torch.randn_like(images), levels)[0]

    @torch.no_grad()
    def sample(self, texts: Tensor) -> Tensor:
        """Patches ``[B, 64, 48]``."""
        painter = Painter(self.model, self.member.noise, STEPS, GUIDANCE)
        x = painter.paint([[BOS, *row, BOI] for row in texts.tolist()], torch.randn(len(texts), 3, SIDE, SIDE))
        return patches(x).flatten(1, 2)

    def passes(self, see: Callable[[Tensor], None]) -> Any:
        """Show what goes through the first block, every time; the handle ends it."""
        return self.model.blocks[0].norm2.register_forward_hook(lambda _, given, __: see(given[0]))


class Peer:
    """transfusion-pytorch."""

    def __init__(self) -> None:
        from transfusion_pytorch import Transfusion as Package

        meta = 3 + 2 + 129  # tokens that it adds: begin, end, none; of a modality; of its shape
        self.model: Any = Package(
            num_text_tokens=VOCABULARY - meta,
            dim_latent=3 * PATCH**2,
            modality_default_shape=(SIDE // PATCH, SIDE // PATCH),
            add_pos_emb=True,
            modality_num_dim=2,
            transformer={
                "dim": SIZE["width"], "depth": SIZE["depth"], "heads": SIZE["heads"],
                "dim_head": SIZE["width"] // SIZE["heads"],
            },
            odeint_kwargs={"method": "euler"},
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def loss(self, texts: Tensor, images: Tensor) -> Tensor:
        """Of texts ``[B, 8]`` and images ``[B, 3, 32, 32]``."""
        return self.model([[text - SPECIAL, image] for text, image in zip(texts, patches(images), strict=True)])

    @torch.no_grad()
    def sample(self, texts: Tensor) -> Tensor:
        """Patches ``[B, 64, 48]``."""
        found = self.model.sample_many(
            [[text - SPECIAL] for text in texts],
            max_length=(SIDE // PATCH) ** 2,  # no text behind the image
            force_modality_at_start=0,
            modality_steps=STEPS + 1,
            return_without_prompt=True,
            cfg_scale=GUIDANCE,
        )
        return torch.stack(
            [next(part[1] for part in sample if isinstance(part, tuple)).flatten(0, 1) for sample in found]
        )

    def passes(self, see: Callable[[Tensor], None]) -> Any:
        """Show what goes through the first block, every time; the handle ends it."""
        return self.model.transformer.layers[0][2].register_forward_hook(lambda _, given, __: see(given[0]))


def patches(images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` -> ``[B, H / 4, W / 4, 48]``."""
    return pixel_unshuffle(images, PATCH).movedim(1, -1)


def step(who: Any, texts: Tensor, images: Tensor) -> None:
    """From data to updated weights."""
    who.optimizer.zero_grad()
    who.loss(texts, images).backward()
    who.optimizer.step()


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def verify(name: str, who: Any, texts: Tensor, images: Tensor) -> int:
    """Passes over all patches that one sample takes; ends the program if it samples something else."""
    step(who, texts, images)
    seen: list[int] = []
    handle = who.passes(lambda x: seen.append(x.numel()))
    found = who.sample(texts)
    handle.remove()
    if found.shape != (BATCH, (SIDE // PATCH) ** 2, 3 * PATCH**2) or not found.isfinite().all():
        raise SystemExit(f"{name} does not sample what was asked for")
    return sum(numbers == BATCH * (SIDE // PATCH) ** 2 * SIZE["width"] for numbers in seen)


def row(kind: str, ours: list[float], peer: list[float]) -> dict[str, Any]:
    """A comparison; ratio above one: ours is faster."""
    best = 1e3 * min(ours), 1e3 * min(peer)
    unit = "CPU ms per step of 16 documents" if kind == "step" else "CPU ms per sample of 16 images"
    both = {"ours": [1e3 * t for t in ours], "peer": [1e3 * t for t in peer]}
    return {
        "name": f"transfusion: {kind}", "ours": best[0], "peer": best[1], "ratio": best[1] / best[0], "unit": unit,
        "all_ms": both,
    }  # fmt: skip


def main() -> None:
    """Verify, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = torch.randint(SPECIAL, VOCABULARY - 134, (BATCH, TOKENS))
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    contestants: dict[str, Any] = {"ours": Ours(), "peer": Peer()}
    passes = {name: verify(name, who, texts, images) for name, who in contestants.items()}
    if len(set(passes.values())) > 1:
        raise SystemExit(f"passes over patches differ: {passes}; there is nothing to time")
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in contestants} for kind in ("step", "sample")}
    for _ in range(given.repeats):
        for name, who in contestants.items():
            times["step"][name].append(cpu_seconds(lambda who=who: step(who, texts, images)))
            times["sample"][name].append(cpu_seconds(lambda who=who: who.sample(texts)))
    rows = [row(kind, **times[kind]) for kind in times]
    result = {
        **rows[0],
        "repeats": given.repeats,
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "torch", "transfusion-pytorch")}
        | {"python": platform.python_version()},
        "peer_is": "transfusion-pytorch: no equal function, see the docstring",
        "parameters": {name: sum(p.numel() for p in who.model.parameters()) for name, who in contestants.items()},
        "passes_over_patches_of_a_sample": passes["ours"],
        "comparisons": rows[1:],
    }
    (ROOT / "results" / "transfusion_step.json").write_text(json.dumps(result, indent=2) + "\n")
    for r in rows:
        print(f"{r['name']:28} {r['ours']:10.4g} {r['peer']:10.4g}  x {r['ratio']:.2f}  {r['unit']}")


if __name__ == "__main__":
    main()
