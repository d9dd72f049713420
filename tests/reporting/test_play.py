"""The page that is played, as text and under real keys."""

from __future__ import annotations

import base64
import io
import json
import re
from types import SimpleNamespace

import browser
import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image
from played import STARTS, STEP, rooms

from tests.specs import LEARNING
from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.errors import UserError
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families, worlds
from wm_pipelines.reporting.play import Playable, play_page
from wm_pipelines.spec import Space, Spec

# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def pendulum():
    """A model of the pendulum that has learned a little, and its world."""
    kind, rng = worlds.get("driven_pendulum"), np.random.default_rng(0)
    world = kind(kind.Parameters())
    actions, z = rng.uniform(-1, 1, (40, 20, 1)), [world.sample_initial_state(rng, 40)]
    rewards = []
    for a in actions.swapaxes(0, 1):
        rewards.append(world.reward(z[-1], a))
        z.append(world.advance(z[-1], a, STEP))
    views = {"states": world.observe(np.stack(z, 1)), "actions": actions, "rewards": np.stack(rewards, 1)}
    learned = families.get("latent_dynamics")
    schedule = {"steps": 150, "batch_size": 10, "learning_rate": 5e-3}
    config = learned.Config(context=1, widths=(), hidden=32, horizon=2, schedule=schedule)
    family = learned(config, Spec("rod", STEP, spaces_of(views), 21), (3,))
    train(family, {name: torch.from_numpy(view) for name, view in views.items()}, LEARNING)
    return SimpleNamespace(family=family.float().eval(), world=world)


@pytest.fixture(scope="module")
def recurrent(pendulum):
    """A recurrent model of the pendulum, as it was drawn."""
    views = {"states": Space("vector", (3,)), "actions": Space("vector", (1,), per="transition")}
    return SimpleNamespace(family=drawn_anew("rssm", views), world=pendulum.world)


@pytest.fixture(scope="module")
def pictures():
    """A model of pictures of the rooms, as large as that of the project, as it was drawn."""
    views = {"frames": Space("frames", (64, 64, 3), "uint8"), "actions": Space("vector", (2,), per="transition")}
    config = {"pool": 2, "widths": (16, 32, 64), "context": 2}
    return SimpleNamespace(family=drawn_anew("latent_dynamics", views, **config), world=rooms())


@pytest.fixture(scope="module")
def codes():
    """A model that has found three actions in a recorded world, as it was drawn, and two episodes."""
    space, rng = Space("frames", (16, 16, 1), "uint8"), np.random.default_rng(0)
    config = {"codes": 3, "maps": 4, "width": 8, "widths": (8, 8)}
    family = drawn_anew("latent_action", {"frames": space}, **config)
    frames = rng.integers(0, 256, (2, 21, 16, 16, 1)).astype(np.uint8)
    film = Episodes(family.spec, {"frames": frames})
    return SimpleNamespace(family=family, world=SimpleNamespace(name="film"), film=film)


def filmed(codes, **changed):
    return playable(codes, title="codes", recorded=codes.film, **{"starts": {"one": [1, 4]}, **changed})


def drawn_anew(name, views, **config):
    kind, draw = families.get(name), torch.Generator().manual_seed(3)
    family = kind(kind.Config(**config), Spec("rod", STEP, views, 21), (3,))
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return family.float().eval()


def playable(pendulum, **changed):
    about = {
        "variant": "deterministic",
        "seed": 3,
        "starts": STARTS,
        "trained": "40 episodes of 20 steps",
        "provenance": {"x": "y"},
        "title": "rod",
    }
    return Playable(pendulum.family, pendulum.world, **{**about, **changed})


@pytest.fixture(scope="module")
def page(pendulum, recurrent, pictures, codes):
    two = playable(recurrent, title="recurrent")
    three = playable(pictures, title="rooms", starts={"left": [-0.3, 0.1]})
    return play_page([playable(pendulum), two, three, filmed(codes)])


