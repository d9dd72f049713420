"""What share of nominal 95 % intervals contains the truth: means, rates, R², seeds and episodes, pairs, sets.

Every row draws many samples of a distribution whose mean is known and counts the intervals that contain it; the share
has a standard error of ``√(p (1 - p) / samples)``. Beside ours stands what is usual: Student's t for means, Wilson's
interval for rates, the percentile bootstrap over episodes for R², Satterthwaite's degrees of freedom for seeds and
episodes. All draws have fixed seeds.

Run: ``python -m benchmarks.interval_coverage``; writes ``benchmarks/results/interval_coverage.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from wm_pipelines.metrics.comparison import best_set, paired_difference
from wm_pipelines.metrics.explained import explained_variance
from wm_pipelines.metrics.ranges import RATE
from wm_pipelines.metrics.statistics import pool_seeds, pooled, summarise, t_quantile

ROOT = Path(__file__).resolve().parent
EPISODES = 20
Rows = Iterator[dict[str, Any]]
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

MEANS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda r, s: r.normal(size=s), 0.0),
    "uniform": (lambda r, s: r.uniform(size=s), 0.5),
    "Laplace": (lambda r, s: r.laplace(size=s), 0.0),
    "Student t, 4 degrees of freedom": (lambda r, s: r.standard_t(4, s), 0.0),
    "Student t, 3 degrees of freedom": (lambda r, s: r.standard_t(3, s), 0.0),
    "gamma, shape 2": (lambda r, s: r.gamma(2, size=s), 2.0),
    "exponential": (lambda r, s: r.exponential(size=s), 1.0),
    "squared normal": (lambda r, s: r.normal(size=s) ** 2, 1.0),
    "lognormal, sigma 0.5": (lambda r, s: r.lognormal(0, 0.5, s), np.exp(0.125)),
    "lognormal, sigma 0.75": (lambda r, s: r.lognormal(0, 0.75, s), np.exp(0.75**2 / 2)),
    "lognormal, sigma 1": (lambda r, s: r.lognormal(0, 1, s), np.exp(0.5)),
    "lognormal, sigma 1.5": (lambda r, s: r.lognormal(0, 1.5, s), np.exp(1.125)),
    "lognormal, sigma 2": (lambda r, s: r.lognormal(0, 2, s), np.exp(2.0)),
    "zero in 9 of 10, else exponential": (lambda r, s: (r.random(s) < 0.1) * r.exponential(size=s), 0.1),
}
RATES: dict[str, tuple[Draw, float]] = {
    **{f"yes or no, p = {p}": (lambda r, s, p=p: 1.0 * (r.random(s) < p), p) for p in (0.1, 0.2, 0.3, 0.5, 0.8, 0.9)},
    "share of steps, beta(½, ½)": (lambda r, s: r.beta(0.5, 0.5, s), 0.5),
    "share of steps, beta(2, 2)": (lambda r, s: r.beta(2, 2, s), 0.5),
    "share of steps, beta(0.1, 1)": (lambda r, s: r.beta(0.1, 1, s), 1 / 11),
    "share of steps, 0 in 9 of 10": (lambda r, s: (r.random(s) < 0.1) * r.random(s), 0.05),
    "share of steps, 0 in 7 of 10": (lambda r, s: (r.random(s) < 0.3) * r.random(s), 0.15),
}
# Errors of a unit variance: of every step, and one for all steps of an episode.
ERRORS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda r, s: r.normal(size=s), 1.0),
    "exponential": (lambda r, s: r.exponential(size=s), 2.0),
    "Laplace": (lambda r, s: r.laplace(size=s), 2.0),
    "Student t, 5 degrees of freedom": (lambda r, s: r.standard_t(5, s), 5 / 3),
    "Student t, 4 degrees of freedom": (lambda r, s: r.standard_t(4, s), 2.0),
    "Student t, 3 degrees of freedom": (lambda r, s: r.standard_t(3, s), 3.0),
}


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of the intervals that contain the truth."""
    return float(np.mean((low <= truth) & (truth <= high)))


def ratio(width: np.ndarray, other: np.ndarray) -> float:
    """Of the medians; NaN where most samples show no spread."""
    return float(np.median(width) / np.median(other)) if np.median(other) > 0 else np.nan


def means(samples: int) -> Rows:
    """Ours and Student's t."""
    for name, (draw, truth) in MEANS.items():
        for n in (5, 8, 20, 60):
            x = draw(np.random.default_rng(1), (n, samples))
            s, half = summarise(x), t_quantile(n - 1, 0.95) * stats.sem(x)
            width = ratio(s.ci_high - s.ci_low, 2 * half)
            student = covered(s.value - half, s.value + half, truth)
            yield row("mean", name, n, covered(s.ci_low, s.ci_high, truth), student, "Student's t", width)


