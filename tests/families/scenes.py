"""Pictures one half of which is coloured, and what is said of them."""

import numpy as np
import torch

from wm_pipelines.episodes import TextCodec
from wm_pipelines.spec import Space, Spec

SIZE = 8
SCENES = Spec(
    "scenes",
    1.0,
    {"frames": Space("frames", (SIZE, SIZE, 3), "uint8"), "captions": Space("text", (), "str", "episode")},
)
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SIDES = {"left": slice(0, 4), "right": slice(4, 8)}


def codes(texts):
    return torch.tensor(TextCodec().to_numbers(np.array(texts)))


def halves(count, seed=0):
    """Pictures one half of which is coloured, and what is said of them."""
    rng, frames, texts = np.random.default_rng(seed), np.full((count, 1, SIZE, SIZE, 3), 255, np.uint8), []
    for frame in frames:
        colour, side = rng.choice(list(COLOURS)), rng.choice(list(SIDES))
        frame[0, :, SIDES[side]] = COLOURS[colour]
        texts.append(f"{colour} at the {side}")
    return {"frames": torch.tensor(frames), "captions": codes(texts)}
