"""What every family promises, in every variant that runs: it knows what it declares, and tells of time causally."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from tests.families.fields import posed
from tests.families.images import spec_of
from tests.families.mechanics import bodies, bodies_field, body_starts
from tests.families.scenes import SCENES, halves
from tests.specs import LEARNING, PENDULUM, pendulum, simulated
from wm_pipelines.families.base import FORM_WORDS, GivenLaws, Solves, TrainedConfig, build
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.laws import Laws, laws_of
from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.learning.loop import train
from wm_pipelines.mappings import deep_merge
from wm_pipelines.provenance import import_closure
from wm_pipelines.registry import families
from wm_pipelines.spec import FACTS, Facts, Spec, UndeclaredFact

pytestmark = pytest.mark.training

CONF = Path(__file__).parents[2] / "conf"
SMALL = {  # beside conf/smoke, which has few steps of the true size
    "hamiltonian_regression": {"features": 12, "rows": 60},
    "momentum_gnn": {"features": 8, "equations": 400},
    "pinn": {"adaptive_points": 10, "finish_steps": 2, "finish_points": 50},
    "random_feature_collocation": {"features": 30},
    "text_flow": {"text_width": 8, "heads": 2, "widths": [16, 16], "hidden": 8, "words": 6, "vocabulary": 12},
    "transfusion": {"vocabulary": 280, "longest": 12},
    "training_copy": {"kept": 4, "bytes": 40},
    **{n: {"words": 8, "vocabulary": 20, "encoder_share": 0.1} for n in ("vljepa", "token_vlm", "dual_encoder")},
}
_GRADIENT = {"training": "gradient", "form": "dynamical", "spin": True, "hidden": [8]}
_LAWS = _GRADIENT | {"inputs": "laws"}
MORE = {"momentum_gnn": {"variants": {"gradient": _GRADIENT, "gradient_laws": _LAWS}}}  # beside those of conf/base
TASK = {
    "pendulum": "physics",
    "bodies": "physics",
    "images": "images",
    "videos": "videos",
    "heat_1d": "fields",
    "scenes": "language",
}


class WatchedFacts(Facts):
    """Facts that note who reads which."""

    read: set[str]

    def told(self, names, holder, law):
        told = WatchedFacts(self._values, names, holder, law)
        told.read = self.read
        return told

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self.read.add(name)
        return super().__contains__(name)


@cache
def world(name):
    """A small world of each kind: its spec, training views."""
    if name == "pendulum":
        return PENDULUM, pendulum(6, 12)
    if name == "bodies":
        two = bodies((1.0, 2.0))
        facts = two.facts.plain() | {"conserved": ["energy", "momentum", "angular_momentum"], "simulator": True}
        origin = {"world": "two_body", "parameters": {"masses": [1.0, 2.0]}}
        two = Spec(two.name, two.step, two.views, 13, Facts(facts | {"energy": {"law": "energy"}}), origin)
        return two, simulated(bodies_field((1.0, 2.0), (0.0, 0.0)), body_starts((1.0, 2.0), 6), steps=12)
    if name == "heat_1d":
        spec, views, _ = posed("heat_1d", points={"interior": 60, "boundary": 12, "initial": 12, "validation": 40})
        return spec, views
    if name == "scenes":
        return SCENES, halves(8)
    spec = spec_of(1, 28, 28, 1) if name == "images" else spec_of(20, 32, 32, 1)
    shape, draw = (8, spec.rows, *spec.views["frames"].shape), torch.Generator().manual_seed(0)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    return spec, {"frames": frames}


@cache
def parameters(name):
    files = (CONF / env / f"parameters_{name}.yml" for env in ("base", "smoke"))
    base, smoke = (yaml.safe_load(f.read_text())[name] if f.exists() else {} for f in files)
    return FamilyParameters(**deep_merge(deep_merge(base, smoke), MORE.get(name, {})))


def configuration(name, variant, of):
    stands_for = {"videos": "pendulum_video", "images": "mnist", "scenes": "captioned_scenes"}.get(of, of)
    settings = parameters(name).resolve(TASK[of], variant, stands_for) | SMALL.get(name, {})
    schedule = {"schedule": {"steps": 2, "batch_size": 4, "warmup": 0}}
    few = schedule if issubclass(families.get(name).Config, TrainedConfig) else {}
    return families.get(name).Config(**deep_merge(settings, few))


def suits(name, variant, of):
    kind, config, (spec, _) = families.get(name), configuration(name, variant, of), world(of)
    if of == "scenes" and not {"captions", "questions"} & set(kind.needs):
        return False  # small frames, for who reads what they show
    return kind.unsuitable(spec.told(kind.knows(config), name), config) is None


CASES = [
    pytest.param(name, variant, of, id=f"{name}-{variant}-{of}")
    for name in families.names()
    for variant in parameters(name).variants
    for of in TASK
    if suits(name, variant, of)
]
every_case = pytest.mark.parametrize(("name", "variant", "of"), CASES)
every_family = pytest.mark.parametrize("name", families.names())


def built(name, variant, of, seeds=(0, 1), spec=None):
    spec = spec or world(of)[0]
    return build(families.get(name), configuration(name, variant, of), spec, seeds, laws_of(spec))


def trained(family, of):
    precision = "32-true" if family.dtype == torch.float32 else "64-true"
    train(family, world(of)[1], LEARNING.model_copy(update={"precision": precision}))
    return family.eval()


def past_of(family, of):
    if isinstance(family, Solves):
        return {"points": world(of)[1]["interior"][0, :5]}
    rows = family.context if isinstance(family, MemberFamily) else 1
    return {name: view[:3, :rows] for name, view in world(of)[1].items() if name in ("frames", "states")}


def test_every_family_has_a_case():
    without_predictions = {"fixed_policies"}
    assert {case.values[0] for case in CASES} == set(families.names()) - without_predictions


@every_case
def test_it_reads_the_facts_that_it_declares_and_says_the_same_of_a_shorter_future(name, variant, of):
    """All of them, where the world has them: to declare what is not used would be as wrong.

    Adaptive roll-outs choose their sub-steps by the whole future: the first part of a longer one may differ by their
    tolerance, 1e-6 per step; float32 rounds to 1e-7 of what a batch of another shape sums.
    """
    spec, config = world(of)[0], configuration(name, variant, of)
    facts = WatchedFacts(spec.facts.plain())
    facts.read = set()
    watched = Spec(spec.name, spec.step, spec.views, spec.rows, facts, spec.origin)
    kind = families.get(name)
    assert kind.unsuitable(watched.told(kind.knows(config), name), config) is None
    family = trained(built(name, variant, of, spec=watched), of)
    past, stride = past_of(family, of), getattr(family, "frames_per_latent", 1)
    if isinstance(family, Solves) or next(iter(past.values())).shape[1]:
        short, long = (family.predict(past, steps * stride) for steps in (3, 6))
        assert set(short) == set(long) != set()
        for view, found in short.items():
            assert found.shape[:2] == (2, len(past["points"]) if view == "fields" else 3)
            ahead = {"states": 4, "frames": 3 * stride}.get(view, found.shape[2])
            assert found.shape[2] == ahead
            if (name, view) != ("mae", "latents"):  # of whole clips: what comes later in the clip belongs to them
                torch.testing.assert_close(long[view][:, :, :ahead], found, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert facts.read & set(spec.facts) == kind.knows(config) & set(spec.facts)


@every_case
def test_it_is_not_told_anything_else(name, variant, of):
    spec = world(of)[0]
    more = Spec(spec.name, spec.step, spec.views, spec.rows, Facts(spec.facts.plain() | {"secret": 1}), spec.origin)
    family = built(name, variant, of, spec=more)
    assert family.spec.origin == {}
    for fact in set(more.facts) - family.knows(family.config):
        with pytest.raises(UndeclaredFact, match=f"{name} read the fact '{fact}'"):
            family.spec.facts[fact]
    assert isinstance(family, GivenLaws) == (name == "oracle")
    assert not any(isinstance(value, Laws) for value in vars(family).values()) or name == "oracle"


@every_case
def test_what_its_form_contains_is_told_in_words_that_are_explained(name, variant, of):
    kind, config = families.get(name), configuration(name, variant, of)
    words = kind.knows(config) - FACTS
    assert kind.contains(config, world(of)[0]) <= words <= set(FORM_WORDS)
    page = (CONF.parent / "docs" / "architecture.md").read_text()
    assert {word for word in words if f"`{word}`" not in page} == set()


@every_case
def test_what_is_fitted_is_counted_as_parameters(name, variant, of):
    """In closed form as by gradient: `learning.fitting` counts what `parameters` lists."""
    counted = sum(p.numel() for p in built(name, variant, of).parameters())
    assert (counted > 0) == (name not in {"persistence", "oracle", "raw_pixels", "training_copy", "frequent_answer"})


@every_family
def test_a_missing_view_is_told(name):
    kind, nothing = families.get(name), Spec("nothing", 0.1, {})
    config = configuration(name, next(iter(parameters(name).variants)), "pendulum")
    reason = kind.unsuitable(nothing.told(kind.knows(config), name), config)
    assert reason == f"needs {kind.needs[0].replace('|', ' or ')}"


@every_family
def test_every_setting_is_read_by_the_family_itself_or_by_its_blocks_and_parts(name):
    kind = families.get(name)
    files = import_closure(kind.__module__)
    own = [f for f in files if name in f.parts or f.stem == name or {"blocks", "parts"} & set(f.parts)]
    text = "\n".join(f.read_text() for f in own)
    fields = set(kind.Config.model_fields) - {"schedule"}
    assert {field for field in fields if not re.search(rf'\b(config|c)\.{field}\b|"{field}"', text)} == set()


# ---------------------------------------------------------------- parameters without influence

WITHOUT_INFLUENCE = (
    # One bias for all keys shifts all scores of a query alike: the softmax does not change.
    # (Where an autoencoder trains first, there is no transformer yet.)
    r"^(?!transfusion-latents).*attention\.key_value\.bias",
    # The normalisation over the batch that follows subtracts it.
    r"ijepa-sigreg .*encoder\.trunk\.norm\.bias",
    r"vjepa-masked .*transformer\.trunk\.norm\.bias",
    r"contrastive-.*gather\.1\.bias",
)
"""Known ones, all in networks whose members are computed one by one: whoever trains beside them, bits are the same."""


def by_gradient(name, variant, of):
    config = configuration(name, variant, of)
    return isinstance(config, TrainedConfig) and getattr(config, "training", "gradient") == "gradient"


@pytest.mark.parametrize(("name", "variant", "of"), [case for case in CASES if by_gradient(*case.values)])
def test_no_parameter_is_moved_by_the_rounding_of_its_gradient(name, variant, of, monkeypatch):
    """In float64 a gradient below 1e-12 of the largest is rounding; Adam would make steps of it nevertheless.

    Gradients that are exactly zero make no step.
    """
    family = built(name, variant, of, (0,))
    examples = {
        k: v[None].double() if v.is_floating_point() else v[None] for k, v in family.examples(world(of)[1]).items()
    }
    family.double()
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    generator = torch.Generator().manual_seed(0)
    largest = {n: torch.zeros_like(p) for n, p in family.named_parameters() if p.requires_grad and p.numel()}
    for _ in range(3):
        with torch.no_grad():  # away from where it starts, as networks do that begin as the identity
            for p in family.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        family.zero_grad()
        family.loss(examples, 0.2)[0].sum().backward()
        for found, p in family.named_parameters():
            if p.grad is not None and found in largest:
                largest[found] = torch.maximum(largest[found], p.grad.abs())
    scale = max(float(slope.max()) for slope in largest.values())
    moved = {n for n, slope in largest.items() if bool(((slope > 0) & (slope < 1e-12 * scale)).any())}
    assert moved == {n for n in largest if any(re.search(p, f"{name}-{variant} {n}") for p in WITHOUT_INFLUENCE)}
