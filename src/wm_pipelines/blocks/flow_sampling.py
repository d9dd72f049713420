"""The path from noise to data, what its velocity says of the score, and the solvers that follow it.

The path is ``x_t = (1 - t) x_0 + t x_1`` from ``x_0 ~ N(0, 1)`` at t = 0 to data ``x_1`` at t = 1 (Liu et al., *Flow
straight and fast*, ICLR 2023; Lipman et al., *Flow matching for generative modeling*, ICLR 2023, whose ``sigma_min`` is
0 here). Its marginal velocity is ``v(x, t) = E[x_1 - x_0 | x_t = x]``. From ``x_t - t (x_1 - x_0) = x_0`` follow the
noise that is expected, ``E[x_0 | x] = x - t v``, the data, ``E[x_1 | x] = x + (1 - t) v``, and, as ``x_t`` given the
data is a Gaussian of width ``1 - t``, the score ``-E[x_0 | x] / (1 - t)``.

Shapes: ``x [N, D]``; times are numbers in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""``x [N, D], t -> v [N, D]``."""


def path(noise: Tensor, data: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The point ``x_t`` between noise and data ``[N, D]`` at times ``[N, 1]``, and the velocity ``x_1 - x_0``."""
    return (1.0 - t) * noise + t * data, data - noise


def score(x: Tensor, velocity: Tensor, t: float) -> Tensor:
    """``grad log p_t(x) = (t v - x) / (1 - t)``, t < 1."""
    return (t * velocity - x) / (1.0 - t)


def guided(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """``v_0 + w (v_c - v_0)``: 0 without the condition, 1 with it, more beyond it.

    Ho and Salimans, *Classifier-free diffusion guidance*, 2022, write ``1 + w`` for what is w here.
    """
    return unconditional + weight * (conditional - unconditional)


def euler(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """``dx/dt = v`` from t = 0 to 1 in equal steps of first order; exact in one where the flow is straight."""
    for k in range(steps):
        x = x + velocity(x, k / steps) / steps
    return x


def heun(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """The same to second order, in ``2 steps - 1`` evaluations of the velocity.

    The last step is Euler's: of data that are certain, v at t = 1 is a quotient of zeros. One step of first order does
    not lower the order of the whole (Karras et al., *Elucidating the design space of diffusion-based generative
    models*, NeurIPS 2022).
    """
    for k in range(steps):
        slope = velocity(x, k / steps)
        ahead = x + slope / steps
        x = ahead if k == steps - 1 else x + (slope + velocity(ahead, (k + 1) / steps)) / (2 * steps)
    return x


def heun_through(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    """`heun` through given times, the first 0 and the last 1, increasing: steps of different lengths."""
    for now, after in pairwise(times):
        slope = velocity(x, now)
        ahead = x + (after - now) * slope
        x = ahead if after == times[-1] else x + 0.5 * (after - now) * (slope + velocity(ahead, after))
    return x


def euler_maruyama(velocity: Velocity, x: Tensor, steps: int, churn: float, draw: Callable[[], Tensor]) -> Tensor:
    """``dx = (v + g^2 / 2 score) dt + g dW`` with ``g^2 = 2 churn (1 - t)``: the marginals of ``dx/dt = v``.

    (Song et al., *Score-based generative modeling through stochastic differential equations*, ICLR 2021; any g may be
    chosen after training: Ma et al., *SiT*, ECCV 2024.) With this g the drift ``v - churn (x - t v)`` has no pole: what
    is taken off is a share of the noise that is expected, and as much is put on. The last step is the deterministic
    one, whose end is ``E[x_1 | x]``.

    Args:
        velocity: of the flow. x: noise ``[N, D]``. steps: equal ones. churn: 0 is `euler`.
        draw: standard normal ``[N, D]``.
    """
    for k in range(steps):
        t, h = k / steps, 1.0 / steps
        v = velocity(x, t)
        if k < steps - 1 and churn:
            variance = 2.0 * churn * (1.0 - t)
            x = x + h * (v + 0.5 * variance * score(x, v, t)) + math.sqrt(variance * h) * draw()
        else:
            x = x + h * v
    return x
