"""Partial differential equations as data: fields on a box, the equations they obey, and what is given about them.

An equation is a formula in symbols spelled as in a paper, a derivative by its subscripts: ``u_t + u*u_x - nu*u_xx``. It
is a function of `Symbols` that works on numpy and torch alike and returns the residual, zero where the law holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from wm_pipelines.errors import UserError
from wm_pipelines.formulas import Formula, names_in

Array = Any  # numpy.ndarray or torch.Tensor


class Symbols:
    """The namespace an equation reads: fields ``u``, derivatives ``u_xx``, coordinates ``x``, coefficients ``nu``.

    Args:
        values: arrays by symbol; all that are read must broadcast against each other.
        about: named in the error when a symbol is missing.
    """

    def __init__(self, values: Mapping[str, Array], about: str = "equation") -> None:
        self._values, self._about = values, about

    def __getitem__(self, name: str) -> Array:
        try:
            return self._values[name]
        except KeyError:
            raise UserError(f"{self._about} has no symbol '{name}' here; known: {', '.join(self._values)}") from None


@dataclass(frozen=True)
class Equation:
    """A formula in symbols; call it with `Symbols` for its value."""

    text: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The symbols that it reads."""
        return names_in(self.text)

    def __call__(self, symbols: Symbols) -> Array:
        """Evaluate."""
        return _parsed(self.text).on({name: symbols[name] for name in self.names})


@cache
def _parsed(text: str) -> Formula:
    return Formula(text, names_in(text))


@dataclass(frozen=True)
class Coefficient:
    """A number in the equations.

    Attributes:
        value: in `unit`; None where it has to be found from measurements.
        unit: SI unit. bounds: what an unknown one may be, both positive.
    """

    value: float | None
    unit: str = "1"
    bounds: tuple[float, float] = (1e-6, 1e6)


@dataclass(frozen=True)
class Condition:
    """An initial or boundary condition: one symbol is given on a face (edge, corner) of the domain.

    Attributes:
        name: unique among its kind, for messages.
        symbol: what is given: a field ``u`` (Dirichlet) or a derivative ``u_x`` (Neumann).
        at: the coordinates that are fixed, e.g. ``{"t": 0.0}``; all others run over the domain.
        value: ``points [N, d] -> [N]``, numpy; None on the side of families, to whom values are given at points.
    """

    name: str
    symbol: str
    at: Mapping[str, float]
    value: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class Balance:
    """A quantity whose content of the domain changes only by what is produced inside: ``d/dt ∫e = ∫s``.

    Attributes:
        density: ``e``; None in a steady field, where ``∫s = 0``.
        production: ``s``; what crosses the boundary is in it (divergence theorem), unless it vanishes.
    """

    density: Equation | None
    production: Equation


