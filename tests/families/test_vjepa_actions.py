"""V-JEPA 2-AC: actions reach a predictor, and never the encoder it stands on."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import l1_loss, mse_loss

from tests.families.images import LEARNING, spec_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Decodes, Encodes, Imagines
from wm_pipelines.families.vjepa import VJEPA, VJEPAConfig
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Space, Spec
from wm_pipelines.tasks.control.judge import _IGNORED, _feature_errors, _ratio

SIZE, ROWS = 16, 13
VIEWS = {
    "frames": Space("frames", (SIZE, SIZE, 1), "uint8"),
    "actions": Space("vector", (2,), per="transition"),
    "rewards": Space("scalar", per="transition"),
}
PUSHED = Spec("pushed dot", 0.1, VIEWS, ROWS)
UNREWARDED = Spec("pushed dot", 0.1, {name: VIEWS[name] for name in ("frames", "actions")}, ROWS)
SMALL = {
    "predict": "actions", "clip": 6, "widths": (4, 8), "latent": 4, "memory": 2, "hidden": 16, "rollout": 2,
    "horizon": 3, "pieces": 2, "encoder_share": 0.5,
}  # fmt: skip


def pushed(episodes=24, seed=0):
    """A dot that goes where it is pushed, paid for being in the middle."""
    g = torch.Generator().manual_seed(seed)
    actions = 2 * torch.rand(episodes, ROWS - 1, 2, generator=g, dtype=torch.float64) - 1
    places = [4 + 8 * torch.rand(episodes, 2, generator=g, dtype=torch.float64)]
    for a in actions.unbind(1):
        places.append((places[-1] + 2 * a).clamp(2, SIZE - 2))
    place, axis = torch.stack(places, 1), torch.arange(SIZE) + 0.5
    far = (axis[:, None] - place[..., 0, None, None]) ** 2 + (axis - place[..., 1, None, None]) ** 2
    frames = (255 * torch.exp(-far / 4)).to(torch.uint8)[..., None]
    return {"frames": frames, "actions": actions, "rewards": -(place[:, :-1] - SIZE / 2).square().sum(-1)}


def built(seeds=(0,), world=PUSHED, shake=0.0, steps=12, **changes):
    """With every weight moved at random by ``shake``, so that nothing holds by the first weights alone."""
    schedule = {"steps": steps, "batch_size": 8, "learning_rate": 3e-3, "weight_decay": 0.1}
    family = VJEPA(VJEPAConfig(**{**SMALL, "schedule": schedule, **changes}), world, seeds)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator)
    return family


def fitted(seeds=(0,), views=None, store=None, **changes):
    family = built(seeds, **changes)
    run = train(family, views or pushed(), LEARNING, store, "m", "d")
    return family, run.curve


def losses(family, progress, episodes=8):
    """The loss of a batch of whole episodes, with the gradients of all parameters."""
    examples = family.examples(pushed(episodes))
    family.zero_grad()
    loss, terms = family.loss({name: view[None] for name, view in examples.items()}, progress)
    loss.sum().backward()
    return terms


def moved(module):
    """Names of the parameters that a gradient reached."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


# ---------------------------------------------------------------- the encoder is trained without actions, then frozen


def test_the_first_phase_trains_the_encoder_alone_and_the_second_all_but_the_encoder():
    family = built(shake=0.1)
    assert set(losses(family, 0.2)) == {"prediction", "sigreg"}
    encoder = {f"jepa.{name}" for name, _ in family.members[0].jepa.named_parameters()}
    assert moved(family.members[0]) == encoder
    assert set(losses(family, 0.7)) == {"teacher_forcing", "rollout", "reward", "decoded"}
    assert moved(family.members[0]) == {name for name, _ in family.members[0].named_parameters()} - encoder


