"""Encode, move, decode: what a frame predictor must obey whatever it has learned, and what it learns."""

import math

import pytest
import torch
from torch.distributions import Normal

from wm_pipelines.errors import UserError
from wm_pipelines.families import get_family
from wm_pipelines.families.latent_dynamics import LatentDynamicsConfig, gaussian_nll, to_pixels
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.nets.frame_predictor import move
from wm_pipelines.nets.layers import compose, crop, follow, place
from wm_pipelines.pixels import FrameSystem

SIZE, CONTEXT, ROWS = 16, 3, 10
SMALL = {"transition": "local", "context": CONTEXT, "horizon": 2, "maps": 2, "widths": (8, 8), "blocks": 1, "reach": 2}
VECTOR = {"transition": "vector", "context": CONTEXT, "horizon": 2, "widths": (8, 8), "latent": 6, "hidden": 16}
LAYERS = {**SMALL, "transition": "layers", "layers": 1, "extent": 8, "width": 8, "memory": 16, "followed": 16}


def squares(episodes=24, rows=ROWS, side=4, size=SIZE, seed=0):
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


def built(seeds=(0,), channels=1, size=SIZE, rows=ROWS, **changes):
    config = LatentDynamicsConfig(**{"schedule": {"steps": 8, "batch_size": 4}, **SMALL, **changes})
    return get_family("latent_dynamics")(config, FrameSystem("toy", 0.1, rows, size, size, channels), seeds)


def fit(family, frames, store=None, **learning):
    learning = LearningConfig(progress=False, precision="32-true", **learning)
    return train(family, {"frames": frames}, learning, store, "toy", "hash")


