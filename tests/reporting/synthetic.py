"""A synthetic report: oscillators, orbits and models that err in known ways."""

from dataclasses import replace

import numpy as np
import pandas as pd

from wm_pipelines.metrics.registry import STATE_METRICS, Rollout
from wm_pipelines.metrics.statistics import summarise
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.physics.content import Content, WorldRollouts

# model -> (damping per second, phase error per second, training seconds)
MODELS = {
    "oracle/default": (0.0, 0.0, 0.0),
    "hnn/plain": (1e-5, 1e-3, 3.1),
    "hnn/structured": (1e-9, 1e-8, 0.4),
    "momentum_gnn/default": (1e-4, 4e-3, 41.0),
    "physics_informed/default": (1e-2, 2e-2, 22.0),
    "mlp/default": (5e-2, 6e-2, 18.0),
    "persistence/default": (0.0, 0.0, 0.0),
}


def oscillators(rng, episodes, time):
    """Exact unit oscillators ``[E, K, 2]``."""
    amplitude, phase = rng.uniform(0.5, 1.5, (episodes, 1)), rng.uniform(0, 2 * np.pi, (episodes, 1))
    return np.stack([amplitude * np.cos(time + phase), -amplitude * np.sin(time + phase)], axis=-1)


def orbits(rng, episodes, time):
    """Two bodies on a common circle in the plane ``[E, K, 8]``."""
    angle = time + rng.uniform(0, 2 * np.pi, (episodes, 1))
    r = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    v = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
    return np.concatenate([r, -r, v, -v], axis=-1)


def energy(z):
    return 0.5 * np.square(z).sum(axis=-1)


def imitate(model, truth, time, rng, seeds):
    """Predictions ``[S, E, K, 2d]`` that are damped and out of phase by known amounts."""
    if model.startswith("persistence"):
        return np.broadcast_to(truth[None, :, :1], (seeds, *truth.shape)).copy()
    damping, phase, _ = MODELS[model]
    spread = rng.uniform(0.7, 1.3, (seeds, 1, 1, 1))
    q, p = np.split(truth, 2, axis=-1)
    angle = spread * phase * time[:, None] * np.exp(0.05 * time[:, None])
    turned = np.concatenate([np.cos(angle) * q + np.sin(angle) * p, np.cos(angle) * p - np.sin(angle) * q], axis=-1)
    return turned * np.exp(-spread * damping * time[:, None])


def images(states, size=48):
    """Crude frames ``[F, H, W, 3]`` of a one-coordinate or planar state."""
    y, x = np.mgrid[0:size, 0:size]
    frames = np.full((len(states), size, size, 3), 245, dtype=np.uint8)
    planar = states.shape[-1] >= 8
    bodies = [(0, 1), (2, 3)] if planar else [(0, None)]
    for body, (i, j) in enumerate(bodies):
        cx = size / 2 * (1 + 0.6 * states[:, i])
        cy = size / 2 * (1 + 0.6 * states[:, j]) if j is not None else np.full(len(states), size / 2)
        near = (x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2 < 9
        frames[near] = (30, 90, 200) if body == 0 else (210, 90, 30)
    return frames


def rows_of(world, model, values, by_step, unit, metric, split):
    family, variant = model.split("/")
    knows = "angles,structure" if variant == "structured" else ""
    for seed, value in enumerate(values):
        s = summarise(value)
        row = [
            "physics",
            world,
            family,
            variant,
            "states",
            knows,
            seed,
            split,
            metric,
            -1,
            *map(float, s[:3]),
            s.n,
            unit,
        ]
        yield dict(zip(LEADERBOARD_COLUMNS, row, strict=True))
        if by_step is not None:
            steps = summarise(by_step[seed])
            for k in range(1, by_step.shape[-1], 4):
                row = [
                    "physics",
                    world,
                    family,
                    variant,
                    "states",
                    knows,
                    seed,
                    split,
                    metric,
                    k,
                    *(float(c[k]) for c in steps[:3]),
                    s.n,
                    unit,
                ]
                yield dict(zip(LEADERBOARD_COLUMNS, row, strict=True))


def build(
    worlds=("pendulum", "two_body"),
    steps=80,
    episodes=6,
    seeds=3,
    models=tuple(MODELS),
    length=20.0,
    frames=True,
    size=48,
):
    rng = np.random.default_rng(0)
    rows, rollouts, curves = [], {}, {}
    time = np.linspace(0.0, length, steps + 1)
    for world in worlds:
        planar = world.endswith("body")
        truth = (orbits if planar else oscillators)(rng, episodes, time)
        predicted = {m: imitate(m, truth, time, rng, seeds) for m in models}
        for model, states in predicted.items():
            rollout = Rollout(states, truth, time, energy=energy, lyapunov_time=3.0 if world == "three_body" else None)
            for name, metric in STATE_METRICS.items():
                if metric.applies(rollout):
                    by_step = metric.by_step(rollout) if metric.by_step else None
                    rows += rows_of(world, model, metric(rollout), by_step, metric.unit, name, "test")
            trained = MODELS[model][2] > 0
            costs = {"train_seconds": (MODELS[model][2], "s"), "parameters": (400.0 * trained, "1")}
            for name, (value, unit) in costs.items():
                rows += rows_of(world, model, np.full((seeds, 1), value), None, unit, name, "train")
            rows += rows_of(world, model, rng.uniform(0.1, 0.4, (seeds, 1)), None, "ms", "step_ms", "test")
            if trained:
                step = np.arange(0, 2000, 20)
                loss = 10 ** (-4 * step / 2000) * np.exp(0.1 * rng.normal(size=len(step)))
                curves[f"{world}/{model}"] = pd.DataFrame({"step": step, "loss": loss, "seed": 0})
        first = {m: p[0] for m, p in predicted.items()}
        rollouts[world] = WorldRollouts(
            time,
            truth,
            first,
            energy(truth),
            {m: energy(p) for m, p in first.items()},
            dof=truth.shape[-1] // 2,
            particles=2 if planar else None,
            space=2 if planar else None,
            frames={m: images(z[0, ::2], size) for m, z in {"truth": truth, **first}.items()} if frames else {},
            caption="Synthetic motion that is known exactly.",
            thresholds=(0.01, 0.4),
        )
    absent = [("burgers_1d", "hnn", "a field"), (worlds[0], "momentum_gnn/charged", "no particles")]
    where = {
        "revision": "0123abcd",
        "command": "kedro run",
        "seeds": [0, 1, 2],
        "versions": {"numpy": "2", "torch": "2"},
    }
    scores = pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS))
    return Content(Results(scores, curves=curves, not_applicable=absent, provenance=where), rollouts)


def changed(content, rollouts=None, **results):
    """The same with other results or roll-outs."""
    return Content(replace(content.results, **results), content.rollouts if rollouts is None else rollouts)
