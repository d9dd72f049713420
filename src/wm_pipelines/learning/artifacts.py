"""Trained models: weights, and a card that says what they are, so that they can travel alone."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

import wm_pipelines
from wm_pipelines.families.base import Family, build
from wm_pipelines.laws import Laws
from wm_pipelines.registry import families
from wm_pipelines.spec import Spec


@dataclass(frozen=True)
class TrainedModel:
    """One variant of a family, fitted on one world with all seeds.

    `card` is what the JSON file holds: task, family, world, variant, view, knows, spec, config, seeds, data hash,
    versions, fingerprint.
    """

    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]

    @property
    def spec(self) -> Spec:
        """Of the world it was trained on."""
        return Spec.from_json(self.card["spec"])

    def restore(self, laws: Laws | None = None, spec: Spec | None = None) -> Family:
        """Build the family this model belongs to and load its weights.

        Args:
            laws: for the oracle; None where it is not to be used. spec: another world than the card's.
        """
        family = self._built(spec, laws)
        family.to(type(family).dtype)
        family.load_state_dict(dict(self.tensors))
        return family.eval()

    def untrained(self) -> Family:
        """The same family as it was before training."""
        family = self._built()
        return family.to(type(family).dtype).eval()

    def _built(self, spec: Spec | None = None, laws: Laws | None = None) -> Family:
        kind = families.get(self.card["family"])
        return build(kind, kind.Config(**self.card["config"]), spec or self.spec, self.card["seeds"], laws)


@dataclass(frozen=True)
class Models:
    """All variants of a family on a world, and why others do not exist.

    Attributes:
        variants: those that were trained, by name. not_applicable: variant -> reason.
    """

    variants: Mapping[str, TrainedModel] = field(default_factory=dict)
    not_applicable: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Versions of what decides a model's bits."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "wm_pipelines": wm_pipelines.__version__,
    }
