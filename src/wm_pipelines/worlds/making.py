"""From an entry of the parameter files to episodes: simulated, or brought by the world itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes, counted, too_few
from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.mappings import Settings, deep_merge
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.base import ControlledWorld, SimulatedWorld, World, check_splits, simulated, stream
from wm_pipelines.worlds.parts.driving import Policy, drive
from wm_pipelines.worlds.parts.impossible import Impossible, simulate_impossible
from wm_pipelines.worlds.parts.quantities import Seconds

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------- making


def generate(
    world: SimulatedWorld,
    *,
    step: float,
    steps: int,
    episodes: int,
    seed: int | Sequence[int],
    noise: float = 0.0,
    derivative: bool = True,
    frame_size: int | None = None,
    captions: bool = False,
    impossible: Impossible | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Episodes:
    """Simulate episodes of a world.

    Start states and noise have random streams of their own: the noise does not change the trajectories under it, and
    longer episodes begin like shorter ones.

    Args:
        world: the world.
        step: seconds between rows.
        steps: ``T``.
        episodes: ``E``.
        seed: entropy of the streams (`stream` makes one per split).
        noise: standard deviation of the Gaussian noise on the state, same for all entries; derivative, frames and
            captions show the noise-free state.
        derivative: keep the true dz/dt, where the world knows it.
        frame_size: side of the rendered frames in pixels; None for no frames.
        captions: keep what `World.describe` says of each episode.
        impossible: break the law once per episode; where is told by ``metadata["altered_row"]``, one row per episode.
        metadata: further facts for the header, JSON types.

    Raises:
        IntegrationError: the simulator could not keep its accuracy.
    """
    starts, disturbance, breach = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    facts: dict[str, Any] = {"noise": noise}
    if impossible is None:
        z = np.asarray(world.simulate(world.sample_initial_state(starts, episodes), step, steps), np.float64)
    else:
        z, rows = simulate_impossible(
            world, impossible, step=step, steps=steps, episodes=episodes, starts=starts, rng=breach
        )
        facts |= {"impossible": impossible.model_dump(mode="json"), "altered_row": rows.tolist()}
    dynamics = world.laws().dynamics if derivative else None
    facts |= {"seed": list(seed) if isinstance(seed, Sequence) else seed, "generator": __version__, **(metadata or {})}
    views = {
        "times": np.tile(step * np.arange(steps + 1.0), (episodes, 1)),
        "states": z + noise * disturbance.standard_normal(z.shape) if noise > 0 else z,
        "derivatives": None if dynamics is None else np.asarray(dynamics(z), np.float64),
        "frames": None if frame_size is None else world.render(z, frame_size),
        "captions": np.array([world.describe(episode) for episode in z]) if captions else None,
    }
    return world.episodes(views, step, facts)


# ---------------------------------------------------------------- from parameters


class SplitConfig(Settings):
    """One split of a simulated world; what is set here goes before the world's own setting."""

    episodes: int = Field(ge=1)
    steps: int = Field(ge=1, description="T; an episode has T + 1 rows")
    step: Seconds | None = None
    noise: float | None = Field(None, ge=0)
    derivative: bool | None = None
    frame_size: int | None = Field(None, ge=8)
    policy: Policy | None = None
    impossible: Impossible | None = Field(None, description="break the law once per episode; for tests of surprise")
    parameters: dict[str, Any] = Field(default_factory=dict, description="merged into the world's parameters")


