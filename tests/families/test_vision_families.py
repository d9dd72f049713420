"""What every vision family promises: shapes of encodings and predictions, and nothing told but what it declares."""

import pytest
import torch

from tests.families.images import IMAGES, blobs, moving_dots, spec_of, squares
from wm_pipelines.registry import families
from wm_pipelines.spec import Facts, Spec, UndeclaredFact

SMALL = {
    "raw_pixels": {"side": 8},
    "ijepa": {"patch": 4, "width": 16, "depth": 1, "heads": 2, "predictor_width": 8},
    "mae": {"patch": 4, "width": 16, "depth": 1, "heads": 2, "decoder_width": 16},
    "contrastive": {"widths": (8, 8), "latent": 8},
    "vjepa": {"predict": "rollout", "clip": 8, "widths": (8, 8), "latent": 8, "hidden": 16, "memory": 3},
    "latent_dynamics": {"widths": (8, 8), "latent": 8, "hidden": 16, "context": 3, "horizon": 4},
    "object_tracker": {"objects": 1, "extent": 8, "context": 3, "horizon": 4, "width": 8, "memory": 16},
    "vae_rnn": {"widths": (8, 8), "features": 8, "latent": 4, "hidden": 8, "context": 3, "piece": 6},
}
OF_IMAGES = ("raw_pixels", "ijepa", "mae", "contrastive")
FRAMES = {"raw_pixels", "mae", "latent_dynamics", "object_tracker", "vae_rnn"}
LATENTS = FRAMES | {"vjepa"}
VIDEO = spec_of(10, 16, 16, 1)


def built(name, spec=VIDEO, seeds=(0, 1)):
    kind = families.get(name)
    config = kind.Config(**SMALL[name])
    assert kind.unsuitable(spec, config) is None
    return kind(config, spec, seeds)


