"""Make the example table `data/01_raw/measured_pendulum.csv`: simulated as a video would have measured it.

A pendulum released at rest at 15 to 70 degrees, filmed at 30 frames per second for 20 s, slightly damped (quality
factor 100), its angle read with a standard deviation of half a degree; three decimals, also of the times.

    python benchmarks/make_measured_pendulum.py data/01_raw/measured_pendulum.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from wm_pipelines.integrators import dop853

OMEGA = np.sqrt(9.81 / 0.5)  # rad/s of small swings: 50 cm long
DAMPING = OMEGA / 100  # 1/s
RUNS, RATE, SECONDS, NOISE = 15, 30, 20, 0.5  # frames per second; noise in degrees


def motion(degrees: np.ndarray, times: int) -> np.ndarray:
    """Angle and angular velocity after the release at these angles: ``[E] -> [E, times, 2]``, rad and rad/s."""

    def law(z: np.ndarray) -> np.ndarray:
        return np.stack([z[..., 1], -(OMEGA**2) * np.sin(z[..., 0]) - DAMPING * z[..., 1]], axis=-1)

    start = np.stack([np.radians(degrees), np.zeros(len(degrees))], axis=-1)
    return dop853(law, start, 1 / RATE, times - 1)


def main(path: Path) -> None:
    """Write the table."""
    rng = np.random.default_rng(0)
    rows = SECONDS * RATE + 1
    angles = np.degrees(motion(rng.uniform(15, 70, RUNS), rows)[..., 0])
    angles += NOISE * rng.standard_normal(angles.shape)
    lines = ["run,t_s,angle_deg"]
    lines += [
        f"{run},{k / RATE:.3f},{angle:.3f}" for run, swing in enumerate(angles, 1) for k, angle in enumerate(swing)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
