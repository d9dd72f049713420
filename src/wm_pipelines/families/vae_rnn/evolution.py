"""CMA-ES with a score for a whole generation at once (Hansen & Ostermeier 2001; package ``cmaes``)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from cmaes import CMA
from torch import Tensor


def evolve(
    score: Callable[[Tensor, int], Tensor], start: Tensor, spread: float, population: int, generations: int, seed: int
) -> Tensor:
    """The mean of the last generation's distribution, ``[n]``, of higher score than where it started.

    Args:
        score: candidates ``[P, n]`` and the number of the generation -> their scores ``[P]``, the higher the better; a
            score that is no number counts as the worst. start: the first mean, ``[n]``. spread: the first standard
            deviation. population: ``P``. generations: how many. seed: of what is drawn.
    """
    search = CMA(start.double().numpy(), spread, seed=seed, population_size=population)
    for generation in range(generations):
        drawn = np.stack([search.ask() for _ in range(population)])
        found = score(torch.from_numpy(drawn).to(start.dtype), generation).double().numpy()
        cost = np.nan_to_num(-found, nan=np.inf, posinf=np.inf)
        search.tell(list(zip(drawn, cost.tolist(), strict=True)))
    return torch.from_numpy(search.mean.copy()).to(start.dtype)