def rates(samples: int) -> Rows:
    """Ours and Wilson's."""
    z2 = stats.norm.ppf(0.975) ** 2
    for name, (draw, truth) in RATES.items():
        for n in (5, 8, 20, 60):
            s = summarise(draw(np.random.default_rng(2), (n, samples)), within=RATE)
            centre, half = s.value + z2 / (2 * n), np.sqrt(z2 * s.value * (1 - s.value) / n + z2**2 / (4 * n * n))
            low, high = ((centre + sign * half) / (1 + z2 / n) for sign in (-1, 1))
            width = ratio(s.ci_high - s.ci_low, high - low)
            yield row("rate", name, n, covered(s.ci_low, s.ci_high, truth), covered(low, high, truth), "Wilson", width)


def explained(samples: int, steps: int = 6) -> Rows:
    """Ours and the percentile bootstrap; half of the truth's variance lies between episodes."""
    weights = np.random.default_rng(0).multinomial(EPISODES, np.full(EPISODES, 1 / EPISODES), size=500)
    for shared in (False, True):
        for name, (draw, variance) in ERRORS.items():
            rng, hits, plain, widths = np.random.default_rng(3), 0, 0, []
            for _ in range(samples):
                truth = rng.normal(size=(EPISODES, steps, 1)) + rng.normal(size=(EPISODES, 1, 1))
                error = draw(rng, (EPISODES, 1 if shared else steps, 1)) * np.ones((1, steps, 1))
                s = explained_variance(truth + 0.5 * error, truth)
                exact = 1 - 0.25 * variance / 2
                left, around = (0.25 * error**2).sum((1, 2)), np.square(truth - truth.mean()).sum((1, 2))
                low, high = np.quantile(1 - (weights @ left) / (weights @ around), [0.025, 0.975])
                hits += bool(s.ci_low <= exact <= s.ci_high)
                plain += bool(low <= exact <= high)
                widths.append((s.ci_high - s.ci_low) / (high - low))
            where = "one per episode" if shared else "of every step"
            shares = hits / samples, plain / samples
            yield row(
                "R²", f"errors {where}, {name}", EPISODES, *shares, "percentile bootstrap", float(np.median(widths))
            )


def satterthwaite(x: np.ndarray) -> tuple[float, float]:
    """The usual interval for a mean over crossed seeds and episodes."""
    seeds, episodes = x.shape
    of_seeds, of_episodes = x.mean(1), x.mean(0)
    rest = x - of_seeds[:, None] - of_episodes + x.mean()
    parts = [
        (of_seeds.var(ddof=1) / seeds, seeds - 1),
        (of_episodes.var(ddof=1) / episodes, episodes - 1),
        (np.square(rest).sum() / ((seeds - 1) * (episodes - 1)) / x.size, (seeds - 1) * (episodes - 1)),
    ]
    variance = max(parts[0][0] + parts[1][0] - parts[2][0], parts[1][0])
    degrees = max(variance**2 / sum(v**2 / d for v, d in parts), 1.0)
    half = t_quantile(degrees, 0.95) * np.sqrt(variance)
    return float(x.mean() - half), float(x.mean() + half)


def crossed(samples: int) -> Rows:
    """Seeds and episodes: ours from all values, ours from every seed's interval, Satterthwaite's."""
    for seeds in (2, 3, 5):
        for effect in (0.0, 0.3, 1.0, 3.0):
            for shape, of_episodes in (("normal", lambda r, s: r.normal(size=s)), ("exponential", centred_exponential)):
                rng, hits = np.random.default_rng(4), np.zeros(3)
                widths = []
                for _ in range(samples):
                    x = effect * rng.normal(size=(seeds, 1)) + of_episodes(rng, (1, EPISODES))
                    x = x + of_episodes(rng, (seeds, EPISODES))
                    one = summarise(x.T)
                    found = [pooled(x)[1:3], pool_seeds(one.value, one.ci_low, one.ci_high)[1:3], satterthwaite(x)]
                    hits += [low <= 0.0 <= high for low, high in found]
                    widths.append((found[0][1] - found[0][0]) / (found[2][1] - found[2][0]))
                ours, by_seed, usual = hits / samples
                name = f"{seeds} seeds, effect {effect:g}, {shape} episodes"
                yield row(
                    "seeds and episodes", name, EPISODES, ours, usual, "Satterthwaite", float(np.median(widths))
                ) | {"from_intervals_of_seeds": by_seed}


