"""Words and their numbers, a flow that is told a caption, samples that depend on nothing else but their generator."""

import numpy as np
import pytest
import torch

from tests.families.images import resumes, seeds_are_independent
from tests.families.scenes import COLOURS, SCENES, SIDES, SIZE, codes, halves
from tests.specs import LEARNING
from wm_pipelines.blocks.flow_sampling import heun, heun_through
from wm_pipelines.blocks.words import UNKNOWN, Words
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family
from wm_pipelines.families.parts.language import Generates
from wm_pipelines.families.text_flow import TextFlow, TextFlowConfig
from wm_pipelines.families.text_flow.family import shifted
from wm_pipelines.families.text_flow.networks import FrameVelocity, Reader
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Spec

SMALL = {"text_width": 8, "text_depth": 1, "heads": 2, "widths": (8, 8), "hidden": 8, "words": 6, "vocabulary": 12}
FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})


def built(seeds=(0,), **changes):
    schedule = {"steps": 12, "batch_size": 8, "warmup": 2}
    return TextFlow(TextFlowConfig(**{"schedule": schedule, **SMALL, **changes}), SCENES, seeds)


def moved(family):
    """The same family away from where it starts, as if it had been trained."""
    draw = generator(7)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=draw))
    family.examples(halves(12))
    return family


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- words


def test_words_and_marks_are_numbered_and_unknown_ones_told_apart():
    words = Words(10, 6)
    words.learn(codes(["a red dot, left", "a blue dot"]))
    known = [bytes(row.tolist()).rstrip(b"\0").decode() for row in words.table]
    assert known == ["", "", ",", "a", "blue", "dot", "left", "red", "", ""]
    assert words.tokens(codes(["a blue dot, red", "dot green"])).tolist() == [
        [3, 4, 5, 2, 7, 0],
        [5, UNKNOWN, 0, 0, 0, 0],
    ]


def test_words_and_marks_are_put_together_again():
    words = Words(12, 8)
    texts = ["a red dot, left", "a blue dot?", ""]
    words.learn(codes(texts))
    assert words.texts(words.tokens(codes(texts))) == texts


def test_the_vocabulary_travels_with_the_weights():
    first, second = moved(built()), built()
    second.load_state_dict(first.state_dict())
    text = codes(["red at the left", "blue at the right"])
    assert torch.equal(first.generate(text, 0, generator()), second.generate(text, 0, generator()))


def test_what_has_no_room_is_told():
    with pytest.raises(UserError, match="captions have 3 different words; raise vocabulary above 4"):
        Words(4, 6).learn(codes(["a red dot"]))
    with pytest.raises(UserError, match="longer than 24 bytes"):
        Words(4, 6).learn(codes(["a" * 25]))
    with pytest.raises(UserError, match="a caption has 3 words, the model takes 2"):
        Words(9, 2).tokens(codes(["a red dot"]))


def test_padding_of_bytes_changes_nothing():
    words = Words(10, 6)
    words.learn(codes(["a red dot"]))
    alone, beside = words.tokens(codes(["red"])), words.tokens(codes(["red", "a red dot"]))
    assert alone[0].tolist() == beside[0].tolist()


# ---------------------------------------------------------------- networks


def test_gradients_of_the_velocity():
    torch.manual_seed(0)
    field = FrameVelocity((2, 4, 4), 2, (8, 8), 1, 3, 4).double()
    torch.nn.init.normal_(field.data.out.weight)
    x, caption = torch.randn(3, 2, 4, 4).double().requires_grad_(), torch.randn(3, 3).double().requires_grad_()
    t, known = torch.tensor([[0.0], [0.4], [0.9]]).double(), torch.tensor([[True], [False], [True]])
    assert torch.autograd.gradcheck(lambda x, caption: field(x, t, caption, known), (x, caption))


def test_the_order_of_words_is_read():
    torch.manual_seed(0)
    reader = Reader(6, 4, 8, 1, 2)
    found = reader(torch.tensor([[2, 3, 4, 0], [4, 3, 2, 0]]))
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"widths": (8, 8, 8, 8)}, "no multiple of 16"), ({"widths": (8, 12)}, "multiples of 8 only")],
)
def test_networks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        built(**changes)


# ---------------------------------------------------------------- the flow


