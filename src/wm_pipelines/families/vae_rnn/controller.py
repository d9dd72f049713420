"""C, the controller, and the dreams in which it is judged.

Shapes: ``P`` controllers, ``R`` dreams of each, ``F`` inputs ``[z, h]``, ``A`` entries of an action.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_pipelines.families.vae_rnn.evolution import evolve
from wm_pipelines.families.vae_rnn.networks import MDNRNN


class Controller(nn.Module):
    """C: ``a = tanh(W [z, h] + b)`` (eq. 1); its ``(F + 1) A`` numbers are found by evolution, not by gradient.

    Its inputs are in units of their spread, so that evolution, which begins with a ball, moves all of them alike.

    Attributes:
        dream_return: what it was paid in dreams at last; no number before.
    """

    centre: Tensor
    scale: Tensor
    dream_return: Tensor

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.inputs, self.actions = inputs, actions
        self.weights = nn.Parameter(torch.zeros((inputs + 1) * actions), requires_grad=False)
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("dream_return", torch.tensor(torch.nan))

    def learn_units(self, x: Tensor) -> None:
        """Mean and spread of inputs ``[N, F]``; 1 where nothing changes."""
        spread = x.std(0)
        self.centre.copy_(x.mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, F] -> [N, A]``."""
        return self.of(self.weights[None], x[None])[0]

    def of(self, weights: Tensor, x: Tensor) -> Tensor:
        """Many controllers at once: weights ``[P, (F + 1) A]``, inputs ``[P, R, F] -> [P, R, A]``."""
        table = weights.unflatten(1, (self.inputs + 1, self.actions))
        x = (x - self.centre) / self.scale
        return torch.baddbmm(table[:, -1:], x, table[:, :-1]).tanh()


@torch.no_grad()
def wander(
    m: MDNRNN, start: Tensor, actions: int, steps: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """What C is given in dreams of random actions from ``z, h, c`` ``[R, D + 2 H]``: ``[R steps, F]``."""
    z, h, memory = m.parts(start)
    met = []
    for _ in range(steps):
        met.append(torch.cat([z, h], -1))
        action = 2 * torch.rand(len(z), actions, generator=generator).to(z) - 1
        mixture, _, h, memory = m.step(z, action, h, memory)
        uniform, normal = torch.rand(z.shape, generator=generator), torch.randn(z.shape, generator=generator)
        z = mixture.sample(uniform.to(z), normal.to(z), temperature)
    return torch.cat(met)


@torch.no_grad()
def dream(
    m: MDNRNN, c: Controller, weights: Tensor, start: Tensor, steps: int, temperature: float, generator: torch.Generator
) -> Tensor:
    """Returns ``[P, R]`` of controllers ``[P, n]`` in what M imagines, sampled at a temperature.

    All controllers dream the same starts and are met by the same chance.

    Args:
        m, c: M and C. weights: of the controllers. start: latents and M's memory, ``z, h, c``, ``[R, D + 2 H]``.
        steps: of a dream. temperature: of the mixture. generator: draws what is left to chance.
    """
    count, rows = len(weights), len(start)
    total = start.new_zeros(count * rows)
    z, h, memory = m.parts(start.expand(count, *start.shape).flatten(0, 1))
    for _ in range(steps):
        action = c.of(weights, torch.cat([z, h], -1).unflatten(0, (count, rows))).flatten(0, 1)
        mixture, reward, h, memory = m.step(z, action, h, memory)
        assert reward is not None
        total = total + m.in_units(reward)
        uniform = torch.rand(rows, m.latent, generator=generator).to(z).repeat(count, 1)
        normal = torch.randn(rows, m.latent, generator=generator).to(z).repeat(count, 1)
        z = mixture.sample(uniform, normal, temperature)
    return total.unflatten(0, (count, rows))


def train_in_dreams(
    m: MDNRNN,
    c: Controller,
    start: Tensor,
    *,
    steps: int,
    temperature: float,
    rollouts: int,
    population: int,
    generations: int,
    spread: float,
    seed: int,
) -> None:
    """Set C's weights by CMA-ES to what dreams a high return; each generation dreams anew.

    Args:
        m, c: M and C. start: latents and M's memory, ``[N, D + 2 H]``. steps, temperature: of a dream. rollouts:
            dreams of each candidate. population, generations, spread: of the evolution. seed: of all that is drawn.
    """

    def score(weights: Tensor, generation: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + generation)
        chosen = torch.randint(len(start), (rollouts,), generator=generator)
        return dream(m, c, weights, start[chosen], steps, temperature, generator).mean(1)

    c.learn_units(wander(m, start, c.actions, steps, temperature, torch.Generator().manual_seed(seed)))
    c.weights.copy_(evolve(score, torch.zeros_like(c.weights), spread, population, generations, seed))
