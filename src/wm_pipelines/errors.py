"""The one error that a user's input can cause, and how it is worded."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    Model = TypeVar("Model", bound=BaseModel)

_SHOWN_NAMES = 12


class UserError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and what to do about it.

    The command line shows the message alone, without a traceback, and exits with a non-zero status.
    """


def did_you_mean(word: str, known: Iterable[str], before: str = "", after: str = "") -> str:
    """How a sentence about an unknown name ends: ``; did you mean 'physics_eval'?``.

    Where no known name is close, the known ones are listed; where nothing is known, the text is empty.

    Args:
        word: what the user wrote.
        known: what would have been right in its place.
        before, after: the text around the word where it is one part of a longer name (``hnn.worlds.``).
    """
    import difflib

    names = sorted({str(name) for name in known})
    # A node or parameter whose beginning was left out: `train_pendulum` for `hnn.train_pendulum`.
    if longer := [name for name in names if name.endswith(f".{word}")]:
        return f"; did you mean {' or '.join(before + name + after for name in longer[:_SHOWN_NAMES])}?"
    by_lower = {name.lower(): name for name in names}
    if close := difflib.get_close_matches(word.lower(), by_lower, n=1):
        return f"; did you mean '{before}{by_lower[close[0]]}{after}'?"
    if len(names) > _SHOWN_NAMES:
        return f"; known here: {', '.join(names[:_SHOWN_NAMES])}, … ({len(names)} in all)"
    return f"; known here: {', '.join(names)}" if names else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """``unknown pipeline 'physic_eval'; did you mean 'physics_eval'?``"""  # noqa: D415
    return f"unknown {kind} '{word}'{did_you_mean(word, known)}"


def unknown_parameter(parents: str, word: str, known: Iterable[str], value: Any = None) -> str:
    """``unknown parameter 'hn.features'; did you mean 'hnn.features'?``

    Args:
        parents: the path above the word, with dots between; empty at the top of a file.
        word: the key that nobody reads.
        known: the keys that are read in its place.
        value: what stands under it. As long as that is one key alone, it is shown: it is what the user typed in
            ``--params=hn.features=3``.
    """  # noqa: D415
    before, after = f"{parents}." if parents else "", ""
    while isinstance(value, Mapping) and len(value) == 1:
        ((key, value),) = value.items()
        after += f".{key}"
    closing = did_you_mean(word, known, before, after) or "; remove it"
    return f"unknown parameter '{before}{word}{after}'{closing}"


def validate(model: type[Model], data: Any, where: str) -> Model:
    """Build a pydantic model from parameters; ``where`` is the path of ``data`` in the parameter files.

    Raises:
        UserError: the first fault, as ``parameter 'pendulum.parameters.mass': input should be greater than 0, got -1``,
            and how many more there are.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = _of_one_reading(model, error.errors(include_url=False))
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(_sentence(model, faults[0], where) + more) from None


def _sentence(model: type[BaseModel], fault: ErrorDetails, where: str) -> str:
    parts, _, _ = _locate(model, fault["loc"])
    if fault["type"] == "extra_forbidden":
        parents = ".".join(part for part in (where, *parts[:-1]) if part)
        return unknown_parameter(parents, parts[-1], _fields(_locate(model, fault["loc"][:-1])[1]), fault["input"])
    path = ".".join(part for part in (where, *parts) if part)
    if fault["type"] == "missing":
        return f"parameter '{path}': missing; add it"
    message = " ".join(fault["msg"].removeprefix("Value error, ").split())
    if fault["type"] in ("value_error", "assertion_error", "quantity"):  # written by us: complete sentences
        return f"parameter '{path}': {message}" if path else message
    value = repr(fault["input"])
    shown = value if len(value) <= 60 else value[:57] + "…"
    return f"parameter '{path}': {message[:1].lower()}{message[1:]}, got {shown}"


def _of_one_reading(model: type[BaseModel], faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """The faults, without those of the members of a union that fit the input worse.

    Pydantic tells what is wrong with the input as each member of the union; the user meant one of them, and the one
    with the fewest faults is the best guess.
    """
    counts: defaultdict[tuple[Any, ...], dict[Any, int]] = defaultdict(dict)
    branches = [_locate(model, fault["loc"])[2] for fault in faults]
    for branch in branches:
        for place in branch:
            members = counts[place[:-1]]
            members[place[-1]] = members.get(place[-1], 0) + 1
    best = {place: min(members, key=lambda m: members[m]) for place, members in counts.items()}
    return [
        fault
        for fault, branch in zip(faults, branches, strict=True)
        if all(best[place[:-1]] == place[-1] for place in branch)
    ]


def _locate(model: Any, location: tuple[int | str, ...]) -> tuple[list[str], Any, list[tuple[Any, ...]]]:
    """Follow pydantic's location of a fault through the annotations.

    Returns:
        The path as it stands in the file, the annotation at its end (None where it cannot be told), and the part of the
        location up to every member of a union that it passes through: pydantic names the member, the file does not.
    """
    path: list[str] = []
    branches: list[tuple[Any, ...]] = []
    here = _plain(model)
    for position, part in enumerate(location):
        members = _members(here)
        if len(members) > 1:
            branches.append(location[: position + 1])
            named = [m for m in members if _is_called(m, part)]
            here = _plain(named[0]) if named else None
            continue
        path.append(str(part))
        here = _plain(_below(here, part))
    return path, here, branches


def _plain(annotation: Any) -> Any:
    """The annotation without its metadata and without ``| None``."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = _members(annotation)
    return _plain(members[0]) if len(members) == 1 else annotation


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return []
    return [member for member in get_args(annotation) if member is not type(None)]


def _is_called(member: Any, tag: int | str) -> bool:
    """Whether pydantic means this member of a union: by its class's name, or by the value of the field that tells."""
    member = _plain(member)
    if not _is_model(member):
        return str(getattr(member, "__name__", member)) == str(tag)
    tells = (get_args(field.annotation) for field in member.model_fields.values() if _is_literal(field.annotation))
    return member.__name__ in str(tag) or any(tag in values for values in tells)


def _below(annotation: Any, part: int | str) -> Any:
    """The annotation of a field, of an item of a list, of a value of a mapping."""
    if _is_model(annotation):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return None
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(part, int) and Ellipsis not in arguments:
        return arguments[part] if part < len(arguments) else None
    # list[Model], tuple[Model, ...], dict[str, Model]
    items = [argument for argument in arguments if argument is not Ellipsis]
    return items[-1] if items else None


def _fields(annotation: Any) -> list[str]:
    return sorted(annotation.model_fields) if _is_model(annotation) else []


def _is_model(annotation: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_literal(annotation: Any) -> bool:
    return get_origin(_plain(annotation)) is Literal
