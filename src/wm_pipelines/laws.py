"""The laws of a world: what judges measure by. Never handed to a family that is trained.

The oracle and the planner on the true model are given them; a family that declares to know a law (``energy``) reads
that one law as a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wm_pipelines.registry import worlds

if TYPE_CHECKING:
    from wm_pipelines.equations import Balance, Condition, Equation
    from wm_pipelines.spec import Spec

Array = Any  # numpy.ndarray or torch.Tensor; every law works with both, but for simulators and references (numpy)


@dataclass(frozen=True)
class Laws:
    """True laws; None where one is unknown or does not hold.

    Of systems with states ``z = (q, p)``:

    Attributes:
        energy: ``z [..., 2d] -> [...]`` in joules. momentum: ``z -> [..., space]``. angular_momentum:
            ``z -> [..., 1 | 3]``.
        simulate: ``(z0 [E, 2d], step, steps) -> [E, steps + 1, 2d]``, numpy float64. dynamics: ``z -> dz/dt``.
        allowed: ``z [..., 2d] -> [...]``, whether a state can be (not below a floor), numpy. Where it is given,
            ``simulate`` takes every such state.
        meets: ``(z [..., 2d], seconds) -> [...]``, whether a state meets an impact within that time, where ``dynamics``
            say nothing of it; None: there are no impacts.
        lyapunov_time: 1 / largest Lyapunov exponent in seconds, for chaotic systems.

    Of worlds that take actions:

    Attributes:
        plant: the world itself (`worlds.base.ControlledWorld`): it starts, moves under actions, rewards, is observed.
        agent: which positions, of those in the view ``states``, are of what actions move; others change by themselves.

    Of fields:

    Attributes:
        reference: the true fields, ``points [N, d] -> [N, F]``, numpy float64.
        coefficients: true values by symbol. conditions: with the values they prescribe. balances, divergence: see
            `equations`.

    Of still scenes, and of whatever is asked about:

    Attributes:
        look: what objects look like, by the names of `metrics.scene_parser.Look`.
        read_caption: text -> objects, each ``(size, colour, shape, place)``; ValueError where it is no sentence about
            a scene. write_captions: scenes ``[N, M, 4]`` -> captions ``[N]``.
        question_kinds: what the numbers of the view ``asked`` mean.
    """

    energy: Callable[[Array], Array] | None = None
    momentum: Callable[[Array], Array] | None = None
    angular_momentum: Callable[[Array], Array] | None = None
    simulate: Callable[[Any, float, int], Any] | None = None
    dynamics: Callable[[Array], Array] | None = None
    allowed: Callable[[Any], Any] | None = None
    meets: Callable[[Any, float], Any] | None = None
    lyapunov_time: float | None = None
    plant: Any = None
    agent: tuple[int, ...] = ()
    reference: Callable[[Any], Any] | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    balances: Mapping[str, Balance] = field(default_factory=dict)
    divergence: Equation | None = None
    look: Mapping[str, Any] = field(default_factory=dict)
    read_caption: Callable[[str], Any] | None = None
    write_captions: Callable[[Any], Any] | None = None
    question_kinds: tuple[str, ...] = ()


def laws_of(spec: Spec) -> Laws:
    """The laws behind a spec; none where its origin is unknown.

    Raises:
        UserError: the kind of world does not exist any more, or refuses its parameters.
    """
    return world_of(spec).laws() if spec.origin else Laws()


def world_of(spec: Spec) -> Any:
    """The world behind a spec, for those who draw and describe it; see `laws_of`."""
    return worlds.get(spec.origin["world"]).restored(spec.origin, spec.name)
