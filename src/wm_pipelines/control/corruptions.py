"""Simulators that are wrong by a known amount, and a planner that trusts one of them while it acts in the true world.

What a planner loses by a wrong law is measured with these alone: same planner, same starts, one error at a time. Each
*corruption* has a *dose*; at the harmless one the simulator is the world itself. Steps are the world's own. ``sigma``
is the standard deviation of each entry of the plant state over training episodes, so that doses need no units.

===============  ====================================================================  ========
corruption       dose                                                                  harmless
===============  ====================================================================  ========
``energy_leak``  share of the velocities that is lost in a step                        0
``wrong_mass``   how many times as heavy it is taken for                               1
``kick``         added to every velocity in a step, in ``sigma``                       0
``noise``        standard deviation of the Gaussian on the next state, in ``sigma``    0
``delay``        steps until an action takes effect; before that the hand rests        0
===============  ====================================================================  ========

In a world of positions alone a leak shrinks displacements and a kick is a drift; in a world without a mass actions are
divided by the factor. Noise is drawn for every candidate plan anew: a planner is fooled by those that are lucky.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from wm_pipelines.control.policies import TruePlanned
from wm_pipelines.families.base import Views
from wm_pipelines.mappings import Settings

Float = NDArray[np.float64]
Corruption = Literal["energy_leak", "wrong_mass", "kick", "noise", "delay"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
HARMLESS: dict[Corruption, float] = {**dict.fromkeys(CORRUPTIONS, 0.0), "wrong_mass": 1.0}
UNITS: dict[Corruption, str] = {
    "energy_leak": "share of speed lost per step",
    "wrong_mass": "times the true mass",
    "kick": "spreads of the velocity per step",
    "noise": "spreads of the state per step",
    "delay": "steps",
}


class DoseConfig(Settings):
    """Doses of each corruption; the harmless one is understood."""

    energy_leak: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[], description=UNITS["energy_leak"])
    wrong_mass: list[Annotated[float, Field(gt=0)]] = Field(default=[], description=UNITS["wrong_mass"])
    kick: list[float] = Field(default=[], description=UNITS["kick"])
    noise: list[Annotated[float, Field(ge=0)]] = Field(default=[], description=UNITS["noise"])
    delay: list[Annotated[int, Field(ge=0)]] = Field(default=[], description=UNITS["delay"])


class Corrupted:
    """A world (`worlds.base.ControlledWorld`) whose `advance` is wrong; rewards, goals and views are the true ones.

    Its states are plant states ``[..., n]``, followed by the ``d A`` entries of the actions on their way where they are
    delayed by ``d`` steps.

    Args:
        plant: the true world. corruption: see `corruptions`. dose: how much of it.
        sigma: ``[n]``, see there. seed: of the noise.

    Raises:
        UserError: such a dose cannot be.
    """

    def __init__(self, plant: Any, corruption: Corruption, dose: float, sigma: Float, seed: int = 0) -> None:
        self.plant, self.corruption, self.dose = plant, corruption, dose
        self.action_size = plant.action_size
        # What is lost or added: of velocities where there are any, else of the displacement.
        self._moved = list(plant.velocity_entries) or slice(None)
        self._sigma, self._rng = np.asarray(sigma, np.float64), np.random.default_rng(seed)
        self._heavier = _heavier(plant, dose) if corruption == "wrong_mass" else None
        self._waiting = int(dose) * plant.action_size if corruption == "delay" else 0

    def start(self, z: Float) -> Float:
        """What it takes a plant state for at the start of an episode: no action is on its way."""
        return np.concatenate([z, np.zeros((*z.shape[:-1], self._waiting))], -1)

    def follow(self, state: Float, action: Float, z: Float) -> Float:
        """Its state after an action was taken and the world was found in plant state ``z``."""
        return np.concatenate([z, self._queued(state, action)[1]], -1)

    def advance(self, state: Float, action: Float, step: float) -> Float:
        """One step, as it believes: states and actions ``[..., A]`` -> the next states."""
        z, dose = self._plain(state), self.dose
        if self.corruption == "delay":
            due, queue = self._queued(state, action)
            return np.concatenate([self.plant.advance(z, due, step), queue], -1)
        if self.corruption == "wrong_mass":
            return (
                self._heavier.advance(z, action, step) if self._heavier else self.plant.advance(z, action / dose, step)
            )
        following = np.array(self.plant.advance(z, action, step), np.float64)
        if self.corruption == "noise":
            return following + dose * self._sigma * self._rng.standard_normal(following.shape)
        if self.corruption == "kick":
            following[..., self._moved] += dose * self._sigma[self._moved]
        elif self.plant.velocity_entries:
            following[..., self._moved] *= 1.0 - dose
        else:
            following = z + (1.0 - dose) * (following - z)
        return following

    def observe(self, state: Float) -> Float:
        """What is shown of states, or of plant states."""
        return self.plant.observe(self._plain(state))

    def reward(self, state: Float, action: Float) -> Float | None:
        """The true world's."""
        return self.plant.reward(self._plain(state), action)

    def distance(self, state: Float, goal: Float) -> Float:
        """The true world's, of states to goals that `start` has made states."""
        return self.plant.distance(self._plain(state), self._plain(goal))

    def _plain(self, state: Float) -> Float:
        return state[..., : len(self._sigma)]

    def _queued(self, state: Float, action: Float) -> tuple[Float, Float]:
        """The action that takes effect now, and those on their way after it, the oldest first."""
        queue = np.concatenate([state[..., len(self._sigma) :], action], -1) if self._waiting else action
        return queue[..., : self.action_size], queue[..., self.action_size :][..., : self._waiting]


class WronglyPlanned(TruePlanned):
    """A planner that takes a `Corrupted` simulator for the world; it sees the true state after every step."""

    plant: Corrupted

    def begin(self, observation: Views, plant_states: Float) -> None:
        """See `policies.Policy`."""
        del observation
        self.states = self.plant.start(plant_states)
        if self.goal is not None and self.goal.shape != self.states.shape:
            self.goal = self.plant.start(self.goal)

    def observe(self, action: Tensor, observation: Views, plant_states: Float) -> None:
        """See `policies.Policy`."""
        del observation
        self.states = self.plant.follow(self.states, action.double().numpy(), plant_states)


def _heavier(plant: Any, times: float) -> Any:
    """The world with all masses multiplied; None where it has none."""
    values = plant.parameters.model_dump()
    masses = {
        name: (np.asarray(m, np.float64) * times).tolist() for name, m in values.items() if name.startswith("mass")
    }
    return type(plant)(type(plant.parameters).model_validate(values | masses)) if masses else None
