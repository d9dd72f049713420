"""A user's own table of captions: the right picture beside the right text, no picture in two splits, faults by row."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.user_files import refused, saved
from tests.worlds.test_own_films import film, greys
from tests.worlds.test_videos import ROOT
from wm_pipelines.episodes import read, write
from wm_pipelines.errors import validate
from wm_pipelines.laws import laws_of
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.captioned_rows import linked, passages, shared_out

COUNT = 20


def painted(path, level, size=(16, 16), **options):
    """A picture of one grey."""
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of different greys, of four kinds, their table in ``mine.csv``: the caption tells the grey."""
    for k in range(COUNT):
        painted(tmp_path / f"p{k}.{('png', 'webp', 'jpg', 'bmp')[k % 4]}", 10 * k)
    saved(tmp_path, table(), "mine.csv")
    return tmp_path


def table(**changed):
    names = [f"p{k}.{('png', 'webp', 'jpg', 'bmp')[k % 4]}" for k in range(COUNT)]
    rows = {"picture": names, "caption": [f"grey, {10 * k}" for k in range(COUNT)]}
    return pd.DataFrame({**rows, **changed})


def made(folder, name="mine.csv", seed=0, **parameters):
    parameters = {"path": str(folder / name), "size": 8, "splits": {"train": 0.6, "test": 0.4}, **parameters}
    data = {"world": "captioned_files", "seed": seed, "parameters": parameters}
    return ingest(validate(WorldConfig, data, "mine"), "mine")


def levels(episodes):
    """The grey in the middle of every first frame."""
    return episodes["frames"][:, 0, 4, 4, 0].astype(int)


def told(episodes):
    return np.array([int(text.split(", ")[1]) for text in episodes["captions"]])


# ---------------------------------------------------------------- what is shown, who sees it


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_every_caption_stands_beside_its_picture_whatever_the_kind_of_file(folder, name):
    saved(folder, table(), name)
    splits = made(folder, name)
    assert {split: len(part) for split, part in splits.items()} == {"train": 12, "test": 8}
    seen = []
    for part in splits.values():
        assert np.abs(levels(part) - told(part)).max() <= 2  # JPEG and WebP are not exact
        seen += told(part).tolist()
    assert sorted(seen) == [10 * k for k in range(COUNT)]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_commas_within_texts(folder, separator):
    table().to_csv(folder / "other.csv", sep=separator, index=False)
    for name, part in made(folder, "other.csv").items():
        np.testing.assert_array_equal(part["captions"], made(folder)[name]["captions"])


def test_what_looks_like_a_number_or_as_missing_is_a_text(folder):
    captions = ["1.0", "NA", "None", "007"] + [f"grey, {10 * k}" for k in range(4, COUNT)]
    saved(folder, table(caption=captions), "mine.csv")
    found = {text for part in made(folder).values() for text in part["captions"].tolist()}
    assert found == set(captions)


def test_pictures_are_turned_scaled_and_cut_and_what_is_transparent_is_white(folder):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, 8:16], picture[:, 16:24] = 100, 200  # the middle square
    Image.fromarray(picture).save(folder / "p0.png")
    turned = Image.Exif()
    turned[274] = 6  # the camera was turned: a quarter clockwise when shown
    Image.fromarray(np.tile(np.repeat(np.array([0, 250], np.uint8), 8)[:, None, None], (1, 16, 3))).save(
        folder / "p2.jpg", exif=turned
    )
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:, 3] = 255
    Image.fromarray(clear).save(folder / "p1.webp", lossless=True)
    parts = made(folder)
    shown = {text: frame for p in parts.values() for text, frame in zip(p["captions"], p["frames"][:, 0], strict=True)}
    np.testing.assert_array_equal(shown["grey, 0"][4, :, 0], [100] * 4 + [200] * 4)
    np.testing.assert_array_equal(shown["grey, 10"][4, :, 0], [255] * 4 + [0] * 4)
    right, left = shown["grey, 20"][:, :3].mean(), shown["grey, 20"][:, 5:].mean()
    assert right > 230
    assert left < 20


