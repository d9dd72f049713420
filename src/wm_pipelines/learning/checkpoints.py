"""Checkpoints without pickle: one safetensors file, its bookkeeping as JSON in the header, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wm_pipelines.files import atomic_write_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training needs to go on to the same bits: tensors by dotted name, and plain numbers."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below ``prefix.``, with the prefix taken off."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}


def tensors_to_bytes(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Serialise; the same content gives the same bytes (a header with one key has one order)."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    header = {"facts": dict(facts), "sha256": _hash_of(plain, facts)}
    return save(plain, metadata={"wm_pipelines": json.dumps(header, sort_keys=True)})


def _hash_of(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_tensors(path: Path) -> Checkpoint:
    """Read a file that `tensors_to_bytes` wrote.

    Raises:
        SafetensorError, OSError, ValueError: missing, truncated, damaged or foreign file.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("wm_pipelines")
        if text is None:
            raise ValueError("it was not written by this version of the project")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(text)
    if _hash_of(tensors, header["facts"]) != header["sha256"]:
        raise ValueError("its content does not match its hash")
    return Checkpoint(tensors, header["facts"])


class CheckpointStore:
    """A folder of checkpoints, one file per training; a fingerprint tells whether a file belongs to a training."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def load(self, name: str, fingerprint: str) -> Checkpoint | None:
        """The checkpoint of exactly this training, or None.

        A file that cannot be read is not an error: the training starts afresh, and says so.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found = read_tensors(path)
        except (SafetensorError, OSError, ValueError) as problem:
            logger.warning("Checkpoint %s cannot be read (%s): training starts from the beginning.", path, problem)
            return None
        if found.facts.get("fingerprint") != fingerprint:
            logger.info(
                "Checkpoint %s belongs to other settings, data or code: training starts from the beginning.", path
            )
            return None
        return found

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint atomically; a kill at any moment leaves the old one or the new one, whole."""
        atomic_write_bytes(self._path(name), tensors_to_bytes(checkpoint.tensors, checkpoint.facts))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and counters, flat: ``<parameter index>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; learning rates are not part of it (they follow from the step).

    Moments are laid out in memory as their parameters are: a fused step rounds differently where the two differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        alike = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[key] = alike
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
