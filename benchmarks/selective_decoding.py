"""Captions made only where something changes, on many clips that no run has drawn: `vljepa` of a finished run.

Base keeps 160 clips, whose judged half is small. Here so many are drawn as `captioned_scenes` has them, with its
combinations of colour and shape, and compared as the task does (`tasks.language.selective`): the threshold from one
half, judged on the other, at 0.95 and 0.9 of the accuracy of a caption for every frame.

Run after ``kedro run --pipeline=language_eval``:
``python -m benchmarks.selective_decoding [--root data] [--clips 480]``, two minutes of a core for two seeds; writes
``benchmarks/results/selective_decoding.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import wm_pipelines as wm
from wm_pipelines.laws import laws_of
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.language import Language
from wm_pipelines.tasks.language.asked import prompts_of
from wm_pipelines.tasks.language.selective import MOVING, add_selective
from wm_pipelines.worlds.making import ingest

ROOT = Path(__file__).resolve().parent.parent
WORLD, MODEL = "captioned_scenes", "language/vljepa/captioned_scenes/plain"
SHARES, RULES = (0.95, 0.9), ("stride", "pixels")


def clips(count: int, known: Any) -> Any:
    """New clips; none is among those that are known.

    Raises:
        SystemExit: one is.
    """
    config = wm.world(WORLD, project=ROOT).config
    drawn = ingest(config.model_copy(update={"parameters": {**config.parameters, "moving": count}}), WORLD)[MOVING]
    if {clip.tobytes() for clip in drawn["frames"]} & {clip.tobytes() for clip in known["frames"]}:
        raise SystemExit("some of these clips are among those of the run: draw another number of them")
    return drawn


def compared(rows: list[dict[str, Any]], share: float, seed: int, rule: str) -> dict[str, Any]:
    """Captions per frame by embedding beside those by another rule, and how many times fewer they are."""
    own = {row["metric"]: row["value"] for row in rows if (row["share"], row["seed"]) == (share, seed)}
    return {
        "name": f"selective_decoding: beside {rule}, {share} of every frame's accuracy, seed {seed}",
        "ours": own["decodes_embedding"],
        "peer": own[f"decodes_{rule}"],
        "ratio": own[f"fewer_than_{rule}"],
    }


def main() -> None:
    """Draw, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data")
    parser.add_argument("--clips", type=int, default=480)
    given = parser.parse_args()
    torch.set_num_threads(1)
    family = wm.load(MODEL, root=given.root).family
    stored = wm.world(WORLD, project=ROOT)
    episodes = type(stored)(stored.name, stored.config, Path(given.root)).all_stored()
    test = episodes["test"]
    prompts = prompts_of(test, laws_of(test.spec))
    assert prompts is not None
    episodes = {**episodes, MOVING: clips(given.clips, episodes[MOVING])}
    rows = []
    for share in SHARES:
        judged = Judgement(family.seeds, "test")
        add_selective(judged, family, episodes, prompts[0], Language().config({"selective_share": share}))
        rows += [{"share": share, **row} for row in judged.rows]
    first, *others = [compared(rows, share, seed, rule) for share in SHARES for seed in family.seeds for rule in RULES]
    result = {
        **first,
        "unit": "captions per frame, made where the embedding has moved; peer: by the other rule, equally right",
        "repeats": 1,
        "threads": 1,
        "clips": given.clips,
        "comparisons": others,
        "rows": rows,
        "versions": {p: version(p) for p in ("torch", "numpy")} | {"python": platform.python_version()},
    }
    (ROOT / "benchmarks/results/selective_decoding.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        seed, low, high = row["seed"], row["ci_low"], row["ci_high"]
        print(f"{row['share']} {row['metric']:20} seed {seed}: {row['value']:.4f} ({low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
