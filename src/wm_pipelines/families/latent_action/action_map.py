"""From true actions to codes, learned from few labelled transitions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SAME = 1e-6  # distance of actions that count as one


class ActionMap(nn.Module):
    """``argmax p(code | action)``, by the labelled transitions whose action is nearest: all of them vote.

    Of discrete actions these are all that were labelled with the same one; of continuous actions it is the nearest
    neighbour.

    Args:
        labels: labelled transitions that it remembers at most, ``n``. action: ``A``, entries of an action.
        codes: ``K``.
    """

    actions: Tensor
    chosen: Tensor

    def __init__(self, labels: int, action: int, codes: int) -> None:
        super().__init__()
        self.codes = codes
        self.register_buffer("actions", torch.zeros(labels, action))
        self.register_buffer("chosen", torch.full((labels,), -1))  # -1: none

    @torch.no_grad()
    def learn(self, actions: Tensor, chosen: Tensor) -> None:
        """Remember transitions: actions ``[m, A]`` and codes ``[m]``, ``m <= n``."""
        self.actions[: len(actions)] = actions.to(self.actions)
        self.chosen[: len(chosen)] = chosen

    def forward(self, actions: Tensor) -> Tensor:
        """Codes ``[...]`` of actions ``[..., A]``; -1 where nothing is remembered or there are no actions."""
        known = self.chosen >= 0
        if not bool(known.any()) or not actions.shape[-1]:
            return torch.full(actions.shape[:-1], -1, device=actions.device)
        distance = torch.cdist(actions.flatten(0, -2).to(self.actions), self.actions[known])
        votes = (distance <= distance.amin(1, keepdim=True) + _SAME).to(distance)
        counts = votes @ nn.functional.one_hot(self.chosen[known], self.codes).to(votes)
        return counts.argmax(1).unflatten(0, actions.shape[:-1])
