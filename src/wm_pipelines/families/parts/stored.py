"""Models that were trained before, from weights and the card beside them: as part of another model, as a judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, build
from wm_pipelines.files import checked_file
from wm_pipelines.mappings import Checked
from wm_pipelines.registry import families
from wm_pipelines.spec import Spec

_WANTED = "the weights of a trained model, data/06_models/<task>/<family>/<world>/<variant>.safetensors"


def stored(file: Checked) -> Family:
    """The model, in evaluation mode.

    Raises:
        UserError: the file is missing or another one, it holds no model, or its card is not beside it.
    """
    path = checked_file(file.path, file.sha256, f"give {_WANTED}")
    try:
        card: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        tensors = load(path.read_bytes())
        kind = families.get(card["family"])
        family: Family = build(kind, kind.Config(**card["config"]), Spec.from_json(card["spec"]), card["seeds"])
        family.to(type(family).dtype)
        family.load_state_dict(tensors)
    except (OSError, AttributeError, LookupError, ValueError, TypeError, RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise UserError(f"'{path}' and the card beside it are no model ({reason}): give {_WANTED}") from None
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise UserError(f"'{path}' holds weights that are not finite: its training failed")
    return family.eval()


def stored_encoder(file: Checked, seed: int, like: nn.Module, shape: Sequence[int]) -> nn.Module:
    """The encoder of one seed's networks; with fewer seeds than asked for they are taken in turn.

    Args:
        file: of a family whose networks have an encoder, such as `ijepa`. seed: its number. like: of the same kind
            and size. shape: of the frames that it will see, ``(H, W, C)``.

    Raises:
        UserError: see `stored`; it has no such encoder, or has seen frames of another shape.
    """
    family = stored(file)
    members = list(getattr(family, "members", []))
    encoder = getattr(members[seed % len(members)], "encoder", None) if members else None
    if type(encoder) is not type(like):
        raise UserError(
            f"'{file.path}' ({family.name}) has no encoder of convolutions: give an ijepa with a stem, such as sigreg"
        )
    seen = family.spec.views["frames"].shape
    if tuple(seen) != tuple(shape):
        raise UserError(f"'{file.path}' has seen frames {list(seen)}, these are {list(shape)}: train it on such frames")
    own, theirs = ({name: list(t.shape) for name, t in part.state_dict().items()} for part in (like, encoder))
    if own != theirs:
        differs = next(name for name in {**own, **theirs} if own.get(name) != theirs.get(name))
        raise UserError(
            f"the encoder of '{file.path}' differs from the one that is asked for ({differs}: {theirs.get(differs)}, "
            f"wanted {own.get(differs)}): set stem and features to its stem and width; its depth has to be 0"
        )
    return encoder
