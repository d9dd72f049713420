"""Trained models as files: ``<variant>.safetensors`` (weights) beside ``<variant>.json`` (the card)."""

from __future__ import annotations

import json

from safetensors import SafetensorError

from wm_pipelines.errors import UserError
from wm_pipelines.files import StoredFolder, to_json
from wm_pipelines.learning.artifacts import Models, TrainedModel
from wm_pipelines.learning.checkpoints import read_tensors, tensors_to_bytes


def files_of(models: Models, belongs_to: str) -> dict[str, bytes]:
    """Contents by file name.

    Raises:
        ValueError: a card is of another task, family, world or variant than ``belongs_to`` (``task/family/world``).
    """
    files = {}
    for variant, model in models.variants.items():
        theirs = "/".join(str(model.card.get(key)) for key in ("task", "family", "world", "variant"))
        if theirs != f"{belongs_to}/{variant}":
            raise ValueError(f"the card of '{theirs}' does not belong to '{belongs_to}/{variant}'")
        files[f"{variant}.safetensors"] = tensors_to_bytes(model.tensors, {"variant": variant})
        files[f"{variant}.json"] = to_json(model.card)
    return files


def models_of(stored: StoredFolder) -> Models:
    """Inverse of `files_of`; every file is compared with its hash.

    Raises:
        UserError: missing, damaged or edited files; says which and what to do.
    """
    variants = {}
    for name in stored.files:
        if name.endswith(".safetensors"):
            variant = name.removesuffix(".safetensors")
            weights, card = stored[name], json.loads(stored[f"{variant}.json"].read_bytes())
            try:
                variants[variant] = TrainedModel(read_tensors(weights).tensors, card)
            except (SafetensorError, ValueError) as problem:  # whole, but of another version of the library
                raise UserError(f"'{weights}' cannot be read ({problem}); {stored.remedy}") from None
    return Models(variants, stored.facts["not_applicable"])