@pytest.mark.training
def test_no_bit_of_the_encoder_moves_after_its_phase():
    """Neither weights, which weight decay would shrink, nor statistics of batches."""
    kept, family = {}, built(steps=12)

    def notes(progress):
        kept[round(12 * progress)] = {n: t.clone() for n, t in family.members[0].state_dict().items()}

    family.after_step = notes
    train(family, pushed(), LEARNING)
    frozen = {n for n in kept[12] if n.startswith("jepa.")}
    changed = {n for n in kept[12] if not torch.equal(kept[6][n], kept[12][n])}
    assert {n for n in frozen if not torch.equal(kept[5][n], kept[6][n])} == frozen
    assert changed.isdisjoint(frozen)
    assert {n.split(".")[0] for n in changed} == {"predictor", "reward", "decoder"}


@pytest.mark.training
def test_the_encoder_is_the_same_whatever_was_done_and_paid():
    views, draw = pushed(), torch.Generator().manual_seed(5)
    other = {n: v if n == "frames" else torch.randn(v.shape, generator=draw, dtype=v.dtype) for n, v in views.items()}
    one, two = (fitted(views=given)[0].members[0] for given in (views, other))
    for name, tensor in one.jepa.state_dict().items():
        assert torch.equal(tensor, two.jepa.state_dict()[name]), name
    assert not torch.equal(one.predictor.change[0].weight, two.predictor.change[0].weight)


@pytest.mark.training
def test_the_encoder_is_that_of_a_rollout_of_as_many_steps_on_the_same_frames():
    """Phase one is `predict: rollout`, whatever stands beside it: no loss there but prediction and SIGReg."""
    family, views = built(shake=0.1), pushed(8)
    examples = family.examples(views)
    member, batch = family.members[0], {"episode": examples["episode"]}
    found, terms = family.member_loss(member, batch, torch.Generator().manual_seed(3), 0.25)
    generator = torch.Generator().manual_seed(3)
    episode, rows = family._rows(batch, 1, family.config.clip, generator)
    wanted, latents = member.jepa.loss(family.pixels(views["frames"][episode, rows]), generator, 0.5)
    torch.testing.assert_close(terms["prediction"], wanted["prediction"])
    weight = family.config.sigreg_weight
    torch.testing.assert_close(found, (1 - weight) * wanted["prediction"] + weight * terms["sigreg"])
    assert latents.requires_grad


# ---------------------------------------------------------------- equations of the second phase


@pytest.mark.parametrize(("error", "distance"), [("l1", l1_loss), ("l2", mse_loss)])
def test_losses_are_those_of_predictions_made_step_by_step(error, distance):
    member, memory, steps = built(shake=0.3, error=error).members[0], SMALL["memory"], 4
    draw = torch.Generator().manual_seed(2)
    z, a = torch.randn(5, memory + steps, 4, generator=draw), torch.randn(5, memory + steps - 1, 2, generator=draw)
    terms = member.prediction_loss(z, a)
    forced, rolled, window = [], [], z[:, :memory]
    for k in range(steps):
        now = a[:, None, memory - 1 + k]
        forced.append(member.predictor.roll_out(z[:, k : k + memory], 1, now)[:, 0])
        rolled.append(member.predictor.roll_out(window, 1, now)[:, 0])
        window = torch.cat([window[:, 1:], rolled[-1][:, None]], 1)
    torch.testing.assert_close(terms["teacher_forcing"], distance(torch.stack(forced, 1), z[:, memory:]))
    torch.testing.assert_close(terms["rollout"], distance(torch.stack(rolled[1:], 1), z[:, memory + 1 :]))


def test_one_step_has_no_rollout_of_its_own():
    member = built(shake=0.3).members[0]
    assert set(member.prediction_loss(torch.randn(5, 3, 4), torch.randn(5, 2, 2))) == {"teacher_forcing"}


def test_rewards_are_those_of_the_latents_before_each_action_in_their_spread():
    family, views = built(shake=0.3), pushed(6)
    family.examples(views)
    member, memory = family.members[0], SMALL["memory"]
    mean, spread = member.reward_units
    torch.testing.assert_close(mean, views["rewards"].mean().float())
    torch.testing.assert_close(spread, views["rewards"].std().float())
    z, a, r = torch.randn(5, 6, 4), torch.randn(5, 5, 2), torch.randn(5, 5)
    single = [member.imagine(z[:, k : k + memory], a[:, None, memory - 1 + k]).rewards[:, 0] for k in range(4)]
    error = mse_loss((torch.stack(single, 1) - r[:, memory - 1 :]) / spread, torch.zeros(5, 4))
    torch.testing.assert_close(member.reward_loss(z, a, r), error)