def test_of_a_video_one_frame_of_the_middle_or_a_clip(folder):
    for k in range(COUNT):
        film(folder / f"f{k}.mp4", greys(9, first=5 * k, step=10))
    rows = table(picture=[f"f{k}.mp4" for k in range(COUNT)], caption=[f"grey, {5 * k}" for k in range(COUNT)])
    saved(folder, rows, "films.csv")
    for part in made(folder, "films.csv").values():
        assert np.abs(levels(part) - told(part) - 40).max() <= 4
    for part in made(folder, "films.csv", frames=3, stride=2).values():
        assert part.spec.step == pytest.approx(0.2)
        grey = part["frames"][:, :, 4, 4, 0].astype(int)
        assert np.abs(grey - told(part)[:, None] - [20, 40, 60]).max() <= 4


def test_no_group_and_no_picture_is_in_two_splits(folder):
    for k in range(0, COUNT, 2):
        (folder / f"copy{k}.png").write_bytes((folder / table()["picture"][k]).read_bytes())
    pictures = [f"copy{k}.png" if k % 2 == 0 else table()["picture"][k] for k in range(COUNT)]
    rows = pd.concat([table(source=[f"s{k // 4}" for k in range(COUNT)]), table(picture=pictures, source="")])
    saved(folder, rows, "twice.csv")
    for seed in range(5):
        splits = made(folder, "twice.csv", seed=seed, columns={"group": "source"})
        assert sum(map(len, splits.values())) == 2 * COUNT
        groups = [set((told(part) // 40).tolist()) for part in splits.values()]
        assert not groups[0] & groups[1]
        assert len(groups[0] | groups[1]) == 5


def test_splits_that_the_table_names_are_taken_and_what_they_share_is_told(folder, caplog):
    rows = table(part=["train"] * 12 + ["test"] * 5 + ["elsewhere"] * 3)
    rows.loc[COUNT - 1, "picture"] = rows.loc[0, "picture"]
    saved(folder, rows, "split.csv")
    with caplog.at_level(logging.WARNING):
        splits = made(folder, "split.csv", columns={"split": "part"})
    assert {split: len(part) for split, part in splits.items()} == {"train": 12, "test": 5, "elsewhere": 3}
    assert [m for m in caplog.messages if "1 rows to judge on show pictures that training shows" in m]


def test_questions_of_the_table_follow_that_for_the_caption(folder, tmp_path):
    rows = table(q=[f"is it {k}?" for k in range(COUNT)], a=[("yes", "no")[k % 2] for k in range(COUNT)])
    saved(folder, rows, "asked.csv")
    test = made(folder, "asked.csv", columns={"question": "q", "answer": "a"})["test"]
    kinds = laws_of(test.spec).question_kinds
    assert [kinds[k] for k in test["asked"][0]] == ["description", "own"]
    np.testing.assert_array_equal(test["answers"][:, 0], test["captions"])
    for level, question, answer in zip(told(test) // 10, test["questions"][:, 1], test["answers"][:, 1], strict=True):
        assert (question, answer) == (f"is it {level}?", ("yes", "no")[level % 2])
    write(tmp_path / "test.arrow", test)
    assert read(tmp_path / "test.arrow").content_hash == test.content_hash


def test_what_is_made_depends_on_every_file_alone(folder):
    first, again = (made(folder)["test"] for _ in range(2))
    assert first.content_hash == again.content_hash
    assert first.metadata["source_sha256"] == again.metadata["source_sha256"]
    painted(folder / "p4.png", 33)
    assert made(folder)["test"].metadata["source_sha256"] != first.metadata["source_sha256"]


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("changed", "parameters", "said"),
    [
        ({"picture": ["none.png" if k == 6 else n for k, n in enumerate(table()["picture"])]}, {},
         r"'bad.csv', data row 7, '.*none.png': there is no such file"),
        ({"caption": [" " if k == 3 else "x" for k in range(COUNT)]}, {}, "data row 4: the caption is empty"),
        ({"picture": ["" if k == 3 else n for k, n in enumerate(table()["picture"])]}, {},
         "data row 4: the picture is empty"),
        ({"picture": ["bad.csv" if k == 1 else n for k, n in enumerate(table()["picture"])]}, {},
         "data row 2, '.*bad.csv': it is no picture that can be read"),
        ({"picture": ["cut.png" if k == 2 else n for k, n in enumerate(table()["picture"])]}, {},
         "data row 3, '.*cut.png': it is damaged"),
        ({"picture": ["cut.mp4" if k == 2 else n for k, n in enumerate(table()["picture"])]}, {},
         "data row 3, '.*cut.mp4': it is damaged"),
        ({}, {"frames": 4}, "data row 1, '.*p0.png': it is no video, and clips of 4 frames are asked for"),
        ({}, {"columns": {"caption": "captoin"}}, "'bad.csv' has no column 'captoin'; it has picture, caption"),
        ({}, {"path": "nowhere.csv"}, "there is no table '.*nowhere.csv'"),
        ({}, {"size": 30}, "size.*multiple of 8"),
        ({}, {"columns": {"question": "caption"}}, "question and answer: give both columns or none"),
        ({"g": ["one"] * COUNT}, {"columns": {"group": "g"}}, "split 't.*' is empty: 20 rows in 1 groups"),
        ({"s": ["train"] * COUNT}, {"columns": {"split": "s"}}, "no row is in split 'test'; there are train"),
        ({"s": ["train"] * 19 + [""]}, {"columns": {"split": "s"}}, "data row 20: it names no split"),
    ],
)  # fmt: skip
def test_faults_are_one_line_that_names_the_row(folder, changed, parameters, said):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:-200])
    (folder / "cut.mp4").write_bytes(b"no film at all")
    saved(folder, table(**changed), "bad.csv")
    message = refused(made, folder, "bad.csv", **parameters)
    assert re.search(said, message), message


def test_a_line_with_a_comma_too_many_is_told(folder):
    lines = (folder / "mine.csv").read_text().splitlines()
    lines[5] = "p4.png,grey, 40"
    (folder / "mine.csv").write_text("\n".join(lines))
    assert "data row 5: 3 entries for 2 columns; quotation marks" in refused(made, folder)


# ---------------------------------------------------------------- parts


def test_rows_are_linked_by_way_of_others():
    groups = linked(["a", "a", "", "b", "", "c"], ["1", "2", "2", "3", "4", "4"])
    assert groups[0] == groups[1] == groups[2]
    assert groups[4] == groups[5]
    assert len(set(groups.tolist())) == 3


def test_shares_are_met_as_far_as_groups_allow():
    groups = np.repeat(np.arange(100), 3)
    parts = shared_out(groups, {"train": 0.5, "validation": 0.2, "test": 0.3}, 0, "x")
    assert [len(rows) for rows in parts.values()] == [150, 60, 90]


def test_passages_are_the_text_in_order_each_as_long_as_it_can_be():
    text = "one two  three\nfour é five"
    assert passages(text, 9) == ["one two", "three", "four é", "five"]
    assert " ".join(passages(text, 9)).split() == text.split()
    assert "longer than a passage of 4 bytes" in refused(passages, text, 4)


def test_the_example_is_in_the_repository_and_small(monkeypatch):
    monkeypatch.chdir(ROOT)
    conf = yaml.safe_load((ROOT / "conf/own_captions_example/parameters_my_captions.yml").read_text())["my_captions"]
    splits = ingest(validate(WorldConfig, conf, "my_captions"), "my_captions")
    assert sum(map(len, splits.values())) == 208
    sample = ROOT / "data/01_raw/captioned_sample"
    assert sum(path.stat().st_size for path in sample.iterdir()) < 300_000