def centred_exponential(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Skewed, mean 0, variance 1."""
    return rng.exponential(size=shape) - 1.0


def pairs(samples: int) -> Rows:
    """The difference of two models on the same episodes: ours, and the interval of unpaired episodes."""
    for seeds in (1, 3):
        for name, draw in {"normal": lambda r, s: r.normal(size=s), "exponential": centred_exponential}.items():
            rng, hits, plain, widths = np.random.default_rng(5), 0, 0, []
            for _ in range(samples):
                hard = 3.0 * draw(rng, (1, EPISODES))
                a, b = (
                    hard
                    + draw(rng, (1, EPISODES))
                    + rng.normal(size=(seeds, 1)) * (seeds > 1)
                    + draw(rng, (seeds, EPISODES))
                    for _ in range(2)
                )
                s = paired_difference(a, b)
                hits += bool(s.ci_low <= 0.0 <= s.ci_high)
                test = stats.ttest_ind(a.mean(0), b.mean(0)).confidence_interval()
                plain += bool(test.low <= 0.0 <= test.high)
                widths.append((s.ci_high - s.ci_low) / (test.high - test.low))
            text = f"{seeds} seed{'s' * (seeds > 1)}, {name}"
            yield row("pair", text, EPISODES, hits / samples, plain / samples, "unpaired t", float(np.median(widths)))


def sets(samples: int, models: int = 10) -> Rows:
    """How often the model that is best in truth, by 2 % of its error, is in the set; how often it has the best mean."""
    for seeds, scatter, unequal in (
        (1, 0.0, False), (3, 0.0, False), (2, 0.3, False), (3, 0.3, False), (3, 1.0, False), (5, 1.0, False),
        (2, 0.3, True), (3, 0.3, True),
    ):  # fmt: skip
        rng, hits, first, sizes = np.random.default_rng(6), 0, 0, []
        for _ in range(samples):
            hard = rng.lognormal(0, 1, (1, EPISODES))
            values = {}
            for i in range(models):
                own = scatter * (rng.lognormal(0, 1) if unequal else 1.0)
                of_seeds = rng.lognormal(0, own, (seeds, 1))
                values[str(i)] = (1.0 if i else 0.98) * hard * of_seeds * rng.lognormal(0, 0.5, (seeds, EPISODES))
            among = best_set(values, True, (0.0, np.inf))
            hits += "0" in among
            first += min(values, key=lambda m: values[m].mean()) == "0"
            sizes.append(len(among))
        text = f"{models} models, {seeds} seed{'s' * (seeds > 1)} that scatter by {scatter:g}{', unequally' * unequal}"
        yield row(
            "best set", text, EPISODES, hits / samples, first / samples, "the best mean alone", float(np.mean(sizes))
        )


def row(kind: str, name: str, n: int, ours: float, peer: float, peer_is: str, size: float) -> dict[str, Any]:
    """One line of the table; ``size``: the median width in units of the peer's, of a set the number of its models."""
    return {
        "name": f"{kind}: {name}, n = {n}",
        "kind": kind,
        "values": name,
        "n": n,
        "ours": float(ours),
        "peer": float(peer),
        "ratio": float(ours / max(peer, 1e-9)),
        "peer_is": peer_is,
        "models_in_set" if kind == "best set" else "relative_width": size if np.isfinite(size) else None,
    }


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20000, help="samples of every row; of the slow rows a tenth")
    samples = parser.parse_args().samples
    few, rows = max(samples // 10, 1), []
    for kind in (means(samples), rates(samples), explained(few), crossed(few), pairs(few), sets(max(few // 4, 1))):
        for one in kind:
            rows.append(one)
            print(
                f"{one['name']:88} {100 * one['ours']:5.1f} %   {one['peer_is']}: {100 * one['peer']:5.1f} %",
                flush=True,
            )
    worst = min((r for r in rows if r["n"] == EPISODES and r["values"] in _PROMISED), key=lambda r: r["ours"])
    result = {
        "name": f"interval_coverage: {worst['name']} (the worst of those promised)",
        **{key: worst[key] for key in ("ours", "peer", "ratio", "peer_is")},
        "unit": "share of nominal 95 % intervals that contain the truth",
        "repeats": samples,
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "scipy")} | {"python": platform.python_version()},
        "comparisons": rows,
    }
    path = ROOT / "results" / "interval_coverage.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


_TOO_MUCH = {*(f"lognormal, sigma {s}" for s in ("1", "1.5", "2")), "zero in 9 of 10, else exponential"}
_PROMISED = {*MEANS, *RATES} - _TOO_MUCH

if __name__ == "__main__":
    main()
