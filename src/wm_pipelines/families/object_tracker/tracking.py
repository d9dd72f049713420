"""Paths of compact objects in a video, without any learning.

Expectation maximisation over short pieces of the paths, a mixture of round Gaussians whose means move smoothly (neural
EM, Greff, van Steenkiste, Schmidhuber 2017, is its learned relative); the pieces are joined, and then the objects'
median images are looked for by cross-correlation.

Shapes: ``B`` videos, ``T`` frames, ``L`` objects, ``N`` cells; positions in pixels, (row, column).
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from wm_pipelines.families.object_tracker.drawing import compose, crop, paste

STARTS, COARSE, FINE = 12, (8, 8), (4, 6)  # paths tried; pixels per cell and iterations of the two passes
_PIECES = ((5, 3), (4, 2))  # frames of a piece, and from one's start to the next's; what explains more is kept
_SEARCH = (6, 6, 3)  # pixels to every side in which an object is looked for, round by round


@torch.no_grad()
def track(frames: Tensor, objects: int, extent: int) -> Tensor:
    """Paths of compact objects in a video, without any learning: first roughly by their mass, then by their looks.

    Deterministic, and every video for itself.

    Args:
        frames: differences from the background ``[B, T, C, H, W]``. extent: pixels across an object.

    Returns:
        Positions ``[B, T, L, 2]``, the middle of mass of each object, the most massive object first.
    """
    mass = frames.abs().mean(2)
    tried = [_match(frames, _by_pieces(mass, objects, extent, *piece), extent, _SEARCH[0]) for piece in _PIECES]
    misfits = torch.stack([_misfit(frames, paths, extent) for paths in tried])
    paths = torch.stack(tried)[misfits.argmin(0), torch.arange(len(frames), device=frames.device)]
    for reach in _SEARCH[1:]:
        paths = _match(frames, paths, extent, reach)
    images = stabilised(frames, paths, extent).median(2).values
    order = images.abs().sum((2, 3, 4)).argsort(1, descending=True)[:, None, :, None]
    return (paths + _middle(images)[:, None]).gather(2, order.expand_as(paths))


def _misfit(frames: Tensor, paths: Tensor, extent: int) -> Tensor:
    """Mean square of what median images leave unexplained, ``[B]``."""
    images = stabilised(frames, paths, extent).median(2).values
    covered = torch.cat([images, images.abs().amax(2, keepdim=True)], 2)
    drawn = compose(_drawn(covered, paths, (frames.shape[-2], frames.shape[-1])).transpose(1, 2))
    return (drawn - frames).square().mean((1, 2, 3, 4))


def _drawn(images: Tensor, paths: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, L, C, s, s]`` at the positions ``[B, T, L, 2]`` of all times: ``[B, L, T, C, H, W]``."""
    still = images[:, :, None].expand(-1, -1, paths.shape[1], -1, -1, -1)
    return paste(still.flatten(0, 2), paths.transpose(1, 2).flatten(0, 2), size).unflatten(0, still.shape[:3])


def _by_pieces(mass: Tensor, objects: int, extent: int, length: int, hop: int) -> Tensor:
    """`track_mass` of overlapping pieces, in which nothing turns back twice, joined where they overlap.

    Args:
        mass: as for `track_mass`. length: frames of a piece. hop: frames between their starts, fewer than ``length``.

    Returns:
        Positions ``[B, T, L, 2]``.
    """
    time = mass.shape[1]
    length = min(length, time)
    starts = [*range(0, time - length, hop), time - length]
    paths = track_mass(mass[:, :length], objects, extent)
    for start in starts[1:]:
        shared = paths.shape[1] - start
        piece = _in_order(track_mass(mass[:, start : start + length], objects, extent), paths[:, start:])
        both = (paths[:, start:] + piece[:, :shared]) / 2
        paths = torch.cat([paths[:, :start], both, piece[:, shared:]], 1)
    return paths


def _in_order(piece: Tensor, before: Tensor) -> Tensor:
    """The objects of ``piece [B, T', L, 2]`` in the order in which they come nearest to ``before [B, T, L, 2]``."""
    orders = torch.tensor(list(permutations(range(piece.shape[2]))), device=piece.device)
    apart = [(piece[:, : before.shape[1], order] - before).norm(dim=-1).mean((1, 2)) for order in orders]
    best = orders[torch.stack(apart, 1).argmin(1)]
    return piece.gather(2, best[:, None, :, None].expand_as(piece))


def track_mass(mass: Tensor, objects: int, extent: int) -> Tensor:
    """A mixture of ``objects`` round Gaussians per frame, their means tied along time by second differences.

    Several straight paths are tried on coarse cells, the most likely one is refined on finer ones.

    Args:
        mass: how much each pixel differs from the background ``[B, T, H, W]``, not negative.

    Returns:
        Positions ``[B, T, L, 2]``.
    """
    cells, at = _cells(mass, COARSE[0])
    widths = torch.linspace(0.32, 0.16, COARSE[1]).mul(extent).tolist()
    paths, energy = _maximise(_straight(cells, at, objects), cells, at, widths, 1.0)
    best = paths[torch.arange(len(paths)), energy.argmin(1)][:, None]
    cells, at = _cells(mass, FINE[0])
    widths = torch.linspace(0.16, 0.13, FINE[1]).mul(extent).tolist()
    return _maximise(best, cells, at, widths, 0.3)[0][:, 0]


