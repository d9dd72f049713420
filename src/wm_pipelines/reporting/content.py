"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Float = NDArray[np.float64]

LEADERBOARD_COLUMNS = (
    "world",
    "family",
    "variant",
    "seed",
    "split",
    "metric",
    "step",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "unit",
)


@dataclass(frozen=True)
class WorldRollouts:
    """Roll-outs of one world to draw: ``E`` episodes, ``K`` rows, states of length ``2 * dof``.

    Models are named ``"family/variant"``; a model missing in one of the mappings is left out of that figure.

    Attributes:
        time: ``[K]``, s.
        truth: ``[E, K, 2d]``.
        predicted: model -> ``[E, K, 2d]``, of the first seed.
        truth_energy: ``[E, K]``, J, or None where no energy is known.
        energy: model -> ``[E, K]``, J.
        dof: degrees of freedom d.
        particles: number of particles, or None in generalised coordinates.
        space: dimension of the particles' space, or None.
        angles: entries of the state that are angles.
        frames: ``"truth"`` or model -> ``[F, H, W, 3]`` uint8, of one episode, all alike in shape.
        frames_per_second: speed of the animation.
        caption: a sentence about the episode drawn.
    """

    time: Float
    truth: Float
    predicted: Mapping[str, Float] = field(default_factory=dict)
    truth_energy: Float | None = None
    energy: Mapping[str, Float] = field(default_factory=dict)
    dof: int = 1
    particles: int | None = None
    space: int | None = None
    angles: tuple[int, ...] = ()
    frames: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    frames_per_second: float = 12.0
    caption: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows. Whatever is empty vanishes from the report.

    Attributes:
        leaderboard: long table with the `LEADERBOARD_COLUMNS`; ``step`` is -1 where a metric has none.
        rollouts: world -> its roll-outs.
        curves: ``"world/family/variant"`` -> learning curve with columns ``step``, ``loss``, and ``seed`` if several.
        not_applicable: (world, family, reason) of combinations that do not exist.
        provenance: where the numbers come from; names to text, numbers, lists or further such mappings.
        title: of the report.

    Raises:
        ValueError: the leaderboard lacks a column.
    """

    leaderboard: pd.DataFrame
    rollouts: Mapping[str, WorldRollouts] = field(default_factory=dict)
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    not_applicable: Sequence[tuple[str, str, str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    title: str = "World models and the laws of physics"

    def __post_init__(self) -> None:
        missing = [c for c in LEADERBOARD_COLUMNS if c not in self.leaderboard.columns]
        if missing:
            raise ValueError(f"the leaderboard lacks the column(s) {', '.join(missing)}")

    @property
    def worlds(self) -> list[str]:
        """Worlds that anything is known about, alphabetically."""
        named = {w for w, _, _ in self.not_applicable} | {key.split("/")[0] for key in self.curves}
        return sorted(named | set(self.leaderboard["world"]) | set(self.rollouts))
