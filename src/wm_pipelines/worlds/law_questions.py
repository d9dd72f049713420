"""Clips of moving bodies, lawful ones and impossible ones, and questions about their laws.

The world that moves is any that is simulated; what is broken are the impossible futures of `parts.impossible`, and the
simulator answers (`parts.law_questions`). Unlike in tests of surprise, breaches are in training, too: models are asked
to name them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError, did_you_mean, validate
from wm_pipelines.laws import Laws
from wm_pipelines.registry import worlds
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, SimulatedWorld, World, WorldParameters, simulated, stream
from wm_pipelines.worlds.parts.impossible import Impossible, simulate_impossible
from wm_pipelines.worlds.parts.law_questions import ASK, BREACHES, Clip
from wm_pipelines.worlds.parts.quantities import Seconds

_LAWFUL = "lawful"


class LawQuestionsParameters(WorldParameters):
    """Which world moves, how its laws break, what is asked."""

    of: str = Field(description="the kind of world that moves")
    world: dict[str, Any] = Field(default_factory=dict, description="its parameters")
    step: Seconds = 0.1
    rows: int = Field(16, ge=6, description="frames of a clip")
    frame_size: int = Field(32, ge=8, description="pixels")
    train: int = Field(2000, ge=1, description="clips")
    validation: int = Field(200, ge=1)
    test: int = Field(300, ge=1)
    shares: dict[str, float] = Field(
        {"lawful": 0.4, "teleport": 0.3, "energy_jump": 0.3}, description="of clips that are lawful, or broken somehow"
    )
    energy_factor: float = Field(4.0, gt=0, description="energy after a jump over that before")
    asks: tuple[str, ...] = Field(min_length=1, description="kinds of questions, each asked once of every clip")

    @model_validator(mode="after")
    def _known(self) -> LawQuestionsParameters:
        for name, known in (("shares", [_LAWFUL, *BREACHES]), ("asks", list(ASK))):
            for one in getattr(self, name):
                if one not in known:
                    raise ValueError(f"{name}: unknown '{one}'{did_you_mean(one, known)}")
        if abs(sum(self.shares.values()) - 1.0) > 1e-9 or min(self.shares.values()) < 0:
            raise ValueError("shares: give shares that add up to 1")
        return self


@register
class LawQuestions(World):
    """Frames ``[E, T, H, W, 3]``, questions and answers ``[E, Q]``; no states.

    What is asked is the view ``asked [E, Q]`` (numbers of kinds), which is for judges.
    """

    name = "law_questions"
    Parameters = LawQuestionsParameters
    parameters: LawQuestionsParameters

    def moving(self) -> SimulatedWorld:
        """The world behind the clips.

        Raises:
            UserError: it is not simulated, or refuses its parameters.
        """
        kind = worlds.get(self.parameters.of)
        return simulated(kind(validate(kind.Parameters, self.parameters.world, f"{self.entry}.parameters.world")))

    def laws(self) -> Laws:
        """What numbers of kinds mean."""
        return Laws(question_kinds=self.parameters.asks)

    def _check_questions(self, world: SimulatedWorld) -> None:
        """Raise UserError where a question means nothing in that world."""
        bodies = world.facts().get("particles", 1)
        means = {
            "energy": world.laws().energy is not None,
            "meeting": world.ghostly() is not None,
            **dict.fromkeys(("swing", "turns"), bodies == 1 and world.facts().get("space", 1) == 1),
        }
        for kind in self.parameters.asks:
            if not means.get(kind, True):
                raise UserError(f"'{self.entry}.parameters.asks': '{kind}' means nothing in '{world.name}'; remove it")

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Train, validation, test; ``seed`` draws all of them.

        Raises:
            UserError: a question means nothing in that world, or its laws cannot be broken like that.
        """
        self._check_questions(self.moving())
        counts = {split: getattr(self.parameters, split) for split in ("train", "validation", "test")}
        return {split: self._split(split, count, seed) for split, count in counts.items()}

    def _split(self, split: str, count: int, seed: int) -> Episodes:
        p, world = self.parameters, self.moving()
        z, breaches, rows = self._clips(world, split, count, seed)
        rng = np.random.default_rng(stream(seed, f"questions {split}"))
        asked = [
            [ASK[kind](rng, Clip(one, p.step, world, breach, row)) for kind in p.asks]
            for one, breach, row in zip(z, breaches, rows, strict=True)
        ]
        views: dict[str, NDArray[Any]] = {
            "frames": world.render(z, p.frame_size),
            "questions": np.array([[question for question, _ in row] for row in asked]),
            "answers": np.array([[answer for _, answer in row] for row in asked]),
            "asked": np.tile(np.arange(len(p.asks)), (count, 1)),
        }
        return self.episodes(views, p.step, {"seed": seed, "split": split, "generator": __version__})

    def _clips(
        self, world: SimulatedWorld, split: str, count: int, seed: int
    ) -> tuple[Float, list[str | None], list[int]]:
        """States ``[count, T, 2d]`` in random order, what is broken in each, and from which row on."""
        p, parts = self.parameters, list[tuple[Float, str | None, int]]()
        counts = _counted(count, p.shares)
        for kind, number in counts.items():
            starts, rng = (
                np.random.default_rng(stream(seed, f"{part} {split} {kind}")) for part in ("starts", "breach")
            )
            if not number:
                continue
            if kind == _LAWFUL:
                z = world.simulate(world.sample_initial_state(starts, number), p.step, p.rows - 1)
                parts += [(one, None, -1) for one in np.asarray(z, np.float64)]
                continue
            amount = p.energy_factor if kind == "energy_jump" else None
            breach = validate(Impossible, {"kind": kind, "amount": amount}, f"{self.entry}.parameters")
            z, rows = simulate_impossible(
                world, breach, step=p.step, steps=p.rows - 1, episodes=number, starts=starts, rng=rng
            )
            parts += [(one, kind, int(row)) for one, row in zip(z, rows, strict=True)]
        if len(parts) != count:
            raise UserError(f"'{self.entry}': {count} clips cannot be shared out")
        order = np.random.default_rng(stream(seed, f"order {split}")).permutation(count)
        mixed = [parts[k] for k in order]
        return np.stack([z for z, _, _ in mixed]), [b for _, b, _ in mixed], [r for _, _, r in mixed]


def _counted(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Shares as numbers that add up to ``count``: the first takes what rounding leaves."""
    counts = {kind: int(count * share) for kind, share in shares.items()}
    counts[next(iter(counts))] += count - sum(counts.values())
    return counts
