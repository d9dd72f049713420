"""Derivatives of a network by its inputs, for all points at once: forward mode over forward mode (torch.func.jvp)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.func import jvp

Orders = tuple[int, ...]
"""How often to differentiate along each coordinate."""


def derivatives(f: Callable[[Tensor], Tensor], x: Tensor, orders: Iterable[Orders]) -> dict[Orders, Tensor]:
    """Derivatives of a pointwise function.

    A directional derivative of all points costs about one more evaluation. An order is reached by differentiating along
    one coordinate after the other; what lies on the way is kept, so ``u`` and ``u_x`` come with ``u_xx``.

    Args:
        f: ``[..., d] -> [..., F]``, each point by itself.
        x: ``[..., d]``.
        orders: which derivatives.

    Returns:
        ``[..., F]`` by order.
    """
    wanted, x = set(orders), x.contiguous()  # forward mode writes tangents beside every entry: no shared memory
    found: dict[Orders, Tensor] = {}
    for order in sorted(wanted, key=lambda o: (-sum(o), o)):
        if order not in found:
            axes = [axis for axis, times in enumerate(order) for _ in range(times)]
            found.update(_chain(f, x, axes))
    return {order: found[order] for order in wanted}


def _chain(f: Callable[[Tensor], Tensor], x: Tensor, axes: list[int]) -> dict[Orders, Tensor]:
    """All derivatives met on the way along ``axes``."""
    labels: list[Orders] = [(0,) * x.shape[-1]]

    function: Callable[[Tensor], tuple[Tensor, ...]] = lambda at: (f(at),)  # noqa: E731 - wrapped again and again
    for axis in axes:
        direction = torch.zeros_like(x)
        direction[..., axis] = 1
        raised = [tuple(n + (i == axis) for i, n in enumerate(label)) for label in labels]
        # What two paths reach, e.g. u_x of u_xx, is carried once.
        fresh = [i for i, label in enumerate(raised) if label not in labels]
        function = _pushed(function, direction, fresh)
        labels = labels + [raised[i] for i in fresh]
    return dict(zip(labels, function(x), strict=True))


def _pushed(
    function: Callable[[Tensor], tuple[Tensor, ...]], direction: Tensor, keep: list[int]
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def both(at: Tensor) -> tuple[Tensor, ...]:
        value, slope = jvp(function, (at,), (direction,))[:2]
        return (*value, *(slope[i] for i in keep))

    return both