# ---------------------------------------------------------------- what follows from actions


def test_a_rollout_is_its_steps_one_by_one():
    family = built(shake=0.3).eval()
    views = pushed(4)
    family.examples(views)
    actions = views["actions"][:, :5].float()
    belief = family.start({"frames": views["frames"][:, 0]}, 0)
    whole, found, rewards = family.imagine(belief, actions, 0), [], []
    for action in actions.unbind(1):
        one = family.imagine(belief, action[:, None], 0)
        belief = torch.cat([belief[:, 1:], one.features], 1)
        found.append(one.features)
        rewards.append(one.rewards)
    torch.testing.assert_close(whole.features, torch.cat(found, 1))
    torch.testing.assert_close(whole.rewards, torch.cat(rewards, 1))


def test_a_prediction_depends_on_every_action_before_it_and_on_none_after():
    family, views = built(shake=0.3).eval(), pushed(4)
    family.examples(views)
    actions = views["actions"][:, :5].float().requires_grad_()
    belief = family.start({"frames": views["frames"][:, 0]}, 0)
    imagined = family.member_imagine(family.members[0], belief, actions)
    for k in range(5):
        slope = torch.autograd.grad(imagined.features[:, k].sum(), actions, retain_graph=True)[0].abs().sum(-1)
        assert slope[:, : k + 1].min() > 0
        assert torch.equal(slope[:, k + 1 :], torch.zeros_like(slope[:, k + 1 :]))


def test_a_belief_holds_the_features_of_the_last_frames():
    family, views = built(shake=0.3).eval(), pushed(4)
    family.examples(views)
    features = [family.features({"frames": views["frames"][:, t]}, 0) for t in range(3)]
    belief = family.start({"frames": views["frames"][:, 0]}, 0)
    assert torch.equal(belief, torch.stack([features[0]] * 2, 1))
    for t in (1, 2):
        belief = family.update(belief, views["actions"][:, t - 1], {"frames": views["frames"][:, t]}, 0)
    torch.testing.assert_close(belief, torch.stack(features[1:], 1))
    past = {"frames": views["frames"][:, :3], "actions": views["actions"][:, :2]}
    actions = views["actions"][:, 2:5]
    found, imagined = family.predict(past, 3, actions), family.imagine(belief, actions, 0)
    torch.testing.assert_close(found["latents"][0], imagined.features)
    torch.testing.assert_close(found["rewards"][0], imagined.rewards)
    decoded = family.decode(imagined.features, 0)
    torch.testing.assert_close(found["frames"][0], decoded)
    assert decoded.shape == (4, 3, SIZE, SIZE, 1)
    torch.testing.assert_close(family.encode(views).pooled[0, :, 0], features[0])


def test_it_is_planned_with_and_knows_nothing():
    family = built()
    assert isinstance(family, Imagines)
    assert isinstance(family, Decodes)
    assert isinstance(family, Encodes)
    assert VJEPA.knows(family.config) == frozenset()
    plain = built(world=UNREWARDED).eval()
    views = {n: v for n, v in pushed(4).items() if n != "rewards"}
    plain.examples(views)
    assert plain.imagine(plain.start({"frames": views["frames"][:, 0]}, 0), views["actions"], 0).rewards is None


@pytest.mark.training
def test_training_tells_where_actions_lead():
    """On episodes not trained on: four steps ahead, better than no motion and than the actions of others."""
    more = {"widths": (8, 16), "latent": 2, "hidden": 32, "horizon": 4, "pieces": 4, "sigreg_weight": 0.1}
    family, _ = fitted(views=pushed(96), steps=400, **more)
    views = pushed(32, seed=9)
    belief = family.start({"frames": views["frames"][:, 0]}, 0)
    true = torch.stack([family.features({"frames": views["frames"][:, t]}, 0) for t in range(1, 5)], 1)
    actions = views["actions"][:, :4]
    error, others = (
        (family.imagine(belief, a, 0).features - true)[:, -1].square().mean() for a in (actions, actions.roll(1, 0))
    )
    assert true[:, -1].std(0).min() > 0.1  # not collapsed
    assert error < 0.5 * (belief[:, -1] - true[:, -1]).square().mean()
    assert error < 0.5 * others


