"""What every world-model family is: what it needs and knows, networks, a loss, a prediction.

The training loop, the judges and the planners know a family through this file alone. Views come and go as mappings by
name (``states``, ``frames``, ``actions``, ``captions`` …), so that no signature changes with a modality.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.spec import FACTS, Spec

Views = Mapping[str, Tensor]
"""Tensors by the name of the view."""

FORM_WORDS: Mapping[str, str] = {
    "law_dictionary": "pair laws are sums of log r, 1/r, r and r^2 (softened), fitted first, and of a network of them; "
    "couplings are 1, products and sums of the particles' attributes",
    "pair_forces": "forces act between pairs of particles, along or across their line, and momentum is m v",
    "log_distance": "distances enter as their logarithm, in which power laws are smooth",
    "power_laws": "powers of the distance are among the features",
    "hamiltonian": "rates are the canonical ones of one energy of (q, p), which is conserved",
    "separable_form": "held-out data may choose H = T(p) + V(q)",
    "kinetic_form": "held-out data may choose H = p A(q) p + V(q), the form of mechanisms",
    "log_terms": "invariant quadratic forms are looked for, H made a function of them; of a single one, its logarithm",
    "local_motion": "what is seen moves by a few pixels a step",
    "compact_objects": "there are a given number of compact objects of a given extent",
    "still_background": "what is no object rests",
    "symmetries": "videos are turned by symmetries that are given",
    "action_labels": "after training, the actions of the first few transitions: its setting `labels` says how many",
}
"""Words of `Family.knows` that are no fact of any world, and what a functional form contains that declares them."""

Prediction = dict[str, Tensor]
"""What a family says will happen, by view; whichever it can give.

