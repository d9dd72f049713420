"""Small images and checks that every vision family has to pass."""

import pytest
import torch

from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Space, Spec

ANYWHERE = {"rotation": 0.3, "scale": 0.2, "shift": 7.0}  # views of images whose position says nothing


def spec_of(rows, *shape, name="toy", step=0.1):
    """A world of frames ``[rows, H, W, C]``."""
    return Spec(name, step, {"frames": Space("frames", shape, "uint8")}, rows)


IMAGES = spec_of(1, 28, 28, 1, name="images")
VIDEO = spec_of(12, 16, 16, 1, name="video")
LEARNING = LearningConfig(precision="32-true", checkpoint_every=5, log_every=4, progress=False)


def blobs(count, seed=0, size=28, noise=0.3):
    """Rings and crosses at random positions and in noise, ``[E, 1, size, size, 1]`` uint8, and which is which."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (count,), generator=draw)
    position = size / 2 + (torch.rand(count, 2, 1, 1, generator=draw) - 0.5) * size / 2
    axis = torch.arange(size) + 0.5
    y, x = axis[:, None] - position[:, 0], axis - position[:, 1]
    ring = torch.exp(-(((x.square() + y.square()).sqrt() - size / 5) ** 2) / 2)
    inside = (x.abs() < size / 4) & (y.abs() < size / 4)
    cross = torch.exp(-(torch.minimum(x.abs(), y.abs()) ** 2) / 2) * inside
    image = torch.where(label[:, None, None] == 0, ring, cross) * (0.7 + 0.3 * torch.rand(count, 1, 1, generator=draw))
    noisy = (image + noise * torch.rand(count, size, size, generator=draw)).clamp(0, 1)
    return (255 * noisy)[:, None, :, :, None].to(torch.uint8), label


def moving_dots(count, rows=12, size=16, seed=0):
    """A bright spot that moves straight: frames ``[E, rows, size, size, 1]`` uint8, positions ``[E, rows, 2]``."""
    draw = torch.Generator().manual_seed(seed)
    start, end = (3 + (size - 6) * torch.rand(2, count, 1, 2, generator=draw)).unbind(0)
    position = start + (end - start) * torch.linspace(0, 1, rows)[:, None]
    axis = torch.arange(size) + 0.5
    square = (axis[:, None] - position[..., 0, None, None]) ** 2 + (axis - position[..., 1, None, None]) ** 2
    return (255 * torch.exp(-square / 4))[..., None].to(torch.uint8), position


def squares(episodes=24, rows=10, side=4, size=16, seed=0):
    """A bright square that moves by a whole number of pixels per frame and does not reach the edge."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.zeros(episodes, rows, size, size, 1, dtype=torch.uint8)
    for video in frames:
        velocity = torch.randint(-1, 2, (2,), generator=generator)
        room = size - side - (rows - 1) * velocity.abs()
        start = (torch.rand(2, generator=generator) * (room + 1)).long() + (rows - 1) * (-velocity).clamp(min=0)
        for t in range(rows):
            y, x = (start + t * velocity).tolist()
            video[t, y : y + side, x : x + side] = 220
    return frames


class _KilledError(Exception):
    pass


class _DyingStore(CheckpointStore):
    def save(self, name, checkpoint):
        super().save(name, checkpoint)
        raise _KilledError


def _views(frames):
    if isinstance(frames, dict):
        return frames
    return {"frames": blobs(20)[0] if frames is None else frames}


def resumes(make, folder, frames=None):
    """A training that died after its first checkpoint ends in the bits of one that did not; ``frames``: or views."""
    episodes = _views(frames)
    whole, killed, resumed = make(), make(), make()
    run = train(whole, episodes, LEARNING, None, "m", "d")
    with pytest.raises(_KilledError):
        train(killed, episodes, LEARNING, _DyingStore(folder), "m", "d")
    rerun = train(resumed, episodes, LEARNING, CheckpointStore(folder), "m", "d")
    assert run.curve == [pytest.approx(row, rel=0, abs=0, nan_ok=True) for row in rerun.curve]
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def seeds_are_independent(make, frames=None):
    """Seed 1 trained alone is seed 1 trained beside seed 0, bit by bit; ``frames``: or all views."""
    episodes = _views(frames)
    alone, together = make((1,)), make((0, 1))
    for family in (alone, together):
        train(family, episodes, LEARNING)
    found, wanted = (f.members[-1].state_dict() for f in (together, alone))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(
        not torch.equal(a, b) for a, b in zip(found.values(), together.members[0].state_dict().values(), strict=True)
    )


def separates(make, noise):
    """How well a nearest centroid of pooled features tells rings from crosses, before and after training."""
    (frames, label), (held, truth) = blobs(96, seed=1, noise=noise), blobs(192, seed=2, noise=noise)
    family, accuracy = make(), []
    for trained in (False, True):
        if trained:
            train(family, {"frames": frames}, LEARNING)
        z, w = (family.encode({"frames": x}).pooled[0, :, 0] for x in (frames, held))
        centre = torch.stack([z[label == k].mean(0) for k in (0, 1)])
        accuracy.append(float((torch.cdist(w, centre).argmin(1) == truth).float().mean()))
    return accuracy
