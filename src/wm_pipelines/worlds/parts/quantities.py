"""Physical quantities in parameter files: a plain SI number, or a number with a unit.

``mass: Annotated[float, Quantity("kg"), Field(gt=0)]`` takes ``0.5``, ``"0.5 kg"`` and ``"500 g"`` alike. Conversion is
by pint, which takes a good part of a second to import and is therefore imported only where a unit is met.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# The SI unit of a kind of quantity, and what that kind is called. Radians count as a unit of their own here, although
# they have dimension one. Of kinds with the same dimension (energy and torque) the first names the dimension.
_KINDS = {
    "kg": "a mass",
    "m": "a length",
    "s": "a time",
    "rad": "an angle",
    "1": "a plain number",
    "m/s": "a velocity",
    "rad/s": "an angular velocity",
    "m/s^2": "an acceleration",
    "kg*m/s": "a momentum",
    "kg*m^2/s": "an angular momentum",
    "kg*m^2": "a moment of inertia",
    "N": "a force",
    "J": "an energy",
    "N*m": "a torque",
    "N/m": "a spring constant",
    "N*s/m": "a friction coefficient",
    "W": "a power",
    "C": "a charge",
    "A": "a current",
    "V": "a voltage",
    "Wb": "a magnetic flux",
    "K": "a temperature",
    "m^2": "an area",
    "m^3": "a volume",
    "m^2/s": "a diffusivity",
    "kg/m^3": "a density",
    "m^3/(kg*s^2)": "a gravitational constant",
    "N*m^2/C^2": "a Coulomb constant",
}
# Beyond these a product of three numbers leaves double precision; no physical quantity in SI units comes near them.
SMALLEST, LARGEST = 1e-100, 1e100
_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*")


class UnitError(ValueError):
    """A unit is unknown, or does not measure what is asked for; the message is one line."""


@cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()


@cache
def parse_unit(unit: str) -> Any:
    """The pint unit that the text names; ``"1"`` and the empty text are the unit of a plain number.

    Raises:
        UnitError: no such unit.
    """
    if unit.strip() in ("", "1"):
        return _registry().Unit("")
    try:
        parsed = _registry().parse_units(unit)
    except Exception as error:  # pint raises its own errors, and token, syntax and type errors on malformed text
        raise UnitError(f"unknown unit '{unit}'") from error
    # To pint px is CSS's pixel, 1/96 inch; dots and pixels have a dimension of their own there.
    if "[printing_unit]" in parsed.dimensionality or any(u.endswith("css_pixel") for u in parsed._units):
        raise UnitError(
            f"unit '{unit}': a pixel has no length; give metres per pixel (`unit: 2.5 mm`, what one pixel shows), or "
            "unit 1 for all columns"
        )
    return parsed


def dimension(unit: str) -> Any:
    """The dimension of a unit in powers of length, time, mass …: compare with ``==``, combine with ``*`` and ``/``."""
    return parse_unit(unit).dimensionality


def kind(unit: str) -> str:
    """What a unit measures, with its article: ``"g" -> "a mass"``."""
    if unit in _KINDS:
        return _KINDS[unit]
    wanted = parse_unit(unit)
    if wanted.dimensionless:
        return "a plain number" if wanted == _registry().Unit("") else "an angle"
    return next((name for known, name in _KINDS.items() if dimension(known) == wanted.dimensionality), "a quantity")


def convert(value: Any, unit: str, target: str) -> Any:
    """Convert a number or an array from one unit to another.

    Raises:
        UnitError: a unit is unknown, or the two measure different things.
    """
    source, goal = parse_unit(unit), parse_unit(target)
    if source.dimensionality != goal.dimensionality:
        raise UnitError(f"expected {kind(target)} in {target}, got {unit} ({kind(unit).split(' ', 1)[1]})")
    return _registry().Quantity(value, source).to(goal).magnitude


def to_base_units(unit: str) -> float:
    """How many SI base units one ``unit`` is: ``"g" -> 1e-3``.

    Raises:
        UnitError: the unit is unknown, or its scale has an offset (degrees Celsius).
    """
    try:
        zero, one = (float(_registry().Quantity(x, parse_unit(unit)).to_base_units().magnitude) for x in (0.0, 1.0))
    except OverflowError:
        zero, one = 0.0, math.inf
    if zero != 0.0:
        raise UnitError(f"unit '{unit}' has a shifted zero; use one that starts at zero")
    if not within_bounds(one) or one == 0.0:
        raise UnitError(f"unit '{unit}' is {one:g} SI units, outside {SMALLEST:g} to {LARGEST:g}; use another")
    return one


def within_bounds(value: float) -> bool:
    """Whether a number in SI units is zero or of a size that can be computed with; NaN is not."""
    return value == 0.0 or SMALLEST <= abs(value) <= LARGEST


def split_quantity(text: str) -> tuple[float, str]:
    """Split ``"9.81 m/s^2"`` into ``(9.81, "m/s^2")``; the unit is empty where none is written.

    Raises:
        UnitError: the text does not start with a number.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise UnitError(f"expected a number with a unit, got '{text}'")
    return float(match[1]), match[2]


