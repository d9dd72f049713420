"""Features of networks that were trained elsewhere, for distances that compare with published figures.

Networks are TorchScript files, given by path and checksum; nothing is downloaded. TorchScript is code: the checksum is
compared before a file is loaded, so that what runs is what was meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.files import checked_file

Float = NDArray[np.float64]

I3D_SIDE, I3D_LOGITS, I3D_SHORTEST = 224, 400, 10
INCEPTION_FEATURES = 2048


class I3DFeatures:
    """Features of the FVD: logits of I3D trained on Kinetics-400, clips ``[N, T, H, W, 1 | 3]`` -> ``[N, 400]``.

    Takes the TorchScript export that StyleGAN-V published as ``i3d_torchscript.pt``, which reproduces the TensorFlow
    Hub network of Unterthiner et al., *Towards Accurate Generative Models of Video: A New Metric & Challenges* (2018),
    and is called as ``network(x, rescale=False, resize=False, return_features=True)`` with ``x [N, 3, T, 224, 224]`` in
    [-1, 1]. Frames are resized here, bilinearly, to 224 × 224 pixels (not cropped: the whole frame counts), and scaled
    here.

    Args:
        path: of the file.
        sha256: 64 hexadecimal digits of its checksum.
        device: where the network runs.
        batch: clips at a time.

    Raises:
        UserError: the file is missing, is another one, or is no TorchScript.
    """

    def __init__(self, path: str | Path, sha256: str, device: str = "cpu", batch: int = 8) -> None:
        self.path, self.device, self.batch = Path(path), device, batch
        source = "take i3d_torchscript.pt, which the StyleGAN-V project publishes for its FVD"
        self._network = _script(path, sha256, device, source)

    def __call__(self, clips: NDArray[Any]) -> Float:
        """Features of clips of at least 10 frames, uint8 or floating point in [0, 1]; ``[N, T, H, W, C] -> [N, 400]``.

        Raises:
            ValueError: the clips have another shape, type or range, or are too short for the network. UserError: the
            network is another one.
        """
        import torch

        clips = np.ascontiguousarray(clips)
        if clips.ndim != 5 or clips.shape[-1] not in (1, 3) or clips.size == 0:
            raise ValueError(f"I3D takes clips [N, T, H, W, 1 | 3], got {clips.shape}")
        if clips.shape[1] < I3D_SHORTEST:
            raise ValueError(f"I3D needs clips of at least {I3D_SHORTEST} frames, got {clips.shape[1]}")
        with torch.inference_mode():
            found = [
                _called(self.path, self._network, self._input(part), rescale=False, resize=False, return_features=True)
                for part in (clips[i : i + self.batch] for i in range(0, len(clips), self.batch))
            ]
        return _features(self.path, found, len(clips), I3D_LOGITS, "I3D")

    def _input(self, clips: NDArray[Any]) -> Any:
        """``[B, T, H, W, C]`` -> ``[B, 3, T, 224, 224]`` in [-1, 1]."""
        import torch
        from torch.nn.functional import interpolate

        pixels = torch.as_tensor(_pixels(clips, "clips"), device=self.device)
        n, steps = clips.shape[:2]
        frames = pixels.flatten(0, 1).movedim(-1, 1)  # [B T, C, H, W]
        frames = interpolate(frames, size=(I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
        return (2 * frames - 1).expand(-1, 3, -1, -1).unflatten(0, (n, steps)).movedim(2, 1).contiguous()


class InceptionFeatures:
    """Features of the FID: the last pooling of InceptionV3 on ImageNet, images ``[N, H, W, 1 | 3] -> [N, 2048]``.

    Takes the TorchScript export that StyleGAN3 published as ``inception-2015-12-05.pt``, which reproduces the network
    of Heusel et al., *GANs trained by a two time-scale update rule* (2017), resizes by itself, and is called as
    ``network(x, return_features=True)`` with ``x [N, 3, H, W]`` uint8.

    Args:
        path: of the file.
        sha256: 64 hexadecimal digits of its checksum.
        device: where the network runs.
        batch: images at a time.

    Raises:
        UserError: the file is missing, is another one, or is no TorchScript.
    """

    def __init__(self, path: str | Path, sha256: str, device: str = "cpu", batch: int = 32) -> None:
        self.path, self.device, self.batch = Path(path), device, batch
        source = "take inception-2015-12-05.pt, which the StyleGAN3 project publishes for its FID"
        self._network = _script(path, sha256, device, source)

    def __call__(self, images: NDArray[Any]) -> Float:
        """Features of images, uint8 or floating point in [0, 1].

        Raises:
            ValueError: the images have another shape, type or range. UserError: the network is another one.
        """
        import torch

        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
            raise ValueError(f"Inception takes images [N, H, W, 1 | 3], got {images.shape}")
        found = []
        with torch.inference_mode():
            for i in range(0, len(images), self.batch):
                part = np.rint(255 * _pixels(images[i : i + self.batch], "images")).clip(0, 255).astype(np.uint8)
                x = torch.as_tensor(part, device=self.device).movedim(-1, 1).expand(-1, 3, -1, -1)
                found.append(_called(self.path, self._network, x.contiguous(), return_features=True))
        return _features(self.path, found, len(images), INCEPTION_FEATURES, "Inception")


def _script(path: str | Path, sha256: str, device: str, source: str) -> Any:
    """A TorchScript module in evaluation mode."""
    file = checked_file(path, sha256, source)
    import torch

    try:
        return torch.jit.load(str(file), map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"'{path}' is no TorchScript module ({reason}): {source}") from None


def _called(path: Path, network: Any, x: Any, **how: bool) -> Any:
    """What a script says, which may be anyone's."""
    try:
        return network(x, **how)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"'{path}' is another network, it cannot be called as the published one ({reason})") from None


def _features(path: Path, found: list[Any], count: int, size: int, name: str) -> Float:
    """All that was said, ``[count, size]``."""
    import torch

    if not all(isinstance(part, torch.Tensor) and part.ndim == 2 and part.shape[1] == size for part in found):
        given = list(found[0].shape[1:]) if isinstance(found[0], torch.Tensor) else type(found[0]).__name__
        raise UserError(f"'{path}' is another network: it gives {given} of each, not the {size} features of {name}")
    features: Float = torch.cat(found).double().cpu().numpy()
    if features.shape != (count, size) or not np.isfinite(features).all():
        raise UserError(f"'{path}' gives {name}'s features that are not finite, or not one row of each")
    return features


def _pixels(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    """In [0, 1], single precision."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.float32) / np.float32(255)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{what} are uint8 or floating point, got {values.dtype}")
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ValueError(f"{what} of floats lie in [0, 1], got {values.min():g} … {values.max():g}: clip or scale them")
    return values.astype(np.float32)