``S`` seeds, ``E`` episodes, ``K`` steps. ``states [S, E, K + 1, 2d]`` begin with the start; ``frames [S, E, K, H, W,
C]`` in [0, 1] and ``latents [S, E, K', L]`` (to be compared with the pooled encoding of the target) with the first
step; ``fields [S, N, F]`` at N points.
"""


Momentum = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Schedule(Settings):
    """How a family is fitted by gradient: the part of the recipe that the training loop reads."""

    steps: int = Field(2000, ge=1, description="optimiser steps")
    batch_size: int = Field(512, ge=1)
    learning_rate: float = Field(3e-3, gt=0, allow_inf_nan=False)
    final_learning_rate: float = Field(1e-5, ge=0, allow_inf_nan=False, description="end of the cosine")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    restarts: tuple[Share, ...] = Field(
        (), description="shares of training at which the cosine begins anew, for what is learned in turn"
    )
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm, per seed")
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed before one optimiser step")

    def shortened(self, share: float) -> Schedule:
        """The same in fewer steps, a ``share`` of them: for examples whose step costs more, at the same budget."""
        return self.model_copy(update={"steps": max(1, round(share * self.steps))})


class FamilyConfig(Settings):
    """Base of every family's configuration. Unknown keys are an error."""


class TrainedConfig(FamilyConfig):
    """Base of the configuration of a family that is trained by gradient."""

    schedule: Schedule = Schedule()


class Family(nn.Module, ABC):
    """One world model, or a batch of ``S`` of them that differ in their seed alone.

    The seeds are the leading axis ``S`` of every parameter and of every batch: ``S`` small models train as one
    (`parts.members.MemberFamily` keeps one network per seed instead). Subclasses set `name`, `Config`, `needs`,
    `knows`, and read like their paper.

    Attributes:
        needs: views without which it cannot work; of ``"frames|states"`` one of the two, the first that there is.
        uses: views that it also takes where there are any (``actions``, ``rewards``).
        spec: what it is told of the world: views, step, and the facts that `knows` names.
        seeds: one per model.
    """

    name: ClassVar[str]
    Config: ClassVar[type[FamilyConfig]] = FamilyConfig
    needs: ClassVar[tuple[str, ...]] = ("states",)
    uses: ClassVar[tuple[str, ...]] = ()  # views that it takes where there are any, beyond those it needs
    any_step: ClassVar[bool] = True  # whether `predict` can be asked for other steps than the world's
    dtype: ClassVar[torch.dtype] = torch.float64  # of the trained weights, in which they are kept and judged

    def __init__(self, config: FamilyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config, self.seeds = config, tuple(seeds)
        self.spec = spec.told(self.knows(config), self.name)

    # ------------------------------------------------------------ what it is told

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Facts of the world that it is told in this configuration; reading any other raises `UndeclaredFact`.

        Words that are no fact of a world declare what its functional form may contain (`FORM_WORDS`). Here: nothing.
        """
        del config
        return frozenset()

    @classmethod
    def contains(cls, config: Any, spec: Spec) -> frozenset[str]:
        """Of the words of `knows` that declare a functional form, those that hold on such a world. Here: all."""
        del spec
        return cls.knows(config) - FACTS

    @classmethod
    def shown(cls, spec: Spec) -> tuple[str, ...]:
        """The views it works on, of those that there are, in the order of `needs` and `uses`."""
        found = [next((v for v in wanted.split("|") if v in spec.views), None) for wanted in (*cls.needs, *cls.uses)]
        return tuple(dict.fromkeys(view for view in found if view is not None))

    @classmethod
    def observed(cls, spec: Spec, config: Any) -> tuple[str, ...]:
        """The views that its training looks at in this configuration: those `shown`, unless it takes others as well."""
        del config
        return cls.shown(spec)

    @property
    def takes_actions(self) -> bool:
        """Whether what it predicts depends on actions, in this world."""
        return "actions" in self.spec.views and "actions" in self.observed(self.spec, self.config)

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Why this configuration cannot model that world, in a few words; None if it can.

        Subclasses call this first: it compares `needs` with the views that there are.
        """
        del config
        missing = [wanted for wanted in cls.needs if not set(wanted.split("|")) & set(spec.views)]
        return f"needs {missing[0].replace('|', ' or ')}" if missing else None

    # ------------------------------------------------------------ how it is fitted

    @property
    def schedule(self) -> Schedule:
        """How it is fitted by gradient on this world; here as configured.

        Raises:
            TypeError: it is not trained by gradient.
        """
        if not isinstance(self.config, TrainedConfig):
            raise TypeError(f"family {self.name}: Config must derive from TrainedConfig to be trained by gradient")
        return self.config.schedule

    def examples(self, episodes: Views) -> Views:
        """Cut training episodes into examples.

        Args:
            episodes: the views of `Episodes`, ``[E, …]``; floating-point numbers are float64.

        Returns:
            Tensors of equal first length N. The loop draws from them, for every seed alone, batches ``[S, B, …]``.
            A family without anything to train returns an empty mapping.
        """
        del episodes
        return {}

    def fit(self, episodes: Views) -> Views | None:
        """Fit in closed form, for all seeds; return named final losses ``[S]``, or None to be trained by gradient."""
        del episodes
        return None

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss.

        Args:
            batch: what `examples` named, each ``[S, B, …]``. progress: share of training done, 0 … 1.

        Returns:
            The loss ``[S]`` (one per seed, not summed), a mean over the examples of the batch, and its named terms,
            each ``[S]`` and detached. Of several workers each has a part of the batch (`blocks.workers`).
        """
        raise TypeError(f"family {self.name} has nothing to train by gradient")

    def parameters_by_seed(self) -> Sequence[Sequence[nn.Parameter]] | None:
        """Every seed's own parameters, where they are kept apart; None where the seeds are the leading axis of each."""
        return None

    def rate_factors(self, progress: float) -> Mapping[str, float]:
        """Factors on the learning rate by a part of parameters' names (between dots); here: none, all learn alike.

        The parts are the same at all times; what they are multiplied by may follow ``progress``, 0 … 1.
        """
        del progress
        return {}

    def monitor(self) -> Views:
        """Hook at each logged step: named numbers ``[S]`` for the learning curve that tell a training gone wrong."""
        return {}

    def after_step(self, progress: float) -> None:
        """Hook after each optimiser step: a target network's moving average, a schedule, a codebook reset."""

    def finish(self) -> Views | None:
        """Hook after the last optimiser step, in `dtype` on the CPU: a second-order finish, an uncertainty.

        Returns:
            Named terms ``[S]`` for the last point of the learning curve, or None (here) where nothing is done.
        """
        return None

    # ------------------------------------------------------------ what it says

    @abstractmethod
    def predict(self, past: Views, steps: int, actions: Tensor | None = None, step: float | None = None) -> Prediction:
        """Roll out.

        Args:
            past: views of the past ``[E, C, …]``, the last entry is where the prediction starts.
            steps: how many steps to predict. actions: ``[E, steps, A]``, for families that take actions.
            step: seconds between steps (default: the world's).
        """

    def extra_summary(self) -> dict[str, Any]:
        """Numbers worth keeping beside the checkpoint (a fitted noise level, an offset); JSON types only."""
        return {}


@dataclass(frozen=True)
class Encoding:
    """Frozen features.

    Attributes:
        pooled: ``[S, E, T', D]``, one vector per latent step. tokens: ``[S, E, T', N, D]``, one per patch, or None.
    """

    pooled: Tensor
    tokens: Tensor | None = None


@runtime_checkable
class Encodes(Protocol):
    """A family whose features can be judged; those of a latent step depend on the rows that it spans alone."""

    @property
    def learned_features(self) -> bool:
        """Whether training can change them; pixels by another name are no representation."""

    @property
    def frames_per_latent(self) -> int:
        """Rows of an episode that one latent step spans: the tubelet's length."""

    @property
    def context(self) -> int:
        """Rows of the past that a prediction starts from; 0: the family predicts nothing."""

    def encode(self, views: Views) -> Encoding:
        """Frozen features of episodes ``[E, T, …]``."""


@runtime_checkable
class RoundTrips(Protocol):
    """A family that decodes what it encodes."""

    def round_trip(self, views: Views) -> Tensor:
        """Pooled features of ``Dec(Enc(x))``, nothing predicted: views ``[E, T, …]`` -> ``[S, E, T', D]``."""


@dataclass(frozen=True)
class Imagined:
    """What a model says of futures under actions.

    Attributes:
        features: ``[N, H, D]`` of the observations that follow each action; goals are compared in them.
        rewards: ``[N, H]`` for each action; None where rewards are not learned.
    """

    features: Tensor
    rewards: Tensor | None = None


@runtime_checkable
class Believes(Protocol):
    """A family that keeps track of where it is.

    A *belief* ``[N, …]`` is all that a model of one seed keeps of the past, rows independent of each other: planners
    repeat and choose rows. ``seed`` is the index of the model among its seeds. Observations are views of one row,
    ``[N, …]``; actions are in [-1, 1].
    """

    def start(self, observation: Views, seed: int) -> Tensor:
        """Belief after the first observation of an episode."""

    def update(self, belief: Tensor, action: Tensor, observation: Views, seed: int) -> Tensor:
        """Belief after an action ``[N, A]`` and the observation that followed."""


@runtime_checkable
class Imagines(Believes, Protocol):
    """A family that can be planned with: it says what would follow from actions, without decoding."""

    def imagine(self, belief: Tensor, actions: Tensor, seed: int) -> Imagined:
        """What would follow from actions ``[N, H, A]``."""

    def features(self, observation: Views, seed: int) -> Tensor:
        """Features ``[N, D]`` of single observations, to be compared with those imagined."""


@runtime_checkable
class Samples(Protocol):
    """A family that imagines more than one future of a belief: draws from its own distribution of them."""

    def sample(self, belief: Tensor, actions: Tensor, count: int, seed: int, generator: torch.Generator) -> Tensor:
        """Features ``[count, N, H, D]`` of futures under actions ``[N, H, A]``, drawn independently of each other.

        To be compared with `Imagines.features` of what came about. generator: on the CPU, the only source of chance.
        """


@runtime_checkable
class Acts(Believes, Protocol):
    """A family with a policy of its own."""

    @property
    def behaves(self) -> bool:
        """Whether this configuration, in this world, has one."""

    def act(self, belief: Tensor, seed: int) -> Tensor:
        """Actions ``[N, A]`` from beliefs, without noise."""


@runtime_checkable
class Decodes(Imagines, Protocol):
    """A family that shows what it imagines."""

    def decode(self, features: Tensor, seed: int) -> Tensor:
        """Features ``[N, H, D]`` of one roll-out -> the observed view ``[N, H, …]``; frames in [0, 1]."""


@runtime_checkable
class StepsAlone(Imagines, Protocol):
    """A family whose imagined step is a network of its own, which can be taken elsewhere (`control.onnx_step`)."""

    def step_network(self, seed: int) -> nn.Module:
        """The step of one model, float32: ``(belief [N, …], action [N, A]) -> (belief [N, …], observation [N, …])``.

        Where it `DiscoversActions`, actions are codes ``[N, K]``: one of them 1, or none.

        The belief that comes out is that after the action, with nothing observed; beliefs that come in are those of
        `start`. Observations are vectors ``[N, n]`` of the view, or frames ``[N, C, H, W]`` in [0, 1] as networks see
        them (pooled, if they pool).
        """


@runtime_checkable
class DiscoversActions(Protocol):
    """A family that finds out by itself what can be done: one of K codes for every transition."""

    @property
    def codes(self) -> int:
        """How many there are at most, ``K``."""

    def discover(self, views: Views) -> Tensor:
        """Codes ``[S, E, T]`` of the transitions of episodes ``[E, T + 1, …]``, each of its two observations alone."""

    def follow(self, past: Views, codes: Tensor) -> Prediction:
        """What follows the past ``[E, C, …]`` under codes ``[S, E, K']``; -1: under none."""


@runtime_checkable
class Solves(Protocol):
    """A family that solves for fields."""

    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> Mapping[str, Tensor]:
        """Fields and derivatives at ``points [N, d]``: each ``[S, N]``."""

    def found(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Unknown coefficients by symbol, each ``[S]``: ``value``, ends of the 95 % interval ``low`` and ``high``.

        ``identified``: whether the measurements are explained up to noise; without it the value is worth nothing.
        """


@runtime_checkable
class GivenLaws(Protocol):
    """The one exception to the rule that no family sees the laws: a ceiling that is nothing but them."""

    laws: Laws


def with_derivatives(views: tuple[str, ...], spec: Spec, wanted: bool = True) -> tuple[str, ...]:
    """The views, and time derivatives of the states where the world gives any and they are wanted; see `observed`."""
    return (*views, "derivatives") if wanted and "derivatives" in spec.views else views


def build(
    kind: type[Family], config: FamilyConfig, spec: Spec, seeds: Sequence[int], laws: Laws | None = None
) -> Family:
    """An untrained family; one that `GivenLaws` describes is handed the laws."""
    family = kind(config, spec, seeds)
    if laws is not None and isinstance(family, GivenLaws):
        family.laws = laws
    return family
