"""The one error that a user's input can cause."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    Model = TypeVar("Model", bound=BaseModel)


class UserError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and what to do about it.

    The command line shows the message alone, without a traceback, and exits with a non-zero status.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known ones, else all, e.g. ``"; did you mean 'hnn'?"``."""
    names = list(known)
    if near := get_close_matches(name, names, 3, 0.6):
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f"; known: {', '.join(names)}" if names else ""


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
        faults = error.errors(include_url=False)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(_sentence(model, faults[0], where) + more) from None


def _sentence(model: type[BaseModel], fault: ErrorDetails, where: str) -> str:
    path = ".".join(part for part in (where, *map(str, fault["loc"])) if part)
    if fault["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(model, fault["loc"][:-1]))
        return f"parameter '{path}': unknown" + (f"; known here: {known}" if known else "; remove it")
    if fault["type"] == "missing":
        return f"parameter '{path}': missing; add it"
    message = " ".join(fault["msg"].removeprefix("Value error, ").split())
    if fault["type"] in ("value_error", "assertion_error", "quantity"):  # written by us: complete sentences
        return f"parameter '{path}': {message}" if path else message
    value = repr(fault["input"])
    shown = value if len(value) <= 60 else value[:57] + "…"
    return f"parameter '{path}': {message[:1].lower()}{message[1:]}, got {shown}"


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the (sub)model at that location; empty where it cannot be told."""
    from pydantic import BaseModel

    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[str(part)].annotation
        # An item of list[Model], a value of dict[str, Model], the model of Model | None.
        models = [a for a in (*get_args(model), model) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = models[0] if models else model
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
