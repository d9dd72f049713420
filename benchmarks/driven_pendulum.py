"""Steps of the driven pendulum per second: the world's, batched, beside Gymnasium's ``Pendulum-v1``, on one thread.

Both run the same episodes of 200 steps under the same random torques and must agree, states and rewards, to 1e-12 on
all that Gymnasium runs. The world advances all episodes at once and computes the reward of every step; Gymnasium's
environment, bare of wrappers, steps one episode after the other and is set to each start. Both are timed in turn by
processor time, and the best of each counts.

Run: ``python benchmarks/driven_pendulum.py``; writes ``benchmarks/results/driven_pendulum.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from wm_pipelines.worlds.driven_pendulum import DrivenPendulum, DrivenPendulumParameters

RESULTS = Path(__file__).resolve().parent / "results"
STEP, STEPS = 0.05, 200
LARGEST_ERROR = 1e-12

Run = Callable[[], tuple[np.ndarray, np.ndarray]]


def batched(world: DrivenPendulum, starts: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Last states ``[E, 2]`` and rewards ``[E, T]`` of all episodes at once."""
    z, rewards = starts, np.empty(actions.shape[:2])
    for t in range(actions.shape[1]):
        rewards[:, t] = world.reward(z, actions[:, t])
        z = world.advance(z, actions[:, t], STEP)
    return z, rewards


def one_by_one(env: PendulumEnv, starts: np.ndarray, torques: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by Gymnasium's environment."""
    last, rewards = np.empty_like(starts), np.empty(torques.shape[:2])
    for e in range(len(starts)):
        env.state = starts[e]
        for t in range(torques.shape[1]):
            _, rewards[e, t], *_ = env.step(torques[e, t])
        last[e] = env.state
    return last, rewards


def steps_per_second(run: Run, steps: int) -> float:
    """Steps per CPU second of one run."""
    start = time.process_time()
    run()
    return steps / (time.process_time() - start)


def main() -> None:
    """Verify, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000, help="of the batch")
    parser.add_argument("--one-by-one", type=int, default=100, help="episodes for Gymnasium")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()

    world, env, rng = DrivenPendulum(DrivenPendulumParameters()), PendulumEnv(), np.random.default_rng(0)
    env.reset(seed=0)
    starts = world.sample_initial_state(rng, given.episodes)
    actions = rng.uniform(-1.0, 1.0, (given.episodes, STEPS, 1))
    few = slice(given.one_by_one)
    torques = env.max_torque * actions[few]

    contestants: dict[str, tuple[Run, int]] = {
        "ours": (lambda: batched(world, starts, actions), given.episodes * STEPS),
        "peer": (lambda: one_by_one(env, starts[few], torques), len(torques) * STEPS),
    }
    (ours, our_rewards), (theirs, their_rewards) = (run() for run, _ in contestants.values())
    error = max(float(np.abs(ours[few] - theirs).max()), float(np.abs(our_rewards[few] - their_rewards).max()))
    if error > LARGEST_ERROR:
        raise SystemExit(f"the two differ by {error:.1e}: there is nothing to time")
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(given.repeats):
        for name, (run, steps) in contestants.items():
            rates[name].append(steps_per_second(run, steps))
    best = {name: max(values) for name, values in rates.items()}
    result = {
        "name": "driven_pendulum",
        "ours": best["ours"],
        "peer": best["peer"],
        "ratio": best["ours"] / best["peer"],
        "unit": "steps with rewards per CPU second",
        "repeats": given.repeats,
        "threads": 1,
        "versions": {"python": platform.python_version(), "numpy": version("numpy"), "gymnasium": version("gymnasium")},
        "ours_is": f"the world's advance and reward, {given.episodes} episodes at once",
        "peer_is": "gymnasium's PendulumEnv.step without wrappers, one episode after the other",
        "largest_difference": {"found": error, "allowed": LARGEST_ERROR},
        "steps_per_second": rates,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "driven_pendulum.json").write_text(json.dumps(result, indent=2) + "\n")
    rate = f"{best['ours']:,.0f} against {best['peer']:,.0f} steps per second, x {result['ratio']:.0f}"
    print(f"{rate}; they differ by {error:.1e}")


if __name__ == "__main__":
    main()
