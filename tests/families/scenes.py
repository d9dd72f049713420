"""Pictures one half of which is coloured, and what is said of them."""

import numpy as np
import torch

from wm_pipelines.episodes import TextCodec
from wm_pipelines.spec import Space, Spec

SIZE = 8
SCENES = Spec(
    "scenes",
    1.0,
    {
        "frames": Space("frames", (SIZE, SIZE, 3), "uint8"),
        "captions": Space("text", (), "str", "episode"),
        "questions": Space("text", (3,), "str", "episode"),
        "answers": Space("text", (3,), "str", "episode"),
    },
)
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
ASKED = ["what is there?", "what colour is it?", "on which side?"]
SIDES = {"left": slice(0, 4), "right": slice(4, 8)}


def codes(texts):
    return torch.tensor(TextCodec().to_numbers(np.array(texts)))


def halves(count, seed=0):
    """Pictures one half of which is coloured, and what is said of them."""
    rng, frames, texts = np.random.default_rng(seed), np.full((count, 1, SIZE, SIZE, 3), 255, np.uint8), []
    answers = []
    for frame in frames:
        colour, side = rng.choice(list(COLOURS)), rng.choice(list(SIDES))
        frame[0, :, SIDES[side]] = COLOURS[colour]
        texts.append(f"{colour} at the {side}")
        answers.append([texts[-1], colour, side])
    questions = codes([ASKED] * count)
    return {
        "frames": torch.tensor(frames), "captions": codes(texts), "questions": questions, "answers": codes(answers),
    }  # fmt: skip
