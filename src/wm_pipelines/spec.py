"""What is known of a world before anything is learned: its views, its step, and facts that a family may declare.

A `Spec` is data alone: it is stored beside the episodes and on every model's card, so that weights travel without the
parameter files. What must stay with the judges (the simulator, the true energy, a reference solution, the values of
unknown coefficients) is in `laws.Laws` and is rebuilt from `Spec.origin`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Per = Literal["row", "transition", "episode"]

FACTS = frozenset(
    {
        "simulator", "angles", "structure", "second_order", "particles", "space", "attributes", "conserved", "energy",
        "gravity", "contact", "coordinates", "fields", "domain", "equations", "conditions", "coefficients",
        "units", "observed", "time",
    }
)  # fmt: skip
"""Facts that some worlds have; any other word of a family's ``knows`` says what its functional form contains."""


@dataclass(frozen=True)
class Space:
    """One view of an episode: what kind of thing it is, and the shape of one of them.

    Attributes:
        kind: ``scalar``, ``vector``, ``frames``, ``class``, ``text``, ``points`` … Encoders, decoders and the codec on
            the disk are chosen by it (`episodes.CODECS`).
        shape: of one entry; of ``frames`` ``(H, W, C)``.
        dtype: numpy's name of the type.
        per: how many entries an episode of ``T`` steps has: ``T + 1`` (row), ``T`` (transition) or one (episode).
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    per: Per = "row"

    def leading(self, episodes: int, rows: int) -> tuple[int, ...]:
        """The axes before `shape` of an array of ``episodes``, each of ``rows`` rows."""
        return {"row": (episodes, rows), "transition": (episodes, rows - 1), "episode": (episodes,)}[self.per]


class UndeclaredFact(RuntimeError):  # noqa: N818 - it reads as what happened
    """A family read a fact that it does not declare in ``knows``."""


class Facts(Mapping[str, Any]):
    """Facts by name; those not told are there but may not be read.

    Args:
        values: JSON types; ``{"law": NAME}`` stands for a law of the world, resolved where it is read.
        told: names that may be read; None: all. holder: whose facts they are, for the message.
        law: gives the law of that name.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        told: Iterable[str] | None = None,
        holder: str = "",
        law: Callable[[str], Any] | None = None,
    ) -> None:
        self._values, self._holder, self._law = dict(values or {}), holder, law
        self._told = None if told is None else frozenset(told)

    def __getitem__(self, name: str) -> Any:
        """The fact.

        Raises:
            UndeclaredFact: it is not among those told. KeyError: the world has no such fact.
        """
        if self._told is not None and name not in self._told:
            known = ", ".join(sorted(self._told)) or "nothing"
            raise UndeclaredFact(f"{self._holder} read the fact '{name}' of its world but declares to know {known}")
        value = self._values[name]
        if isinstance(value, Mapping) and set(value) == {"law"} and self._law is not None:
            return self._law(value["law"])
        return value

    def __contains__(self, name: object) -> bool:
        if self._told is not None and name not in self._told:
            raise UndeclaredFact(f"{self._holder} asked for the fact '{name}' of its world without declaring it")
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._values if self._told is None or name in self._told)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def plain(self) -> dict[str, Any]:
        """The facts that may be read, as JSON types."""
        return {name: self._values[name] for name in self}

    def told(self, names: Iterable[str], holder: str, law: Callable[[str], Any]) -> Facts:
        """The same facts, of which only ``names`` may be read, and never more than before."""
        names = frozenset(names) if self._told is None else self._told & frozenset(names)
        return Facts(self._values, names, holder, self._law or law)


@dataclass(frozen=True)
class Spec:
    """A world as its users know it.

    Attributes:
        name: the world's name in the parameter files.
        step: seconds between two rows of an episode.
        views: what an episode holds, by name: ``states``, ``frames``, ``actions`` …
        rows: of an episode (``T + 1``).
        facts: what a family may be told: ``angles``, ``masses``, ``particles``, ``energy``, ``equations`` …
        origin: which kind of world with which parameters: what its laws are rebuilt from. Families do not have it.
    """

    name: str
    step: float
    views: Mapping[str, Space]
    rows: int = 1
    facts: Facts = field(default_factory=Facts)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_size(self) -> int:
        """Length of a state ``(q, p)``, ``2 d``; 0 where there are no states."""
        return self.views["states"].shape[0] if "states" in self.views else 0

    @property
    def dof(self) -> int:
        """Degrees of freedom ``d``."""
        return self.state_size // 2

    def told(self, names: Iterable[str], holder: str) -> Spec:
        """What a family gets: all views, the facts it declares, and no way to the laws."""
        from wm_pipelines.laws import laws_of

        return replace(self, facts=self.facts.told(names, holder, lambda law: getattr(laws_of(self), law)), origin={})

    def showing(self, names: Iterable[str]) -> Spec:
        """The same with only some of the views; of ``"frames|states"`` the first that there is."""
        return replace(self, views={name: self.views[name] for name in self.shown(names)})

    def shown(self, names: Iterable[str]) -> list[str]:
        """Those of its views that are named, in its own order; see `showing`."""
        found = {next((v for v in name.split("|") if v in self.views), None) for name in names}
        return [name for name in self.views if name in found]

    def to_json(self) -> dict[str, Any]:
        """As JSON types; see `from_json`."""
        views = {name: [s.kind, list(s.shape), s.dtype, s.per] for name, s in self.views.items()}
        facts = self.facts.plain()
        return {
            "name": self.name, "step": self.step, "rows": self.rows, "views": views, "facts": facts,
            "origin": dict(self.origin),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """Inverse of `to_json`."""
        views = {n: Space(kind, tuple(shape), dtype, per) for n, (kind, shape, dtype, per) in data["views"].items()}
        return cls(data["name"], data["step"], views, data["rows"], Facts(data["facts"]), data["origin"])

    def identity(self) -> str:
        """What decides the outcome of a training: views, step and the facts that may be read, as text."""
        return json.dumps(self.to_json() | {"origin": None}, sort_keys=True)
