"""What belongs together is told apart from the rest, and nothing else counts as the rest."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.images import (
    IMAGES,
    LEARNING,
    VIDEO,
    blobs,
    moving_dots,
    resumes,
    seeds_are_independent,
    spec_of,
)
from wm_pipelines.blocks.augment import Augmentation, affine_view, random_windows
from wm_pipelines.errors import UserError
from wm_pipelines.families.contrastive import Contrastive, ContrastiveConfig
from wm_pipelines.learning.loop import train

SCHEDULE = {"steps": 12, "batch_size": 8, "learning_rate": 3e-3, "warmup": 2}
SMALL = {
    "widths": (8, 16),
    "width": 16,
    "depth": 1,
    "heads": 2,
    "projector": (16, 8),
    "latent": 8,
    "schedule": SCHEDULE,
}
STILL = {"rotation": 0.0, "scale": 0.0, "shift": 0.0}


def model(seeds=(0,), spec=IMAGES, **changes):
    return Contrastive(ContrastiveConfig.model_validate({**SMALL, **changes}), spec, seeds)


def random_draw(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 12), st.floats(0.05, 2.0))
def test_equal_images_cannot_be_told_apart(count, temperature):
    """All views alike: the partner is one of B equal candidates, the loss ln B at any temperature."""
    family = model(temperature=temperature, augment=STILL)
    frames = blobs(1)[0].expand(count, -1, -1, -1, -1)
    loss, _ = family.member_loss(family.members[0].eval(), {"frames": frames}, random_draw(), 0.0)
    assert float(loss.detach()) == pytest.approx(math.log(count), rel=1e-4)


def test_orthogonal_images_give_the_closed_form():
    """Identical views of B images whose projections are orthogonal: ln(1 + (B - 1) exp(-1 / temperature))."""
    family = model(temperature=0.5, augment=STILL)

    class Basis(torch.nn.Module):
        def forward(self, x):
            return torch.eye(len(x) // 2).repeat(2, 1)

    loss, _ = family.member_loss(Basis(), {"frames": blobs(5)[0]}, random_draw(), 0.0)
    assert float(loss) == pytest.approx(math.log(1 + 4 * math.exp(-2.0)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 9), st.integers(1, 12))
def test_partners_are_near_frames_of_one_episode(seed, anchors, rows, near):
    """Frames carry their episode and time as grey levels."""
    family = model(spec=VIDEO, near=near, anchors=anchors)
    level = 16 * torch.arange(5)[:, None] + torch.arange(rows)
    frames = level[..., None, None, None].expand(-1, -1, 16, 16, 1).to(torch.uint8)
    first, second = ((255 * x[:, 0, 0, 0]).round().long() for x in family._near_frames(frames, random_draw(seed)))
    episode = torch.arange(5).repeat(anchors)
    assert torch.equal(first // 16, episode)
    assert torch.equal(second // 16, episode)
    apart = second % 16 - first % 16
    assert apart.min() >= 1
    assert apart.max() <= near
    assert len(first) == 5 * anchors


def test_frames_of_one_episode_are_no_negatives():
    """An episode's other frames may be as similar as they like: the loss does not change."""
    family = model(spec=VIDEO, anchors=2)
    frames = moving_dots(4)[0]

    class Own(torch.nn.Module):
        """Projections: each episode its own direction."""

        def forward(self, x):
            return torch.eye(4).repeat(4, 1)

    loss, _ = family.member_loss(Own(), {"frames": frames}, random_draw(), 0.0)
    # Two anchors per episode point the same way; as negatives they would add a second exp(1 / temperature).
    per_episode = 3 * 2 * math.exp(-1 / family.config.temperature)
    assert float(loss) == pytest.approx(math.log(1 + per_episode), rel=1e-4)


@pytest.mark.training
def test_a_video_teaches_where_things_are():
    frames, position = moving_dots(48)
    held, truth = moving_dots(32, seed=1)
    errors = []
    for steps in (1, 60):
        family = model(spec=VIDEO, schedule={**SCHEDULE, "steps": steps, "batch_size": 32}, near=1, latent=3)
        train(family, {"frames": frames}, LEARNING)
        z, w = (family.encode({"frames": x}).pooled[0].flatten(0, 1).double() for x in (frames, held))
        design = [torch.cat([a, torch.ones(len(a), 1)], 1) for a in (z, w)]
        fit = torch.linalg.lstsq(design[0], position.flatten(0, 1).double()).solution
        errors.append(float((design[1] @ fit - truth.flatten(0, 1)).square().mean()))
    assert errors[1] < 0.8 * errors[0]


