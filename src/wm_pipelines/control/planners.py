"""Planning by sampling: which actions to take now, given something that scores sequences of actions.

``cem``: the cross-entropy method (Rubinstein 1999): refit a Gaussian to the best candidates, again and again. ``icem``
(Pinneri et al., *Sample-efficient cross-entropy method for real-time planning*, CoRL 2020): with noise of colour
``1/f^beta`` over time, elites that are kept, and the last plan carried on. ``mppi`` (Williams et al., *Information
theoretic MPC*, ICRA 2017): the mean of all candidates weighted by ``exp(score / temperature)``.

Shapes: ``E`` starts, ``N`` candidates, ``H`` steps, ``A`` entries of an action in [-1, 1]. All starts are planned for
in one batch; their candidates are made of the same random numbers, so that a plan does not depend on which other starts
are planned for beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wm_pipelines.mappings import Settings

Score = Callable[[Tensor], Tensor]
"""Candidates ``[E, N, H, A]`` -> how good they are, ``[E, N]``; higher is better."""


class PlannerConfig(Settings):
    """How much is planned, and how."""

    kind: Literal["cem", "icem", "mppi"] = "icem"
    horizon: int = Field(20, ge=1, description="H, steps looked ahead")
    samples: int = Field(64, ge=2, description="N, candidates of an iteration")
    iterations: int = Field(3, ge=1, description="per decision")
    elites: int = Field(8, ge=1, description="candidates that the next Gaussian is fitted to")
    beta: float = Field(2.0, ge=0, description="colour of the noise over time, 1 / f^beta; icem")
    spread: float = Field(0.7, gt=0, description="standard deviation of the first candidates")
    smallest_spread: float = Field(0.05, ge=0, description="below which it does not shrink")
    kept: float = Field(0.3, ge=0, le=1, description="share of the elites that stay candidates; icem")
    temperature: float = Field(1.0, gt=0, description="of mppi, in standard deviations of the scores")
    seconds: float | None = Field(
        None,
        gt=0,
        description="no iteration begins later than this in a decision; null: no limit, the same on all machines",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> PlannerConfig:
        if self.elites > self.samples:
            raise ValueError(f"elites {self.elites} are more than samples {self.samples}")
        return self


class Planner:
    """Plans decision after decision; remembers its last plan.

    Args:
        config: how. action: ``A``. seed: of its random numbers.
    """

    def __init__(self, config: PlannerConfig, action: int, seed: int = 0) -> None:
        self.config, self.action = config, action
        self._generator = torch.Generator().manual_seed(seed)
        self._last: Tensor | None = None

    def plan(self, score: Score, starts: int) -> Tensor:
        """Plans ``[E, H, A]``; the first action of each is meant to be taken.

        Args:
            score: see `Score`. starts: ``E``, the same starts in the same order at every decision.
        """
        c, began = self.config, time.perf_counter()
        mean = self._carried_on(starts)
        spread = torch.full_like(mean, c.spread)
        kept, best, best_score = None, mean, None
        for iteration in range(c.iterations):
            if iteration and c.seconds is not None and time.perf_counter() - began > c.seconds:
                break
            candidates = self._candidates(mean, spread, kept)
            scores = score(candidates)
            scores = torch.where(scores.isfinite(), scores, -torch.inf)
            lost = ~scores.isfinite().any(1)  # nothing that is imagined there is a number
            scores[lost, 0] = 0.0  # go on as before: candidate 0 is the mean
            if c.kind == "mppi":
                mean = self._weighted(candidates, scores)
                best = mean
                continue
            top = scores.topk(c.elites, dim=1)
            elites = candidates.gather(1, top.indices[..., None, None].expand(-1, -1, *candidates.shape[2:]))
            elites = torch.where(lost[:, None, None, None], candidates[:, :1], elites)
            mean = elites.mean(1)
            spread = elites.std(1, correction=0).clamp_min(c.smallest_spread)
            if c.kind == "icem":
                kept = elites[:, : round(c.kept * c.elites)]
            best, best_score = _better(best, best_score, elites[:, 0], top.values[:, 0])
        self._last = mean if c.kind != "icem" else best
        return self._last

    def _carried_on(self, starts: int) -> Tensor:
        """The last plan without its first action, and with nothing at its end; nothing at first."""
        if self._last is None or self.config.kind == "cem":
            return torch.zeros(starts, self.config.horizon, self.action)
        return torch.cat([self._last[:, 1:], torch.zeros_like(self._last[:, :1])], 1)

    def _candidates(self, mean: Tensor, spread: Tensor, kept: Tensor | None) -> Tensor:
        """Around the mean, the mean itself, those kept: ``[E, N, H, A]``."""
        c = self.config
        beta = c.beta if c.kind == "icem" else 0.0
        noise = coloured(c.samples, c.horizon, self.action, beta, self._generator)
        candidates = (mean[:, None] + spread[:, None] * noise).clamp(-1, 1)
        candidates[:, 0] = mean
        if kept is not None and kept.shape[1]:
            candidates[:, 1 : 1 + kept.shape[1]] = kept
        return candidates

    def _weighted(self, candidates: Tensor, scores: Tensor) -> Tensor:
        least = torch.where(scores.isfinite(), scores, torch.inf).amin(1, keepdim=True)
        finite = torch.where(scores.isfinite(), scores, least)
        spread = finite.std(1, correction=0, keepdim=True).clamp_min(1e-12)
        weights = torch.softmax(finite / (self.config.temperature * spread), dim=1)
        return torch.einsum("en,enha->eha", weights.to(candidates.dtype), candidates)


def _better(best: Tensor, score: Tensor | None, other: Tensor, other_score: Tensor) -> tuple[Tensor, Tensor]:
    if score is None:
        return other, other_score
    wins = other_score > score
    return torch.where(wins[:, None, None], other, best), torch.where(wins, other_score, score)


def coloured(samples: int, steps: int, action: int, beta: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise ``[N, H, A]`` of unit variance whose power falls as ``1 / f^beta`` (Timmer & König 1995).

    ``beta = 0`` is white; candidates with ``beta = 2`` push one way for long, as white ones never do.
    """
    if beta == 0 or steps == 1:
        return torch.randn(samples, steps, action, generator=generator)
    frequencies = torch.fft.rfftfreq(steps)
    scale = frequencies.clamp_min(1.0 / steps) ** (-beta / 2)
    bins = len(frequencies)
    real, imaginary = torch.randn(2, samples, action, bins, generator=generator).unbind(0)
    imaginary[..., 0] = 0.0
    real[..., 0] *= 2**0.5
    if steps % 2 == 0:
        imaginary[..., -1] = 0.0
        real[..., -1] *= 2**0.5
    weights = scale[1:].clone()
    weights[-1] *= 2.0 ** ((steps % 2 - 1) / 2)  # of even lengths the last frequency is its own mirror image
    sigma = 2 * (weights.square().sum() + scale[0].square() / 2).sqrt() / steps
    signal = torch.fft.irfft(torch.complex(real, imaginary) * scale, n=steps) / sigma
    return signal.movedim(-1, 1)
