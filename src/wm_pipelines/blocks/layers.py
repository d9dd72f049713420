"""Videos as layers: a still background and a few compact things that move over it, each a picture and a place.

The encoder follows the things by expectation maximisation over short pieces of their paths, a mixture of round
Gaussians whose means move smoothly (neural EM, Greff, van Steenkiste, Schmidhuber 2017, is its learned relative), joins
the pieces, and then looks for the things' median pictures by cross-correlation. Learned networks see a thing held
still, make its picture, and move its place. Layers: Wang, Adelson, *Representing moving images with layers* (1994);
learned from video: Hsieh et al., *Learning to decompose and disentangle representations for video prediction* (2018).

Shapes: ``B`` videos, ``T`` frames, ``K`` predicted frames, ``L`` layers, ``N`` cells; places in pixels, (row, column).
"""

from __future__ import annotations

import math
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, pad, pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.errors import UserError
from wm_pipelines.blocks.frame_predictor import Residual

_STARTS, _COARSE, _FINE = 12, (8, 8), (4, 6)  # paths tried; pixels per cell and iterations of the two passes
_PIECES = ((5, 3), (4, 2))  # frames of a piece, and from one's start to the next's; what explains more is kept
_SEARCH = (6, 6, 3)  # pixels to every side in which a thing is looked for, round by round
_WAVES = 5  # octaves of position, so that a wall can be sharp
_BLURS = (1.0, 2.5)  # pixels, of the pictures that an uncertain place is drawn with


# ----------------------------------------------------------------------------------------------------- following


@torch.no_grad()
def follow(frames: Tensor, layers: int, extent: int) -> Tensor:
    """Paths of compact things in a video, without any learning: first roughly by their mass, then by their looks.

    Deterministic, and every video for itself.

    Args:
        frames: differences from the background ``[B, T, C, H, W]``. extent: pixels across a thing.

    Returns:
        Places ``[B, T, L, 2]``, the middle of mass of each thing, the most massive thing first.
    """
    mass = frames.abs().mean(2)
    tried = [_match(frames, _by_pieces(mass, layers, extent, *piece), extent, _SEARCH[0]) for piece in _PIECES]
    misfits = torch.stack([_misfit(frames, paths, extent) for paths in tried])
    paths = torch.stack(tried)[misfits.argmin(0), torch.arange(len(frames), device=frames.device)]
    for reach in _SEARCH[1:]:
        paths = _match(frames, paths, extent, reach)
    pictures = _stabilised(frames, paths, extent).median(2).values
    order = pictures.abs().sum((2, 3, 4)).argsort(1, descending=True)[:, None, :, None]
    return (paths + _middle(pictures)[:, None]).gather(2, order.expand_as(paths))


def _misfit(frames: Tensor, paths: Tensor, extent: int) -> Tensor:
    """Mean square of what median pictures leave unexplained, ``[B]``."""
    pictures = _stabilised(frames, paths, extent).median(2).values
    covered = torch.cat([pictures, pictures.abs().amax(2, keepdim=True)], 2)
    drawn = compose(_drawn(covered, paths, (frames.shape[-2], frames.shape[-1])).transpose(1, 2))
    return (drawn - frames).square().mean((1, 2, 3, 4))


