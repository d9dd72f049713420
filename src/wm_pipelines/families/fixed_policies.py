"""Policies that need no model: the floors of the table of control. Nothing to train, nothing predicted.

``random`` draws every action uniformly, ``zero`` does nothing, ``replay`` repeats the actions of training episodes. The
manifest of a world holds what they reach (`control.manifest.references`), so that all are judged from the same starts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.base import Family, FamilyConfig, Prediction, Views


class FixedPoliciesConfig(FamilyConfig):
    """Which of them."""

    policy: Literal["random", "zero", "replay"] = "random"


@register
class FixedPolicies(Family):
    """Acts without looking."""

    name: ClassVar[str] = "fixed_policies"
    Config: ClassVar[type[FamilyConfig]] = FixedPoliciesConfig
    needs: ClassVar[tuple[str, ...]] = ("actions",)
    config: FixedPoliciesConfig

    @property
    def reference(self) -> str:
        """Its name among the manifest's references."""
        return self.config.policy

    @property
    def behaves(self) -> bool:
        """It acts."""
        return True

    def start(self, observation: Views, seed: int) -> Tensor:
        """Knows nothing, ``[N, 0]``."""
        del seed
        return torch.zeros(len(next(iter(observation.values()))), 0)

    def update(self, belief: Tensor, action: Tensor, observation: Views, seed: int) -> Tensor:
        """Learns nothing."""
        del action, observation, seed
        return belief

    def act(self, belief: Tensor, seed: int) -> Tensor:
        """Nothing is done; see `reference`."""
        del seed
        return torch.zeros(len(belief), self.spec.views["actions"].shape[0])

    def predict(
        self,
        past: Views,  # noqa: ARG002
        steps: int,  # noqa: ARG002
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Nothing."""
        return Prediction()

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Nothing."""
        del config
        return frozenset()
