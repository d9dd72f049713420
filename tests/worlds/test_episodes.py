import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import Field

from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import IntegrationError, rollout_separable
from wm_pipelines.system import System
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters
from wm_pipelines.worlds.episodes import (
    Episodes,
    WorldConfig,
    build_world,
    generate,
    ingest,
    read,
    stream,
    write,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@st.composite
def episodes(draw):
    e, t, d = draw(st.integers(1, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 3))
    sizes = {
        "time": (e, t + 1),
        "state": (e, t + 1, 2 * d),
        "derivative": (e, t + 1, 2 * d),
        "action": (e, t, draw(st.integers(1, 2))),
        "reward": (e, t),
        "frames": (e, t + 1, draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3]))),
    }
    views = {"time", "state"} | (draw(st.sets(st.sampled_from(sorted(sizes)))) if t else set())
    arrays = {
        name: draw(
            hnp.arrays(
                np.uint8 if name == "frames" else np.float64, sizes[name], elements=None if name == "frames" else finite
            )
        )
        for name in sorted(views)
    }
    caption = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=e, max_size=e)
    )
    json_value = st.recursive(
        st.none() | st.booleans() | finite | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
        ),
        max_leaves=5,
    )
    metadata = draw(
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), json_value, max_size=3)
    )
    return Episodes(**arrays, caption=np.array(caption) if draw(st.booleans()) else None, metadata=metadata)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(made=episodes())
def test_what_is_written_is_read_bit_for_bit(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes") / "train.arrow"
    write(path, made)
    found = read(path)
    assert found.content_hash == made.content_hash
    assert found.metadata == made.metadata
    assert list(found.views()) == list(made.views())
    for name, view in made.views().items():
        assert found.views()[name].shape == view.shape
        if name != "caption":
            assert found.views()[name].tobytes() == view.tobytes()
    if made.caption is not None:
        assert found.caption.tolist() == made.caption.tolist()

    again = path.with_name("again.arrow")
    write(again, found)
    assert again.read_bytes() == path.read_bytes(), "equal content, different bytes"


def example(seed=0, **changes):
    rng = np.random.default_rng(seed)
    views = {
        "time": np.tile(0.1 * np.arange(4.0), (3, 1)),
        "state": rng.normal(size=(3, 4, 2)),
        "frames": rng.integers(0, 255, (3, 4, 2, 2, 3), dtype=np.uint8),
        "caption": np.array(["a pendulum", "another", "größer"]),
        "metadata": {"world": "pendulum", "seed": 1},
    }
    return Episodes(**{**views, **changes})


def test_reading_is_a_memory_map_and_not_a_copy(tmp_path):
    path = tmp_path / "a.arrow"
    write(path, example(frames=np.zeros((3, 4, 256, 256, 3), np.uint8)))
    before = pa.total_allocated_bytes()
    found = read(path)
    assert pa.total_allocated_bytes() - before < 10_000
    for view in (found.time, found.state, found.frames):
        assert not view.flags.owndata
        assert not view.flags.writeable
        assert view.flags.c_contiguous


def test_bytes_do_not_depend_on_the_process(tmp_path):
    script = (
        "import sys; sys.path.insert(0, '.'); from tests.worlds.test_episodes import example\n"
        "from wm_pipelines.worlds.episodes import write; write(sys.argv[1], example())"
    )
    for name, salt in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, env={"PYTHONHASHSEED": salt})
    write(tmp_path / "c", example())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_the_hash_sees_every_view_and_name_but_not_the_metadata():
    base = example()
    assert example(metadata={}).content_hash == base.content_hash
    state = base.state.copy()
    state[1, 2, 0] = np.nextafter(state[1, 2, 0], 1.0)
    others = [
        example(state=state),
        example(caption=None),
        example(caption=np.array(["a pendulum", "another", "grösser"])),
        example(derivative=base.state),
        example(action=np.zeros((3, 3, 2))),
        example(reward=np.zeros((3, 3))),
        example(frames=base.frames.reshape(3, 4, 1, 4, 3)),
    ]
    hashes = {base.content_hash, *(other.content_hash for other in others)}
    assert len(hashes) == len(others) + 1


def test_no_damaged_byte_goes_unseen(tmp_path):
    """Every other byte of a small file is changed in turn: an error, or (in padding) the very same content."""
    path = tmp_path / "a.arrow"
    made = example()
    write(path, made)
    whole = path.read_bytes()
    errors = []
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            found = read(path)
        except UserError as error:
            errors.append(str(error))
        else:
            assert found.content_hash == made.content_hash
            assert found.metadata == made.metadata
            assert all(np.array_equal(a, found.views()[n]) for n, a in made.views().items())
    assert len(errors) > sum(view.nbytes for n, view in made.views().items() if n != "caption") // 2
    assert all("a.arrow" in e and "kedro run --pipeline=data_ingestion" in e and "\n" not in e for e in errors)


