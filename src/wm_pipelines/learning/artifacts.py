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
from wm_pipelines.families.base import Family
from wm_pipelines.families.parts.stored import built
from wm_pipelines.laws import Laws
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
            laws: for the oracle; None: those of the spec. spec: of another world than the card's.
        """
        family = built(self.card, spec, laws)
        family.load_state_dict(dict(self.tensors))
        return family.eval()

    def untrained(self) -> Family:
        """The same family as it was before training."""
        return built(self.card).eval()


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
