"""What every world is: facts and laws, and episodes, simulated or recorded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.errors import UserError, validate
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.spec import Facts, Space, Spec

Array = Any  # numpy.ndarray or torch.Tensor
Float = NDArray[np.float64]


class WorldParameters(Settings):
    """Base of every world's parameters (SI units)."""


class World(ABC):
    """One world: what is known of it, its laws, its episodes.

    Subclasses set `name` and `Parameters`. Those that are simulated derive from `SimulatedWorld`; all others give
    `own_episodes`.

    Attributes:
        entry: its name in the parameter files, by default the name of its kind.
    """

    name: ClassVar[str]
    Parameters: ClassVar[type[WorldParameters]]

    def __init__(self, parameters: WorldParameters) -> None:
        self.parameters, self.entry = parameters, self.name

    def facts(self) -> dict[str, Any]:
        """What a family may be told, JSON types; ``{"law": NAME}`` for a law that may be told. Here: nothing."""
        return {}

    def laws(self) -> Laws:
        """What judges measure by; here: no law is known."""
        return Laws()

    def origin(self) -> dict[str, Any]:
        """What this world is rebuilt from, JSON types; see `restored`."""
        return {"world": self.name, "parameters": self.parameters.model_dump(mode="json")}

    @classmethod
    def restored(cls, origin: Mapping[str, Any], entry: str) -> World:
        """The world behind `origin`.

        Raises:
            UserError: it refuses its parameters.
        """
        world = cls(validate(cls.Parameters, origin["parameters"], f"{entry}.parameters"))
        world.entry = entry
        return world

    def check(self) -> None:  # noqa: B027 — most worlds have nothing to check
        """Refuse early what parameters alone do not show; here: nothing. Raises UserError."""

    def own_episodes(self, seed: int) -> dict[str, Episodes] | None:
        """Episodes by split where the world brings its own; None (here) where they are simulated.

        Args:
            seed: for whatever is drawn.
        """
        del seed
        return None

    def episodes(
        self,
        views: Mapping[str, NDArray[Any] | None],
        step: float,
        metadata: Mapping[str, Any] | None = None,
        spaces: Mapping[str, Space] | None = None,
    ) -> Episodes:
        """Episodes of this world from arrays; those that are None are left out.

        Args:
            views: arrays by name, see `Episodes`. step: seconds between rows. metadata: for the file's header.
            spaces: of views without a conventional name.
        """
        arrays = {name: np.asarray(view) for name, view in views.items() if view is not None}
        found = {**spaces_of(arrays), **(spaces or {})}
        rows = {arrays[name].shape[1] + (s.per == "transition") for name, s in found.items() if s.per != "episode"}
        laws = self.laws()
        simulator = {"simulator": True} if laws.simulate is not None or laws.plant is not None else {}
        facts = Facts(self.facts() | simulator)
        spec = Spec(self.entry, step, found, max(rows, default=1), facts, self.origin())
        return Episodes(spec, arrays, dict(metadata or {}))


class SimulatedWorld(World):
    """A world of mechanics: states ``z = (q, p)`` along the last axis; every method is batched over leading axes.

    Laws (`energy`, `momentum`, `dynamics` …) accept numpy and torch alike, the simulator and the renderer are numpy
    float64 / uint8.
    """

    @abstractmethod
    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Draw start states ``[E, 2d]``."""

    @abstractmethod
    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """True trajectories ``[E, 2d] -> [E, steps + 1, 2d]``.

        Raises:
            IntegrationError: an episode cannot be integrated, or fails its own energy check.
        """

    @abstractmethod
    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Draw states ``[..., 2d]`` as RGB images ``[..., size, size, 3]``."""

    @abstractmethod
    def describe(self, z: Float) -> str:
        """One English sentence about one episode ``[T + 1, 2d]``."""

    def allowed(self, z: Float) -> NDArray[np.bool_]:
        """Whether states ``[..., 2d]`` can occur in this world, ``[...]``; here: all that are finite."""
        return np.asarray(np.isfinite(z).all(axis=-1))

    def ghostly(self) -> SimulatedWorld | None:
        """The same world with bodies that pass through each other; None (here) where they do not collide anyway."""
        return None


