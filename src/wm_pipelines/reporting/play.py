"""The page on which a person steers a learned world beside the true one: one file that needs nothing but a browser.

The trained step is in it as an ONNX graph (`control.onnx_step`), evaluated by ``templates/play_onnx.js``; the true
worlds are those of ``templates/play_worlds.js``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from wm_pipelines.control.onnx_step import actions_of, first_belief, step_to_onnx
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError, did_you_mean
from wm_pipelines.families.base import DiscoversActions, Family
from wm_pipelines.reporting import page
from wm_pipelines.reporting.board import PLAY
from wm_pipelines.reporting.style import Palette, model_label
from wm_pipelines.worlds.base import ControlledWorld, World

SIMULATED = ("driven_pendulum", "two_rooms")
"""Kinds of worlds that ``play_worlds.js`` holds."""
READ = ("two_rooms",)
"""Those of them that it reads from pictures."""

_FILM = 40  # rows that follow a start in a recording

_SCRIPTS = ("play_onnx.js", "play_worlds.js", "play.js")


@dataclass(frozen=True)
class Playable:
    """One model of a world to be steered.

    Attributes:
        family: trained. world: the true one, that its data come from. variant: its name. seed: one of the family's.
        starts: plant states ``[n]`` by name, to begin from; of a recorded world episode and row.
        provenance: of the model, nested mappings. trained: what it was trained on, in words: "10 episodes of 200
        steps". title: what the page calls it. recorded: held-out episodes that starts are taken from, of a family that
        discovers actions; then there is no simulator beside it.
    """

    family: Family
    world: World
    variant: str
    seed: int
    starts: Mapping[str, Sequence[float]]
    trained: str
    provenance: Mapping[str, Any]
    title: str
    recorded: Episodes | None = None


def play_page(playables: Sequence[Playable]) -> str:
    """The page, in which the first world is shown first; equal models give equal bytes.

    Raises:
        UserError: there are none, a world has no simulator in the page, a family no step that stands alone, a model was
            not trained with the seed, or a start is no state of its world.
    """
    if not playables:
        raise UserError("nothing to play: 'play.worlds' lists no world that the task control trains on here")
    entries = [_entry(playable) for playable in playables]
    text = json.dumps(entries, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c")
    return page.render(
        "play.html.j2",
        "",
        [_model(playable) for playable in playables],
        figures=False,
        beside=[],
        provenance={playable.title: playable.provenance for playable in playables},
        title=PLAY[0],
        play_style=Markup(page.template_text("play.css")),
        play_scripts=[Markup(page.template_text(name)) for name in _SCRIPTS],
        worlds_json=Markup(text),
        worlds=[],
        glossary=[],
    )


def _model(playable: Playable) -> str:
    return f"{playable.family.name}/{playable.variant}"


def _entry(playable: Playable) -> dict[str, Any]:
    """What the page's script is told of one world, JSON types."""
    family: Any = playable.family
    spec = family.spec
    if playable.seed not in family.seeds:
        known = ", ".join(str(seed) for seed in family.seeds)
        raise UserError(f"play.worlds.{spec.name}.seed: trained were {known}, not {playable.seed}")
    index = family.seeds.index(playable.seed)
    return {
        "title": playable.title,
        "step": spec.step,
        **(_simulated(playable, index) if playable.recorded is None else _filmed(playable, playable.recorded, index)),
        "graph": base64.b64encode(step_to_onnx(family, index)).decode(),
        "action": actions_of(family),
        "model": model_label(_model(playable)),
        "colour": Palette([_model(playable)]).colour(_model(playable)),
        "story": _story(playable),
    }


