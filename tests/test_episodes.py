"""Episodes: what is written is read bit for bit, damage is seen, equal content gives equal bytes."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wm_pipelines.episodes import codec_of, read, write
from wm_pipelines.errors import UserError
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.spec import Space, Spec
from wm_pipelines.worlds.base import World, WorldParameters

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


class Toy(World):
    name = "toy"
    Parameters = WorldParameters

    def facts(self):
        return {"angles": [0]}


def made(metadata=None, spaces=None, **views):
    return Toy(WorldParameters()).episodes(views, 0.1, metadata, spaces)


@st.composite
def episodes(draw):
    e, t, d = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = {
        "times": (e, t + 1),
        "states": (e, t + 1, 2 * d),
        "derivatives": (e, t + 1, 2 * d),
        "actions": (e, t, draw(st.integers(1, 2))),
        "rewards": (e, t),
        "frames": (e, t + 1, draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3]))),
    }
    names = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, unique=True))
    views = {
        name: draw(
            hnp.arrays(
                np.uint8 if name == "frames" else np.float64, sizes[name], elements=None if name == "frames" else finite
            )
        )
        for name in names
    }
    if draw(st.booleans()):
        views["labels"] = draw(hnp.arrays(np.int64, e))
    if draw(st.booleans()):
        views["captions"] = np.array(draw(st.lists(texts, min_size=e, max_size=e)))
    json_value = st.recursive(
        st.none() | st.booleans() | finite | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    )
    return made(draw(st.dictionaries(texts, json_value, max_size=3)), **views)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(made=episodes())
def test_what_is_written_is_read_bit_for_bit(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("episodes") / "train.arrow"
    write(path, made)
    found = read(path)
    assert found.content_hash == made.content_hash
    assert found.metadata == made.metadata
    assert found.spec.to_json() == made.spec.to_json()
    assert set(found.views) == set(made.views)
    assert all(same(found[name], view) for name, view in made.views.items())
    again = path.with_name("again.arrow")
    write(again, found)
    assert again.read_bytes() == path.read_bytes(), "equal content, different bytes"


def example(seed=0, metadata=None, **changes):
    rng = np.random.default_rng(seed)
    views = {
        "times": np.tile(0.1 * np.arange(4.0), (3, 1)),
        "states": rng.normal(size=(3, 4, 2)),
        "frames": rng.integers(0, 255, (3, 4, 2, 2, 3), dtype=np.uint8),
        "captions": np.array(["a pendulum", "another", "größer"]),
    }
    return made({"seed": 1} if metadata is None else metadata, **{**views, **changes})


def test_reading_is_a_memory_map_and_not_a_copy(tmp_path):
    path = tmp_path / "a.arrow"
    write(path, example(frames=np.zeros((3, 4, 256, 256, 3), np.uint8)))
    before = pa.total_allocated_bytes()
    found = read(path)
    assert pa.total_allocated_bytes() - before < 10_000
    for name in ("times", "states", "frames"):
        assert not found[name].flags.owndata
        assert not found[name].flags.writeable
        assert found[name].flags.c_contiguous


@pytest.mark.pipeline
def test_bytes_do_not_depend_on_the_process(tmp_path):
    script = (
        "import sys; sys.path.insert(0, '.'); from tests.test_episodes import example\n"
        "from wm_pipelines.episodes import write; write(sys.argv[1], example())"
    )
    for name, salt in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, env={"PYTHONHASHSEED": salt})
    write(tmp_path / "c", example())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_the_hash_sees_every_view_and_name_but_not_the_metadata():
    base = example()
    assert example(metadata={}).content_hash == base.content_hash
    assert made(**dict(reversed(base.views.items()))).content_hash == base.content_hash, "the order of views counts"
    states = base["states"].copy()
    states[1, 2, 0] = np.nextafter(states[1, 2, 0], 1.0)
    others = [
        example(states=states),
        example(captions=None),
        example(captions=np.array(["a pendulum", "another", "grösser"])),
        example(captions=np.array(["a pendulum", "", "anothergrößer"])),
        example(derivatives=base["states"]),
        example(actions=np.zeros((3, 3, 2))),
        example(rewards=np.zeros((3, 3))),
        example(labels=np.zeros(3, np.int64)),
        example(frames=base["frames"].reshape(3, 4, 1, 4, 3)),
    ]
    hashes = {base.content_hash, *(other.content_hash for other in others)}
    assert len(hashes) == len(others) + 1
    # Were this to move, results of earlier runs would count as those of other data.
    assert example(states=np.zeros((3, 4, 2)), frames=None).content_hash.startswith("7846bdf6")


def test_no_damaged_byte_goes_unseen(tmp_path):
    """Every third byte of a small file is changed in turn: an error, or (in padding) the very same content."""
    path = tmp_path / "a.arrow"
    whole_example = example()
    write(path, whole_example)
    whole = path.read_bytes()
    errors = []
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            found = read(path)
        except UserError as error:
            errors.append(str(error))
        else:
            assert found.content_hash == whole_example.content_hash
            assert found.metadata == whole_example.metadata
            assert found.spec.to_json() == whole_example.spec.to_json()
    assert len(errors) > sum(view.nbytes for n, view in whole_example.views.items() if n != "captions") // 3
    assert all("a.arrow" in e and "kedro run --pipeline=data_ingestion" in e and "\n" not in e for e in errors)


def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path):
    path = tmp_path / "a.arrow"
    write(path, example())
    whole = path.read_bytes()
    for end in range(0, len(whole), 11):
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
        (lambda h: h.update(version=99), "format version 99, this program reads 2"),
        (lambda h: h.update(format="other"), "not one of episodes"),
        (lambda h: h["metadata"].update(seed=2), "header does not match its hash"),
        (lambda h: h["spec"]["facts"].update(angles=[]), "header does not match its hash"),
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
    table = pa.table({"times": [1.0, 2.0]})
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    with pytest.raises(UserError, match="an Arrow file, but not one of episodes"):
        read(tmp_path / "other")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, value):
    states = np.zeros((3, 4, 2))
    states[2, 1, 0] = value
    with pytest.raises(UserError, match="states is not finite in episode 2, row 1"):
        write(tmp_path / "a.arrow", example(states=states))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": np.zeros((3, 5))},
        {"times": np.zeros((2, 4))},
        {"states": np.zeros((0, 4, 2))},
        {"derivatives": np.zeros((3, 3, 2))},
        {"actions": np.zeros((3, 4, 1))},
        {"rewards": np.zeros((3, 4))},
        {"labels": np.zeros(2, np.int64)},
        {"captions": np.array(["one"])},
        {"times": None, "states": None, "frames": None, "captions": None},
    ],
)
def test_views_that_do_not_fit_together(wrong):
    with pytest.raises(ValueError, match=r"^view '.*' is .*, not |no episodes"):
        example(**wrong)


def test_a_view_that_is_not_there_is_named():
    episodes = example(frames=None)
    assert "frames" not in episodes
    assert episodes.get("frames") is None
    with pytest.raises(UserError, match="world 'toy' has no view 'frames'; it has times, states, captions"):
        episodes["frames"]


def test_actions_rewards_and_texts_travel(tmp_path):
    """Texts of different lengths, empty, of many scripts; one per episode, or several."""
    captions = np.array(["", "drücke den Knopf 🙂", "x" * 500])
    steps = np.array([["left", ""], ["右へ", "stop"], ["a", "b"]])
    views = {
        "states": np.zeros((3, 4, 2)),
        "actions": np.arange(18.0).reshape(3, 3, 2),
        "rewards": np.arange(9.0).reshape(3, 3),
        "captions": captions,
        "commands": steps,
    }
    episodes = made(spaces={"commands": Space("text", (2,), "str", "episode")}, **views)
    write(tmp_path / "a.arrow", episodes)
    found = read(tmp_path / "a.arrow")
    assert found.spec.rows == 4
    assert all(found[name].tolist() == view.tolist() for name, view in views.items())
    assert found.content_hash == episodes.content_hash
    # A wider array of the same texts is the same content.
    wide = made(spaces=episodes.spec.views, **{**views, "captions": captions.astype("U900")})
    assert wide.content_hash == episodes.content_hash
    first = found.first(2)
    assert (len(first), first["actions"].shape) == (2, (2, 3, 2))
    tensors = as_tensors(first)
    assert tensors["actions"].dtype.is_floating_point
    assert [bytes(row[row > 0].tolist()).decode() for row in tensors["captions"]] == captions[:2].tolist()
    assert tensors["commands"].shape == (2, 2, len("右へ".encode()))
    assert codec_of(episodes.spec.views["actions"]).to_numbers(views["actions"]) is views["actions"]


def test_images_alone_with_labels_come_back(tmp_path):
    # Axes of length 1 with strides of their own, as slicing and new axes leave them.
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)[:, None, :, :, None]
    episodes = made(frames=frames, labels=np.array([7, 0, 7]))
    write(tmp_path / "digits.arrow", episodes)
    found = read(tmp_path / "digits.arrow")
    np.testing.assert_array_equal(found["frames"], frames)
    np.testing.assert_array_equal(found["labels"], [7, 0, 7])
    assert (found.spec.rows, found.spec.state_size, found.content_hash) == (1, 0, episodes.content_hash)
    assert Spec.from_json(json.loads(json.dumps(found.spec.to_json()))).to_json() == found.spec.to_json()


def test_printed_they_are_a_line_and_not_their_numbers():
    from wm_pipelines.worlds.making import WorldConfig, ingest

    size = {"episodes": 3, "steps": 20}
    made = ingest(WorldConfig(world="mass_spring", step=0.5, splits={"train": size, "test": size}), "spring")
    assert repr(made["test"]) == (
        "<Episodes spring, test: 3 of 21 rows each, step 0.5 s; derivatives [3, 21, 2] float64, "
        "states [3, 21, 2] float64, times [3, 21] float64>"
    )
    assert len(f"{made}") < 400
