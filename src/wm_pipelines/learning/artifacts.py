"""Trained models on disk: ``<variant>.safetensors`` beside ``<variant>.json``, one folder per (family, world)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.families import get_family
from wm_pipelines.families.protocol import Family
from wm_pipelines.fields import FieldSystem
from wm_pipelines.files import atomic_write_bytes
from wm_pipelines.learning.checkpoints import read_tensors, tensors_to_bytes
from wm_pipelines.pixels import FrameSystem
from wm_pipelines.system import System

_INDEX = "models.json"
_REMEDY = "train again: kedro run --pipeline=training"


@dataclass(frozen=True)
class TrainedModel:
    """One variant of a family, fitted on one world with all seeds.

    `card` is what the JSON file holds: family, world, variant, config, seeds, data hash, versions, fingerprint.
    """

    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]

    def restore(self, system: System | FieldSystem | FrameSystem) -> Family:
        """Build the family this model belongs to and load its weights."""
        family_class = get_family(self.card["family"])
        family = family_class(family_class.Config(**self.card["config"]), system, self.card["seeds"])
        family.to(family_class.dtype)
        family.load_state_dict(dict(self.tensors))
        return family.eval()


@dataclass(frozen=True)
class Models:
    """All variants of a family on a world, or the reason why there are none."""

    variants: Mapping[str, TrainedModel] = field(default_factory=dict)
    not_applicable: str | None = None


def write_models(folder: Path, models: Models) -> None:
    """Write every variant, then the index: a folder whose index is missing was not written to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)
    for stale in {p.stem for p in folder.glob("*.safetensors")} - set(models.variants):
        (folder / f"{stale}.safetensors").unlink()
        (folder / f"{stale}.json").unlink(missing_ok=True)
    hashes = {}
    for variant, model in models.variants.items():
        data = tensors_to_bytes(model.tensors, {"variant": variant})
        hashes[variant] = hashlib.sha256(data).hexdigest()
        atomic_write_bytes(folder / f"{variant}.safetensors", data)
        atomic_write_bytes(folder / f"{variant}.json", _json(model.card))
    atomic_write_bytes(folder / _INDEX, _json({"variants": hashes, "not_applicable": models.not_applicable}))


def read_models(folder: Path) -> Models:
    """Read what `write_models` wrote.

    Raises:
        UserError: missing, incomplete or corrupt files; says which and what to do.
    """
    index = _read_json(folder / _INDEX)
    models = {}
    for variant, digest in index["variants"].items():
        path = folder / f"{variant}.safetensors"
        if not path.exists():
            raise UserError(f"model file {path} is missing; {_REMEDY}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise UserError(f"model file {path} is corrupt (its SHA-256 is not the one in {_INDEX}); {_REMEDY}")
        try:
            models[variant] = TrainedModel(read_tensors(path).tensors, _read_json(path.with_suffix(".json")))
        except (SafetensorError, ValueError) as problem:
            raise UserError(f"model file {path} cannot be read ({problem}); {_REMEDY}") from None
    return Models(models, index["not_applicable"])


def versions() -> dict[str, str]:
    """Versions of what decides a model's bits."""
    import platform

    import numpy

    import wm_pipelines

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "wm_pipelines": wm_pipelines.__version__,
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_REMEDY}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not valid JSON; {_REMEDY}") from None