@pytest.mark.parametrize("name", SMALL)
def test_videos_are_encoded_and_continued(name):
    family, frames = built(name), squares(4)
    stride = family.frames_per_latent
    encoding = family.encode({"frames": frames})
    width = encoding.pooled.shape[-1]
    assert encoding.pooled.shape == (2, 4, 10 // stride, width)
    assert encoding.tokens is None or encoding.tokens.shape[:3] == (2, 4, 10 // stride)
    found = family.predict({"frames": frames[:, : max(1, family.context)]}, 2 * stride)
    assert set(found) == {view for view, able in (("frames", FRAMES), ("latents", LATENTS)) if name in able}
    if name in FRAMES:
        assert found["frames"].shape == (2, 4, 2 * stride, 16, 16, 1)
        assert found["frames"].min() >= 0
        assert found["frames"].max() <= 1
    if name in LATENTS:
        assert found["latents"].shape == (2, 4, 2, width)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_are_encoded_one_by_one(name):
    family, frames = built(name, IMAGES), blobs(6)[0]
    pooled = family.encode({"frames": frames}).pooled
    assert pooled.shape[:3] == (2, 6, 1)
    torch.testing.assert_close(pooled[:, 4:], family.encode({"frames": frames[4:]}).pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_loss_is_one_number_per_seed_with_named_terms(name):
    family = built(name)
    examples = family.examples({"frames": moving_dots(8, rows=10)[0], "states": torch.zeros(8, 10, 4)})
    if name == "raw_pixels":
        assert examples == {}
        return
    assert set(examples) == {"episode" if name == "vae_rnn" else "frames"}
    loss, terms = family.loss({name: of[:6].expand(2, *of[:6].shape) for name, of in examples.items()}, 0.5)
    assert loss.shape == (2,)
    assert all(term.shape == (2,) and not term.requires_grad for term in terms.values())
    assert all(values.shape == (2,) for values in family.monitor().values())


@pytest.mark.parametrize("name", SMALL)
def test_facts_that_are_not_declared_cannot_be_read(name):
    spec = Spec(VIDEO.name, VIDEO.step, VIDEO.views, VIDEO.rows, Facts({"angles": [0]}))
    with pytest.raises(UndeclaredFact, match=f"{name} read the fact 'angles'"):
        built(name, spec).spec.facts["angles"]


@pytest.mark.parametrize("name", sorted(set(SMALL) - set(OF_IMAGES)))
def test_families_of_videos_refuse_single_images(name):
    kind = families.get(name)
    assert kind.unsuitable(IMAGES, kind.Config(**SMALL[name])) == "needs videos"


def test_raw_pixels_copy_the_last_frame():
    frames = squares(3)
    found = built("raw_pixels").predict({"frames": frames[:, :4]}, 3)
    assert torch.equal(found["frames"][1], frames[:, 3:4].expand(-1, 3, -1, -1, -1) / 255)
    means = torch.nn.functional.adaptive_avg_pool2d(frames[:, 3, ..., 0] / 255, 8).flatten(1)
    torch.testing.assert_close(found["latents"][0, :, 2], means)
    assert not list(built("raw_pixels").parameters())


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"ijepa"}))
def test_features_of_a_latent_step_depend_on_its_own_frames_alone(name):
    """Encodings that predictions start from are causal: other frames after a latent step leave it as it was."""
    family, frames = built(name), squares(3)
    stride = family.frames_per_latent
    whole = family.encode({"frames": frames})
    for cut in range(stride, 10, stride):
        other = frames.clone()
        other[:, cut:] = squares(3, seed=9)[:, cut:].flip(1)
        found = family.encode({"frames": other})
        known = cut // stride
        assert torch.equal(found.pooled[:, :, :known], whole.pooled[:, :, :known])
        if whole.tokens is not None:
            assert torch.equal(found.tokens[:, :, :known], whole.tokens[:, :, :known])
        # Nor on what came before: windows of as many frames tell as much of the past, whatever the family.
        first = cut // stride
        assert torch.equal(
            family.encode({"frames": _before(frames, cut)}).pooled[:, :, first:], whole.pooled[:, :, first:]
        )


def _before(frames, cut):
    """The same with other frames before ``cut``."""
    other = frames.clone()
    other[:, :cut] = squares(3, seed=9)[:, :cut].flip(1)
    return other


def test_every_family_that_works_on_frames_is_among_them():
    known = {name: families.get(name) for name in families.names()}
    own = {name for name, kind in known.items() if kind.__module__.startswith("wm_pipelines.")}
    elsewhere = {
        "oracle",
        "rssm",
        "energy_based",
        "mixture_density",
        "flow",
        "latent_action",
        "text_flow",
        "training_copy",
        "transfusion",
        "frequent_answer",
        "vljepa",
        "token_vlm",
        "dual_encoder",
    }  # tested in files of their own
    assert {name for name in own if "frames" in known[name].shown(VIDEO)} == set(SMALL) | elsewhere


@pytest.mark.parametrize("name", sorted(SMALL))
def test_features_that_training_cannot_change_are_declared(name):
    """Of pixels by another name no probe may say that they were learned."""
    family, frames = built(name, seeds=(0,)), squares(4)
    if name != "raw_pixels":
        family.examples({"frames": frames})
    before = family.encode({"frames": frames}).pooled
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert family.learned_features == (not torch.equal(before, family.encode({"frames": frames}).pooled))


def test_a_round_trip_is_the_encoding_of_what_was_decoded():
    family, frames = built("latent_dynamics").eval(), squares(4)
    family.examples({"frames": frames})
    found = family.round_trip({"frames": frames})
    for seed, member in enumerate(family.members):
        x = family.inputs({"frames": frames})
        wanted = member.pooled(member.decode(member.encode(x)).clamp(0, 1))
        torch.testing.assert_close(found[seed], wanted)
    assert found.shape == family.encode({"frames": frames}).pooled.shape