def _simulated(playable: Playable, index: int) -> dict[str, Any]:
    """Of a world that the page steps beside the model."""
    family: Any = playable.family
    spec, kind = family.spec, playable.world.name
    plant: Any = playable.world
    if kind not in SIMULATED:
        raise UserError(
            f"play.worlds.{spec.name}: the page has no simulator of '{kind}'{did_you_mean(kind, list(SIMULATED))}; "
            f"it has {', '.join(SIMULATED)}"
        )
    frames = spec.views[family.shown(spec)[0]].kind == "frames"
    if frames and kind not in READ:
        raise UserError(f"play.worlds.{spec.name}: the page reads no pictures of '{kind}'; choose a model of states")
    shape = plant.sample_initial_state(np.random.default_rng(0), 1).shape[1:]
    starts = []
    for name, state in playable.starts.items():
        if np.shape(state) != shape:
            raise UserError(f"play.worlds.{spec.name}.starts.{name}: expected {shape[0]} numbers, got {state!r}")
        seen = _seen(family, plant, state)
        belief = first_belief(family, seen, index)
        start = {"name": name, "state": list(map(float, state)), "belief": belief.flatten().tolist()}
        starts.append({**start, "picture": _picture(family, seen)} if frames else start)
        dims = list(belief.shape)
    return {
        "kind": kind,
        "parameters": plant.parameters.model_dump(mode="json"),
        "belief": dims,
        "frame": _frame(family) if frames else None,
        "starts": starts,
    }


def _filmed(playable: Playable, episodes: Episodes, index: int) -> dict[str, Any]:
    """Of a world that is known by its recordings: what really followed is shown beside what codes lead to."""
    if not isinstance(playable.family, DiscoversActions):
        name = playable.family.spec.name
        raise UserError(f"play.worlds.{name}: without a simulator only codes are played; choose latent_action")
    family: Any = playable.family
    frames, starts = torch.tensor(np.asarray(episodes[family.view])), []
    for name, place in playable.starts.items():
        episode, row = (int(i) for i in place) if np.shape(place) == (2,) else (-1, -1)
        if not (0 <= episode < len(frames) and family.context <= row + 1 < frames.shape[1]):
            raise UserError(
                f"play.worlds.{family.spec.name}.starts.{name}: expected an episode below {len(frames)} and a row from "
                f"{family.context - 1} to {frames.shape[1] - 2}, got {list(place)!r}"
            )
        past = {family.view: frames[episode, row + 1 - family.context : row + 1][None]}
        with torch.no_grad():
            belief = family.believed(family.members[index].eval(), past).float()
        film = frames[episode, row : row + 1 + _FILM]
        starts.append(
            {
                "name": name,
                "state": [0],
                "belief": belief.flatten().tolist(),
                "picture": _picture(family, film[:1]),
                "film": [_picture(family, frame[None]) for frame in film],
            }
        )
        dims = list(belief.shape)
    parameters = {"codes": family.codes}
    return {"kind": "recorded", "parameters": parameters, "belief": dims, "frame": _frame(family), "starts": starts}


def _frame(family: Any) -> list[int]:
    """``[C, H, W]`` of frames as networks see them."""
    return [family.seen_space.shape[i] for i in (2, 0, 1)]


def _seen(family: Any, plant: ControlledWorld, state: Sequence[float]) -> Any:
    """A plant state as the family observes it, ``[1, …]``."""
    z = np.array([state], np.float64)
    if family.space.kind == "vector":
        return plant.observe(z)
    return plant.render(z, family.space.shape[0])


def _picture(family: Any, frames: Any) -> str:
    """Frames ``[1, H, W, C]`` as the family's networks see them, ``[C, H, W]`` bytes, as text."""
    x = family.inputs({family.view: torch.as_tensor(frames)})
    return base64.b64encode((255 * x).round().to(torch.uint8).numpy().tobytes()).decode()


def _story(playable: Playable) -> str:
    """What the model is, and what is honest to know of it."""
    steps = getattr(getattr(playable.family.config, "schedule", None), "steps", None)
    learned = f" in {steps:,} optimiser steps" if steps else ""
    if playable.recorded is not None:
        return (
            f"seed {playable.seed}, trained{learned} on {playable.trained}, and told no action: what a key does it has "
            "found out by itself, and nobody has named it. Without a key it shows what is to be expected. Beside it is "
            "what really followed, in an episode that it has not seen; keys do not change that."
        )
    told = "what the meters say of it is said, by the true world's formulas, of the state that it shows. "
    if playable.family.view == "frames":
        told = "what the meters say of it is read from its pictures. "
    return (
        f"seed {playable.seed}, trained{learned} on {playable.trained}. Nobody told it a law: it conserves what it has "
        f"learned to conserve, and {told}"
        "Far from what it was trained on it may show what cannot be. The true world takes the same steps as the one "
        "that the data come from."
    )