@dataclass(frozen=True)
class Problem:
    """What is posed: fields ``u(x)`` on a box, their equations and conditions; unknown coefficients by their bounds.

    Attributes:
        name: the world's name.
        coordinates: one letter each, e.g. ``("x", "t")``; a point is a row ``[d]`` in this order.
        fields: names without underscore, e.g. ``("u", "v", "p")``.
        domain: ends of every coordinate.
        equations: residuals by name.
        conditions: initial and boundary conditions.
        coefficients: numbers in the equations, by the symbol that the equations use.
        units: of coordinates and fields.
        observed: fields that measurements can show.
        time: the coordinate in which the fields evolve; None if they are steady.
    """

    name: str
    coordinates: tuple[str, ...]
    fields: tuple[str, ...]
    domain: Mapping[str, tuple[float, float]]
    equations: Mapping[str, Equation]
    conditions: tuple[Condition, ...]
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    observed: tuple[str, ...] = ()
    time: str | None = None

    def __post_init__(self) -> None:
        names = [*self.coordinates, *self.fields, *self.coefficients]
        if len(set(names)) < len(names):
            raise UserError(f"field '{self.name}': a name is used twice among {', '.join(names)}")
        if any(len(c) != 1 for c in self.coordinates) or any("_" in f for f in self.fields):
            raise UserError(f"field '{self.name}': coordinates are single letters, fields have no underscore")
        for condition in self.conditions:
            self.derivative(condition.symbol)
        _ = self.symbols  # every equation reads what there is

    # ------------------------------------------------------------ as facts

    def to_facts(self) -> dict[str, Any]:
        """The facts of a world's spec, those that are empty left out; see `from_facts`.

        What has an order stands in lists: JSON with sorted keys would lose it, and with it the last bits of sums.
        """
        facts = {
            "coordinates": list(self.coordinates),
            "fields": list(self.fields),
            "domain": [[name, *ends] for name, ends in self.domain.items()],
            "equations": [[name, equation.text] for name, equation in self.equations.items()],
            "conditions": [[c.name, c.symbol, dict(c.at)] for c in self.conditions],
            "coefficients": [[n, c.value, c.unit, *c.bounds] for n, c in self.coefficients.items()],
            "units": dict(self.units),
            "observed": list(self.observed),
            "time": self.time,
        }
        return {fact: value for fact, value in facts.items() if value}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], name: str) -> Problem:
        """Inverse of `to_facts` (reads all of `FACTS`); conditions come without their values."""
        return cls(
            name=name,
            coordinates=tuple(facts["coordinates"]),
            fields=tuple(facts["fields"]),
            domain={c: (low, high) for c, low, high in facts["domain"]},
            equations={n: Equation(text) for n, text in facts["equations"]},
            conditions=tuple(Condition(n, symbol, at) for n, symbol, at in facts.get("conditions", ())),
            coefficients={n: Coefficient(v, unit, (a, b)) for n, v, unit, a, b in facts.get("coefficients", ())},
            units=facts.get("units", {}),
            observed=tuple(facts.get("observed", ())),
            time=facts.get("time"),
        )

    # ------------------------------------------------------------ symbols

    @property
    def unknown(self) -> tuple[str, ...]:
        """Coefficients that have to be found, in order."""
        return tuple(name for name, c in self.coefficients.items() if c.value is None)

    @cached_property
    def symbols(self) -> dict[str, tuple[str, ...]]:
        """Fields and derivatives that each equation reads, in a fixed order."""
        return {name: self.symbols_of(equation) for name, equation in self.equations.items()}

    @cached_property
    def read(self) -> tuple[str, ...]:
        """Fields and derivatives that any equation reads, in a fixed order."""
        return tuple(sorted({symbol for read in self.symbols.values() for symbol in read}))

    def symbols_of(self, equation: Equation) -> tuple[str, ...]:
        """Fields and derivatives that an equation reads.

        Raises:
            UserError: it reads a symbol that does not exist.
        """
        read = {n for n in equation.names if n not in self.coordinates and n not in self.coefficients}
        for name in read:
            self.derivative(name)
        return tuple(sorted(read))

    def derivative(self, symbol: str) -> tuple[int, tuple[int, ...]]:
        """``"u_xxt" -> (number of the field, orders by coordinate)``.

        Raises:
            UserError: not a field of this problem or a derivative of one.
        """
        name, _, subscripts = symbol.partition("_")
        if name not in self.fields or any(s not in self.coordinates for s in subscripts):
            raise UserError(
                f"field '{self.name}': no symbol '{symbol}'; fields: {', '.join(self.fields)}, "
                f"subscripts: {', '.join(self.coordinates)}, coefficients: {', '.join(self.coefficients) or 'none'}"
            )
        return self.fields.index(name), tuple(subscripts.count(c) for c in self.coordinates)

    def namespace(
        self, points: Array, values: Mapping[str, Array], coefficients: Mapping[str, Array], about: str = "equation"
    ) -> Symbols:
        """Symbols at points ``[..., d]`` from fields and derivatives ``[...]`` and coefficients."""
        coordinates = {c: points[..., i] for i, c in enumerate(self.coordinates)}
        return Symbols({**coordinates, **coefficients, **values}, f"field '{self.name}', {about}")

    def pointwise(
        self, equation: Equation, points: Array, about: str = "equation"
    ) -> Callable[[Mapping[str, Array], Array], Array]:
        """An equation at ``points [..., d]`` as a function of values by symbol ``[...]`` and unknowns ``[..., P]``."""
        known = {name: c.value for name, c in self.coefficients.items() if c.value is not None}

        def residual(values: Mapping[str, Array], unknown: Array) -> Array:
            found = {name: unknown[..., i] for i, name in enumerate(self.unknown)}
            return equation(self.namespace(points, values, {**known, **found}, about))

        return residual


FACTS = frozenset(
    {"coordinates", "fields", "domain", "equations", "conditions", "coefficients", "units", "observed", "time"}
)
"""Facts that pose a problem: what a family declares to know that reads it by `Problem.from_facts`."""


def box(problem: Problem, coordinates: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner of the domain, each ``[d]``."""
    ends = np.array([problem.domain[c] for c in coordinates or problem.coordinates], dtype=np.float64)
    return ends[:, 0], ends[:, 1]