@dataclass(frozen=True)
class Quantity:
    """Annotation for pydantic: a number in the given SI unit, or a text with any unit of the same dimension.

    The number is finite, and zero or between `SMALLEST` and `LARGEST` in size.

    A bare number (or its text: YAML reads ``5e-3`` as text) is taken as already in ``unit``. Bounds are added with
    pydantic's own ``Field(gt=0)`` after this annotation and apply to the converted number.
    """

    unit: str

    def to_si(self, value: Any) -> Any:
        """Convert one input to a float in `unit`; the errors it raises become pydantic's."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(value, "")
        try:
            number = self._from_text(value) if isinstance(value, str) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._error(value, " (not finite)")
        if not within_bounds(number):
            bound = f"less than {LARGEST:g}" if abs(number) > 1 else f"greater than {SMALLEST:g}"
            raise self._error(value, f" (its size should be {bound} in SI units)")
        return number

    def _from_text(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            pass
        try:
            number, unit = split_quantity(text)
            if dimension(unit) != dimension(self.unit):
                measured = kind(unit).split(" ", 1)[1]
                raise self._error(text, f" ({measured})" if measured != "quantity" else f" (not {kind(self.unit)})")
            return float(convert(number, unit, self.unit))
        except UnitError as error:
            reason = f" ({error})" if str(error).startswith(("unknown unit", "unit '")) else ""
            raise self._error(text, reason) from None

    def _error(self, value: Any, reason: str) -> PydanticCustomError:
        wanted = "a plain number" if self.unit == "1" else f"{kind(self.unit)} in {self.unit}"
        # Braces in the user's text must not be read as fields of the template: the text is itself a field.
        fields = {"wanted": wanted, "value": repr(value), "reason": reason}
        return PydanticCustomError("quantity", "expected {wanted}, got {value}{reason}", fields)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.to_si, handler(source))


class Amount(BaseModel):
    """A number with whatever unit it is written in: ``"2 N/m"``; a bare number is taken as already in SI base units.

    Attributes:
        value: the number as written.
        unit: the unit as written, or None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(allow_inf_nan=False)
    unit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return {"value": data}
        if not isinstance(data, str):
            return data
        value, unit = split_quantity(data)
        return {"value": value, "unit": unit or None}

    @field_validator("unit")
    @classmethod
    def _known(cls, unit: str | None) -> str | None:
        if unit is not None:
            to_base_units(unit)
        return unit

    @model_validator(mode="after")
    def _bounded(self) -> Amount:
        if not within_bounds(self.si):
            raise UnitError(
                f"{self.value:g} {self.unit or ''}".strip() + f" is outside {SMALLEST:g} to {LARGEST:g} in SI units"
            )
        return self

    @property
    def si(self) -> float:
        """The number in SI base units."""
        return self.value if self.unit is None else self.value * to_base_units(self.unit)


Mass = Annotated[float, Quantity("kg"), Field(gt=0)]
Length = Annotated[float, Quantity("m"), Field(gt=0)]
Seconds = Annotated[float, Quantity("s"), Field(gt=1e-12, lt=1e12, allow_inf_nan=False)]
"""A duration between a picosecond and thirty thousand years."""
