"""What every world is: laws, a simulator, a renderer, a captioner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from wm_pipelines.errors import UserError
from wm_pipelines.system import System

if TYPE_CHECKING:
    from wm_pipelines.worlds.episodes import Episodes

Array = Any  # numpy.ndarray or torch.Tensor
Float = NDArray[np.float64]


class WorldParameters(BaseModel):
    """Base of every world's physical parameters (SI units). Unknown keys are an error."""

    model_config = ConfigDict(extra="forbid")


class World(ABC):
    """One world. States are ``z = (q, p)`` along the last axis; every method is batched over leading axes.

    Subclasses set `name` and `Parameters`; laws (`energy`, `momentum`, `dynamics` …) accept numpy and torch alike,
    the simulator and the renderer are numpy float64 / uint8.
    """

    name: ClassVar[str]
    Parameters: ClassVar[type[WorldParameters]]

    def __init__(self, parameters: WorldParameters) -> None:
        self.parameters = parameters

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
    def system(self, step: float) -> System:
        """The description handed to families and metrics; ``step`` is the time between rows."""

    @abstractmethod
    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Draw states ``[..., 2d]`` as RGB images ``[..., size, size, 3]``."""

    @abstractmethod
    def describe(self, z: Float) -> str:
        """One English sentence about one episode ``[T + 1, 2d]``."""

    def allowed(self, z: Float) -> NDArray[np.bool_]:
        """Whether states ``[..., 2d]`` can occur in this world, ``[...]``; here: all that are finite."""
        return np.asarray(np.isfinite(z).all(axis=-1))

    def ghostly(self) -> World | None:
        """The same world with bodies that pass through each other; None (here) where they do not collide anyway."""
        return None

    def own_episodes(self, seed: int) -> dict[str, Episodes] | None:
        """Episodes by split where the world has measured ones; None (here) where they are simulated.

        Args:
            seed: for the choice of episodes per split, where that is drawn.
        """
        del seed
        return None


class RecordedWorld(World):
    """A world that is known by recordings alone (photographs, videos of one's own): pictures without a law.

    Subclasses give `own_episodes`, and `describe` where they can.
    """

    def _no_law(self) -> UserError:
        return UserError(f"world '{self.name}' is known by its recordings alone; it cannot be simulated or drawn")

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:  # noqa: ARG002
        """There is none."""
        raise self._no_law()

    def simulate(self, z0: Float, step: float, steps: int) -> Float:  # noqa: ARG002
        """There is no law to do so by."""
        raise self._no_law()

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:  # noqa: ARG002
        """There is nothing to draw from."""
        raise self._no_law()

    def system(self, step: float) -> System:
        """No degrees of freedom are known."""
        return System(name=self.name, dof=0, step=step)

    def describe(self, z: Float) -> str:  # noqa: ARG002
        """What is known of any episode: where it comes from."""
        return f"A recording of '{self.name}'."
