"""Noise levels of images, and steps back from noise.

An image with noise is ``x_t = a_t x_0 + s_t e`` with e standard normal; level 0 is the image, level T (almost) noise.
Variance-preserving schedules have ``a^2 + s^2 = 1`` and ``a_t^2 = alpha_bar_t``, the cumulative product of ``1 -
beta_s`` over s <= t (Ho, Jain, Abbeel, *Denoising diffusion probabilistic models*, NeurIPS 2020); flow matching has the
straight path ``a = 1 - t / T``, ``s = t / T`` (Lipman et al., ICLR 2023).

A shift by ``r > 1`` multiplies ``s_t / a_t`` by r, which puts more of the levels into the noise: Hoogeboom, Heek,
Salimans, *Simple diffusion*, ICML 2023; on the straight path Esser et al., ICML 2024, section 5.3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError

LEVELS = 1000
"""T."""
SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("x0", "eps", "v", "flow")
_LARGEST = 0.999  # of beta


def betas(schedule: str, shift: float = 1.0) -> Tensor:
    """Variances ``beta_t`` of the steps 1 … T, float64 ``[T]``.

    Args:
        schedule: ``linear`` (Ho et al., 1e-4 … 0.02) or ``cosine`` (Nichol and Dhariwal, *Improved denoising diffusion
            probabilistic models*, ICML 2021, equation 17). shift: r, see above.

    Raises:
        UserError: there is no such schedule.
    """
    if schedule == "linear":
        kept = (1.0 - torch.linspace(1e-4, 0.02, LEVELS, dtype=torch.float64)).cumprod(0)
    elif schedule == "cosine":
        at = torch.linspace(0.0, 1.0, LEVELS + 1, dtype=torch.float64)
        wave = ((at + 0.008) / 1.008 * math.pi / 2).cos().square()
        kept = wave[1:] / wave[0]
    else:
        raise UserError(f"schedule '{schedule}' unknown; known: {', '.join(SCHEDULES)}")
    shifted = kept / (kept + shift**2 * (1.0 - kept))
    before = torch.cat([torch.ones(1, dtype=torch.float64), shifted[:-1]])
    return (1.0 - shifted / before).clamp(max=_LARGEST)


class Noise(nn.Module):
    """Signal and noise at every level, and what a network is asked for.

    Args:
        schedule, shift: see `betas`; of ``flow`` the path is straight whatever the schedule.
        prediction: ``x0`` (the image), ``eps`` (the noise), ``v = a e - s x_0`` (Salimans and Ho, *Progressive
            distillation*, ICLR 2022) or ``flow``, the velocity ``e - x_0``.

    Raises:
        UserError: there is no such schedule or prediction.
    """

    signal: Tensor
    sigma: Tensor

    def __init__(self, schedule: str, shift: float, prediction: str) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise UserError(f"prediction '{prediction}' unknown; known: {', '.join(PREDICTIONS)}")
        self.prediction = prediction
        if prediction == "flow":
            u = torch.linspace(0.0, 1.0, LEVELS + 1, dtype=torch.float64)
            sigma = shift * u / (1.0 + (shift - 1.0) * u)
            signal = 1.0 - sigma
        else:
            alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1.0 - betas(schedule, shift)).cumprod(0)])
            signal, sigma = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
        self.register_buffer("signal", signal.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``a_t, s_t`` of levels ``t [...]``, with axes of length 1 behind, to go with ``like [..., C, H, W]``."""
        ones = [1] * (like.ndim - t.ndim)
        return self.signal[t].reshape(*t.shape, *ones).to(like), self.sigma[t].reshape(*t.shape, *ones).to(like)

    def add(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x_t``."""
        a, s = self.levels(t, x0)
        return a * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should say of ``x_t``."""
        a, s = self.levels(t, x0)
        return {"x0": x0, "eps": noise, "v": a * noise - s * x0, "flow": noise - x0}[self.prediction]

    def parts(self, said: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Image and noise, ``x_0`` and ``e``, that follow from what the network said of ``x_t``."""
        a, s = self.levels(t, x)
        tiny = 1e-8
        if self.prediction == "x0":
            return said, (x - a * said) / s.clamp(min=tiny)
        if self.prediction == "eps":
            return (x - s * said) / a.clamp(min=tiny), said
        if self.prediction == "v":
            return a * x - s * said, s * x + a * said
        return x - s * said, x + a * said

    def back(self, said: Tensor, x: Tensor, t: Tensor, to: Tensor, clip: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """One step from level t to a lower one: DDIM without noise (Song, Meng, Ermon, ICLR 2021, equation 12).

        On the straight path this is Euler's step of the velocity.

        Args:
            said: by the network of ``x``. clip: least and largest value of ``x_0``.
        """
        image, noise = self.parts(said, x, t)
        if clip is not None:
            a, s = self.levels(t, x)
            image = image.clamp(*clip)
            noise = (x - a * image) / s.clamp(min=1e-8)
        a, s = self.levels(to, x)
        return a * image + s * noise