def test_equal_steps_are_the_plain_solver_and_others_solve_the_same_flow():
    start = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    equal = heun_through(lambda x, t: -x * (1 + t), start, [0.0, 0.25, 0.5, 0.75, 1.0])
    torch.testing.assert_close(equal, heun(lambda x, t: -x * (1 + t), start, 4))
    fine = heun_through(lambda x, t: -x * (1 + t), start, shifted(torch.linspace(0, 1, 401).double(), 3.0).tolist())
    torch.testing.assert_close(fine, start * np.exp(-1.5), rtol=1e-2, atol=0)


def test_shifted_times_keep_their_ends_and_move_towards_the_noise():
    u = torch.linspace(0, 1, 11).double()
    torch.testing.assert_close(shifted(u, 1.0), u)
    found = shifted(u, 3.0)
    assert found[[0, -1]].tolist() == [0.0, 1.0]
    assert (found.diff() > 0).all()
    assert (found[1:-1] < u[1:-1]).all()


def test_guidance_goes_from_the_unconditional_flow_beyond_the_conditional_one():
    text, frames = codes(["red at the left", "blue at the right"]), {}
    for weight in (0.0, 1.0, 2.0):
        frames[weight] = moved(built(guidance=weight, sample_steps=1)).generate(text, 0, generator())
    other = moved(built(guidance=0.0, sample_steps=1)).generate(text.flip(0), 0, generator())
    assert torch.equal(frames[0.0], other)  # nothing of the caption is in it
    inside = (
        (frames[1.0] > 0)
        & (frames[1.0] < 1)
        & (frames[2.0] > 0)
        & (frames[2.0] < 1)
        & (frames[0.0] > 0)
        & (frames[0.0] < 1)
    )
    assert inside.any()
    torch.testing.assert_close((2 * frames[1.0] - frames[0.0])[inside], frames[2.0][inside], rtol=0, atol=1e-4)
    assert not torch.allclose(frames[0.0], frames[1.0])


def test_frames_depend_on_captions_and_generator_alone():
    family, text = moved(built()), codes(["red at the left", "blue at the right", "red at the left"])
    assert isinstance(family, Generates)
    torch.manual_seed(1)
    first = family.generate(text, 0, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, family.generate(text, 0, generator(3)))
    assert first.shape == (3, SIZE, SIZE, 3)
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.0
    assert not torch.allclose(first[0], first[2])  # two samples of one caption
    assert not torch.allclose(first, family.generate(text, 0, generator(4)))


def test_it_makes_single_frames():
    video = Spec("video", 0.1, SCENES.views, 5)
    assert TextFlow.unsuitable(video, TextFlowConfig()) == "needs single frames, not videos"
    assert TextFlow.unsuitable(SCENES.showing(("frames",)), TextFlowConfig()) == "needs captions"
    with pytest.raises(ValueError, match="guidance needs dropout"):
        TextFlowConfig(dropout=0.0)


# ---------------------------------------------------------------- training


def of_halves(seeds=(0, 1)):
    return built(seeds)


@pytest.mark.training
def test_a_killed_training_ends_in_the_same_bits(tmp_path):
    resumes(of_halves, tmp_path, halves(12))


@pytest.mark.training
def test_a_seed_is_trained_alike_alone_and_beside_another():
    seeds_are_independent(of_halves, halves(12))


@pytest.mark.training
def test_it_learns_to_do_what_captions_say():
    schedule = {"steps": 150, "batch_size": 16, "learning_rate": 1e-2, "warmup": 10, "gradient_clip": 1.0}
    family: Family = built(schedule=schedule, widths=(16, 16), hidden=16, text_width=16)
    train(family, halves(64), FLOAT32)
    texts = [(c, s) for c in COLOURS for s in SIDES]
    frames = family.generate(codes([f"{c} at the {s}" for c, s in texts]), 0, generator())
    wanted = torch.ones(4, SIZE, SIZE, 3)
    for frame, (colour, side) in zip(wanted, texts, strict=True):
        frame[:, SIDES[side]] = torch.tensor(COLOURS[colour]) / 255
    errors = (frames[:, None] - wanted[None]).square().mean((2, 3, 4))
    assert errors.argmin(1).tolist() == [0, 1, 2, 3]
