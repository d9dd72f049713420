"""A dot whose place is written into two pixels, families that read it, and what the task of videos finds of them."""

import numpy as np
import torch
from torch import nn

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.videos import Videos

STEP = 0.1
LAWS = Laws(energy=lambda z: 0.5 * (z[..., 2:] ** 2).sum(-1))


def dots(count, rows=30, seed=0, jump=False, states=True):
    """A dot that moves straight on at constant speed: its position is written into the first two pixels.

    ``jump``: halfway it is put elsewhere, against the law.
    """
    rng = np.random.default_rng(seed)
    q0, v = rng.uniform(60, 120, (count, 1, 2)), rng.uniform(-2, 2, (count, 1, 2))
    time = STEP * np.arange(rows)
    q = q0 + v * 10 * time[:, None]
    if jump:
        q[:, rows // 2 :] += 40
    frames = np.zeros((count, rows, 12, 12, 1), np.uint8)
    frames[:, :, 0, :2, 0] = np.rint(q)
    views = {"frames": frames}
    if states:
        views["states"] = np.concatenate([np.rint(q), np.broadcast_to(v * 10, q.shape)], axis=-1)
    return Episodes(Spec("dot", STEP, spaces_of(views), rows), views)


class Reader(MemberFamily):
    """Reads the two pixels; predicts that the dot goes straight on, or, if it is ``stubborn``, stays."""

    name = "reader"
    Config = FamilyConfig
    stubborn = False
    context = 3

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, batch, generator, progress):
        raise TypeError

    def member_encode(self, member, views):
        return views["frames"][:, :, 0, :2, 0].float(), None

    def member_predict(self, member, past, steps, actions):
        q = past["frames"][:, :, 0, :2, 0].float()
        v = torch.zeros_like(q[:, 0]) if self.stubborn else (q[:, -1] - q[:, 0]) / 2
        latents = torch.stack([q[:, -1] + k * v for k in range(1, steps + 1)], 1)
        frames = torch.zeros(len(q), steps, 12, 12, 1)
        frames[:, :, 0, :2, 0] = (latents / 255).clamp(0, 1)
        return {"frames": frames, "latents": latents}


class Stubborn(Reader):
    stubborn = True


def judged(kind, seeds=(0,), states=True, laws=LAWS, context=10, trained=True, settings=None, **splits):
    data = {"train": dots(40, states=states), "test": dots(20, seed=1, states=states), **splits}
    task = Videos()
    family = kind(FamilyConfig(), data["train"].spec.showing(task.shows), seeds)
    config = task.config({"context": context, "steps": 8, "every": 10, "shown": 3, **(settings or {})})
    return task.judge(family, data, "test", laws, config, trained)


def value(judgement, metric, step=-1, seed=0):
    (found,) = [r["value"] for r in judgement.rows if (r["metric"], r["step"], r["seed"]) == (metric, step, seed)]
    return found
