"""Frames from captions: does `text_flow` paint what a sentence says, also in combinations that it has never seen?

It is trained on the training scenes of `captioned_scenes`. Then it is given captions of the test split and of the split
``held_out``, whose combinations of colour and shape training does not show, and paints one frame for each. A parser
without learning (`metrics.scene_parser`) reads the frames. Beside it stand, on the same captions, the true frames
(what the parser can read at most), the same model untrained, and its own frames judged by the captions of others
(``shuffled``: what is right by chance). Intervals are Wilson's, 95 %, over captions.

Run: ``python benchmarks/text_to_scene.py [--variant plain] [--seeds 0 1 2] [--steps N] [--captions N]``; writes
``benchmarks/results/text_to_scene.json``, of other variants with their name behind.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import ndimage

from wm_pipelines.episodes import Episodes
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.learning.loop import train
from wm_pipelines.metrics.ranges import RATE
from wm_pipelines.metrics.scene_parser import Look, attributes_right, parse
from wm_pipelines.metrics.statistics import summarise
from wm_pipelines.registry import families
from wm_pipelines.worlds.captioned_scenes import BACKGROUND, FILLS, RADII
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.scene_grammar import scenes

ROOT = Path(__file__).resolve().parent
CONF = ROOT.parent / "conf/base"
VIEWS = ("frames", "captions")
LOOK = Look(BACKGROUND, FILLS, RADII)
ATTRIBUTES = ("count", "colour", "shape", "size", "exact", "place", "exact_places")
DISTURBANCES = {
    **{f"noise {sigma}": (sigma, 0.0) for sigma in (0.1, 0.2, 0.3)},
    **{f"blur {width}": (0.0, width) for width in (0.5, 1.0, 1.5)},
}
"""Standard deviation of Gaussian noise on pixels in [0, 1], and width of a Gaussian blur in pixels."""

Rows = list[dict[str, Any]]


def read(name: str) -> dict[str, Any]:
    """An entry of the base parameters."""
    return dict(yaml.safe_load((CONF / f"parameters_{name}.yml").read_text())[name])


def scored(frames: np.ndarray, captions: Sequence[str], **named: Any) -> Rows:
    """A row for each attribute, of scenes of one object and of all scenes."""
    wanted = scenes(captions)
    right = attributes_right(parse(frames, LOOK), wanted)
    alone = (wanted[..., 0] >= 0).sum(1) == 1
    rows = []
    for objects, chosen in (("one", alone), ("all", np.ones_like(alone))):
        for attribute in ATTRIBUTES:
            found = summarise(right[attribute][chosen].astype(float), within=RATE)
            rows.append(
                {
                    **named,
                    "objects": objects,
                    "attribute": attribute,
                    "value": float(found.value),
                    "ci_low": float(found.ci_low),
                    "ci_high": float(found.ci_high),
                    "n": int(found.n),
                }
            )
    return rows


def shown(rows: Rows) -> None:
    """One line for each kind of scenes."""
    for objects in ("one", "all"):
        of = {row["attribute"]: row for row in rows if row["objects"] == objects}
        head = f"{rows[0]['who']:24} {rows[0]['split']:9} {objects:4} n={of['exact']['n']:4}"
        said = (f"{a} {r['value']:.3f} [{r['ci_low']:.3f}, {r['ci_high']:.3f}]" for a, r in of.items())
        print(head, "  ".join(said), flush=True)


def disturbed(frames: np.ndarray, noise: float, blur: float) -> np.ndarray:
    """Frames in [0, 1], blurred, then with noise."""
    pixels = ndimage.gaussian_filter(frames / 255.0, (0.0, blur, blur, 0.0))
    drawn = np.random.default_rng(0).standard_normal(pixels.shape)
    return np.clip(pixels + noise * drawn, 0.0, 1.0)


def of_the_parser(part: Episodes, split: str) -> Rows:
    """What the parser reads from true frames, as they are and disturbed."""
    frames, captions = part["frames"][:, 0], part["captions"].tolist()
    rows = scored(frames, captions, who="true frames", split=split)
    for name, by in DISTURBANCES.items():
        rows += scored(disturbed(frames, *by), captions, who=f"true frames, {name}", split=split)
    return rows


def of_a_model(family: Any, part: Episodes, **named: Any) -> tuple[Rows, np.ndarray]:
    """What the frames of one seed show, and the frames."""
    tokens = as_tensors(part, ("captions",))["captions"]
    frames = family.generate(tokens, 0, torch.Generator().manual_seed(0)).double().numpy()
    return scored(frames, part["captions"].tolist(), **named), frames


def shuffled(captions: Sequence[str]) -> list[str]:
    """Captions of others with the same number of objects: the next one of their kind."""
    number = (scenes(captions)[..., 0] >= 0).sum(1)
    others = np.empty(len(captions), np.int64)
    for count in np.unique(number):
        mine = np.flatnonzero(number == count)
        others[np.random.default_rng(0).permutation(mine)] = np.roll(np.random.default_rng(0).permutation(mine), 1)
    return [captions[k] for k in others]


def of_a_seed(
    episodes: Mapping[str, Episodes],
    judged: Mapping[str, Episodes],
    config: Any,
    seed: int,
    store: CheckpointStore | None,
) -> tuple[Rows, float | None]:
    """All rows of one seed, and CPU seconds of its training; None where some of it may have been done before."""
    spec = episodes["train"].spec.showing(VIEWS)
    kind, rows = families.get("text_flow"), []
    tensors, learning = as_tensors(episodes["train"], VIEWS), LearningConfig(progress=False, precision="32-true")
    untrained, family = (kind(config, spec, (seed,)).float() for _ in range(2))
    untrained.examples(tensors)
    began = time.process_time()
    train(family, tensors, learning, store, f"text_flow_{seed}", episodes["train"].content_hash)
    seconds = time.process_time() - began
    for split, part in judged.items():
        own, frames = of_a_model(family, part, who=f"text_flow, seed {seed}", split=split)
        chance = scored(frames, shuffled(part["captions"].tolist()), who=f"shuffled, seed {seed}", split=split)
        for more in (own, chance, of_a_model(untrained, part, who=f"untrained, seed {seed}", split=split)[0]):
            shown(more)
            rows += [row | {"seed": seed} for row in more]
    return rows, seconds if store is None else None


def write(rows: Rows, seconds: Sequence[float | None], config: Any, given: argparse.Namespace) -> None:
    """The file of results of a variant; the figure in front is of one object in combinations never seen."""

    def mean(who: str) -> float:
        found = [
            row["value"]
            for row in rows
            if (row["who"].startswith(who), row["split"], row["objects"], row["attribute"])
            == (True, "held_out", "one", "exact")
        ]
        return float(np.mean(found))

    name = "text_to_scene" if given.variant == "plain" else f"text_to_scene_{given.variant}"
    ours, peer = mean("text_flow"), mean("shuffled")
    result = {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer if peer else None,
        "peer_is": "the same frames judged by the captions of others",
        "unit": "share of frames whose count, colour, shape and size are right, one object, held-out combinations",
        "repeats": len(given.seeds),
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "scipy", "torch")} | {"python": platform.python_version()},
        "train_cpu_seconds": list(seconds),
        "config": config.model_dump(mode="json"),
        "comparisons": rows,
    }
    (ROOT / "results" / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Train, paint, read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="plain", help="of text_flow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of training, instead of those of the parameter file")
    parser.add_argument("--captions", type=int, help="of each split; default: all")
    parser.add_argument("--checkpoints", type=Path, help="folder; a training that was killed goes on from there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    episodes = ingest(WorldConfig(**read("captioned_scenes")), "captioned_scenes")
    settings = FamilyParameters(**read("text_flow")).resolve("language", given.variant, "captioned_scenes")
    if given.steps:
        settings["schedule"] = settings["schedule"] | {"steps": given.steps}
    config = families.get("text_flow").Config(**settings)
    judged = {split: episodes[split].first(given.captions) for split in ("test", "held_out")}
    rows: Rows = []
    for split, part in judged.items():
        rows += of_the_parser(part, split)
    for who in dict.fromkeys(row["who"] for row in rows):
        shown([row for row in rows if row["who"] == who and row["split"] == "test"])
    store = CheckpointStore(given.checkpoints) if given.checkpoints else None
    seconds = []
    for seed in given.seeds:
        more, spent = of_a_seed(episodes, judged, config, seed, store)
        rows, seconds = rows + more, [*seconds, spent]
    write(rows, seconds, config, given)


if __name__ == "__main__":
    main()