def test_frames_are_pooled_alike_in_training_and_in_use():
    family, views = built(shake=0.1, pool=2).eval(), pushed(4)
    family.examples(views)
    assert family.mean_frame.shape == (8, 8, 1)
    codes = family._codes(family.members[0])
    torch.testing.assert_close(codes, family.encode(views).pooled[0], rtol=0, atol=0.05)  # pixels are rounded once
    assert family.decode(codes, 0).shape == views["frames"].shape


# ---------------------------------------------------------------- training


@pytest.mark.training
def test_same_seed_same_bits_alone_and_among_others():
    (alone, curve), (among, _), (again, same) = fitted((1,)), fitted((0, 1)), fitted((1,))
    for name, tensor in alone.members[0].state_dict().items():
        assert torch.equal(tensor, again.members[0].state_dict()[name]), name
        assert torch.equal(tensor, among.members[1].state_dict()[name]), name
    assert curve == [pytest.approx(row, rel=0, abs=0, nan_ok=True) for row in same]


@pytest.mark.training
@pytest.mark.parametrize("killed_after", [3, 9])
def test_a_training_goes_on_bit_by_bit_where_it_was_killed(killed_after, tmp_path):
    """In either phase: latents of the second are found again from the frozen encoder."""
    learning = LEARNING.model_copy(update={"checkpoint_every": 3})
    whole, killed, resumed = (built() for _ in range(3))
    train(whole, pushed(), learning, None, "m", "d")

    def dies(progress):
        if round(12 * progress) == killed_after + 1:
            raise KeyboardInterrupt

    killed.after_step = dies
    with pytest.raises(KeyboardInterrupt):
        train(killed, pushed(), learning, CheckpointStore(tmp_path), "m", "d")
    train(resumed, pushed(), learning, CheckpointStore(tmp_path), "m", "d")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_collapse_is_seen_in_training_and_tells_no_actions_apart():
    family, views = built(), pushed(6)
    family.examples(views)
    with torch.no_grad():
        family.members[0].jepa.encoder.out.weight.zero_()
    assert family.monitor()["feature_std"].max() == 0
    assert family.monitor()["effective_rank"].max() == 0
    past = {"frames": views["frames"][:, :2], "actions": views["actions"][:, :1]}
    taken, following = views["actions"][:, 1:5], views["frames"][:, 2:6]
    own, other = (_feature_errors(family, past, a, following)[:, :, -1] for a in (taken, taken.roll(1, 0)))
    assert _ratio(other, own).max() < _IGNORED


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anti_collapse": "ema"}, "use anti_collapse: sigreg"),
        ({"clip": 3}, "lengthen it"),
        ({"encoder_share": 1}, "less than 1"),
        ({"predict": "rollout", "pool": 2}, "leave out pool"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        VJEPAConfig(**{**SMALL, **changes})


def test_a_horizon_beyond_an_episode_is_refused():
    with pytest.raises(UserError, match=r"memory 2 and horizon 12 do not fit into episodes of 13 of 'pushed dot'"):
        built(horizon=12)


@pytest.mark.parametrize("predict", ["masked", "rollout"])
def test_who_takes_no_actions_is_not_shown_any(predict):
    assert VJEPA.unsuitable(PUSHED, VJEPAConfig(predict=predict)) == f"predict: {predict} takes no actions"
    assert VJEPA.unsuitable(spec_of(ROWS, SIZE, SIZE, 1), VJEPAConfig(predict=predict)) is None


def test_who_takes_actions_needs_some():
    assert VJEPA.unsuitable(PUSHED, VJEPAConfig(**SMALL)) is None
    assert VJEPA.unsuitable(spec_of(ROWS, SIZE, SIZE, 1), VJEPAConfig(**SMALL)) == "predict: actions needs actions"