@pytest.mark.training
def test_the_page_is_one_file_that_asks_for_nothing(page, pendulum):
    assert len(page.encode()) < 3_000_000  # the limit is 20 MB
    read = Page(page)
    assert not [attrs for _, attrs in read.tags if "src" in attrs or re.match("https?:", attrs.get("href", ""))]
    assert len(set(read.ids)) == len(read.ids)
    assert "seed" not in read.text.split("Provenance")[0]  # told by the script
    entry, two, three, four = next(json.loads(text) for kind, text in read.scripts if kind == "application/json")
    assert entry["parameters"] == pendulum.world.parameters.model_dump(mode="json")
    assert entry["step"] == STEP
    assert {start["name"]: start["state"] for start in entry["starts"]} == STARTS
    assert "seed 3, trained in 150 optimiser steps on 40 episodes of 20 steps" in entry["story"]
    assert [two["title"], three["title"], four["title"]] == ["recurrent", "rooms", "codes"]
    assert (four["action"], len(four["starts"][0]["film"])) == (3, 17)
    assert len(base64.b64decode(three["starts"][0]["picture"])) == np.prod(three["frame"]) == 3 * 32 * 32


@pytest.mark.training
def test_equal_models_give_an_equal_page(pendulum):
    assert play_page([playable(pendulum)]) == play_page([playable(pendulum)])


@pytest.mark.training
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 4}, r"play\.worlds\.rod\.seed: trained were 3, not 4"),
        ({"starts": {"odd": [1.0]}}, r"play\.worlds\.rod\.starts\.odd: expected 2 numbers, got \[1\.0\]"),
    ],
)
def test_what_cannot_be_shown_is_one_line(pendulum, changed, message):
    with pytest.raises(UserError, match=message):
        play_page([playable(pendulum, **changed)])


@pytest.mark.training
def test_a_recording_is_played_by_codes_alone_from_where_there_is_a_past(pendulum, codes):
    for place in ([2, 4], [0, 0], [0, 20], [0.0]):
        with pytest.raises(
            UserError, match=r"rod\.starts\.one: expected an episode below 2 and a row from 1 to 19, got"
        ):
            play_page([filmed(codes, starts={"one": place})])
    with pytest.raises(UserError, match="without a simulator only codes are played; choose latent_action"):
        play_page([playable(pendulum, recorded=codes.film)])


def test_a_world_without_a_simulator_in_the_page_is_refused(pendulum):
    other = worlds.get("push_t")
    pushed = SimpleNamespace(family=pendulum.family, world=other(other.Parameters()))
    with pytest.raises(UserError, match="the page has no simulator of 'push_t'"):
        play_page([playable(pushed)])
    with pytest.raises(UserError, match="nothing to play"):
        play_page([])


# ---------------------------------------------------------------- under real keys


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    if browser.FOUND is None:
        pytest.skip("needs Chromium, which is not here (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("played")
    (folder / "play.html").write_text(page)
    (folder / "profile").mkdir()
    with browser.chromium(folder / "profile") as tab:
        tab.open(folder / "play.html")
        yield tab


def shown(tab, canvas):
    """Pixels of a canvas as they are now on the screen, ``[H, W, 4]``."""
    drawn(tab)
    picture = tab.value(f"document.getElementById('{canvas}').toDataURL()").removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA"), int)


def drawn(tab):
    """Wait until what happened is on the screen."""
    tab.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")


def clock(tab):
    drawn(tab)
    return tab.value("document.getElementById('clock').textContent")


def after_three_steps(tab, key):
    """Both worlds after three steps with a key held down, from the start, and released before they are looked at."""
    tab.tap("KeyR")
    tab.press(key)
    tab.wait("document.querySelectorAll('.cap.down').length === 1")
    for _ in range(3):
        tab.tap("Period")
    tab.release(key)
    assert clock(tab) == "0.15 s"
    return {name: shown(tab, name) for name in ("truth", "learned")}


def chosen(tab, title):
    """The model of that title is steered."""
    tab.value(f"[...document.getElementById('choice').children].find((b) => b.textContent === '{title}').click()")
    assert clock(tab) == "0.00 s"


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("title", "one", "other"),
    [
        ("rod", "ArrowLeft", "ArrowRight"),
        ("recurrent", "ArrowLeft", "ArrowRight"),
        ("rooms", "ArrowLeft", "ArrowRight"),
        ("rooms", "ArrowUp", "ArrowDown"),
    ],
)
def test_keys_change_both_worlds(tab, title, one, other):
    chosen(tab, title)
    tab.tap("Period")  # the clock stands still from now on
    left, right = after_three_steps(tab, one), after_three_steps(tab, other)
    again = after_three_steps(tab, one)
    for name in ("truth", "learned"):
        assert np.abs(left[name] - right[name]).sum() > 0, name
        np.testing.assert_array_equal(left[name], again[name], err_msg=name)


