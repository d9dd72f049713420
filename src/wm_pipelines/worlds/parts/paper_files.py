"""Episodes from the files of Greydanus et al., *Hamiltonian Neural Networks* (NeurIPS 2019), instead of a simulation.

The folder holds, per system, the training set as the paper's published generator writes it (``<name>_seed0.npz``) and
starts with references for judging roll-outs (``eval_<name>.npz``, integrated to 1e-12 and better). Laws and parameters
stay those of the world that reads them; only the numbers come from the files.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import World

Float = NDArray[np.float64]
# World -> name of its files, rows per training trajectory, last time of a training trajectory in seconds.
_SYSTEMS = {
    "mass_spring": ("spring", 30, 3.0),
    "pendulum": ("pend", 45, 3.0),
    "two_body": ("2body", 50, 20.0),
    "three_body": ("3body", 20, 5.0),
}


def read_paper_files(folder: str | Path, world: World) -> dict[str, Episodes]:
    """Splits ``train`` and ``validation`` (the paper's test set), and ``B``, ``C`` or ``test`` to judge on.

    Args:
        folder: where the files lie. world: a ``mass_spring``, ``pendulum``, ``two_body`` or ``three_body``.

    Raises:
        UserError: the paper has no such system, or a file is missing or damaged.
    """
    if world.name not in _SYSTEMS:
        raise UserError(f"the paper's files hold no world '{world.name}'; they hold {', '.join(_SYSTEMS)}")
    name, rows, end = _SYSTEMS[world.name]
    data, judged = _load(Path(folder) / f"{name}_seed0.npz"), _load(Path(folder) / f"eval_{name}.npz")
    time = np.linspace(0.0, end, rows)
    bodies = {"2body": 2, "3body": 3}.get(name, 0)
    x, dx = ("coords", "dcoords") if bodies else ("x", "dx")
    try:
        splits = {
            split: _episodes(world, _by_body(data[prefix + x], bodies), _by_body(data[prefix + dx], bodies), time)
            for split, prefix in (("train", ""), ("validation", "test_"))
        }
        if bodies:
            references = {"test": _phase_space(judged["ref_DOP853_1e13"])}
        else:
            references = {split: judged[f"ref_{split}"] for split in ("B", "C")}
        return splits | {split: _episodes(world, z, None, judged["t"]) for split, z in references.items()}
    except KeyError as missing:
        raise UserError(f"the paper's files of '{name}' in '{folder}' lack the array {missing}") from None
    except UserError:
        raise
    except (ValueError, IndexError) as problem:  # arrays of other shapes than the paper's
        raise UserError(f"the paper's files of '{name}' in '{folder}' do not fit: {_first_line(problem)}") from None


def _load(path: Path) -> dict[str, Float]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"'{path}' cannot be read (one array, no .npz); get the file again")
        with file:
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; give the folder with the paper's files, or null to simulate") from None
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"'{path}' does not fit into memory; is it the paper's file?") from None
    # The last is what zipfile raises where a damaged header speaks of an unknown compression, or of a password.
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error, RuntimeError) as problem:
        raise UserError(f"'{path}' cannot be read ({_first_line(problem)}); get the file again") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"'{path}', array '{name}': not all numbers are finite; get the file again")
    return arrays


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)


def _episodes(world: World, state: Float, derivative: Float | None, time: Float) -> Episodes:
    """Rows in a column ``[E K, 2d]`` or episodes ``[E, K, 2d]``."""
    shape = (-1, len(time), state.shape[-1])
    state = np.ascontiguousarray(state.reshape(shape))
    views = {
        "times": np.tile(time, (len(state), 1)),
        "states": state,
        "derivatives": None if derivative is None else np.ascontiguousarray(derivative.reshape(shape)),
    }
    return world.episodes(views, float(time[1] - time[0]), {"source": "Greydanus et al. 2019"})


def _by_body(columns: Float, bodies: int) -> Float:
    """Columns ``qx1 … qy1 … px1 … py1 …`` to ``(x1, y1, x2, y2, …)`` of positions, then of momenta; 0 bodies: none."""
    if not bodies:
        return columns
    grid = columns.reshape(-1, 2, 2, bodies)
    return np.swapaxes(grid, -1, -2).reshape(columns.shape)


def _phase_space(reference: Float) -> Float:
    """``[E, n, (m, x, y, vx, vy), K]`` to states ``[E, K, 4 n]`` with ``p = m v``."""
    rows = np.moveaxis(reference, -1, 1)
    q, p = rows[..., 1:3], rows[..., :1] * rows[..., 3:5]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in (q, p)], axis=-1)