class WorldConfig(Settings):
    """One entry of the parameter files: which world, with which laws, how many episodes of which length."""

    world: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    step: Seconds | None = Field(None, description="time between rows")
    seed: int = Field(0, ge=0)
    noise: float = Field(0.0, ge=0, description="standard deviation on the state")
    derivative: bool = True
    frame_size: int | None = Field(None, ge=8, description="pixels; null for no frames")
    captions: bool = False
    policy: Policy = Field("random", description="who acts, in worlds that take actions")
    paper_files: str | None = Field(None, description="folder of the HNN paper's files to read instead of simulating")
    splits: dict[str, SplitConfig] = Field(default_factory=dict, description="empty: the world brings its own episodes")

    @field_validator("splits", mode="before")
    @classmethod
    def _without_null(cls, splits: Any) -> Any:
        """A split that is null in an environment is not made there."""
        return {n: s for n, s in splits.items() if s is not None} if isinstance(splits, Mapping) else splits

    @model_validator(mode="after")
    def _complete(self) -> WorldConfig:
        if self.splits:
            check_splits(self.splits, "test: {episodes: 20, steps: 100}")
        if self.splits and self.step is None and any(split.step is None for split in self.splits.values()):
            raise ValueError("step is missing; give the seconds between rows")
        return self


def build_world(config: WorldConfig, split: str | None = None, where: str | None = None) -> World:
    """The world of a configuration, with the parameters of one split where that overrides them.

    Args:
        config: the entry.
        split: name of a split, or None for the world's own parameters.
        where: the entry's name in the parameter files, for messages (default: the world's name).

    Raises:
        UserError: unknown world or split, a parameter that cannot be, or one beside episodes that the world brings.
    """
    where = where or config.world
    kind = worlds.get(config.world)
    override: Mapping[str, Any] = {}
    if split is not None and config.splits:
        if split not in config.splits:
            raise UserError(f"'{where}.splits' has no '{split}'; it has {', '.join(config.splits)}")
        override = config.splits[split].parameters
    place = f"{where}.splits.{split}.parameters" if override else f"{where}.parameters"
    if kind.own_episodes is not World.own_episodes:
        for name in sorted(config.model_fields_set - {"world", "parameters", "seed"}):
            raise UserError(f"parameter '{where}.{name}': world '{config.world}' brings its own episodes; remove it")
    world: World = kind(validate(kind.Parameters, deep_merge(config.parameters, override), place))
    world.entry = where
    return world


def ingest(config: WorldConfig, where: str | None = None) -> dict[str, Episodes]:
    """All splits of one entry of the parameter files, simulated or, where the world has its own episodes, read.

    Raises:
        UserError: unknown world, a parameter that cannot be, a system that cannot be integrated, a table with faults.
    """
    where = where or config.world
    world = build_world(config, where=where)
    if (own := world.own_episodes(config.seed)) is not None:
        _say_how_many(where, own)
        return own
    if config.paper_files is not None:
        from wm_pipelines.worlds.parts.paper_files import read_paper_files

        return read_paper_files(config.paper_files, world)
    if not config.splits:
        raise UserError(f"parameter '{where}.splits': missing; give at least train: {{episodes: …, steps: …}}")
    return {name: _simulated_split(config, name, where) for name in config.splits}


def _say_how_many(where: str, own: Mapping[str, Episodes]) -> None:
    """How own data are split, and where too few episodes are left to judge on; images and fields are none."""
    if any(part.spec.rows == 1 for part in own.values()):
        return
    counts = {name: len(part) for name, part in own.items()}
    logger.info("'%s': %s.", where, counted(counts))
    for line in too_few(counts):
        logger.warning("'%s': %s.", where, line)


def _simulated_split(config: WorldConfig, name: str, where: str) -> Episodes:
    split = config.splits[name]

    def setting(key: str) -> Any:
        own = getattr(split, key)
        return getattr(config, key) if own is None else own

    world = build_world(config, name, where)
    common: dict[str, Any] = {
        "steps": split.steps,
        "episodes": split.episodes,
        "seed": stream(config.seed, name),
        "metadata": {"split": name},
        **{key: setting(key) for key in ("step", "noise", "frame_size")},
    }
    try:
        if isinstance(world, ControlledWorld):
            episodes = drive(world, policy=setting("policy"), **common)
        else:
            episodes = generate(
                simulated(world),
                captions=config.captions,
                impossible=split.impossible,
                derivative=setting("derivative"),
                **common,
            )
        episodes.check_finite()
    except (IntegrationError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{where}', split '{name}': {error}") from error
    return episodes
