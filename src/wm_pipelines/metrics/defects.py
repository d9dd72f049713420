"""Where a world model loses the law: in what can be read, in what it encodes, or in what it predicts.

Three errors of the same physical quantity at the same times, read by the same probe, from latents that differ at the
predicted times alone:

- *reading*: of the true frames. What the probe cannot read there, no prediction can show.
- *encoding*: of what is left of the true frames after the model's own round trip, ``Enc(Dec(Enc(x)))``. A family that
  does not decode its encodings predicts those of true frames: its target is what *reading* was done on, and the two are
  equal.
- *dynamics*: predicted.

Every stage contains the one before: what a stage adds is the difference of the squares. Axes: ``S`` seeds, ``M``
predictions, ``K`` predicted steps, ``d`` degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.conservation import energy_scale
from wm_pipelines.metrics.horizon import spread
from wm_pipelines.metrics.prediction import infinite_where_undefined, state_error

Float = NDArray[np.float64]

STAGES = ("reading", "encoding", "dynamics")


def law_errors(
    read: Float, truth: Float, energy: Callable[[Any], Any] | None = None, angles: Sequence[int] = ()
) -> dict[str, Float]:
    """Errors of what was read, in units of the truth's spread: quantity -> ``[S, M, K]``, dimensionless.

    ``position`` and ``velocity`` (of momenta): root mean square over the coordinates, in units of `spread`. ``energy``,
    where it is known: ``|E - E_true|`` in units of its standard deviation over all predictions and steps, so that the
    mean of the truth scores about 1; where all have the same energy, of its natural scale.

    Args:
        read: states read ``[S, M, K, 2d]``. truth: ``[M, K, 2d]``. energy: ``z -> [...]``, J. angles: see `spread`.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = infinite_where_undefined(state_error(read, truth, angles) / spread(truth, angles))
        halves = np.sqrt(np.square(scaled).reshape(*scaled.shape[:-1], 2, -1).mean(axis=-1))
        found = {"position": halves[..., 0], "velocity": halves[..., 1]}
        if energy is not None:
            true = np.asarray(energy(truth), np.float64)
            unit, natural = float(true.std()), energy_scale(truth, energy)
            unit = unit if unit > 1e-9 * natural else natural
            off = np.abs(np.asarray(energy(read), np.float64) - true)
            found["energy"] = infinite_where_undefined(off / unit if unit > 0 else off)
    return found


def losses(errors: Mapping[str, float]) -> dict[str, float]:
    """What each stage adds, as squares of the errors that `STAGES` name: they sum to that of the last, none negative.

    A stage that happens to lower the error adds nothing, and the next is counted from the largest before it.
    """
    added, before = {}, 0.0
    for stage in STAGES:
        square = float(errors[stage]) ** 2
        added[stage] = max(square - before, 0.0) if np.isfinite(square) else np.inf
        before = max(before, square)
    return added