def shaken(family, scale=0.3, seed=0):
    """Every weight moved at random, so that nothing holds by the first weights alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += scale / max(1, parameter[0].numel()) ** 0.5 * torch.randn(parameter.shape, generator=generator)
    return family


def fixed_frames(episodes=2, rows=ROWS, seed=3, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (episodes, rows, SIZE, SIZE, channels), dtype=torch.uint8, generator=generator)


# -------------------------------------------------------------------------------------------------------- equations


def test_the_likelihood_is_the_normal_distributions():
    x, mean, log_variance = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = -Normal(mean, (0.5 * log_variance).exp()).log_prob(x)
    torch.testing.assert_close(gaussian_nll(x, mean, log_variance), expected)


def test_the_stochastic_loss_is_the_likelihood_of_the_roll_out():
    family = shaken(built(stochastic=True))
    member, frames = family.members[0], fixed_frames(rows=CONTEXT + 2)
    loss, _ = family.member_loss(member, frames, torch.Generator().manual_seed(0), 1.0)
    x = to_pixels(frames)
    z = member.roll_out(member.encode(x[:, :CONTEXT]), 2)
    normal = Normal(member.decode(z), (0.5 * member.decode_log_variance(z)).exp())
    torch.testing.assert_close(loss, -normal.log_prob(x[:, CONTEXT:]).mean())


def test_the_loss_of_a_roll_out_is_the_one_done_by_hand():
    family = shaken(built())
    member, frames = family.members[0], fixed_frames(rows=CONTEXT + 2)
    loss, _ = family.member_loss(member, frames, torch.Generator().manual_seed(0), 1.0)
    x = to_pixels(frames)
    z = [member.enc(x[:, t]) for t in range(CONTEXT)]
    error = 0.0
    for k in range(2):
        z.append(member.advance(z[-CONTEXT:]))
        error = error + (member.dec(z[-1]) - x[:, CONTEXT + k]).square().sum() / (2 * len(frames))
    torch.testing.assert_close(loss, error / 100)


def test_with_one_variance_for_all_the_likelihood_pulls_as_the_squared_error():
    stochastic, deterministic = shaken(built(stochastic=True)), shaken(built())
    shared = stochastic.state_dict()
    deterministic.load_state_dict({k: v for k, v in shared.items() if "log_variance" not in k})
    head = stochastic.members[0].log_variance
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(math.log(0.25))
    gradients = []
    for family in (stochastic, deterministic):
        member, generator = family.members[0], torch.Generator().manual_seed(0)
        family.member_loss(member, fixed_frames(rows=CONTEXT + 2), generator, 1.0)[0].backward()
        gradients.append(member.trunk.stem.weight.grad)
    pixels = SIZE * SIZE
    torch.testing.assert_close(gradients[0] * 2 * 0.25 * pixels / 100, gradients[1], rtol=1e-3, atol=1e-6)


def test_a_sample_becomes_the_mean_as_the_variance_vanishes_and_spreads_by_it_else():
    sampling, mean = shaken(built(stochastic=True, sample=True)), built(stochastic=True)
    mean.load_state_dict(sampling.state_dict())
    context = squares(8)[:, :CONTEXT]
    for family in (sampling, mean):
        with torch.no_grad():
            family.members[0].log_variance.weight.zero_()
    apart = []
    for variance in (-12.0, -8.0):
        for family in (sampling, mean):
            with torch.no_grad():
                family.members[0].log_variance.bias.fill_(variance)
        member = mean.members[0]
        x = to_pixels(context)
        inside = member.decode(member.roll_out(member.encode(x), 2)).movedim(2, -1)
        inside = (inside > 0.1) & (inside < 0.9)  # away from black and white, where predictions are cut
        difference = (sampling.predict(context, 2).frames - mean.predict(context, 2).frames)[0]
        apart.append(float(difference[inside].std()))
    assert apart == pytest.approx([math.exp(-6), math.exp(-4)], rel=0.1)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-2, 1)])
def test_kernels_with_one_tap_shift_a_picture(down, right):
    picture = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(2, 1, 1, 5, 8, 8)
    weights[0, :, :, 2 - down], weights[1, :, :, 2 - right] = 1.0, 1.0
    moved = move(picture, *weights)
    torch.testing.assert_close(moved[..., 2:-2, 2:-2], picture.roll((down, right), (2, 3))[..., 2:-2, 2:-2])


# -------------------------------------------------------------------------------------------------------- causality


@pytest.mark.parametrize("kind", [SMALL, LAYERS, VECTOR], ids=["local", "layers", "vector"])
def test_a_short_prediction_is_the_beginning_of_a_long_one(kind):
    family = shaken(built(**kind), 0.05)
    context = squares(3)[:, :CONTEXT]
    short, long = family.predict(context, 2), family.predict(context, 5)
    torch.testing.assert_close(short.frames, long.frames[:, :, :2])
    torch.testing.assert_close(short.latents, long.latents[:, :, :2])
    assert long.frames.shape == (1, 3, 5, SIZE, SIZE, 1)
    assert long.frames.min() >= 0
    assert long.frames.max() <= 1


def test_samples_too_begin_alike():
    family = built(stochastic=True, sample=True)
    context = squares(3)[:, :CONTEXT]
    torch.testing.assert_close(family.predict(context, 2).frames, family.predict(context, 4).frames[:, :, :2])


@pytest.mark.parametrize("kind", [SMALL, LAYERS, VECTOR], ids=["local", "layers", "vector"])
def test_what_comes_later_changes_no_encoding_of_the_past(kind):
    family = shaken(built(**kind), 0.05)
    frames = squares(3)
    other = frames.clone()
    other[:, 6:] = fixed_frames(3)[:, 6:]
    before, after = family.encode(frames).pooled, family.encode(other).pooled
    assert torch.equal(before[:, :, :6], after[:, :, :6])
    assert not torch.equal(before[:, :, 6:], after[:, :, 6:])


@pytest.mark.parametrize("kind", [SMALL, LAYERS, VECTOR], ids=["local", "layers", "vector"])
def test_predicted_latents_are_the_encodings_of_predicted_frames(kind):
    family = shaken(built(**kind), 0.05)
    context = squares(3)[:, :CONTEXT]
    found = family.predict(context, 2)
    seen = torch.cat([context, (found.frames[0] * 255).round().to(torch.uint8)], 1)
    encoded = family.encode(seen).pooled[:, :, CONTEXT:]
    torch.testing.assert_close(encoded, found.latents, rtol=0, atol=0.02)


def test_the_loss_of_vectors_is_the_one_done_by_hand():
    family = shaken(built(**VECTOR, latent_weight=0.5), 0.1)
    member, frames = family.members[0], fixed_frames(rows=CONTEXT + 3)
    loss, _ = family.member_loss(member, frames, torch.Generator().manual_seed(0), 1.0)
    x = to_pixels(frames)
    z = member.encode(x)
    made, shown = member.decode(z[:, CONTEXT : CONTEXT + 2]), x[:, CONTEXT : CONTEXT + 2]
    pixels, latents = (made - shown).square().sum((2, 3, 4)).mean(), []
    for start in range(2):
        window = list(z[:, start : start + CONTEXT].unbind(1))
        for _ in range(2):
            window.append(member.f.roll_out(torch.stack(window[-CONTEXT:], 1), 1)[:, 0])
        latents.append(torch.stack(window[CONTEXT:], 1) - z[:, start + CONTEXT : start + CONTEXT + 2])
        if start == 0:
            pixels = pixels + (member.decode(torch.stack(window[CONTEXT:], 1)) - shown).square().sum((2, 3, 4)).mean()
    torch.testing.assert_close(loss, pixels / 100 + 0.5 * torch.cat(latents).square().mean())


# ---------------------------------------------------------------------------------------------------------- layers


def test_drawing_and_cutting_out_are_transposes():
    generator = torch.Generator().manual_seed(0)
    picture, frame = torch.rand(3, 2, 4, 4, generator=generator), torch.rand(3, 2, 12, 12, generator=generator)
    centres = torch.tensor([[5.5, 6.5], [3.2, 7.9], [0.4, 11.3]])
    drawn, cut = place(picture, centres, (12, 12)), crop(frame, centres, 4)
    torch.testing.assert_close((drawn * frame).sum((1, 2, 3)), (picture * cut).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_first_layer_hides_the_second():
    layers = torch.zeros(2, 2, 1, 2)  # layers, (colour x cover, cover), one row, two pixels
    layers[0, :, 0, 0] = torch.tensor([0.3, 1.0])
    layers[1, :, 0, :] = torch.tensor([0.9, 1.0])[:, None]
    torch.testing.assert_close(compose(layers), torch.tensor([[[0.3, 0.9]]]))


def test_things_are_followed_to_a_fraction_of_a_pixel():
    time = torch.arange(8.0)
    truth = torch.stack(
        [torch.stack([10 + 2.3 * time, 12 + 0.4 * time], 1), torch.stack([36 - 2.1 * time, 24 + 1.7 * time], 1)], 1
    )
    at = torch.arange(48.0)
    y, x = truth[..., 0], truth[..., 1]
    near = (at[:, None] - y[..., None, None]) ** 2 + (at - x[..., None, None]) ** 2
    frames = (-near / 18).exp().sum(1)[None, :, None]
    found = follow(frames, 2, 16)[0]
    apart = min(float((found - t).norm(dim=-1).max()) for t in (truth, truth.flip(1)))
    assert apart < 0.5


def test_things_that_turn_back_are_followed_through_every_turn():
    # Two discs of unlike size reflected by the walls, twenty frames: no path is anywhere near straight.
    generator = torch.Generator().manual_seed(0)
    speed, angle = 3.5, 2 * math.pi * torch.rand(16, 1, 2, 1, generator=generator)
    start = 72 * torch.rand(16, 1, 2, 2, generator=generator)
    way = start + speed * torch.arange(20.0)[:, None, None] * torch.cat([angle.cos(), angle.sin()], -1)
    places = 14 + 36 * (1 - (way / 36 % 2 - 1).abs())  # a triangle wave: the unfolded path, folded back
    at = torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)).unflatten(0, (64, 64))
    apart = (places[:, :, :, None, None] - at).norm(dim=-1)
    frames = ((torch.tensor([9.0, 6.0])[:, None, None] - apart).clamp(0, 1)).amax(2)[:, :, None]
    found = follow(frames, 2, 24)
    # In one piece the mean is 3.5 pixels. Where one disc covers the other, nobody can tell where it is.
    assert (found - places).norm(dim=-1).mean() < 1.0


def test_places_turn_as_frames_do():
    frames = squares(4, size=24)
    family = built(**LAYERS, size=24, symmetries=("rows", "columns", "transpose", "time"))
    family.examples({"frames": frames})
    member = family.members[0]
    places = member.paths(to_pixels(frames[:1]).expand(32, -1, -1, -1, -1))
    turned = family._turned_places(places, torch.Generator().manual_seed(0))
    drawn = torch.rand(4, 32, 1, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    for video, (rows, columns, swap, time) in zip(turned, drawn.flatten(1).T.tolist(), strict=True):
        x = to_pixels(frames[:1])
        for flag, axis in ((rows, -2), (columns, -1)):
            x = x.flip(axis) if flag else x
        x = x.transpose(-1, -2) if swap else x
        x = x.flip(1) if time else x
        torch.testing.assert_close(member.paths(x)[0], video, rtol=0, atol=0.35)


# -------------------------------------------------------------------------------------------------------- learning


def test_it_learns_to_move_a_square():
    schedule = {"steps": 120, "batch_size": 8, "learning_rate": 4e-3, "warmup": 5, "gradient_clip": 1.0}
    family = built(schedule=schedule)
    fit(family, squares(64))
    held_out = squares(24, seed=1)
    truth = to_pixels(held_out).movedim(2, -1)
    predicted = family.predict(held_out[:, :CONTEXT], 4).frames[0]
    error = (predicted - truth[:, CONTEXT : CONTEXT + 4]).square().mean((0, 2, 3, 4))
    standing = (truth[:, CONTEXT - 1 : CONTEXT] - truth[:, CONTEXT : CONTEXT + 4]).square().mean((0, 2, 3, 4))
    assert (error < 0.8 * standing).all()


def test_layers_learn_to_move_a_square():
    schedule = {"steps": 120, "batch_size": 4, "learning_rate": 5e-3, "warmup": 5, "gradient_clip": 1.0}
    family = built(**{**LAYERS, "followed": 64, "place_batch": 32, "on_places": 0.8}, schedule=schedule)
    fit(family, squares(64))
    held_out = squares(24, seed=1)
    truth = to_pixels(held_out).movedim(2, -1)
    error = (family.predict(held_out[:, :CONTEXT], 4).frames[0] - truth[:, CONTEXT : CONTEXT + 4]).square().mean()
    standing = (truth[:, CONTEXT - 1 : CONTEXT] - truth[:, CONTEXT : CONTEXT + 4]).square().mean()
    assert error < 0.5 * standing


def test_the_variance_is_that_of_what_cannot_be_known():
    # Brightness of a whole frame follows b' = 0.9 b + noise: nothing else moves, and nobody can predict the noise.
    generator = torch.Generator().manual_seed(0)
    spread, rows = 0.05, 6
    level = torch.zeros(256, rows)
    for t in range(rows):
        before = level[:, t - 1] if t else torch.zeros(256)
        level[:, t] = 0.9 * before + spread * torch.randn(256, generator=generator)
    frames = ((0.5 + level).clamp(0, 1) * 255).round().to(torch.uint8)
    frames = frames[:, :, None, None, None].expand(-1, -1, 8, 8, 1).contiguous()
    schedule = {"steps": 250, "batch_size": 16, "learning_rate": 4e-3, "warmup": 5, "gradient_clip": 1.0}
    family = built(schedule=schedule, stochastic=True, size=8, rows=rows, context=2, horizon=1, widths=(8,), reach=0)
    fit(family, frames)
    member, x = family.members[0], to_pixels(frames)
    with torch.no_grad():
        z = torch.cat([member.roll_out(member.encode(x[:, t : t + 2]), 1) for t in range(rows - 2)], 1)
        deviation = (0.5 * member.decode_log_variance(z)).exp()[..., 2:-2, 2:-2].mean()
        error = (member.decode(z) - x[:, 2:])[..., 2:-2, 2:-2].square().mean().sqrt()
    assert float(deviation) == pytest.approx(spread, rel=0.2)
    assert float(error) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("kind", [{**SMALL, "stochastic": True}, LAYERS, VECTOR], ids=["local", "layers", "vector"])
def test_an_interrupted_training_ends_in_the_same_bits(tmp_path, kind):
    whole, again = built(**kind), built(**kind)
    fit(whole, squares())
    store = CheckpointStore(tmp_path)
    broken = built(**kind)
    calls, step = 0, broken.after_step

    def stop_after_five(progress):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        step(progress)

    broken.after_step = stop_after_five
    with pytest.raises(KeyboardInterrupt):
        fit(broken, squares(), store, checkpoint_every=2)
    fit(again, squares(), store, checkpoint_every=2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("kind", [SMALL, LAYERS, VECTOR], ids=["local", "layers", "vector"])
def test_a_seed_learns_the_same_alone_and_in_company(kind):
    alone, company = built((1,), **kind), built((0, 1), **kind)
    for family in (alone, company):
        fit(family, squares())
    for name, tensor in alone.members[0].state_dict().items():
        torch.testing.assert_close(tensor, company.members[1].state_dict()[name], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"episodes of 4 frames are shorter than context 3 \+ horizon 2 = 5"):
        fit(built(), squares(rows=4))
    with pytest.raises(UserError, match="18 x 18 pixels are not a multiple of 8"):
        built(size=18)
    with pytest.raises(UserError, match="stochastic needs transition: vector or local"):
        built(**LAYERS, stochastic=True)
    with pytest.raises(UserError, match="sample needs stochastic"):
        built(sample=True)
    with pytest.raises(UserError, match="at least one for each of the 3 colours"):
        built(channels=3)
    with pytest.raises(UserError, match="at least 3 frames"):
        built(**{**LAYERS, "context": 2})
    with pytest.raises(UserError, match="2 frames of context; it was trained on 3"):
        built().predict(squares()[:, :2], 1)
    assert get_family("latent_dynamics").unsuitable(FrameSystem("picture", 1, 1, SIZE, SIZE, 1)) == "needs videos"
