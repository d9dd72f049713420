"""Node functions with some arguments fixed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class Bound:
    """A module's function with keyword arguments fixed, as Kedro needs it.

    Unlike a closure it can be pickled (so nodes run in other processes), and unlike `functools.partial` it keeps name,
    source and type hints (so Kedro validates the parameters that come in).
    """

    def __init__(self, function: Callable[..., Any], **fixed: Any) -> None:
        functools.update_wrapper(self, function)
        self.function, self.fixed = function, fixed
        signature = inspect.signature(function)
        free = [p for name, p in signature.parameters.items() if name not in fixed]
        self.__signature__ = signature.replace(parameters=free)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; what comes in by position fills its other arguments."""
        given = self.__signature__.bind(*args, **kwargs)
        return self.function(*given.args, **given.kwargs, **self.fixed)
