"""Questions about scenes: another reader of the question and the scene comes to the same answer."""

import re

import numpy as np
import pytest

from wm_pipelines.worlds.captioned_scenes import draw_scenes
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.scene_grammar import COLOURS, PLACES, SHAPES, SIZES
from wm_pipelines.worlds.parts.scene_questions import DESCRIBE, KINDS, questions, seen_from

PAIRS = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
FEW = {"train": 150, "validation": 10, "test": 10, "held_out": 60}
NUMBERS = ("none", "one", "two", "three")


def asked(count=400, per=6):
    rng = np.random.default_rng(3)
    scenes = draw_scenes(rng, count, (0.3, 0.4, 0.3), PAIRS)
    return scenes, *questions(rng, scenes, per, PAIRS)


def meant(scene, name):
    """The objects of a scene that all words of a name fit."""
    found = [row for row in scene.tolist() if row[0] >= 0]
    for column, values in enumerate((SIZES, COLOURS, SHAPES)):
        for word in name.split():
            if word.removesuffix("s") in values or word in values:
                found = [row for row in found if values[row[column]] in (word, word.removesuffix("s"))]
    place = re.search(rf"at the ({'|'.join(PLACES)})", name)
    return [row for row in found if place is None or PLACES[row[3]] == place[1]]


def alone(scene, name):
    (one,) = meant(scene, name)
    return one


def truth(scene, question):
    """The answer, read from the question's words and the scene's numbers."""
    if found := re.fullmatch(r"what colour is the (.*)\?", question):
        return COLOURS[alone(scene, found[1])[1]]
    if found := re.fullmatch(r"what shape has the (.*)\?", question):
        return SHAPES[alone(scene, found[1])[2]]
    if found := re.fullmatch(r"how large is the (.*)\?", question):
        return SIZES[alone(scene, found[1])[0]]
    if found := re.fullmatch(r"which quarter holds the (.*)\?", question):
        return PLACES[alone(scene, found[1])[3]]
    if found := re.fullmatch(r"how many (.*) are there\?", question):
        return NUMBERS[len(meant(scene, found[1]))]
    if found := re.fullmatch(r"is there a (.*)\?", question):
        return "yes" if meant(scene, found[1]) else "no"
    found = re.fullmatch(r"where is the (.*), seen from the (.*)\?", question)
    (row, column), (other_row, other_column) = (divmod(alone(scene, found[k])[3], 2) for k in (1, 2))
    words = ["above"] * (row < other_row) + ["below"] * (row > other_row)
    words += ["left of"] * (column < other_column) + ["right of"] * (column > other_column)
    return " and ".join(words).removesuffix(" of").replace("above and left", "above and left") + (
        " of it" if column != other_column else " it"
    )


def test_every_answer_is_what_another_reader_finds():
    scenes, asks, answers, kinds = asked()
    for scene, row, said, of in zip(scenes, asks, answers, kinds, strict=True):
        for question, answer, kind in zip(row[1:], said[1:], of[1:], strict=True):
            assert truth(scene, question) == answer, (scene, question)
            assert kind > 0
    assert set(kinds.ravel()) == set(range(len(KINDS)))


def test_the_first_question_wants_the_caption():
    episodes = ingest(WorldConfig(world="captioned_scenes", parameters=FEW))["train"]
    assert set(episodes["questions"][:, 0]) == {DESCRIBE}
    np.testing.assert_array_equal(episodes["answers"][:, 0], episodes["captions"])


def test_two_words_tell_the_kind():
    _, asks, _, kinds = asked()
    told = {}
    for question, kind in zip(asks[:, 1:].ravel(), kinds[:, 1:].ravel(), strict=True):
        assert told.setdefault(" ".join(question.split()[:2]), kind) == kind
    assert len(told) == len(KINDS) - 1


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_relations_turn_round_with_who_looks(first, second):
    if first == second:
        return
    turned = {"above": "below", "below": "above", "left": "right", "right": "left"}
    back = " ".join(turned.get(word, word) for word in seen_from(first, second).split())
    assert back == seen_from(second, first)


def test_nobody_who_learns_is_asked_after_combinations_that_are_kept_out():
    splits = ingest(WorldConfig(world="captioned_scenes", parameters=FEW))
    kept_out = splits["train"].metadata["held_out"]
    for name, part in splits.items():
        if "questions" not in part:
            assert name == "moving"  # clips have captions alone
            continue
        after = {f"is there a {pair}?" for pair in kept_out} & set(part["questions"].ravel())
        assert bool(after) == (name == "held_out")


def test_scenes_do_not_depend_on_how_much_is_asked():
    one, two = (ingest(WorldConfig(world="captioned_scenes", parameters=FEW | {"questions": q})) for q in (1, 3))
    np.testing.assert_array_equal(one["test"]["frames"], two["test"]["frames"])
    assert two["test"]["questions"].shape == (10, 4)
