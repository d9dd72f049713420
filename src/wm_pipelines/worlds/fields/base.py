"""What every field world is: an equation with its conditions, a reference solution, and pictures of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from wm_pipelines.errors import UserError
from wm_pipelines.fields import FieldSystem
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.fields.drawing import colour_map


class FieldParameters(BaseModel):
    """Base of every field world's physical parameters (SI units). Unknown keys are an error."""

    model_config = ConfigDict(extra="forbid")


class FieldWorld(ABC):
    """One partial differential equation with its initial and boundary conditions.

    Subclasses set `name` and `Parameters`; equations accept numpy and torch alike, everything else is numpy float64.
    """

    name: ClassVar[str]
    Parameters: ClassVar[type[FieldParameters]]

    def __init__(self, parameters: FieldParameters) -> None:
        self.parameters = parameters

    @abstractmethod
    def system(self) -> FieldSystem:
        """The description handed to families and metrics, all coefficients known."""

    def with_unknown(self, unknown: Mapping[str, tuple[float, float]]) -> FieldSystem:
        """The description with some coefficients hidden: symbol -> bounds.

        Raises:
            UserError: no such coefficient, or bounds that are not ``0 < low < high`` around the true value.
        """
        system = self.system()
        coefficients = dict(system.coefficients)
        for symbol, (low, high) in unknown.items():
            if symbol not in coefficients:
                known = ", ".join(coefficients) or "none"
                raise UserError(f"world '{self.name}' has no coefficient '{symbol}' to be found; it has {known}")
            if not 0 < low < high:
                raise UserError(
                    f"bounds of '{symbol}': need 0 < low < high, got [{low:g}, {high:g}]; correct 'unknown.{symbol}'"
                )
            if not low <= coefficients[symbol].value <= high:
                raise UserError(
                    f"bounds of '{symbol}', [{low:g}, {high:g}], do not hold the world's own value "
                    f"{coefficients[symbol].value:g}; widen 'unknown.{symbol}'"
                )
            coefficients[symbol] = replace(coefficients[symbol], known=False, bounds=(low, high))
        return replace(system, coefficients=coefficients)

    def shown(self, fields: Float) -> Float:
        """The scalar that a picture shows: ``[*grid, F] -> [*grid]``; here the first field."""
        return fields[..., 0]

    def render(self, fields: Float, size: int = 128, largest: float | None = None) -> NDArray[np.uint8]:
        """Draw fields on a regular grid as colour maps.

        Args:
            fields: ``[n_1, …, n_d, F]``. With two coordinates there is one picture (first coordinate upwards, second to
                the right); with three, one per value of the third.
            size: pixels along a side.
            largest: value at the end of the colour scale (default: the largest magnitude shown).

        Returns:
            RGB images ``[frames, size, size, 3]``.
        """
        values = self.shown(np.asarray(fields, np.float64))
        frames = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        if values.ndim == 3 or self.system().time is None:
            frames = np.swapaxes(frames, 1, 2)  # x to the right, y upwards
        return colour_map(frames, size, largest)

    @abstractmethod
    def describe(self) -> str:
        """One English sentence."""
