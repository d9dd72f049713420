"""What a family and a metric may know of a field: a partial differential equation with everything that belongs to it.

The counterpart of `System` for fields. Worlds and families do not import each other: a world states its equation once,
as a `FieldSystem`, and the pipelines hand that on.

An equation is a function of `Symbols` and returns its residual. Symbols are spelled as in a paper, a derivative by its
subscripts, and hold arrays, one entry per point; the same function works on numpy and torch:

    def burgers(d):
        return d.u_t + d.u * d.u_x - d.nu * d.u_xx
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wm_pipelines.errors import UserError

Array = Any  # numpy.ndarray or torch.Tensor; equations work with both


class Symbols:
    """The namespace an equation reads: fields ``u``, derivatives ``u_xx``, coordinates ``x``, coefficients ``nu``.

    Args:
        values: arrays by symbol; all that are read must broadcast against each other.
        about: named in the error when a symbol is missing.
    """

    def __init__(self, values: Mapping[str, Array], about: str = "equation") -> None:
        self.__dict__.update(_values=values, _about=about)

    def __getattr__(self, name: str) -> Array:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise UserError(f"{self._about} has no symbol '{name}' here; known: {', '.join(self._values)}") from None


Equation = Callable[[Any], Array]
"""``Symbols -> residual``; zero where the law holds."""


@dataclass(frozen=True)
class Coefficient:
    """A number in the equations.

    Attributes:
        value: its true value, in `unit`; families must not read it where ``known`` is false.
        unit: SI unit.
        known: whether families are given the value, or have to find it from measurements.
        bounds: what an unknown coefficient may be, both positive.
    """

    value: float
    unit: str = "1"
    known: bool = True
    bounds: tuple[float, float] = (1e-6, 1e6)


@dataclass(frozen=True)
class Condition:
    """An initial or boundary condition: one symbol is given on a face (edge, corner) of the domain.

    Attributes:
        name: unique in its system, for messages.
        symbol: what is given: a field ``u`` (Dirichlet) or a derivative ``u_x`` (Neumann).
        at: the coordinates that are fixed, e.g. ``{"t": 0.0}``; all others run over the domain.
        value: ``points [N, d] -> [N]``, numpy.
    """

    name: str
    symbol: str
    at: Mapping[str, float]
    value: Callable[[Array], Array]


@dataclass(frozen=True)
class Balance:
    """A quantity whose content of the domain changes only by what is produced inside: ``d/dt ∫e = ∫s``.

    Attributes:
        density: ``e`` as a function of `Symbols`; None in a steady field, where ``∫s = 0``.
        production: ``s``, likewise; what crosses the boundary is in it (divergence theorem), unless it vanishes.
    """

    density: Equation | None
    production: Equation


@dataclass(frozen=True)
class FieldSystem:
    """Fields ``u(x)`` on a box, the equations they obey, and what is known about them.

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
        reference: the true fields, ``points [N, d] -> [N, F]``, numpy float64; None if unknown.
        divergence: the symbol function that vanishes where a flow is free of divergence; None where there is none.
        balances: see `Balance`.
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
    reference: Callable[[Any], Any] | None = None
    divergence: Equation | None = None
    balances: Mapping[str, Balance] = field(default_factory=dict)
    time: str | None = None

    def __post_init__(self) -> None:
        names = [*self.coordinates, *self.fields, *self.coefficients]
        if len(set(names)) < len(names):
            raise UserError(f"field '{self.name}': a name is used twice among {', '.join(names)}")
        if any(len(c) != 1 for c in self.coordinates) or any("_" in f for f in self.fields):
            raise UserError(f"field '{self.name}': coordinates are single letters, fields have no underscore")
        for condition in self.conditions:
            self.derivative(condition.symbol)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Coefficients that have to be found, in order."""
        return tuple(name for name, c in self.coefficients.items() if not c.known)

    @cached_property
    def symbols(self) -> dict[str, tuple[str, ...]]:
        """Fields and derivatives that each equation reads, in a fixed order."""
        return {name: self.symbols_of(equation, name) for name, equation in self.equations.items()}

    def symbols_of(self, equation: Equation, name: str = "equation") -> tuple[str, ...]:
        """Fields and derivatives that an equation reads.

        Raises:
            UserError: it reads a symbol that does not exist.
        """
        recorder = _Recorder(self, name)
        equation(recorder)
        return tuple(sorted(recorder.read))

    def derivative(self, symbol: str) -> tuple[int, tuple[int, ...]]:
        """``"u_xxt" -> (number of the field, orders by coordinate)``.

        Raises:
            UserError: not a field of this system or a derivative of one.
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
        places = {c: points[..., i] for i, c in enumerate(self.coordinates)}
        return Symbols({**places, **coefficients, **values}, f"field '{self.name}', {about}")

    def pointwise(
        self, equation: Equation, points: Array, about: str = "equation"
    ) -> Callable[[Mapping[str, Array], Array], Array]:
        """An equation at ``points [..., d]`` as a function of values by symbol ``[...]`` and unknowns ``[..., P]``."""
        known = {name: c.value for name, c in self.coefficients.items() if c.known}

        def residual(values: Mapping[str, Array], unknown: Array) -> Array:
            found = {name: unknown[..., i] for i, name in enumerate(self.unknown)}
            return equation(self.namespace(points, values, {**known, **found}, about))

        return residual

    def facts(self) -> list[Any]:
        """What decides the outcome of a training, as JSON types."""
        sources = {Path(inspect.getsourcefile(e) or "") for e in self.equations.values()}
        code = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(sources) if p.is_file())).hexdigest()
        return [
            self.name, list(self.coordinates), list(self.fields), {k: list(v) for k, v in self.domain.items()},
            [[c.name, c.symbol, dict(c.at)] for c in self.conditions], list(self.observed), self.time, code,
            {k: [c.value if c.known else None, list(c.bounds)] for k, c in self.coefficients.items()},
        ]  # fmt: skip


class _Recorder:
    """Stands in for `Symbols` and notes which fields and derivatives are read."""

    def __init__(self, system: FieldSystem, about: str) -> None:
        self.system, self.about, self.read = system, about, set[str]()

    def __getattr__(self, name: str) -> Array:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self.system.coordinates and name not in self.system.coefficients:
            self.system.derivative(name)
            self.read.add(name)
        return np.ones(1)


def box(system: FieldSystem, coordinates: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner of the domain, each ``[d]``."""
    ends = np.array([system.domain[c] for c in coordinates or system.coordinates], dtype=np.float64)
    return ends[:, 0], ends[:, 1]