def _drawn(pictures: Tensor, paths: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, L, C, s, s]`` at the places ``[B, T, L, 2]`` of all times: ``[B, L, T, C, H, W]``."""
    still = pictures[:, :, None].expand(-1, -1, paths.shape[1], -1, -1, -1)
    return place(still.flatten(0, 2), paths.transpose(1, 2).flatten(0, 2), size).unflatten(0, still.shape[:3])


def _by_pieces(mass: Tensor, layers: int, extent: int, length: int, hop: int) -> Tensor:
    """`follow_mass` of overlapping pieces, in which nothing turns back twice, joined where they overlap.

    Args:
        mass: as for `follow_mass`. length: frames of a piece. hop: frames between their starts, fewer than ``length``.

    Returns:
        Places ``[B, T, L, 2]``.
    """
    time = mass.shape[1]
    length = min(length, time)
    starts = [*range(0, time - length, hop), time - length]
    paths = follow_mass(mass[:, :length], layers, extent)
    for start in starts[1:]:
        shared = paths.shape[1] - start
        piece = _in_order(follow_mass(mass[:, start : start + length], layers, extent), paths[:, start:])
        both = (paths[:, start:] + piece[:, :shared]) / 2
        paths = torch.cat([paths[:, :start], both, piece[:, shared:]], 1)
    return paths


def _in_order(piece: Tensor, before: Tensor) -> Tensor:
    """The layers of ``piece [B, T', L, 2]`` in the order in which they come nearest to ``before [B, T, L, 2]``."""
    orders = torch.tensor(list(permutations(range(piece.shape[2]))), device=piece.device)
    apart = [(piece[:, : before.shape[1], order] - before).norm(dim=-1).mean((1, 2)) for order in orders]
    best = orders[torch.stack(apart, 1).argmin(1)]
    return piece.gather(2, best[:, None, :, None].expand_as(piece))


def follow_mass(mass: Tensor, layers: int, extent: int) -> Tensor:
    """A mixture of ``layers`` round Gaussians per frame, their means tied along time by second differences.

    Several straight paths are tried on coarse cells, the most likely one is refined on finer ones.

    Args:
        mass: how much each pixel differs from the background ``[B, T, H, W]``, not negative.

    Returns:
        Places ``[B, T, L, 2]``.
    """
    cells, at = _cells(mass, _COARSE[0])
    widths = torch.linspace(0.32, 0.16, _COARSE[1]).mul(extent).tolist()
    paths, energy = _maximise(_straight(cells, at, layers), cells, at, widths, 1.0)
    best = paths[torch.arange(len(paths)), energy.argmin(1)][:, None]
    cells, at = _cells(mass, _FINE[0])
    widths = torch.linspace(0.16, 0.13, _FINE[1]).mul(extent).tolist()
    return _maximise(best, cells, at, widths, 0.3)[0][:, 0]


def _cells(mass: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Shares of the mass ``[B, T, N]`` in cells, one frame on average holding 1, and the cells' middles ``[N, 2]``."""
    pooled = avg_pool2d(mass, side)
    rows, columns = (torch.arange(n, device=mass.device) * side + (side - 1) / 2 for n in pooled.shape[-2:])
    shares = pooled.flatten(2)
    return shares / (shares.sum(-1).mean(-1)[:, None, None] + 1e-9), torch.cartesian_prod(rows, columns)


def _straight(cells: Tensor, at: Tensor, layers: int) -> Tensor:
    """Straight paths ``[B, S, T, L, 2]`` from a massive place of the first frame to one of the last."""
    uniform = torch.rand(2, _STARTS * layers, generator=torch.Generator().manual_seed(0)).to(cells.device)
    ends = []
    for frame, u in zip((cells[:, 0], cells[:, -1]), uniform, strict=True):
        share = (frame + 1e-9).cumsum(-1)
        chosen = torch.searchsorted(share, u * share[:, -1:]).clamp(max=len(at) - 1)
        ends.append(at[chosen].reshape(len(cells), _STARTS, 1, layers, 2))
    time = torch.linspace(0, 1, cells.shape[1], device=cells.device).reshape(1, 1, -1, 1, 1)
    return ends[0] + (ends[1] - ends[0]) * time


def _maximise(paths: Tensor, cells: Tensor, at: Tensor, widths: list[float], stiffness: float) -> tuple[Tensor, Tensor]:
    """Expectation maximisation of ``paths [B, S, T, L, 2]`` under falling widths; also their energies ``[B, S]``."""
    frames = paths.shape[2]
    eye = torch.eye(frames, device=cells.device)
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
    """``[B, S, T, L, N]`` up to a term of the cell alone, which no comparison of layers or paths needs."""
    return torch.cat([paths, -0.5 * paths.square().sum(-1, keepdim=True)], -1) @ moments.T / width**2


def _stabilised(frames: Tensor, paths: Tensor, side: int) -> Tensor:
    """Every frame cut out around every thing, ``[B, L, T, C, side, side]``."""
    batch, time, layers = paths.shape[:3]
    each = frames[:, None].expand(-1, layers, -1, -1, -1, -1)
    views = crop(each.flatten(0, 2), paths.transpose(1, 2).flatten(0, 2), side)
    return views.unflatten(0, (batch, layers, time))


def _match(frames: Tensor, paths: Tensor, side: int, reach: int) -> Tensor:
    """Put each thing where its median picture fits best what the others leave unexplained, by cross-correlation."""
    batch, time, layers = paths.shape[:3]
    centres = paths.transpose(1, 2).flatten(0, 2)
    picture = _stabilised(frames, paths, side).median(2, keepdim=True).values  # [B, L, 1, C, s, s]
    drawn = _drawn(picture[:, :, 0], paths, (frames.shape[-2], frames.shape[-1]))
    rest = frames[:, None] - (drawn.sum(1, keepdim=True) - drawn)
    wide, taps = side + 2 * reach, 2 * reach + 1
    seen = crop(rest.flatten(0, 2), centres, wide).unflatten(0, (batch, layers, time))
    spectrum = torch.fft.rfft2(seen) * torch.fft.rfft2(picture, s=(wide, wide)).conj()
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


def _middle(pictures: Tensor) -> Tensor:
    """The middle of mass of ``[..., C, s, s]`` relative to the picture's middle, ``[..., 2]``."""
    mass = pictures.abs().mean(-3)
    at = torch.arange(mass.shape[-1], device=mass.device) - (mass.shape[-1] - 1) / 2
    return torch.stack([(mass.sum(axis) * at).sum(-1) for axis in (-1, -2)], -1) / (
        mass.sum((-2, -1))[..., None] + 1e-6
    )


# ------------------------------------------------------------------------------------------------------- drawing


def crop(frames: Tensor, centres: Tensor, side: int) -> Tensor:
    """Pieces ``[N, C, side, side]`` of ``frames [N, C, H, W]`` around ``centres [N, 2]``, zero beyond the edge."""
    height, width = frames.shape[-2:]
    steps = torch.arange(side, device=frames.device) - (side - 1) / 2
    rows = (2 * (centres[:, 0, None] + steps) + 1) / height - 1
    columns = (2 * (centres[:, 1, None] + steps) + 1) / width - 1
    return _sampled(frames, rows, columns)


def place(pictures: Tensor, centres: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `crop`: ``[N, C, s, s]`` on empty frames ``[N, C, H, W]``, differentiable in the place."""
    side = pictures.shape[-1]
    rows, columns = (
        2 * (torch.arange(n, device=pictures.device) - centres[:, axis, None]) / side for axis, n in enumerate(size)
    )
    return _sampled(pictures, rows, columns)


def _sampled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of ``[N, C, H, W]`` at rows ``[N, h]`` and columns ``[N, w]``, both -1 to 1 from edge to edge."""
    shape = (-1, rows.shape[1], columns.shape[1])
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1)
    return grid_sample(pictures, grid, align_corners=False)


def blurred(pictures: Tensor, width: float) -> Tensor:
    """``[N, C, s, s]`` under a Gaussian of that many pixels."""
    taps = torch.arange(-int(3 * width), int(3 * width) + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = (-0.5 * (taps / width) ** 2).softmax(0)
    flat = pictures.flatten(0, 1)[:, None]
    flat = conv2d(flat, kernel[None, None, :, None], padding=(len(taps) // 2, 0))
    return conv2d(flat, kernel[None, None, None, :], padding=(0, len(taps) // 2)).reshape(pictures.shape)


def compose(layers: Tensor) -> Tensor:
    """Lay ``[..., L, C + 1, H, W]``, colours times cover and the cover, the first on top: ``[..., C, H, W]``."""
    picture, clear = layers[..., 0, :-1, :, :], 1 - layers[..., 0, -1:, :, :]
    for layer in layers.unbind(-4)[1:]:
        picture = picture + clear * layer[..., :-1, :, :]
        clear = clear * (1 - layer[..., -1:, :, :])
    return picture


# ------------------------------------------------------------------------------------------------------ networks


class Appearance(nn.Module):
    """The picture of a thing from its stabilised views: ``[N, T, C, s, s] -> [N, C + 1, s, s]``, the last its cover.

    It starts as the median over time, in which what passes by is gone.
    """

    def __init__(self, frames: int, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d((frames + 1) * channels * 16, width, 3, padding=1), *(Residual(width) for _ in range(blocks))
        )
        self.picture = nn.Conv2d(width, (channels + 1) * 16, 3, padding=1, bias=False)
        nn.init.normal_(self.picture.weight, std=0.01)

    def forward(self, views: Tensor) -> Tensor:
        """Same as above."""
        middle = views.median(1).values
        x = pixel_unshuffle(torch.cat([views.flatten(1, 2), middle], 1), 4)
        x = silu(self.trunk(x.contiguous(memory_format=torch.channels_last)))
        start = torch.cat([middle, middle.abs().amax(1, keepdim=True)], 1)
        return start + pixel_shuffle(self.picture(x), 4)


class Motion(nn.Module):
    """``z' = f(z)`` for places: a residual network in place, velocity and memory, and what the other layers do.

    Lengths are in units of half a frame's width, velocities in pixels.
    """

    def __init__(self, frames: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.read = nn.Sequential(
            nn.Linear(2 * frames + 4 * _WAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.message = nn.Sequential(nn.Linear(width + 4, width // 2), nn.SiLU())
        self.act = nn.Sequential(
            nn.Linear(width + 2 + 4 * _WAVES + width // 2, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.push = nn.Linear(width, 2)
        self.mix = nn.Linear(width, 1 + len(_BLURS))
        for head in (self.push, self.mix):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, paths: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Continue ``paths [B, T, L, 2]``.

        Returns:
            Places ``[B, K, L, 2]`` and the shares of the picture and its blurred copies ``[B, K, L, 1 + blurs]``.
        """
        half = paths.new_tensor(self.size) / 2
        at = paths[:, -1]
        moved = (paths - at[:, None]).transpose(1, 2).flatten(2) / 8
        memory = self.read(torch.cat([moved, _waves(at / half - 1)], -1))
        velocity = (at - paths[:, -3]) / 2
        places, mixes = [], []
        for _ in range(steps):
            now = torch.cat([memory, _waves(at / half - 1), velocity / 4], -1)
            memory = memory + self.act(torch.cat([now, self._others(memory, at, velocity, half)], -1))
            velocity = velocity + self.push(memory)
            at = at + velocity
            places.append(at)
            mixes.append((self.mix(memory) + self.mix.weight.new_tensor([2.0] + [0.0] * len(_BLURS))).softmax(-1))
        return torch.stack(places, 1), torch.stack(mixes, 1)

    def _others(self, memory: Tensor, at: Tensor, velocity: Tensor, half: Tensor) -> Tensor:
        """Sum of what every other layer says, ``[B, L, width / 2]``."""
        apart = torch.cat([at / half, velocity / 4], -1)
        apart = apart[:, None] - apart[:, :, None]  # [B, to, from, 4]
        said = self.message(torch.cat([memory[:, None].expand(-1, at.shape[1], -1, -1), apart], -1))
        others = 1 - torch.eye(at.shape[1], device=at.device)
        return (others[..., None] * said).sum(2)


def _waves(x: Tensor) -> Tensor:
    """Sines and cosines of ``[..., 2]`` in [-1, 1] at octaves of half a turn, ``[..., 4 * waves]``."""
    turns = x[..., None] * (math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=x.device))
    return torch.cat([turns.sin(), turns.cos()], -1).flatten(-2)


class LayeredPredictor(nn.Module):
    """Encoder, transition and decoder of one seed, over a background that the data give.

    Args:
        size: height and width of a frame. channels: 1 or 3. frames: that are followed. layers: things.
        extent: pixels across the largest thing, a multiple of 4. width, blocks: of the picture's network.
        memory: width of the motion's.
    """

    background: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        frames: int,
        layers: int,
        extent: int,
        width: int,
        blocks: int,
        memory: int,
    ) -> None:
        super().__init__()
        if frames < 3:
            raise UserError(f"context {frames}: things are followed over at least 3 frames")
        if extent % 4 or size[0] % _COARSE[0] or size[1] % _COARSE[0]:
            raise UserError(
                f"extent {extent} must be a multiple of 4, and frames of {size[0]} x {size[1]} of {_COARSE[0]}"
            )
        self.size, self.frames, self.layers, self.extent = size, frames, layers, extent
        self.register_buffer("background", torch.zeros(channels, *size))
        self.appearance = Appearance(frames, channels, width, blocks)
        self.motion = Motion(frames, memory, size)

    def paths(self, frames: Tensor) -> Tensor:
        """Where the things were: ``[B, T, C, H, W] -> [B, T, L, 2]``."""
        return follow(frames - self.background, self.layers, self.extent)

    def pooled(self, frames: Tensor) -> Tensor:
        """What differs from the background, averaged over cells, ``[B, T, C * h * w]``.

        Not the places themselves: to follow things anew up to every frame would cost more than all else.
        """
        cells = avg_pool2d((frames - self.background).flatten(0, 1), _FINE[0])
        return cells.flatten(1).unflatten(0, frames.shape[:2])

    def predict(self, frames: Tensor, steps: int) -> Tensor:
        """Frames ``[B, T, C, H, W]`` in [0, 1] -> the next ones ``[B, steps, C, H, W]``."""
        batch = len(frames)
        paths = self.paths(frames)
        views = _stabilised(frames - self.background, paths, self.extent).flatten(0, 1)
        pictures = self.appearance(views)
        places, mixes = self.motion(paths, steps)
        copies = torch.stack([pictures, *(blurred(pictures, width) for width in _BLURS)], 1)
        drawn = torch.einsum("bklm,blmcij->bklcij", mixes, copies.unflatten(0, (batch, self.layers)))
        layers = place(drawn.flatten(0, 2), places.flatten(0, 2), self.size).unflatten(0, drawn.shape[:3])
        return self.background + compose(layers)
