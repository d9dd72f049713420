"""Make the example table `data/01_raw/coupled_oscillators.csv`: simulated, not measured.

Two masses on a line, each tied to a wall by a spring and to one another by a third. The motion is exact: the sum of its
two normal modes. Numbers are rounded as a measuring program would write them, in the units of a school laboratory.

    python benchmarks/make_coupled_oscillators.py data/01_raw/coupled_oscillators.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.linalg import eigh

MASSES = np.array([0.2, 0.3])  # kg
WALL, BETWEEN = 2.0, 0.8  # N/m
EPISODES, ROWS, STEP = 30, 101, 0.05  # seconds between rows


def motion(start: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of masses released at rest at ``start [2]``: ``[K, 2]`` each, in metres and seconds."""
    stiffness = np.array([[WALL + BETWEEN, -BETWEEN], [-BETWEEN, WALL + BETWEEN]])
    squares, modes = eigh(stiffness, np.diag(MASSES))  # modes.T M modes = 1
    frequency = np.sqrt(squares)
    amplitude = modes.T @ (MASSES * start)
    phase = np.outer(time, frequency)
    return np.cos(phase) * amplitude @ modes.T, -np.sin(phase) * frequency * amplitude @ modes.T


def main(path: Path) -> None:
    """Write the table."""
    rng = np.random.default_rng(0)
    time = STEP * np.arange(ROWS)
    lines = ["episode,time_s,left_cm,right_cm,left_speed_cm_s,right_speed_cm_s"]
    for episode in range(1, EPISODES + 1):
        # A shift of the clock starts the episode in mid-swing, so that it begins with speed.
        x, v = motion(rng.uniform(-0.1, 0.1, 2), time + rng.uniform(0, 10))
        rows = np.column_stack([time, 100 * x, 100 * v])
        lines += [f"{episode},{t:.2f},{a:.5f},{b:.5f},{c:.5f},{d:.5f}" for t, a, b, c, d in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
