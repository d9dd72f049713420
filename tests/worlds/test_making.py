"""From entries of the parameter files to episodes: streams, splits, refusals, and from a spec back to its laws."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import Field

from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import IntegrationError, rollout_separable
from wm_pipelines.laws import Laws, laws_of, world_of
from wm_pipelines.spec import Spec
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import SimulatedWorld, WorldParameters
from wm_pipelines.worlds.making import WorldConfig, build_world, generate, ingest, stream

CONF = Path(__file__).parents[2] / "conf"


class SpringParameters(WorldParameters):
    stiffness: float = 1.0
    nested: dict[str, float] = Field(default_factory=dict)


@register
class Spring(SimulatedWorld):
    """H = (p^2 + k q^2) / 2."""

    name = "test_spring"
    Parameters = SpringParameters

    def sample_initial_state(self, rng, episodes):
        return rng.uniform(-1, 1, (episodes, 2))

    def simulate(self, z0, step, steps):
        if self.parameters.stiffness > 1e6:
            raise IntegrationError("too stiff; use a shorter step")
        k = self.parameters.stiffness
        return rollout_separable(z0, step, steps, lambda p: p, lambda q: -k * q, "kahan_li8")

    def dynamics(self, z):
        return np.stack([z[..., 1], -self.parameters.stiffness * z[..., 0]], -1)

    def facts(self):
        return {"attributes": {"stiffness": [self.parameters.stiffness]}}

    def laws(self):
        return Laws(simulate=self.simulate, dynamics=self.dynamics)

    def render(self, z, size=64):
        return np.zeros((*z.shape[:-1], size, size, 3), np.uint8)

    def describe(self, z):
        return f"A spring from {z[0, 0]:.3f}."


TEST = {"episodes": 2, "steps": 3}


def config(**changes):
    data = {
        "world": "test_spring",
        "step": 0.1,
        "seed": 3,
        "splits": {"train": {"episodes": 50, "steps": 20}, "test": {"episodes": 40, "steps": 10}},
    }
    return validate(WorldConfig, {**data, **changes}, "spring")


def spring(**settings):
    return generate(Spring(SpringParameters(stiffness=4.0)), **{"step": 0.1, "episodes": 5, "seed": 1, **settings})


def test_noise_is_gaussian_lies_on_the_state_alone_and_leaves_the_motion():
    clean, noisy = (spring(steps=50, episodes=200, noise=noise) for noise in (0.0, 0.1))
    assert np.array_equal(clean["derivatives"], noisy["derivatives"])
    difference = noisy["states"] - clean["states"]
    n = difference.size
    assert abs(difference.mean()) < 4 * 0.1 / np.sqrt(n)
    assert abs(difference.std() / 0.1 - 1) < 4 / np.sqrt(2 * n)
    neighbours = (difference[:, 1:] * difference[:, :-1]).mean() / 0.01
    assert abs(neighbours) < 4 / np.sqrt(n), "noise of neighbouring rows is correlated"


def test_longer_episodes_begin_like_shorter_ones():
    long, short = (spring(steps=n) for n in (20, 10))
    assert np.array_equal(long["states"][:, :11], short["states"])


def test_the_derivative_is_the_true_law_at_the_true_state():
    made, clean = spring(steps=5, noise=0.3), spring(steps=5)
    np.testing.assert_allclose(made["derivatives"][..., 1], -4.0 * clean["states"][..., 0], rtol=1e-15)
    assert "derivatives" not in spring(steps=5, derivative=False)


def test_splits_have_streams_of_their_own_that_do_not_depend_on_each_other():
    both = ingest(config())
    other = ingest(config(splits={"train": {"episodes": 50, "steps": 20}, "far": TEST, "test": TEST}))
    assert other["train"].content_hash == both["train"].content_hash
    starts = np.concatenate([e["states"][:, 0] for e in both.values()])
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert ingest(config(seed=4))["train"].content_hash != both["train"].content_hash
    # printf train | sha256sum | cut -c1-16; were this to move, data could not be made again.
    assert stream(3, "train") == [3, 0x116F54C41D0405DB]


def test_a_split_overrides_the_worlds_own_settings():
    splits = {
        "train": {"episodes": 3, "steps": 20},
        "test": {
            "episodes": 2,
            "steps": 5,
            "step": "200 ms",
            "noise": 0.5,
            "derivative": False,
            "parameters": {"stiffness": 9.0, "nested": {"b": 3.0}},
        },
    }
    made = config(
        parameters={"stiffness": 4.0, "nested": {"a": 1.0, "b": 2.0}}, splits=splits, frame_size=8, captions=True
    )
    found = ingest(made, "my_spring")
    train, test = found["train"], found["test"]
    assert list(train.views) == ["times", "states", "derivatives", "frames", "captions"]
    assert "derivatives" not in test
    assert train["frames"].shape == (3, 21, 8, 8, 3)
    np.testing.assert_allclose(test["times"][0], 0.2 * np.arange(6))
    assert (test.spec.name, test.spec.step, test.spec.rows) == ("my_spring", 0.2, 6)
    assert test.spec.origin["parameters"] == {"stiffness": 9.0, "nested": {"a": 1.0, "b": 3.0}}
    assert [e.spec.facts["attributes"] for e in (train, test)] == [{"stiffness": [4.0]}, {"stiffness": [9.0]}]
    assert test.metadata.keys() == {"seed", "generator", "noise", "split"}
    assert (test.metadata["split"], test.metadata["noise"]) == ("test", 0.5)
    z = train["states"]
    np.testing.assert_array_equal(laws_of(test.spec).dynamics(z)[..., 1], -9.0 * z[..., 0])
    assert build_world(made).parameters.stiffness == 4.0
    assert build_world(made, "test").parameters.stiffness == 9.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "test_springg"}, "unknown world 'test_springg'; did you mean 'test_spring'"),
        ({"parameters": {"stiffnes": 1}}, "unknown parameter 'spring.parameters.stiffnes'"),
        ({"parameters": {"stiffness": float("inf")}}, "parameter 'spring.parameters.stiffness': .*finite"),
        (
            {"splits": {"train": {**TEST, "parameters": {"stiffness": "x"}}, "test": TEST}},
            "parameter 'spring.splits.train.parameters.stiffness': input should be a valid number",
        ),
        ({"splits": {"test": TEST}}, "parameter 'spring': splits need at least 'train' and 'test', got test"),
        ({"splits": {"train": TEST, "validation": TEST}}, "splits: no split to judge on; give e.g. test: "),
        (
            {"splits": {"train": TEST, "test": TEST, "../../evil": TEST}},
            r"names become file names.* got '\.\./\.\./evil'",
        ),
        ({"splits": {"train": {"episodes": 0, "steps": 1}}}, "'spring.splits.train.episodes': .*greater.*got 0"),
        ({"splits": {"train": {"episodes": 1, "steps": 0}}}, "'spring.splits.train.steps': .*greater.*got 0"),
        ({"splits": {"train": {**TEST, "step": 1e-300}}}, "'spring.splits.train.step': .*greater than"),
        ({"splits": {"train": {**TEST, "noise": float("inf")}}}, "'spring.splits.train.noise': .*finite"),
        ({"splits": {}}, "parameter 'spring.splits': missing"),
        ({"step": 0}, "parameter 'spring.step': .*greater than 0.0+1, got 0"),
        ({"step": 1e300}, "parameter 'spring.step': .*less than"),
        ({"step": "1 m"}, r"parameter 'spring.step': expected a time in s, got '1 m' \(length\)"),
        ({"step": None}, "parameter 'spring': step is missing"),
        ({"noise": -1}, "parameter 'spring.noise': .*got -1"),
        ({"noise": float("nan")}, "parameter 'spring.noise'"),
        ({"seed": -1}, "parameter 'spring.seed'"),
        ({"nois": 1}, "unknown parameter 'spring.nois'"),
        ({"parameters": {"stiffness": 1e7}}, "'spring', split 'train': too stiff; use a shorter step"),
        ({"parameters": {"stiffness": 1e6}}, "'spring', split 'train': .*not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_users_mistake_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        ingest(config(**{"splits": {"train": {"episodes": 2, "steps": 60}, "test": TEST}, **changes}), "spring")
    assert "\n" not in str(caught.value)


def test_unknown_split():
    with pytest.raises(UserError, match=r"'spring.splits' has no 'later'; it has train, test"):
        build_world(config(), "later", "spring")


# ---------------------------------------------------------------- specs and the way back


def entries():
    """Every world of conf/base by the name of its entry."""
    read = (yaml.safe_load(path.read_text()) or {} for path in sorted((CONF / "base").glob("parameters_*.yml")))
    found = {name: entry for file in read for name, entry in file.items() if isinstance(entry, dict)}
    return {
        name: entry for name, entry in found.items() if isinstance(entry.get("world"), str) and "trials" not in entry
    }


@pytest.mark.parametrize("name", sorted(entries()))
def test_laws_come_back_from_the_spec_of_every_world(name):
    made = validate(WorldConfig, entries()[name], name)
    for split in made.splits or [None]:
        world = build_world(made, split, name)
        spec = world.episodes({"rewards": np.zeros((1, 1))}, 0.1).spec
        spec = Spec.from_json(json.loads(json.dumps(spec.to_json())))
        again, laws = world_of(spec), laws_of(spec)
        assert (again.entry, again.parameters) == (name, world.parameters)
        assert spec.origin == world.origin()
        own = {"simulator": True} if laws.simulate is not None or laws.plant is not None else {}
        assert spec.facts.plain() == json.loads(json.dumps(world.facts())) | own
        given = [getattr(laws, law) is None for law in vars(laws)]
        assert given == [getattr(world.laws(), law) is None for law in vars(laws)]
        if laws.simulate is not None:
            z = world.sample_initial_state(np.random.default_rng(0), 2)
            for law in ("energy", "momentum", "angular_momentum", "dynamics"):
                if getattr(laws, law) is not None:
                    np.testing.assert_array_equal(getattr(laws, law)(z), getattr(world.laws(), law)(z))
            np.testing.assert_array_equal(laws.simulate(z, 0.1, 2), world.laws().simulate(z, 0.1, 2))


@pytest.mark.parametrize(
    "name",
    [
        "mass_spring",
        "pendulum",
        "double_pendulum",
        "two_body",
        "three_body",
        "n_body",
        "n_body_charges",
        "n_body_gravity",
        "n_body_morse",
        "n_body_yukawa",
        "henon_heiles",
        "duffing_damped",
        "bouncing_ball",
    ],
)
def test_out_of_distribution_lies_outside_the_energies_of_training(name):
    config = validate(WorldConfig, yaml.safe_load((CONF / "base" / f"parameters_{name}.yml").read_text())[name], name)
    energies = {}
    for split in ("train", "ood"):
        world = build_world(config, split)
        starts = np.random.default_rng(np.random.SeedSequence(stream(config.seed, split)).spawn(3)[0])
        energies[split] = world.energy(world.sample_initial_state(starts, config.splits[split].episodes))
    assert energies["ood"].min() > energies["train"].max() or energies["ood"].max() < energies["train"].min()


def test_a_split_that_is_null_is_not_made():
    splits = {"train": TEST, "test": TEST, "ood": None}
    assert set(ingest(config(splits=splits))) == {"train", "test"}
    with pytest.raises(UserError, match="no split to judge on"):
        config(splits={"train": TEST, "test": None})


def test_messages_name_the_world_as_its_parameter_file_does():
    """Not its kind: there may be several of a kind."""
    given = {"law": "given", "states": [[0.0, 0.0, 0.0, 0.0]]}
    parameters = {"masses": [1.0, 1.0], "gravitational_constant": 1.0, "initial": given}
    splits = {"train": {"episodes": 1, "steps": 2}, "test": {"episodes": 1, "steps": 2}}
    entry = {"world": "two_body", "parameters": parameters, "step": 0.1, "splits": splits}
    with pytest.raises(UserError, match="my_stars") as caught:
        ingest(validate(WorldConfig, entry, "my_stars"), "my_stars")
    assert "two_body" not in str(caught.value)
