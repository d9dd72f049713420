"""Make the example captions `data/01_raw/captioned_sample/`: scenes and clips of our own worlds, and a table of them.

python benchmarks/make_captioned_sample.py data/01_raw/captioned_sample
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from make_videos_sample import PER_SECOND, WORLDS, save_mp4
from wm_pipelines.worlds.captioned_scenes import draw_centres, draw_scenes, render
from wm_pipelines.worlds.parts.scene_grammar import COLOURS, SHAPES, captions

SERIES, OF_SERIES, FILMS, FRAMES, SIZE = 48, 4, 8, 12, 40
KINDS = (("png", {"optimize": True}), ("webp", {"lossless": True}), ("jpg", {"quality": 92}))


def main(target: Path) -> None:
    """Write the pictures in series of four, the clips, and ``table.csv``."""
    target.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    pairs = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
    scenes = draw_scenes(rng, SERIES * OF_SERIES, (0.8, 0.2), pairs)
    frames = render(scenes, draw_centres(rng, scenes))
    for number, (frame, caption) in enumerate(zip(frames, captions(scenes), strict=True)):
        kind, options = KINDS[number % len(KINDS)]
        name = f"scene_{number:03d}.{kind}"
        Image.fromarray(frame).save(target / name, **options)
        rows.append((name, caption, f"series {number // OF_SERIES}"))
    for label, words in (("pendulum", "a pendulum swings."), ("balls", "two balls move in a box.")):
        world = WORLDS[label]
        states = world.simulate(world.sample_initial_state(rng, FILMS), 1.0 / PER_SECOND, FRAMES - 1)
        for number, film in enumerate(world.render(states, SIZE)):
            name = f"{label}_{number}.mp4"
            save_mp4(target / name, film)
            rows.append((name, words, f"{label} {number // 2}"))
    with (target / "table.csv").open("w", encoding="ascii", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "text", "series"), *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
