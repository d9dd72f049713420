"""Encode, move, decode: what a frame predictor must obey whatever it has learned, and what it learns."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Normal

from tests.families.images import spec_of, squares
from wm_pipelines.blocks.videos import to_pixels
from wm_pipelines.errors import UserError
from wm_pipelines.families.latent_dynamics import LatentDynamicsConfig
from wm_pipelines.families.latent_dynamics.family import gaussian_nll
from wm_pipelines.families.latent_dynamics.frame_predictor import move
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families
from wm_pipelines.spec import Space, Spec

SIZE, CONTEXT, ROWS = 16, 3, 10
SMALL = {"transition": "local", "context": CONTEXT, "horizon": 2, "maps": 2, "widths": (8, 8), "blocks": 1, "reach": 2}
VECTOR = {"transition": "vector", "context": CONTEXT, "horizon": 2, "widths": (8, 8), "latent": 6, "hidden": 16}
STATES = {"context": 1, "horizon": 4, "widths": (32,), "latent": 8, "hidden": 32}


def built(seeds=(0,), channels=1, size=SIZE, rows=ROWS, **changes):
    config = LatentDynamicsConfig(**{"schedule": {"steps": 8, "batch_size": 4}, **SMALL, **changes})
    return families.get("latent_dynamics")(config, spec_of(rows, size, size, channels, name="toy"), seeds)


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
    loss, _ = family.member_loss(member, {"frames": frames}, torch.Generator().manual_seed(0), 1.0)
    x = to_pixels(frames)
    z = member.roll_out(member.encode(x[:, :CONTEXT]), 2)
    normal = Normal(member.decode(z), (0.5 * member.decode_log_variance(z)).exp())
    torch.testing.assert_close(loss, -normal.log_prob(x[:, CONTEXT:]).mean())


def test_the_loss_of_a_roll_out_is_the_one_done_by_hand():
    family = shaken(built())
    member, frames = family.members[0], fixed_frames(rows=CONTEXT + 2)
    loss, _ = family.member_loss(member, {"frames": frames}, torch.Generator().manual_seed(0), 1.0)
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
        family.member_loss(member, {"frames": fixed_frames(rows=CONTEXT + 2)}, generator, 1.0)[0].backward()
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
        difference = (
            sampling.predict({"frames": context}, 2)["frames"] - mean.predict({"frames": context}, 2)["frames"]
        )[0]
        apart.append(float(difference[inside].std()))
    assert apart == pytest.approx([math.exp(-6), math.exp(-4)], rel=0.1)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-2, 1)])
def test_kernels_with_one_tap_shift_an_image(down, right):
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(2, 1, 1, 5, 8, 8)
    weights[0, :, :, 2 - down], weights[1, :, :, 2 - right] = 1.0, 1.0
    moved = move(image, *weights)
    torch.testing.assert_close(moved[..., 2:-2, 2:-2], image.roll((down, right), (2, 3))[..., 2:-2, 2:-2])


# -------------------------------------------------------------------------------------------------------- causality


@pytest.mark.parametrize("kind", [SMALL, VECTOR], ids=["local", "vector"])
def test_a_short_prediction_is_the_beginning_of_a_long_one(kind):
    family = shaken(built(**kind), 0.05)
    context = squares(3)[:, :CONTEXT]
    short, long = family.predict({"frames": context}, 2), family.predict({"frames": context}, 5)
    torch.testing.assert_close(short["frames"], long["frames"][:, :, :2])
    torch.testing.assert_close(short["latents"], long["latents"][:, :, :2])
    assert long["frames"].shape == (1, 3, 5, SIZE, SIZE, 1)
    assert long["frames"].min() >= 0
    assert long["frames"].max() <= 1


def test_samples_too_begin_alike():
    family = built(stochastic=True, sample=True)
    context = squares(3)[:, :CONTEXT]
    torch.testing.assert_close(
        family.predict({"frames": context}, 2)["frames"], family.predict({"frames": context}, 4)["frames"][:, :, :2]
    )


@pytest.mark.parametrize("kind", [SMALL, VECTOR], ids=["local", "vector"])
def test_what_comes_later_changes_no_encoding_of_the_past(kind):
    family = shaken(built(**kind), 0.05)
    frames = squares(3)
    other = frames.clone()
    other[:, 6:] = fixed_frames(3)[:, 6:]
    before, after = family.encode({"frames": frames}).pooled, family.encode({"frames": other}).pooled
    assert torch.equal(before[:, :, :6], after[:, :, :6])
    assert not torch.equal(before[:, :, 6:], after[:, :, 6:])


@pytest.mark.parametrize("kind", [SMALL, VECTOR], ids=["local", "vector"])
def test_predicted_latents_are_the_encodings_of_predicted_frames(kind):
    family = shaken(built(**kind), 0.05)
    context = squares(3)[:, :CONTEXT]
    found = family.predict({"frames": context}, 2)
    seen = torch.cat([context, (found["frames"][0] * 255).round().to(torch.uint8)], 1)
    encoded = family.encode({"frames": seen}).pooled[:, :, CONTEXT:]
    torch.testing.assert_close(encoded, found["latents"], rtol=0, atol=0.02)


def test_the_loss_of_vectors_is_the_one_done_by_hand():
    family = shaken(built(**VECTOR, latent_weight=0.5), 0.1)
    member, frames = family.members[0], fixed_frames(rows=CONTEXT + 3)
    loss, _ = family.member_loss(member, {"frames": frames}, torch.Generator().manual_seed(0), 1.0)
    x = to_pixels(frames)
    z = member.encode(x)
    made, shown = member.decode(z[:, CONTEXT : CONTEXT + 2]), x[:, CONTEXT : CONTEXT + 2]
    pixels, latents = (made - shown).square().sum((2, 3, 4)).mean(), []
    for start in range(2):
        window = list(z[:, start : start + CONTEXT].unbind(1))
        for _ in range(2):
            window.append(member.roll_out(torch.stack(window[-CONTEXT:], 1), 1)[:, 0])
        latents.append(torch.stack(window[CONTEXT:], 1) - z[:, start + CONTEXT : start + CONTEXT + 2])
        if start == 0:
            pixels = pixels + (member.decode(torch.stack(window[CONTEXT:], 1)) - shown).square().sum((2, 3, 4)).mean()
    torch.testing.assert_close(loss, pixels / 100 + 0.5 * torch.cat(latents).square().mean())


# -------------------------------------------------------------------------------------------------------- learning


@pytest.mark.training
def test_it_learns_to_move_a_square():
    schedule = {"steps": 120, "batch_size": 8, "learning_rate": 4e-3, "warmup": 5, "gradient_clip": 1.0}
    family = built(schedule=schedule)
    fit(family, squares(64))
    held_out = squares(24, seed=1)
    truth = to_pixels(held_out).movedim(2, -1)
    predicted = family.predict({"frames": held_out[:, :CONTEXT]}, 4)["frames"][0]
    error = (predicted - truth[:, CONTEXT : CONTEXT + 4]).square().mean((0, 2, 3, 4))
    standing = (truth[:, CONTEXT - 1 : CONTEXT] - truth[:, CONTEXT : CONTEXT + 4]).square().mean((0, 2, 3, 4))
    assert (error < 0.8 * standing).all()


@pytest.mark.training
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


@pytest.mark.training
@pytest.mark.parametrize("kind", [{**SMALL, "stochastic": True}, VECTOR], ids=["local", "vector"])
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


@pytest.mark.training
@pytest.mark.parametrize("kind", [SMALL, VECTOR], ids=["local", "vector"])
def test_a_seed_learns_the_same_alone_and_in_company(kind):
    alone, company = built((1,), **kind), built((0, 1), **kind)
    for family in (alone, company):
        fit(family, squares())
    for name, tensor in alone.members[0].state_dict().items():
        torch.testing.assert_close(tensor, company.members[1].state_dict()[name], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- states


OSCILLATOR = Spec("oscillator", 0.1, {"states": Space("vector", (2,))}, 31)


def swings(episodes=32, rows=31, seed=0):
    """``q' = p, p' = -4 q``, ``[E, rows, 2]`` float64."""
    start = torch.randn(episodes, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    angle = 0.2 * torch.arange(rows)
    q = angle.cos() * start[:, 0] + angle.sin() / 2 * start[:, 1]
    p = angle.cos() * start[:, 1] - 2 * angle.sin() * start[:, 0]
    return torch.stack([q, p], -1)


def of_states(seeds=(0,), steps=8, **changes):
    schedule = {"steps": steps, "batch_size": 16, "learning_rate": 1e-2, "gradient_clip": 1.0}
    config = LatentDynamicsConfig(**{**STATES, "schedule": schedule, **changes})
    return families.get("latent_dynamics")(config, OSCILLATOR, seeds)


@pytest.mark.training
@pytest.mark.parametrize("stochastic", [False, True])
def test_an_oscillator_is_predicted_better_than_by_its_start(stochastic):
    family = of_states(steps=150, stochastic=stochastic)
    train(family, {"states": swings()}, LearningConfig(progress=False))
    truth = swings(16, seed=1)
    error = (family.predict({"states": truth[:, :1]}, 10)["states"][0] - truth[:, :11]).square().mean()
    assert error < 0.1 * (truth[:, :1] - truth[:, :11]).square().mean()


def test_predicted_states_begin_with_the_start_and_are_float64():
    family, past = of_states((0, 1)), swings(3)[:, :1]
    found = family.predict({"states": past}, 4)
    assert found["states"].shape == (2, 3, 5, 2)
    assert found["states"].dtype == torch.float64
    assert torch.equal(found["states"][:, :, 0], past[None, :, 0].expand(2, -1, -1))
    assert found["latents"].shape == (2, 3, 4, 8)
    assert family.encode({"states": swings(3)}).pooled.shape == (2, 3, 31, 8)
    assert next(family.parameters()).dtype == torch.float32


@pytest.mark.parametrize("stochastic", [False, True])
def test_states_pass_gradients_to_every_weight(stochastic):
    family = of_states(stochastic=stochastic)
    family.examples({"states": swings()})
    loss, _ = family.loss({"states": swings(8).float()[None]}, 1.0)
    loss.sum().backward()
    idle = [n for n, p in family.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # f starts as nothing: only its last layer moves at first
    assert all(".f.0.change" in name and ".f.0.change.6" not in name for name in idle)


def test_units_of_states_change_nothing_but_units():
    metres, millimetres = of_states(), of_states()
    for family, unit in ((metres, 1.0), (millimetres, 1000.0)):
        train(family, {"states": unit * swings()}, LearningConfig(progress=False))
    past = swings(4, seed=1)[:, :1]
    a, b = (f.predict({"states": u * past}, 5)["states"] / u for f, u in ((metres, 1.0), (millimetres, 1000.0)))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_what_never_changes_keeps_its_value():
    states = torch.cat([swings(), torch.full((32, 31, 1), 3.0, dtype=torch.float64)], -1)
    spec = Spec("three", 0.1, {"states": Space("vector", (3,))}, 31)
    family = families.get("latent_dynamics")(LatentDynamicsConfig(**STATES), spec, (0,))
    family.examples({"states": states})
    assert family.members[0].scale[2] == 1
    assert torch.isfinite(family.predict({"states": states[:, :1]}, 3)["states"]).all()


def test_only_steps_of_the_world_are_predicted():
    with pytest.raises(UserError, match=r"predicts steps of 0.1 s, not of 0.05 s"):
        of_states().predict({"states": swings(2)[:, :1]}, 3, step=0.05)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"episodes of 4 frames are shorter than context 3 \+ horizon 2 = 5"):
        fit(built(), squares(rows=4))
    with pytest.raises(UserError, match="18 x 18 pixels are not a multiple of 8"):
        built(size=18)
    with pytest.raises(ValidationError, match="sample needs stochastic"):
        built(sample=True)
    with pytest.raises(UserError, match="at least one for each of the 3 colours"):
        built(channels=3)
    with pytest.raises(UserError, match="2 frames of context; it was trained on 3"):
        built().predict({"frames": squares()[:, :2]}, 1)
    unsuitable, config = families.get("latent_dynamics").unsuitable, LatentDynamicsConfig
    assert unsuitable(spec_of(1, SIZE, SIZE, 1, name="image"), config()) == "needs videos"
    assert unsuitable(OSCILLATOR, config(transition="local")) == "transition: local and symmetries need frames"
    assert unsuitable(OSCILLATOR, config(symmetries=("time",))) == "transition: local and symmetries need frames"
    assert unsuitable(OSCILLATOR, config(context=1)) is None