class ControlledWorld(World):
    """A world with a hand in it: it moves one step at a time under actions, each entry in [-1, 1].

    Every method is numpy float64, batched over leading axes. The *plant state* ``z [..., n]`` is all that the future
    depends on; what an observer is shown of it, the view ``states``, is `observe`.

    Attributes:
        action_size: ``A``, entries of an action.
        velocity_entries: those of a plant state that are velocities or momenta; (): it holds positions alone.
    """

    action_size: int
    velocity_entries: tuple[int, ...] = ()

    @abstractmethod
    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Draw plant states ``[E, n]`` to start from."""

    @abstractmethod
    def advance(self, z: Float, action: Float, step: float) -> Float:
        """One step: plant states ``[..., n]``, actions ``[..., A]`` -> the next plant states."""

    @abstractmethod
    def reward(self, z: Float, action: Float) -> Float | None:
        """Of taking an action in a state, ``[...]``; None: the world has goals instead."""

    @abstractmethod
    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Draw plant states ``[..., n]`` as RGB images ``[..., size, size, 3]``."""

    def observe(self, z: Float) -> Float:
        """What is shown of plant states as the view ``states``; here: all of them."""
        return z

    def plant_state(self, seen: Float) -> Float | None:
        """Plant states that look like those seen, for drawings; None (here, where not all is shown): untold."""
        return seen if type(self).observe is ControlledWorld.observe else None

    def sample_goal(self, rng: np.random.Generator, starts: Float) -> Float | None:
        """Plant states ``[E, n]`` to reach from ``starts``; None (here) where rewards say what is wanted."""
        del rng, starts
        return None

    def success(self, z: Float, goal: Float) -> NDArray[np.bool_]:  # noqa: ARG002
        """Whether plant states ``[..., n]`` count as the goals', ``[...]``; worlds with goals give it."""
        raise TypeError(f"world '{self.entry}' has no goals")

    def strict_success(self, z: Float, goal: Float) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """A stricter criterion of courses ``[..., T, n]`` and goals ``[..., n]``, ``[...]``; None: there is none."""
        return None

    def distance(self, z: Float, goal: Float) -> Float:
        """How far plant states ``[..., n]`` are from goals, ``[...]``: what the planner on the true world lowers.

        Here: the squared distance of what is shown.
        """
        return np.asarray(((self.observe(z) - self.observe(goal)) ** 2).sum(-1))

    def scripted(self, rng: np.random.Generator, z: Float, row: int) -> Float:
        """Actions ``[E, A]`` of a policy written by hand, for data that random actions do not bring; here: random."""
        del row
        return rng.uniform(-1.0, 1.0, (len(z), self.action_size))

    def score_elsewhere(self, starts: Float, actions: Float) -> Float | None:
        """Returns ``[E]`` of actions ``[E, T, A]`` in the original environment; None (here) where this is it."""
        del starts, actions
        return None


def simulated(world: World) -> SimulatedWorld:
    """The world, where it can be simulated.

    Raises:
        UserError: it is known by its recordings alone.
    """
    if not isinstance(world, SimulatedWorld):
        raise UserError(f"world '{world.entry}' is known by its recordings alone; it cannot be simulated or drawn")
    return world


def check_splits(names: Iterable[str], example: str) -> None:
    """Refuse splits that are no file names, or without one to learn from or to be judged on.

    Args:
        names: of the splits. example: how a split to judge on is given, for the message.

    Raises:
        ValueError: says which name is missing or cannot be.
    """
    names = list(names)
    if bad := [name for name in names if not name.isidentifier()]:
        raise ValueError(f"splits: names become file names: letters, digits, underscore only, got {bad[0]!r}")
    if "train" not in names:
        raise ValueError(f"splits need at least 'train' and 'test', got {', '.join(names) or 'none'}")
    if "test" not in names:
        raise ValueError(f"splits: no split to judge on; give e.g. {example}")


def check_shares(splits: Mapping[str, float]) -> None:
    """Refuse splits that are no shares of a whole, see `check_splits`.

    Raises:
        ValueError: says what is wrong.
    """
    check_splits(splits, "test: 0.3")
    if not all(0.0 < share <= 1.0 for share in splits.values()):
        raise ValueError("splits: give shares between 0 and 1")
    if sum(splits.values()) > 1.0 + 1e-9:
        raise ValueError(f"splits: the shares add up to {sum(splits.values()):g}, more than 1")


def stream(seed: int, split: str) -> list[int]:
    """Entropy of one split's random stream: independent between splits, the same on every machine and in every run."""
    return [seed, int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")]