@pytest.mark.pipeline
def test_codes_are_keys_and_change_the_model_alone(tab):
    chosen(tab, "codes")
    assert tab.value("document.getElementById('meters').hidden && document.getElementById('lines').hidden")
    tab.tap("Period")
    one, three = after_three_steps(tab, "Digit1"), after_three_steps(tab, "Digit3")
    assert np.abs(one["learned"] - three["learned"]).sum() > 0
    np.testing.assert_array_equal(one["truth"], three["truth"])
    tab.tap("Period")
    assert np.abs(shown(tab, "truth") - three["truth"]).sum() > 0  # the film goes on
    tab.press("Digit1")
    tab.press("Digit3")  # the last one counts
    tab.tap("KeyR")
    for _ in range(3):
        tab.tap("Period")
    tab.release("Digit1")
    tab.release("Digit3")
    np.testing.assert_array_equal(shown(tab, "learned"), three["learned"])


@pytest.mark.pipeline
def test_a_model_of_pictures_begins_with_what_it_has_seen(tab):
    chosen(tab, "rooms")
    picture = shown(tab, "learned")
    rows, columns = np.nonzero(picture[..., 0] - picture[..., 1:3].mean(-1) > 60)
    height, width = picture.shape[:2]
    half, side = rooms().half + rooms().parameters.thickness, min(height, width)
    x, y = (2 * half * (columns.mean() - width / 2) / side, 2 * half * (height / 2 - rows.mean()) / side)
    assert abs(x + 0.3) < 0.02
    assert abs(y - 0.1) < 0.02


@pytest.mark.slow  # a measurement: pictures per second, of a machine that does nothing else
@pytest.mark.pipeline
@pytest.mark.parametrize("title", ["recurrent", "rooms", "codes", "rod"])
def test_it_runs_at_the_speed_of_the_world_and_of_the_eye(tab, title):
    chosen(tab, title)
    tab.tap("KeyR")
    tab.press(key := "Digit1" if title == "codes" else "ArrowRight")
    tab.tap("Space")
    tab.wait("parseFloat(document.getElementById('clock').textContent) > 3")
    tab.release(key)
    pictures, steps = map(int, re.findall(r"(\d+) \w+/s", tab.value("document.getElementById('rate').textContent")))
    assert pictures >= 15
    assert 10 <= steps <= 25  # of 0.05 s; a slow machine does not catch up
    if title != "codes":
        assert float(tab.value("document.getElementById('gap').textContent").split()[0]) > 0
    tab.tap("Space")
    stopped = clock(tab)
    tab.value("new Promise((done) => setTimeout(() => done(true), 300))")
    assert clock(tab) == stopped


@pytest.mark.pipeline
def test_starts_are_chosen(tab):
    chosen(tab, "rod")
    tab.tap("Period")  # the clock stands still from now on
    tab.value("[...document.getElementById('starts').children].find((b) => b.textContent === 'side').click()")
    side = shown(tab, "learned")
    tab.value("[...document.getElementById('starts').children].find((b) => b.textContent === 'below').click()")
    assert np.abs(shown(tab, "learned") - side).sum() > 0
    assert clock(tab) == "0.00 s"


@pytest.mark.pipeline
def test_nothing_was_asked_of_the_network_and_nothing_complained(tab):
    tab.value("1")  # reads what was said until now
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1
