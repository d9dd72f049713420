"""How a world is carried through time, and how it proves it right: every episode checks its own energy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from types import TracebackType

import numpy as np
from tqdm.auto import tqdm

from wm_pipelines.integrators import SPLITTINGS, IntegrationError, dop853, rollout_separable
from wm_pipelines.worlds.base import Array, Float

logger = logging.getLogger(__name__)

Law = Callable[[Array], Array]

_REFINEMENTS = 6
_HOPELESS = 3.0  # allowed drifts; not 1, because kinetic energy, the scale, may still grow
_MEASURED = 1.0  # seconds of work before its rate is trusted
_LONG = 20.0  # seconds; shorter work is done without a line, longer work is never silent for longer


class Work:
    """Tells how long a simulation takes where that is long: an estimate first, then a bar or, in a log, lines.

    Args:
        world: name, for messages.
        size: what is simulated, for messages; "" where there is nothing to say.
    """

    def __init__(self, world: str, size: str) -> None:
        self.called = f"{world}: {size}" if size else world
        self.world, self.done, self.total, self.of = world, 0.0, 1.0, ""
        self._bar: tqdm | None = None
        self._begun = self._spoken = time.monotonic()

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self, total: float, of: str = "") -> None:
        """``total`` units of work are to be done from here on; ``of`` names them in the estimate."""
        self.done, self.total, self.of, self._begun = 0.0, total, of, time.monotonic()
        if self._bar is not None:
            self._bar.reset(total=total)

    def drop(self, amount: float) -> None:
        """``amount`` of what was expected need not be done."""
        self.total -= amount
        if self._bar is not None:
            self._bar.total = self.total

    def add(self, amount: float) -> None:
        """``amount`` was done."""
        self.done += amount
        now = time.monotonic()
        left = (now - self._begun) * max(0.0, self.total / self.done - 1.0) if self.done > 0.0 else math.inf
        if self._bar is not None:
            self._bar.update(amount)
            if self._bar.disable and now - self._spoken >= _LONG:
                self._spoken = now
                share = 100.0 * min(1.0, self.done / self.total)
                logger.info("%s: %.0f %% done, about %s left.", self.world, share, duration(left))
            return
        # What stands still has no estimate, and says so after a while.
        silence = now - self._spoken + (left if self.done > 0.0 else 0.0)
        if now - self._begun < _MEASURED or silence < _LONG:
            return
        self._spoken = now
        work = f", about {self.total:,.0f} {self.of}" if self.of else ""
        logger.info("%s%s, about %s.", self.called, work, duration(left))
        self._bar = tqdm(
            total=self.total, initial=self.done, desc=self.world, leave=False, mininterval=0.5, disable=None,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
        )  # fmt: skip

    def reach(self, done: float) -> None:
        """``done`` units are done by now."""
        self.add(done - self.done)

    def note(self, message: str, *values: object) -> None:
        """A log line, if this work is long enough to be spoken of."""
        if self._bar is not None:
            self._spoken = time.monotonic()
            logger.info(message, *values)

    def counting(self, law: Law) -> Law:
        """The law ``[rows, d] -> [rows, d]``, every row counted as one unit of work."""

        def counted(q: Array) -> Array:
            values = law(q)
            self.add(q.shape[0])
            return values

        return counted


def duration(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400.0 else f"{seconds / 3600:.1f} h"


def energy_drift(states: Float, energy: Law, kinetic: Law) -> Float:
    """Largest ``|H(t) - H(0)|`` of every episode over its largest kinetic energy: ``[E, K, 2d] -> [E]``.

    Kinetic energy is the scale because, unlike H, it has no arbitrary zero. An episode at rest has drift 0.
    """
    values = energy(states)
    drift = np.abs(values - values[:, :1]).max(axis=1)
    # Rounding (and underflow) of H itself, which is all there is to see in an episode (almost) at rest.
    floor = 16 * np.finfo(np.float64).eps * np.abs(values).max(axis=1) + 1e-290
    scale = kinetic(states).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(drift <= floor, 0.0, drift / scale)


def _failed(drift: Float, tolerance: float) -> np.ndarray:
    return np.flatnonzero(~(drift <= tolerance))  # written so that NaN fails


def check_energy(world: str, states: Float, energy: Law, kinetic: Law, tolerance: float) -> None:
    """Refuse episodes that do not keep their energy.

    Raises:
        IntegrationError: names the first such episode, its drift and the tolerance.
    """
    drift = energy_drift(states, energy, kinetic)
    failed = _failed(drift, tolerance)
    if failed.size:
        raise IntegrationError(
            f"{world}: episode {failed[0]} fails its energy check (relative drift {drift[failed[0]]:.1e}, allowed "
            f"{tolerance:.0e}; {failed.size} of {drift.size} episodes fail); use a shorter step or gentler start states"
        )


def simulate_separable(
    world: str,
    z0: Float,
    step: float,
    steps: int,
    *,
    velocity: Law,
    force: Law,
    energy: Law,
    kinetic: Law,
    longest: float,
    tolerance: float = 1e-10,
    chunk: int | None = None,
    size: str = "",
    thrifty: bool = False,
) -> Float:
    """Simulate ``H = p^2 / 2m + V(q)`` by Blanes and Moan's order 6, sub-stepped until every episode keeps its energy.

    Args:
        world: name, for messages.
        z0: start states ``[E, 2d]``.
        step: seconds between rows.
        steps: rows after the start.
        velocity: ``p -> dT/dp``.
        force: ``q -> -dV/dq``.
        energy: ``z -> H``.
        kinetic: ``z -> T``.
        longest: longest sub-step in seconds to begin with; episodes that fail the check are redone with half of it.
        tolerance: allowed `energy_drift`.
        chunk: rows simulated together, see `rollout_separable`.
        size: what is simulated, for the log line of long work.
        thrifty: leave an episode as soon as its energy is clearly lost instead of at its end, and shorten the sub-step
            by what its drift calls for instead of by half. The check is the same, the sub-step that passes it is not.

    Returns:
        ``[E, steps + 1, 2d]``.

    Raises:
        IntegrationError: an episode fails its energy check with the shortest sub-step too.
    """
    scheme = "blanes_moan6"
    kicks = len(SPLITTINGS[scheme].kicks) - 1  # the last of a step and the first of the next share their force
    substeps = max(1, math.ceil(abs(step) / longest))
    finest = substeps * 2**_REFINEMENTS
    todo, states = np.arange(z0.shape[0]), np.empty((z0.shape[0], steps + 1, z0.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"), Work(world, size) as work:
        law = (velocity, work.counting(force), scheme)
        while True:
            work.expect(todo.size * steps * substeps * kicks, "force evaluations")
            part = np.full((todo.size, steps + 1, z0.shape[1]), np.nan)
            part[:, 0] = z0[todo]
            drift, going, first = np.empty(todo.size), np.arange(todo.size), 0
            while first < steps and going.size:
                # Looked at after 1, 3, 7 … rows: all looks together cost what two at the end do.
                last = min(2 * first + 1, steps) if thrifty and substeps < finest else steps
                rows = rollout_separable(part[going, first], step, last - first, *law, substeps, chunk)
                part[going, first + 1 : last + 1] = rows[:, 1:]
                drift[going] = energy_drift(part[going, : last + 1], energy, kinetic)
                if last < steps:
                    lost = _failed(drift[going], _HOPELESS * tolerance)
                    work.drop(lost.size * (steps - last) * substeps * kicks)
                    going = np.delete(going, lost)
                first = last
            states[todo] = part
            failed = _failed(drift, tolerance) if steps else going[:0]
            if failed.size == 0:
                return states
            if substeps == finest:
                break
            todo, longer = todo[failed], substeps
            substeps = min(finest, math.ceil(substeps * (_refinement(drift[failed], tolerance) if thrifty else 2.0)))
            work.note(
                "%s: %d of %d episodes do not keep their energy; again with %d sub-steps a row instead of %d.",
                world, todo.size, z0.shape[0], substeps, longer,
            )  # fmt: skip
    check_energy(world, states, energy, kinetic, tolerance)
    return states


def _refinement(drift: Float, tolerance: float) -> float:
    """How many times shorter sub-steps must be for the worst of these drifts to be allowed."""
    worst = float(drift.max()) / tolerance
    # Order 4 instead of 6: where bodies pass each other closely, sub-steps this long are not yet asymptotic.
    return min(max(1.1 * worst**0.25, 1.2), 4.0) if math.isfinite(worst) else 4.0


def simulate_adaptive(
    world: str,
    z0: Float,
    step: float,
    steps: int,
    *,
    dynamics: Law,
    energy: Law,
    kinetic: Law,
    tolerance: float = 1e-9,
    accuracy: float = 1e-12,
    size: str = "",
) -> Float:
    """Simulate any law by DOP853, every episode with step sizes of its own; for close encounters and for chaos.

    Args:
        world: name, for messages.
        z0: start states ``[E, 2d]``.
        step: seconds between rows.
        steps: rows after the start.
        dynamics: ``z -> dz/dt``.
        energy: ``z -> H``.
        kinetic: ``z -> T``.
        tolerance: allowed `energy_drift`.
        accuracy: relative and absolute tolerance of DOP853.
        size: what is simulated, for the log line of long work.

    Returns:
        ``[E, steps + 1, 2d]``.

    Raises:
        IntegrationError: an episode cannot be integrated (a collision), or fails its energy check.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"), Work(world, size) as work:
            work.expect(steps)
            states = dop853(dynamics, z0, step, steps, accuracy, accuracy, progress=work.reach)
    except IntegrationError as error:
        raise IntegrationError(f"{world}: {error}") from None
    check_energy(world, states, energy, kinetic, tolerance)
    return states