def clouds(count, seed):
    """Smooth random images, no two alike."""
    coarse = torch.rand(count, 1, 5, 5, generator=random_draw(seed))
    smooth = torch.nn.functional.interpolate(coarse, (28, 28), mode="bicubic", align_corners=True)
    return (255 * smooth.clamp(0, 1)).permute(0, 2, 3, 1)[:, None].to(torch.uint8)


@pytest.mark.training
def test_training_finds_the_other_view_of_a_image_not_seen():
    """Share of held-out images whose second view has the nearest features, by cosine, of all 128."""
    family = model(schedule={"steps": 60, "batch_size": 32, "learning_rate": 5e-3, "warmup": 5})
    held, draw = clouds(128, 1)[:, 0].float() / 255, random_draw(2)
    views = [affine_view(held, family.config.augment, draw) for _ in range(2)]
    found = []
    for trained in (False, True):
        if trained:
            train(family, {"frames": clouds(192, 0)}, LEARNING)
        a, b = (family.encode({"frames": (255 * v)[:, None]}).pooled[0, :, 0] for v in views)
        a, b = (torch.nn.functional.normalize(z - z.mean(0), dim=1) for z in (a, b))
        found.append(float(((a @ b.T).argmax(1) == torch.arange(128)).float().mean()))
    assert found[1] > found[0] + 0.05


@pytest.mark.training
@pytest.mark.parametrize("changes", [{}, {"encoder": "vit"}])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, changes):
    resumes(lambda: model((0, 3), **changes), tmp_path)


@pytest.mark.training
def test_a_killed_training_on_videos_resumes_to_the_same_bits(tmp_path):
    resumes(lambda: model((0,), VIDEO), tmp_path, moving_dots(12)[0])


def test_a_seed_alone_equals_that_seed_among_others():
    seeds_are_independent(model)


def test_images_too_small_are_one_line():
    with pytest.raises(UserError, match="use fewer convolutional widths"):
        model(spec=spec_of(1, 4, 4, 1, name="tiny"), widths=(8, 8, 8))
    with pytest.raises(UserError, match="not a multiple of patch"):
        model(encoder="vit", patch=5)


# ---------------------------------------------------------------- views


@settings(max_examples=10, deadline=None)
@given(st.integers(8, 20), st.integers(8, 20), st.integers(1, 3))
def test_a_view_without_changes_is_the_image(height, width, channels):
    x = torch.rand(3, height, width, channels)
    torch.testing.assert_close(affine_view(x, Augmentation(**STILL), random_draw()), x, rtol=0, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_views_turn_and_shift_no_further_than_asked(seed):
    """A spot off the centre of an image that is not square stays within reach of its position."""
    how = Augmentation(rotation=0.3, scale=0.0, shift=2.0)
    height, width, spot = 33, 49, (16, 36)
    x = torch.zeros(1, height, width, 1)
    x[0, spot[0] - 1 : spot[0] + 2, spot[1] - 1 : spot[1] + 2] = 1.0
    view = affine_view(x, how, random_draw(seed))[0, ..., 0]
    mass = view.sum()
    found = torch.stack([(view.sum(1) * torch.arange(height)).sum(), (view.sum(0) * torch.arange(width)).sum()]) / mass
    radius = spot[1] - width // 2  # it lies on the horizontal axis through the centre
    assert float(mass) == pytest.approx(9.0, rel=0.1)  # no stretching, although the image is not square
    away = found - torch.tensor([height // 2, width // 2])
    assert abs(float(away.norm()) - radius) <= math.hypot(2.0, 2.0) + 0.1
    assert float(away[0].abs()) <= radius * math.sin(0.3) + math.hypot(2.0, 2.0) + 0.1


def test_bending_is_smooth_and_small():
    x = torch.rand(2, 28, 28, 1).cumsum(1).cumsum(2) / 400  # slowly varying
    bent = affine_view(x, Augmentation(**STILL, elastic=1.0), random_draw(3))
    assert not torch.equal(bent, x)
    assert (bent - x)[:, 4:-4, 4:-4].abs().max() < 2.5 * x.diff(dim=1).abs().max()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_windows_are_consecutive_frames_of_one_episode(rows, length, seed):
    frames = (100 * torch.arange(4)[:, None] + torch.arange(rows))[..., None]
    if length > rows:
        with pytest.raises(UserError, match="does not fit"):
            random_windows(frames, length, random_draw(seed))
        return
    cut = random_windows(frames, length, random_draw(seed))[..., 0]
    assert torch.equal(cut // 100, torch.arange(4)[:, None].expand(-1, length))
    assert (cut.diff(dim=1) == 1).all()
