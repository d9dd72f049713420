"""Models that were trained before, from weights and the card beside them: as part of another model, as a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, GivenLaws, build
from wm_pipelines.files import checked_file
from wm_pipelines.laws import Laws, laws_of
from wm_pipelines.mappings import Checked
from wm_pipelines.registry import families
from wm_pipelines.spec import Spec

_WANTED = "the weights of a trained model, data/06_models/<task>/<family>/<world>/<variant>.safetensors"


def built(card: Mapping[str, Any], spec: Spec | None = None, laws: Laws | None = None) -> Family:
    """The family that a card describes, without its weights.

    Args:
        card: see `learning.artifacts.TrainedModel`. spec: of another world than the card's. laws: for the oracle; None:
            those of the spec.
    """
    kind, spec = families.get(card["family"]), spec or Spec.from_json(card["spec"])
    family: Family = build(kind, kind.Config(**card["config"]), spec, card["seeds"], laws)
    if laws is None and isinstance(family, GivenLaws):
        family.laws = laws_of(spec)
    return family.to(type(family).dtype)


def stored(file: Checked) -> Family:
    """The model, in evaluation mode.

    Raises:
        UserError: the file is missing or another one, it holds no model, or its card is not beside it.
    """
    path = checked_file(file.path, file.sha256, f"give {_WANTED}")
    try:
        tensors = load(path.read_bytes())
        family = built(json.loads(path.with_suffix(".json").read_text()))
        family.load_state_dict(tensors)
    except (OSError, AttributeError, LookupError, ValueError, TypeError, RuntimeError, SafetensorError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise UserError(f"'{path}' and the card beside it are no model ({reason}): give {_WANTED}") from None
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        raise UserError(f"'{path}' holds weights that are not finite: its training failed")
    return family.eval()


def stored_encoders(file: Checked, count: int, like: nn.Module, shape: Sequence[int]) -> list[nn.Module]:
    """The encoders of its seeds, taken in turn where more are asked for.

    Args:
        file: of a family whose networks have an encoder, such as `ijepa`. like: of the same kind and size. shape: of
            the frames that they will see, ``(H, W, C)``.

    Raises:
        UserError: see `stored`; it has no such encoder, or has seen frames of another shape.
    """
    family = stored(file)
    encoders = (getattr(member, "encoder", None) for member in getattr(family, "members", []))
    found: list[nn.Module] = [encoder for encoder in encoders if isinstance(encoder, type(like))]
    if not found:
        raise UserError(
            f"'{file.path}' ({family.name}) has no encoder of convolutions: give an ijepa with a stem, such as sigreg"
        )
    seen = family.spec.views["frames"].shape
    if tuple(seen) != tuple(shape):
        raise UserError(f"'{file.path}' has seen frames {list(seen)}, these are {list(shape)}: train it on such frames")
    own, theirs = ({name: list(t.shape) for name, t in part.state_dict().items()} for part in (like, found[0]))
    if own != theirs:
        differs = next(name for name in {**own, **theirs} if own.get(name) != theirs.get(name))
        raise UserError(
            f"the encoder of '{file.path}' differs from the one that is asked for ({differs}: {theirs.get(differs)}, "
            f"wanted {own.get(differs)}): set stem and features to its stem and width; its depth has to be 0"
        )
    return [found[k % len(found)] for k in range(count)]