def _cells(mass: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Shares of the mass ``[B, T, N]`` in cells, one frame on average holding 1, and the cells' middles ``[N, 2]``."""
    pooled = avg_pool2d(mass, side)
    rows, columns = (torch.arange(n).to(mass) * side + (side - 1) / 2 for n in pooled.shape[-2:])
    shares = pooled.flatten(2)
    return shares / (shares.sum(-1).mean(-1)[:, None, None] + 1e-9), torch.cartesian_prod(rows, columns)


def _straight(cells: Tensor, at: Tensor, objects: int) -> Tensor:
    """Straight paths ``[B, S, T, L, 2]`` from a massive position of the first frame to one of the last."""
    uniform = torch.rand(2, STARTS * objects, generator=torch.Generator().manual_seed(0)).to(cells.device)
    ends = []
    for frame, u in zip((cells[:, 0], cells[:, -1]), uniform, strict=True):
        share = (frame + 1e-9).cumsum(-1)
        chosen = torch.searchsorted(share, u * share[:, -1:]).clamp(max=len(at) - 1)
        ends.append(at[chosen].reshape(len(cells), STARTS, 1, objects, 2))
    time = torch.linspace(0, 1, cells.shape[1], device=cells.device).reshape(1, 1, -1, 1, 1)
    return ends[0] + (ends[1] - ends[0]) * time


def _maximise(paths: Tensor, cells: Tensor, at: Tensor, widths: list[float], stiffness: float) -> tuple[Tensor, Tensor]:
    """Expectation maximisation of ``paths [B, S, T, L, 2]`` under falling widths; also their energies ``[B, S]``."""
    frames = paths.shape[2]
    eye = torch.eye(frames).to(cells)
    bend = eye[2:] - 2 * eye[1:-1] + eye[:-2]
    smooth = stiffness * bend.T @ bend + 1e-3 * eye
    moments = torch.cat([at, torch.ones_like(at[:, :1])], 1)
    for width in widths:
        belongs = _log_density(paths, moments, width).softmax(3) * cells[:, None, :, None]
        sums = (belongs @ moments).transpose(2, 3) * frames  # [B, S, L, T, (row, column, 1) x mass]
        system = torch.diag_embed(sums[..., 2]) + smooth
        paths = torch.linalg.solve(system, sums[..., :2] + 1e-3 * paths.transpose(2, 3)).transpose(2, 3)
    misfit = -(_log_density(paths, moments, widths[-1]).logsumexp(3) * cells[:, None]).sum((2, 3))
    bends = torch.einsum("ut,bstlc->bsulc", bend, paths).square().sum((2, 3, 4))
    return paths, misfit + 0.003 * bends


def _log_density(paths: Tensor, moments: Tensor, width: float) -> Tensor:
    """``[B, S, T, L, N]`` up to a term of the cell alone, which no comparison of objects or paths needs."""
    return torch.cat([paths, -0.5 * paths.square().sum(-1, keepdim=True)], -1) @ moments.T / width**2


def stabilised(frames: Tensor, paths: Tensor, side: int) -> Tensor:
    """Every frame cut out around every object, ``[B, L, T, C, side, side]``."""
    batch, time, objects = paths.shape[:3]
    each = frames[:, None].expand(-1, objects, -1, -1, -1, -1)
    views = crop(each.flatten(0, 2), paths.transpose(1, 2).flatten(0, 2), side)
    return views.unflatten(0, (batch, objects, time))


def _match(frames: Tensor, paths: Tensor, side: int, reach: int) -> Tensor:
    """Put each object where its median image fits best what the others leave unexplained, by cross-correlation."""
    batch, time, objects = paths.shape[:3]
    centres = paths.transpose(1, 2).flatten(0, 2)
    image = stabilised(frames, paths, side).median(2, keepdim=True).values  # [B, L, 1, C, s, s]
    drawn = _drawn(image[:, :, 0], paths, (frames.shape[-2], frames.shape[-1]))
    rest = frames[:, None] - (drawn.sum(1, keepdim=True) - drawn)
    wide, taps = side + 2 * reach, 2 * reach + 1
    seen = crop(rest.flatten(0, 2), centres, wide).unflatten(0, (batch, objects, time))
    spectrum = torch.fft.rfft2(seen) * torch.fft.rfft2(image, s=(wide, wide)).conj()
    fit = torch.fft.irfft2(spectrum, s=(wide, wide)).sum(3)[..., :taps, :taps]  # [B, L, T, taps, taps]
    return paths + (_peak(fit) - reach).transpose(1, 2)


def _peak(fit: Tensor) -> Tensor:
    """Where ``[..., n, n]`` is largest ``[..., 2]``, between pixels by the parabola through its neighbours."""
    n = fit.shape[-1]
    best = fit.flatten(-2).argmax(-1)
    around = pad(fit.flatten(0, 2), (1, 1, 1, 1), mode="replicate").reshape(*fit.shape[:3], -1)
    middle = (best // n + 1) * (n + 2) + best % n + 1
    found = []
    for stride, index in ((n + 2, best // n), (1, best % n)):
        low, top, high = (around.gather(-1, (middle + k * stride)[..., None])[..., 0] for k in (-1, 0, 1))
        inside = (index > 0) & (index < n - 1)
        found.append(index + inside * (0.5 * (low - high) / (low - 2 * top + high - 1e-9)).clamp(-0.5, 0.5))
    return torch.stack(found, -1)


def _middle(images: Tensor) -> Tensor:
    """The middle of mass of ``[..., C, s, s]`` relative to the image's middle, ``[..., 2]``."""
    mass = images.abs().mean(-3)
    at = torch.arange(mass.shape[-1], device=mass.device) - (mass.shape[-1] - 1) / 2
    return torch.stack([(mass.sum(axis) * at).sum(-1) for axis in (-1, -2)], -1) / (
        mass.sum((-2, -1))[..., None] + 1e-6
    )