def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path):
    path = tmp_path / "a.arrow"
    write(path, example())
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"cannot read episodes .*a\.arrow.*data_ingestion"):
            read(path)


def rewrite(path, change):
    """The same columns under a header that `change` has been at."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    header = json.loads(table.schema.metadata[b"wm_pipelines"])
    change(header)
    table = table.replace_schema_metadata({b"wm_pipelines": json.dumps(header)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(version=99), "format version 99, this program reads 1"),
        (lambda h: h.update(format="other"), "not one of episodes"),
        (lambda h: h["metadata"].update(seed=2), "header does not match its hash"),
        (lambda h: h.update(content_hash="0"), "header does not match its hash"),
        (lambda h: None, None),
    ],
)
def test_headers_are_checked(tmp_path, change, message):
    path = tmp_path / "a.arrow"
    write(path, example())
    rewrite(path, change)
    if message is None:
        assert read(path).metadata == example().metadata
        return
    with pytest.raises(UserError, match=message):
        read(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no episodes at"):
        read(tmp_path / "missing.arrow")
    (tmp_path / "text").write_text("time,state\n0,1\n" * 100)
    with pytest.raises(UserError, match="cannot read episodes"):
        read(tmp_path / "text")
    table = pa.table({"time": [1.0, 2.0]})
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    with pytest.raises(UserError, match="an Arrow file, but not one of episodes"):
        read(tmp_path / "other")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, value):
    state = np.zeros((3, 4, 2))
    state[2, 1, 0] = value
    with pytest.raises(UserError, match="state is not finite in episode 2, row 1"):
        write(tmp_path / "a.arrow", example(state=state))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": np.zeros((3, 5))},
        {"time": np.zeros((2, 4))},
        {"state": np.zeros((3, 4))},
        {"state": np.zeros((0, 4, 2))},
        {"state": np.zeros((3, 4, 2), np.float32)},
        {"derivative": np.zeros((3, 4, 4))},
        {"action": np.zeros((3, 4, 1))},
        {"reward": np.zeros((3, 4))},
        {"frames": np.zeros((3, 4, 2, 2, 3))},
        {"caption": np.array(["one"])},
    ],
)
def test_views_that_do_not_fit_together(wrong):
    with pytest.raises(ValueError, match=r"must be|does not fit"):
        example(**wrong)


# ---------------------------------------------------------------- generate and ingest, on an oscillator


class SpringParameters(WorldParameters):
    stiffness: float = 1.0
    nested: dict[str, float] = Field(default_factory=dict)


@register
class Spring(World):
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

    def system(self, step):
        return System("test_spring", 1, step, dynamics=self.dynamics)

    def render(self, z, size=64):
        return np.zeros((*z.shape[:-1], size, size, 3), np.uint8)

    def describe(self, z):
        return f"A spring from {z[0, 0]:.3f}."


def config(**changes):
    data = {
        "world": "test_spring",
        "step": 0.1,
        "seed": 3,
        "splits": {"train": {"episodes": 50, "steps": 20}, "test": {"episodes": 40, "steps": 10}},
    }
    return validate(WorldConfig, {**data, **changes}, "spring")


def test_noise_is_gaussian_lies_on_the_state_alone_and_leaves_the_motion():
    clean, noisy = (
        generate(Spring(SpringParameters()), step=0.1, steps=50, episodes=200, seed=1, noise=noise)
        for noise in (0.0, 0.1)
    )
    assert np.array_equal(clean.derivative, noisy.derivative)
    difference = noisy.state - clean.state
    n = difference.size
    assert abs(difference.mean()) < 4 * 0.1 / np.sqrt(n)
    assert abs(difference.std() / 0.1 - 1) < 4 / np.sqrt(2 * n)
    neighbours = (difference[:, 1:] * difference[:, :-1]).mean() / 0.01
    assert abs(neighbours) < 4 / np.sqrt(n), "noise of neighbouring rows is correlated"


def test_longer_episodes_begin_like_shorter_ones_and_more_noise_changes_nothing_else():
    long, short = (generate(Spring(SpringParameters()), step=0.1, steps=n, episodes=5, seed=1) for n in (20, 10))
    assert np.array_equal(long.state[:, :11], short.state)


def test_the_derivative_is_the_true_law_at_the_true_state():
    made = generate(Spring(SpringParameters(stiffness=4.0)), step=0.1, steps=5, episodes=3, seed=0, noise=0.3)
    clean = generate(Spring(SpringParameters(stiffness=4.0)), step=0.1, steps=5, episodes=3, seed=0)
    np.testing.assert_allclose(made.derivative[..., 1], -4.0 * clean.state[..., 0], rtol=1e-15)
    assert (
        generate(Spring(SpringParameters()), step=0.1, steps=5, episodes=3, seed=0, derivative=False).derivative is None
    )


def test_splits_have_streams_of_their_own_that_do_not_depend_on_each_other():
    both = ingest(config())
    alone = ingest(config(splits={"train": {"episodes": 50, "steps": 20}}))
    assert alone["train"].content_hash == both["train"].content_hash
    starts = np.concatenate([e.state[:, 0] for e in both.values()])
    assert len(np.unique(starts, axis=0)) == len(starts)
    assert ingest(config(seed=4))["train"].content_hash != both["train"].content_hash
    # printf train | sha256sum | cut -c1-16; were this to move, data could not be made again.
    assert stream(3, "train") == [3, 0x116F54C41D0405DB]


def test_a_split_overrides_the_worlds_own_settings():
    splits = {
        "train": {"episodes": 3, "steps": 20},
        "far": {
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
    found = ingest(made)
    assert found["train"].derivative is not None
    assert found["far"].derivative is None
    assert found["train"].frames.shape == (3, 21, 8, 8, 3)
    assert len(found["far"].caption) == 2
    np.testing.assert_allclose(found["far"].time[0], 0.2 * np.arange(6))
    facts = found["far"].metadata
    assert (facts["world"], facts["split"], facts["step"], facts["noise"]) == ("test_spring", "far", 0.2, 0.5)
    assert facts["parameters"] == {"stiffness": 9.0, "nested": {"a": 1.0, "b": 3.0}}
    assert build_world(made).parameters.stiffness == 4.0
    assert build_world(made, "far").parameters.stiffness == 9.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "test_springg"}, "unknown world 'test_springg'"),
        (
            {"parameters": {"stiffnes": 1}},
            "parameter 'spring.parameters.stiffnes': unknown; known here: nested, stiffness",
        ),
        (
            {"splits": {"train": {"episodes": 1, "steps": 1, "parameters": {"stiffness": "x"}}}},
            "parameter 'spring.splits.train.parameters.stiffness': input should be a valid number",
        ),
        (
            {"splits": {"test": {"episodes": 1, "steps": 1}}},
            "parameter 'spring': splits need at least 'train', got test",
        ),
        (
            {"splits": {"train": {"episodes": 0, "steps": 1}}},
            "parameter 'spring.splits.train.episodes': .*greater.*got 0",
        ),
        ({"splits": {"train": {"episodes": 1, "steps": 0}}}, "parameter 'spring.splits.train.steps': .*greater.*got 0"),
        ({"splits": {}}, "parameter 'spring.splits': missing"),
        ({"step": 0}, "parameter 'spring.step': .*greater than 0, got 0"),
        ({"step": "1 m"}, r"parameter 'spring.step': expected a time in s, got '1 m' \(length\)"),
        ({"step": None}, "parameter 'spring': step is missing"),
        ({"noise": -1}, "parameter 'spring.noise': .*got -1"),
        ({"noise": float("nan")}, "parameter 'spring.noise'"),
        ({"seed": -1}, "parameter 'spring.seed'"),
        ({"nois": 1}, "parameter 'spring.nois': unknown"),
        ({"parameters": {"stiffness": 1e7}}, "'spring', split 'train': too stiff; use a shorter step"),
        ({"parameters": {"stiffness": 1e6}}, "'spring', split 'train': .*not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_users_mistake_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        ingest(config(**{"splits": {"train": {"episodes": 2, "steps": 60}}, **changes}), "spring")
    assert "\n" not in str(caught.value)


def test_unknown_split():
    with pytest.raises(UserError, match=r"'spring.splits' has no 'later'; it has train, test"):
        build_world(config(), "later", "spring")


def test_pictures_without_a_state_and_with_labels_come_back(tmp_path):
    # Axes of length 1 with strides of their own, as slicing and new axes leave them.
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)[:, None, :, :, None]
    labels = np.array([7, 0, 7])
    made = Episodes(time=np.zeros((3, 1)), state=np.zeros((3, 1, 0)), frames=frames, label=labels)
    write(tmp_path / "digits.arrow", made)
    found = read(tmp_path / "digits.arrow")
    assert found.state.shape == (3, 1, 0)
    np.testing.assert_array_equal(found.frames, frames)
    np.testing.assert_array_equal(found.label, labels)
    assert found.content_hash == made.content_hash
    with pytest.raises(ValueError, match="state must be"):
        Episodes(time=np.zeros((3, 1)), state=np.zeros((3, 1, 0)), label=labels)
