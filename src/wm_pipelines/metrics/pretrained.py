"""Features of networks that were trained elsewhere, for distances that compare with published figures.

Networks are TorchScript files, given by path and checksum; nothing is downloaded. TorchScript is code: the checksum is
compared before a file is loaded, so that what runs is what was meant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.files import checked_file

Float = NDArray[np.float64]

I3D_SIDE, I3D_SHORTEST = 224, 10


class Published:
    """A network that somebody published as TorchScript, called as they say.

    Args:
        path: of the file, relative to the project.
        sha256: 64 hexadecimal digits of its checksum.
        device: where the network runs.
        batch: examples at a time.

    Raises:
        UserError: the file is missing, is another one, or is no TorchScript.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    size: ClassVar[int]  # features of an example
    how: ClassVar[dict[str, bool]]  # it is called

    def __init__(self, path: str | Path, sha256: str, device: str = "cpu", batch: int = 8) -> None:
        self.path, self.device, self.batch = path, device, batch
        file = checked_file(path, sha256, f"take {self.source}")
        import torch

        try:
            self._network: Any = torch.jit.load(str(file), map_location=device).eval()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"'{path}' is no TorchScript module ({reason}): take {self.source}") from None

    def _features(self, examples: NDArray[Any], shown: Callable[[NDArray[Any]], Any]) -> Float:
        """Of examples ``[N, …]``, shown to the network part by part, ``[N, size]``.

        Raises:
            UserError: the network is another one, or gives what is not finite.
        """
        import torch

        try:
            with torch.inference_mode():
                parts = [
                    self._network(shown(examples[i : i + self.batch]), **self.how)
                    for i in range(0, len(examples), self.batch)
                ]
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"'{self.path}' is another network, it cannot be called as the published one ({reason})"
            ) from None
        if not all(isinstance(part, torch.Tensor) and tuple(part.shape[1:]) == (self.size,) for part in parts):
            raise UserError(
                f"'{self.path}' is another network: it does not give the {self.size} features of {self.name}"
            )
        found: Float = torch.cat(parts).double().cpu().numpy()
        if len(found) != len(examples) or not np.isfinite(found).all():
            raise UserError(f"'{self.path}' gives features that are not finite, or not a row for every example")
        return found


class I3DFeatures(Published):
    """Features of the FVD: logits of I3D trained on Kinetics-400, clips ``[N, T, H, W, 1 | 3]`` -> ``[N, 400]``.

    Takes the TorchScript export that StyleGAN-V published as ``i3d_torchscript.pt``, which reproduces the TensorFlow
    Hub network of Unterthiner et al., *Towards Accurate Generative Models of Video: A New Metric & Challenges* (2018),
    and is called with ``x [N, 3, T, 224, 224]`` in [-1, 1]. Frames are resized here, bilinearly, to 224 × 224 pixels
    (not cropped: the whole frame counts), and scaled here.
    """

    name: ClassVar[str] = "I3D"
    source: ClassVar[str] = "i3d_torchscript.pt, which the StyleGAN-V project publishes for its FVD"
    size: ClassVar[int] = 400
    how: ClassVar[dict[str, bool]] = {"rescale": False, "resize": False, "return_features": True}

    def __call__(self, clips: NDArray[Any]) -> Float:
        """Features of clips of at least 10 frames, uint8 or floating point in [0, 1]; ``[N, T, H, W, C] -> [N, 400]``.

        Raises:
            ValueError: the clips have another shape, type or range, or are too short for the network. UserError: the
            network is another one.
        """
        clips = np.ascontiguousarray(clips)
        if clips.ndim != 5 or clips.shape[-1] not in (1, 3) or clips.size == 0:
            raise ValueError(f"I3D takes clips [N, T, H, W, 1 | 3], got {clips.shape}")
        if clips.shape[1] < I3D_SHORTEST:
            raise ValueError(f"I3D needs clips of at least {I3D_SHORTEST} frames, got {clips.shape[1]}")
        return self._features(clips, self._shown)

    def _shown(self, clips: NDArray[Any]) -> Any:
        """``[B, T, H, W, C]`` -> ``[B, 3, T, 224, 224]`` in [-1, 1]."""
        import torch
        from torch.nn.functional import interpolate

        pixels = torch.as_tensor(_pixels(clips, "clips"), device=self.device)
        n, steps = clips.shape[:2]
        frames = pixels.flatten(0, 1).movedim(-1, 1)  # [B T, C, H, W]
        frames = interpolate(frames, size=(I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
        return (2 * frames - 1).expand(-1, 3, -1, -1).unflatten(0, (n, steps)).movedim(2, 1).contiguous()


class InceptionFeatures(Published):
    """Features of the FID: the last pooling of InceptionV3 on ImageNet, images ``[N, H, W, 1 | 3] -> [N, 2048]``.

    Takes the TorchScript export that StyleGAN3 published as ``inception-2015-12-05.pt``, which reproduces the network
    of Heusel et al., *GANs trained by a two time-scale update rule* (2017), resizes by itself, and is called with ``x
    [N, 3, H, W]`` uint8.
    """

    name: ClassVar[str] = "Inception"
    source: ClassVar[str] = "inception-2015-12-05.pt, which the StyleGAN3 project publishes for its FID"
    size: ClassVar[int] = 2048
    how: ClassVar[dict[str, bool]] = {"return_features": True}

    def __call__(self, images: NDArray[Any]) -> Float:
        """Features of images, uint8 or floating point in [0, 1].

        Raises:
            ValueError: the images have another shape, type or range. UserError: the network is another one.
        """
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
            raise ValueError(f"Inception takes images [N, H, W, 1 | 3], got {images.shape}")
        return self._features(images, self._shown)

    def _shown(self, images: NDArray[Any]) -> Any:
        """``[B, H, W, C]`` -> ``[B, 3, H, W]`` uint8."""
        import torch

        whole = np.rint(255 * _pixels(images, "images")).clip(0, 255).astype(np.uint8)
        return torch.as_tensor(whole, device=self.device).movedim(-1, 1).expand(-1, 3, -1, -1).contiguous()


def _pixels(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    """In [0, 1], single precision."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.float32) / np.float32(255)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{what} are uint8 or floating point, got {values.dtype}")
    if values.min() < -1e-3 or values.max() > 1 + 1e-3:
        raise ValueError(f"{what} of floats lie in [0, 1], got {values.min():g} … {values.max():g}: clip or scale them")
    return values.astype(np.float32)
