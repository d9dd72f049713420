"""Parameters: the base of every model of them, and nested mappings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Positive = Annotated[int, Field(ge=1)]
"""A width, a number of channels: an item of a list in parameter files."""


class Settings(BaseModel):
    """Base of what parameter files say: unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Checked(Settings):
    """A file that was made elsewhere, and the SHA-256 of its content: what is read is what was meant."""

    path: str
    sha256: str

    @field_validator("sha256")
    @classmethod
    def _digits(cls, value: str) -> str:
        value = value.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(f"64 hexadecimal digits are a SHA-256, got {len(value)} characters")
        return value


def deep_merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """``overlay`` on ``base``: mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"schedule.steps": 10} -> {"schedule": {"steps": 10}}``."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = deep_merge(tree, value)
    return tree
