"""The exact flow of Kepler's problem in universal variables, for any orbit: ellipse, parabola, hyperbola, free fall.

Notation and equations of Battin, An Introduction to the Mathematics and Methods of Astrodynamics (1999), section 4.5;
the universal Kepler equation is solved by Laguerre's method (Conway, Celestial Mechanics 39, 199 (1986)), which
converges from almost any start.
"""

from __future__ import annotations

import math

import numpy as np

from wm_pipelines.integrators import IntegrationError
from wm_pipelines.worlds.base import Float

_ITERATIONS = 60
_DEGREE = 5.0  # of Laguerre's method, as Conway chose it


def kepler_flow(r: Float, v: Float, gm: float, duration: float) -> tuple[Float, Float]:
    """Relative position and velocity ``[..., k]`` after so many seconds under the acceleration ``-gm r / |r|^3``.

    Raises:
        IntegrationError: the two are in one place, or Kepler's equation could not be solved.
    """
    root = math.sqrt(gm)
    r0 = np.linalg.norm(r, axis=-1)
    if not (r0 > 0.0).all():
        raise IntegrationError("two bodies are in one place")
    sigma = (r * v).sum(-1) / root
    alpha = 2.0 / r0 - (v * v).sum(-1) / gm  # 1 / semi-major axis
    chi = _universal_anomaly(r0, sigma, alpha, root * duration)
    c2, c3 = _stumpff(alpha * chi**2)
    now = chi**2 * c2 + sigma * chi * (1.0 - alpha * chi**2 * c3) + r0 * (1.0 - alpha * chi**2 * c2)
    f, g = 1.0 - chi**2 * c2 / r0, duration - chi**3 * c3 / root
    f_dot, g_dot = root / (now * r0) * chi * (alpha * chi**2 * c3 - 1.0), 1.0 - chi**2 * c2 / now
    return f[..., None] * r + g[..., None] * v, f_dot[..., None] * r + g_dot[..., None] * v


def _universal_anomaly(r0: Float, sigma: Float, alpha: Float, wanted: float) -> Float:
    """The root ``chi [...]`` of ``sigma chi^2 c2 + (1 - alpha r0) chi^3 c3 + r0 chi = sqrt(gm) t``."""
    chi = np.sign(wanted) * np.minimum(abs(wanted) / r0, np.cbrt(6.0 * abs(wanted)))
    step = np.full_like(chi, np.inf)
    for _ in range(_ITERATIONS):
        psi = alpha * chi**2
        c2, c3 = _stumpff(psi)
        value = sigma * chi**2 * c2 + (1.0 - alpha * r0) * chi**3 * c3 + r0 * chi - wanted
        slope = chi**2 * c2 + sigma * chi * (1.0 - psi * c3) + r0 * (1.0 - psi * c2)  # the distance: never negative
        bend = sigma * (1.0 - psi * c2) + (1.0 - alpha * r0) * chi * (1.0 - psi * c3)
        under = (_DEGREE - 1.0) ** 2 * slope**2 - _DEGREE * (_DEGREE - 1.0) * value * bend
        step = -_DEGREE * value / np.maximum(slope + np.sqrt(np.abs(under)), 1e-300)
        chi = chi + step
        if (np.abs(step) <= 1e-12 * np.abs(chi)).all():  # convergence is cubic: what is left is rounding
            break
    if not (np.abs(step) <= 1e-9 * np.abs(chi)).all():
        raise IntegrationError("Kepler's equation was not solved; use a shorter step")
    return chi


def _stumpff(psi: Float) -> tuple[Float, Float]:
    """Stumpff's functions ``c2`` and ``c3``: ``(1 - cos s) / s^2`` and ``(s - sin s) / s^3`` of ``s = sqrt(psi)``."""
    small = np.where(np.abs(psi) < 1.0, psi, 0.0)
    c2 = sum((-small) ** k / math.factorial(2 * k + 2) for k in range(9))
    c3 = sum((-small) ** k / math.factorial(2 * k + 3) for k in range(9))
    s = np.sqrt(np.maximum(np.abs(psi), 1.0))
    with np.errstate(over="ignore", invalid="ignore"):
        bound, unbound = psi >= 1.0, psi <= -1.0
        c2 = np.where(bound, (1.0 - np.cos(s)) / s**2, np.where(unbound, (np.cosh(s) - 1.0) / s**2, c2))
        c3 = np.where(bound, (s - np.sin(s)) / s**3, np.where(unbound, (np.sinh(s) - s) / s**3, c3))
    return c2, c3
