"""A transformer over states looks back, never ahead, and no further than its window; and it learns to predict."""

import numpy as np
import pytest
import torch

from tests.families.driven import PUSHED, pushed
from tests.specs import LEARNING, PENDULUM, episodes, pendulum, spec, tensor
from wm_pipelines.blocks.transformer import Attention, Trunk
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Encodes, Imagines
from wm_pipelines.families.sequence import Sequence, SequenceConfig, StateTransformer
from wm_pipelines.learning.loop import train

SMALL = {"window": 6, "width": 16, "depth": 2, "heads": 2}


def built(seeds=(0,), world=PENDULUM, shake=0.3, **changes):
    """In float64, every weight moved at random, so that nothing holds by the first weights alone."""
    family = Sequence(SequenceConfig(**{**SMALL, **changes}), world, seeds).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return family


def random_states(rows, count=3, seed=2):
    return torch.randn(count, rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- causality


def test_no_state_is_predicted_from_a_later_one():
    member, x = built().members[0], random_states(6)
    before = member(x)
    for k in range(1, 6):
        changed = x.clone()
        changed[:, k:] += 1.0
        after = member(changed)
        torch.testing.assert_close(after[:, :k], before[:, :k], rtol=0, atol=1e-12)
        assert (after[:, k] - before[:, k]).abs().min() > 1e-6


def test_the_past_is_used():
    member, x = built().members[0], random_states(6)
    earlier = x.clone()
    earlier[:, 0] += 1.0
    assert (member(earlier)[:, -1] - member(x)[:, -1]).abs().min() > 1e-6


def test_what_lies_before_the_window_has_no_influence():
    family, x = built(), random_states(10)
    whole, cut = (family.predict({"states": past}, 5)["states"] for past in (x, x[:, -6:]))
    assert torch.equal(whole, cut)
    assert not torch.allclose(whole, family.predict({"states": x[:, -5:]}, 5)["states"])


def test_the_context_grows_from_one_state_and_each_step_is_the_networks():
    family, start = built(), random_states(1)
    found = family.predict({"states": start}, 9)["states"][0]
    member, states = family.members[0], [start[:, 0]]
    for _ in range(9):
        change = member(torch.stack(states[-6:], 1))[:, -1]
        states.append(states[-1] + member.change_mean + member.change_scale * change)
    torch.testing.assert_close(found, torch.stack(states, 1), rtol=0, atol=1e-11)


def test_a_short_prediction_is_the_beginning_of_a_long_one():
    family, start = built(), random_states(2)
    short, long = (family.predict({"states": start}, steps)["states"] for steps in (3, 12))
    torch.testing.assert_close(long[:, :, :4], short)
    assert torch.equal(short[0, :, 0], start[:, -1])


def test_the_last_query_alone_gives_what_all_queries_give():
    trunk, x = Trunk((5, 1, 1), 16, 2, 2, causal=True).double(), torch.randn(3, 5, 16, dtype=torch.float64)
    at = torch.arange(5)
    torch.testing.assert_close(trunk(x, at, last=2), trunk(x, at)[:, -2:])


def test_attention_that_is_not_causal_is_what_it_was():
    torch.manual_seed(0)
    free = Attention(8, 2)
    x = torch.randn(2, 4, 8)
    q = free.query(x).unflatten(-1, (2, -1)).transpose(1, 2)
    k, v = free.key_value(x).unflatten(-1, (2, 2, -1)).permute(2, 0, 3, 1, 4)
    seen = ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v
    torch.testing.assert_close(free(x, x), free.out(seen.transpose(1, 2).flatten(2)))


# ---------------------------------------------------------------- loss


def test_at_first_everything_moves_on_by_its_mean_change():
    family = Sequence(SequenceConfig(**SMALL), PENDULUM, (0,)).double()
    views = pendulum(8, 20)
    family.examples(views)
    changes = views["states"].diff(dim=1)
    found = family.predict({"states": views["states"][:, :1]}, 2)["states"][0]
    torch.testing.assert_close(found.diff(dim=1), changes.mean((0, 1)).expand(8, 2, -1), rtol=1e-5, atol=1e-6)
    # and the loss is the changes' variance in their own units: 1, up to which windows are drawn
    loss, _ = family.member_loss(family.members[0], views, torch.Generator().manual_seed(0), 0.0)
    assert float(loss.detach()) == pytest.approx(1.0, abs=0.2)


def test_the_loss_is_the_error_of_every_next_change_of_a_window():
    family, x = built(), random_states(7)  # one window and what follows its last state
    member = family.members[0]
    loss, _ = family.member_loss(member, {"states": x}, torch.Generator().manual_seed(0), 0.0)
    error = torch.stack([member(x[:, :k])[:, -1] - (x[:, k] - x[:, k - 1]) for k in range(1, 7)])
    torch.testing.assert_close(loss, error.square().mean())


def test_noise_is_led_back():
    """A network that moves by the mean alone misses the noise once, with the sign of leading back."""
    family = Sequence(SequenceConfig(**SMALL, noise=2.0), PENDULUM, (0,)).double()
    views = episodes(torch.cumsum(torch.ones(50, 20, 2, dtype=torch.float64), 1))  # every change is 1
    family.examples(views)
    loss, _ = family.member_loss(family.members[0], views, torch.Generator().manual_seed(0), 0.0)
    assert float(loss.detach()) == pytest.approx(4.0, rel=0.25)  # of 600 squares


# ---------------------------------------------------------------- use


def test_features_are_those_of_training_windows():
    family, x = built(), random_states(15)
    found = family.encode({"states": x})
    assert isinstance(family, Encodes)
    assert found.pooled.shape == (1, 3, 15, 16)
    for k in range(0, 15, 6):
        torch.testing.assert_close(found.pooled[0, :, k : k + 6], family.members[0].features(x[:, k : k + 6]))


def test_it_knows_nothing_and_needs_two_states():
    config = SequenceConfig()
    assert Sequence.knows(config) == set()
    assert Sequence.unsuitable(spec(2, rows=1), config) == "needs episodes of two states or more"
    assert Sequence.unsuitable(spec(2), config) is None
    with pytest.raises(UserError, match=r"predicts steps of 0\.1 s, not of 0\.2 s"):
        built().predict({"states": random_states(1)}, 1, step=0.2)
    with pytest.raises(UserError, match="width 15 is not a multiple of heads 2"):
        StateTransformer(2, SequenceConfig(width=15, heads=2))


def test_a_rescaled_world_is_the_same_world():
    """Units are learned: metres or millimetres make no difference."""
    views, factor = pendulum(6, 20), tensor(np.array([1e-3, 1e4]))
    losses = []
    for scale in (torch.ones(2, dtype=torch.float64), factor):
        family = built(shake=0.0)
        scaled = {**views, "states": views["states"] * scale}
        family.examples(scaled)
        with torch.no_grad():
            family.members[0].change.weight.fill_(0.1)
        losses.append(family.member_loss(family.members[0], scaled, torch.Generator().manual_seed(0), 0.0)[0])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


@pytest.mark.training
def test_it_learns_to_predict_and_beats_standing_still():
    schedule = {"steps": 250, "batch_size": 20, "learning_rate": 3e-3, "warmup": 20, "gradient_clip": 1.0}
    family = Sequence(SequenceConfig(**SMALL, schedule=schedule), PENDULUM, (0, 1))
    run = train(family, pendulum(20, 40), LEARNING.model_copy(update={"precision": "32-true"}))
    losses = [row["loss"] for row in run.curve if row["seed"] == 0]
    assert losses[-1] < 0.01  # 1 at the start: the variance of the changes
    truth = pendulum(8, 20, seed=1)["states"]
    found = family.eval().predict({"states": truth[:, :1]}, 20)["states"]
    still = (truth[:, :1] - truth).square().mean()
    assert ((found - truth).square().mean((1, 2, 3)) < 0.1 * still).all()


# ---------------------------------------------------------------- under actions


def driven(shake=0.3):
    family = built(world=PUSHED, shake=shake)
    views = pushed(5, 12)
    family.examples(views)
    return family, views


def test_an_action_changes_what_follows_it_and_nothing_before():
    family, views = driven()
    past, actions = {"states": views["states"][:, :1]}, views["actions"][:, :8]
    before = family.predict(past, 8, actions)
    changed = actions.clone()
    changed[:, 3] += 0.5
    after = family.predict(past, 8, changed)
    assert torch.equal(after["states"][:, :, :4], before["states"][:, :, :4])
    assert torch.equal(after["rewards"][:, :, :3], before["rewards"][:, :, :3])
    assert (after["states"][:, :, 4] != before["states"][:, :, 4]).any(-1).all()
    assert (after["rewards"][:, :, 3] != before["rewards"][:, :, 3]).all()


@pytest.mark.parametrize("known", [1, 4, 6, 9])
def test_what_is_imagined_is_what_is_predicted(known):
    """The window of a belief grows, is full, and slides as that of a prediction does."""
    family, views = driven()
    assert isinstance(family, Imagines)
    belief = family.start({"states": views["states"][:, 0]}, 0)
    for k in range(1, known):
        belief = family.update(belief, views["actions"][:, k - 1], {"states": views["states"][:, k]}, 0)
    assert belief.shape == (5, 6, 4)
    past = {"states": views["states"][:, :known], "actions": views["actions"][:, : known - 1]}
    ahead = views["actions"][:, known - 1 : known + 2]
    imagined, predicted = family.imagine(belief, ahead, 0), family.predict(past, 3, ahead)
    states = predicted["states"][0, :, 1:]
    expected = family.features({"states": states.flatten(0, 1)}, 0).unflatten(0, (5, 3))
    torch.testing.assert_close(imagined.features, expected)
    torch.testing.assert_close(imagined.rewards, predicted["rewards"][0])


def test_rows_of_a_belief_may_know_unequally_much():
    family, views = driven()
    first = family.start({"states": views["states"][:, 0]}, 0)
    second = family.update(first, views["actions"][:, 0], {"states": views["states"][:, 1]}, 0)
    mixed = torch.cat([second[:2], first[2:]])
    ahead = views["actions"][:, 1:5]
    found = family.imagine(mixed, ahead, 0)
    for part, belief in ((slice(0, 2), second), (slice(2, 5), first)):
        alone = family.imagine(belief[part], ahead[part], 0)
        torch.testing.assert_close(found.features[part], alone.features)
        torch.testing.assert_close(found.rewards[part], alone.rewards)


def test_where_nothing_acts_the_weights_are_those_of_a_network_without_actions():
    torch.manual_seed(0)
    plain = StateTransformer(2, SequenceConfig(**SMALL))
    torch.manual_seed(0)
    acting = StateTransformer(2, SequenceConfig(**SMALL), 1, True)
    for name, value in plain.state_dict().items():
        assert torch.equal(acting.state_dict()[name], value)


@pytest.mark.training
def test_it_learns_what_pushes_do_and_what_they_earn():
    schedule = {"steps": 300, "batch_size": 20, "learning_rate": 6e-3, "warmup": 20, "gradient_clip": 1.0}
    family = Sequence(SequenceConfig(**SMALL, schedule=schedule), PUSHED, (0,))
    train(family, pushed(), LEARNING.model_copy(update={"precision": "32-true"}))
    truth = pushed(10, seed=1)
    past = {"states": truth["states"][:, :1]}
    found, idle = (family.eval().predict(past, 20, a) for a in (truth["actions"], None))
    wrong, without = ((p["states"] - truth["states"]).square().mean() for p in (found, idle))
    assert wrong < 0.1 * without
    assert (found["rewards"] - truth["rewards"]).square().mean() < 0.2 * truth["rewards"].var()
