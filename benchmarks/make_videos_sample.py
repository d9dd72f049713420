"""Make the example videos `data/01_raw/videos_sample/`: short videos of two of our own worlds, and a list of them.

python benchmarks/make_videos_sample.py data/01_raw/videos_sample
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from wm_pipelines.worlds.bouncing_balls import BouncingBalls, BouncingBallsParameters
from wm_pipelines.worlds.pendulum import Pendulum, PendulumParameters

WORLDS = {
    "pendulum": Pendulum(PendulumParameters()),
    "balls": BouncingBalls(BouncingBallsParameters(masses=[1.0, 2.0], radii=[0.24, 0.34])),
}
FILMS, STEPS, PER_SECOND, SIZE = 16, 31, 10, 48


def save_mp4(path: Path, frames: np.ndarray) -> None:
    """Write ``frames [T, H, W, 3]`` as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=PER_SECOND, options={"crf": "20", "threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def save_gif(path: Path, frames: np.ndarray) -> None:
    """Write ``frames [T, H, W, 3]`` as an animated GIF of 32 colours."""
    first, *others = [Image.fromarray(f).quantize(32, dither=Image.Dither.NONE) for f in frames]
    first.save(path, save_all=True, append_images=others, duration=1000 // PER_SECOND, loop=0)


def main(target: Path) -> None:
    """Write the videos, one in five as GIF, and ``list.csv``."""
    target.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), ["path,label"]
    for label, world in WORLDS.items():
        states = world.simulate(world.sample_initial_state(rng, FILMS), 1.0 / PER_SECOND, STEPS)
        for number, frames in enumerate(world.render(states, SIZE)):
            save, kind = (save_gif, "gif") if number % 5 == 4 else (save_mp4, "mp4")
            name = f"{label}_{number:02d}.{kind}"
            save(target / name, frames)
            lines.append(f"{name},{label}")
    (target / "list.csv").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
