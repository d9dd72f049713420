"""Latent actions: codes of two latents alone, three stages, no true action in training, a map from few labels."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from tests.families.images import resumes, seeds_are_independent, spec_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import DiscoversActions, Encodes, Imagines
from wm_pipelines.families.latent_action import LatentAction, LatentActionConfig
from wm_pipelines.families.latent_action.action_map import ActionMap
from wm_pipelines.families.latent_action.codebook import Codebook
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Space, Spec

SMALL = {
    "patch": 4, "maps": 3, "width": 6, "widths": (6, 8), "codes": 4, "code": 2, "horizon": 2, "labels": 12,
    "schedule": {"steps": 10, "batch_size": 4, "learning_rate": 3e-3},
}  # fmt: skip
LEARNING = LearningConfig(precision="32-true", progress=False)
WAYS = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
VIDEO = spec_of(12, 16, 16, 1)
DRIVEN = Spec("dots", 0.1, {**VIDEO.views, "actions": Space("vector", (4,), per="transition")}, 12)


def walks(count=8, rows=12, size=16, side=4, seed=0):
    """A bright square that goes its own width in one of four ways, at random, and turns back at the walls."""
    draw = torch.Generator().manual_seed(seed)
    way, cells = torch.randint(4, (count, rows - 1), generator=draw), size // side
    place = [torch.randint(cells, (count, 2), generator=draw)]
    for t in range(rows - 1):
        outside = ((place[-1] + WAYS[way[:, t]]) // cells != 0).any(1)
        way[:, t] = torch.where(outside, way[:, t] ^ 1, way[:, t])
        place.append(place[-1] + WAYS[way[:, t]])
    axis = torch.arange(size) // side
    inside = [axis == torch.stack(place, 1)[..., i, None] for i in (0, 1)]
    frames = (200 * (inside[0][..., :, None] & inside[1][..., None, :]))[..., None].to(torch.uint8)
    return {"frames": frames, "actions": torch.nn.functional.one_hot(way, 4).double()}, way


def built(world=DRIVEN, seeds=(0,), **changes):
    return LatentAction(LatentActionConfig(**{**SMALL, **changes}), world, seeds)


def trained(episodes=None, world=DRIVEN, **changes):
    family = built(world, **changes)
    train(family, walks()[0] if episodes is None else episodes, LEARNING)
    return family.eval()


# ---------------------------------------------------------------- codes


def test_k_means_finds_clusters_and_codes_stay_on_them():
    draw = torch.Generator().manual_seed(0)
    centres = 8 * torch.randn(5, 3, generator=draw)
    x = centres[torch.arange(500) % 5] + 0.1 * torch.randn(500, 3, generator=draw)
    book = Codebook(5, 3)
    assert not book.started
    book.start(x, torch.Generator().manual_seed(1))
    for _ in range(50):
        book.follow(x, draw)
    assert book.started
    assert (torch.cdist(centres, book.vectors).amin(1) < 0.1).all()
    torch.testing.assert_close(book.share, torch.full((5,), 0.2))


def test_gradients_pass_straight_through_and_the_nearest_code_is_passed_on():
    book = Codebook(6, 3)
    x = torch.randn(7, 3, requires_grad=True)
    passed, chosen = book(x)
    torch.testing.assert_close(passed, book.vectors[chosen])
    assert torch.equal(chosen, torch.cdist(x, book.vectors).argmin(1))
    weights = torch.randn(7, 3)
    (passed * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)


def test_codes_that_replace_nothing_are_set_to_what_there_is():
    book = Codebook(4, 2, kept=0.5, dead=0.2)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]]))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=draw)
    for _ in range(30):
        book.follow(x, draw)
    assert book.vectors.abs().max() < 5
    assert (torch.bincount(book.nearest(x), minlength=4) > 10).all()


def test_crowding_is_nothing_for_even_use_and_the_most_for_one_code():
    book = Codebook(4, 2)
    book.vectors.copy_(10 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    assert book.crowding(book.vectors.clone()) == pytest.approx(0.0, abs=1e-5)
    assert book.crowding(book.vectors[:1].expand(9, 2)) == pytest.approx(math.log(4), abs=1e-5)
    x = book.vectors[[0, 0, 0, 1]] + 0.1
    x.requires_grad_(True)
    book.crowding(x).backward()
    assert x.grad.isfinite().all()


def test_codes_are_a_function_of_the_two_frames_alone():
    family, (views, _) = trained(), walks(5, seed=3)
    assert isinstance(family, DiscoversActions)
    assert isinstance(family, Encodes)
    assert isinstance(family, Imagines)
    found = family.discover(views)
    assert found.shape == (1, 5, 11)
    assert set(found.unique().tolist()) <= set(range(family.codes))
    for t in (0, 6, 10):
        pair = {"frames": views["frames"][2:4, t : t + 2]}
        assert torch.equal(family.discover(pair)[:, :, 0], found[:, 2:4, t])
    other = {**views, "actions": 1 - views["actions"]}
    assert torch.equal(family.discover(other), found)


# ---------------------------------------------------------------- training


def test_stages_train_what_they_say_and_codes_rest_in_the_last():
    family, (views, _) = built(), walks()
    batch = family.examples(views)
    member = family.members[0]
    moved = {0.0: {"frames", "dynamics"}, 0.35: {"inference", "dynamics"}, 0.65: {"inference", "dynamics"}}
    for progress, parts in {**moved, 0.8: {"dynamics"}}.items():
        family.zero_grad(set_to_none=True)
        before = {n: b.clone() for n, b in member.named_buffers()}
        family.member_loss(member, batch, torch.Generator().manual_seed(0), progress)[0].backward()
        assert {n.split(".")[0] for n, p in member.named_parameters() if p.grad is not None} >= parts - {"frames"}
        still = {n.split(".")[0] for n, b in member.named_buffers() if not torch.equal(b, before[n])}
        assert still <= ({"inference", "codebook"} if progress in (0.35, 0.65) else set())
        if progress >= 0.3:
            encoder = [p.grad for p in member.frames.enc.parameters()]
            assert all(g is None or not g.any() for g in encoder)


def test_what_rests_is_found_once_and_is_what_it_would_be_anew():
    family, (views, _) = built(), walks()
    family.examples(views)
    member, frames = family.members[0], family.inputs(views)
    episode, rows = torch.tensor([[0], [3]]), torch.tensor([[1, 2, 3], [7, 8, 9]])
    torch.testing.assert_close(family._latents(member)[episode, rows], family._encoded(member, frames[episode, rows]))
    assert family._latents(member) is family._latents(member)
    member.inference.eval()
    assert torch.equal(family._actions(member), family._codes_of(member, family._encoded(member, frames)))
    family.finish()
    assert not family._encodings
    assert not family._taken


def test_training_does_not_see_the_actions():
    """Without labels, other actions change no bit; with labels, the action map alone."""
    (views, _), draw = walks(), torch.Generator().manual_seed(5)
    shuffled = {**views, "actions": views["actions"][:, :, torch.randperm(4, generator=draw)]}
    for labels in (0, 12):
        one, other = (trained(v, labels=labels).state_dict() for v in (views, shuffled))
        differ = {name for name in one if not torch.equal(one[name], other[name])}
        assert differ == ({"members.0.actions.actions"} if labels else set())
    assert LatentAction.knows(LatentActionConfig(labels=0)) == set()
    assert LatentAction.contains(LatentActionConfig(), DRIVEN) == {"action_labels"}
    assert LatentAction.contains(LatentActionConfig(), VIDEO) == set()


def test_a_random_inverse_model_stays_as_drawn():
    family = trained(discovery="random")
    start = built(discovery="random").state_dict()
    now = family.state_dict()
    assert all(torch.equal(now[n], start[n]) for n, _ in family.named_parameters() if ".inference." in n)
    assert family.members[0].codebook.started


def test_it_resumes_and_its_seeds_are_independent(tmp_path):
    frames = walks()[0]["frames"]
    resumes(lambda: built(VIDEO, (0, 1)), tmp_path, frames)
    seeds_are_independent(lambda seeds: built(VIDEO, seeds), frames)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="episodes of 3 frames are shorter than context 2"):
        built().examples({name: view[:, :3] for name, view in walks()[0].items()})
    with pytest.raises(UserError, match="patch 5 does not divide frames of 16 x 16 pixels"):
        built(patch=5)
    with pytest.raises(UserError, match="2 widths do not divide latents of 1 x 1"):
        built(patch=16)
    with pytest.raises(ValueError, match="leave nothing for the third stage"):
        LatentActionConfig(prediction_share=0.5, discovery_share=0.5)
    assert LatentAction.unsuitable(spec_of(1, 16, 16, 1), LatentActionConfig()) == "needs videos"


# ---------------------------------------------------------------- futures


def test_few_steps_are_the_beginning_of_many_under_codes_and_under_actions():
    family, (views, _) = trained(), walks(5, seed=2)
    past = {"frames": views["frames"][:, :2]}
    codes = torch.randint(4, (1, 5, 6), generator=torch.Generator().manual_seed(0))
    long, short = (family.follow(past, codes[..., :k])["frames"] for k in (6, 2))
    assert long.shape == (1, 5, 6, 16, 16, 1)
    torch.testing.assert_close(long[:, :, :2], short)
    assert long.min() >= 0
    assert long.max() <= 1
    for actions in (None, views["actions"][:, 1:7]):
        long, short = (family.predict(past, k, None if actions is None else actions[:, :k]) for k in (6, 2))
        for view in ("frames", "latents"):
            torch.testing.assert_close(long[view][:, :, :2], short[view])
    # True actions are followed by the codes that the map knows, and no action by none.
    actions = views["actions"][:, 1:7]
    mapped = family.members[0].actions(actions)[None]
    for taken, meant in ((actions, mapped), (None, -torch.ones_like(codes))):
        found, wanted = family.predict(past, 6, taken)["frames"], family.follow(past, meant)["frames"]
        torch.testing.assert_close(found, wanted)


def test_beliefs_say_what_predictions_say():
    family, (views, _) = trained(), walks(5, seed=2)
    observed = [{"frames": views["frames"][:, k]} for k in (0, 1)]
    belief = family.start(observed[0], 0)
    belief = family.update(belief, views["actions"][:, 0], observed[1], 0)
    imagined = family.imagine(belief, views["actions"][:, 1:4], 0)
    found = family.decode(imagined.features, 0)
    wanted = family.predict({"frames": views["frames"][:, :2]}, 3, views["actions"][:, 1:4])["frames"][0]
    torch.testing.assert_close(found, wanted)
    assert family.features(observed[1], 0).shape == imagined.features[:, 0].shape
    rows = torch.tensor([3, 1])
    alone = family.imagine(belief[rows], views["actions"][rows, 1:4], 0).features
    torch.testing.assert_close(alone, imagined.features[rows])


def test_the_map_is_the_most_frequent_code_of_the_nearest_action():
    found = ActionMap(6, 2, 4)
    a, b = [1.0, 0.0], [0.0, 1.0]
    assert found(torch.tensor([a])).tolist() == [-1]
    found.learn(torch.tensor([a, a, a, b, b]), torch.tensor([2, 2, 3, 0, 0]))
    assert found(torch.tensor([[a, b], [b, [0.9, 0.2]]])).tolist() == [[2, 0], [0, 2]]
    assert ActionMap(0, 0, 4)(torch.zeros(3, 5, 0)).tolist() == [[-1] * 5] * 3


@pytest.mark.training
def test_the_ways_of_a_walk_are_found_and_named_by_a_few_labels():
    changes = {
        "width": 16, "maps": 6, "widths": (16, 24), "code": 4, "entropy": 0.1, "labels": 60, "pieces": 2, "noise": 0.2,
        "horizon": 1, "withheld": 0.05, "prediction_share": 0.1, "discovery_share": 0.75, "continuous": 0.6,
        "schedule": {"steps": 350, "batch_size": 16, "learning_rate": 8e-3, "gradient_clip": 1.0},
    }  # fmt: skip
    video = spec_of(12, 32, 32, 1)
    world = Spec("dots", 0.1, {**video.views, "actions": DRIVEN.views["actions"]}, 12)
    family = trained(walks(128, size=32)[0], world, **changes)
    views, way = walks(32, size=32, seed=1)
    codes = family.discover(views)[0]
    assert adjusted_mutual_info_score(way.flatten(), codes.flatten()) > 0.8
    assert (family.members[0].actions(views["actions"]) == codes).double().mean() > 0.8
    past, true = {"frames": views["frames"][:, :2]}, views["frames"][:, 2:3].double() / 255
    taken = (views["actions"], views["actions"].roll(1, 0))
    right, wrong = (family.predict(past, 1, actions[:, 1:2])["frames"][0] for actions in taken)
    assert (right - true).square().mean() < 0.5 * (wrong - true).square().mean()
