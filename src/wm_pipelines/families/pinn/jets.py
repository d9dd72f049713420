"""Derivatives of a perceptron by its inputs, layer by layer, and the slope of pointwise rows by its weights.

A jet is a value with its derivatives by coordinates. A linear layer maps each of them by itself; a function of one
number acts by the formula of Faà di Bruno, summed over the partitions of the axes (Constantine & Savits 1996, Trans.
Amer. Math. Soc. 348). Nested forward mode of torch.func gives the same, but dispatches every derivative of every
operation in Python: some ten times slower on networks as small as these.

Axes: ``S`` seeds, ``J`` entries of a jet, ``N`` points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

Orders = tuple[int, ...]
"""How often to differentiate along each coordinate."""

Partition = tuple[tuple[int, ...], ...]


def closure(orders: Iterable[Orders], width: int) -> list[Orders]:
    """All that has to be carried to reach ``orders``: everything below them, the value first."""
    found = {(0,) * width}
    waiting = set(orders)
    while waiting:
        order = waiting.pop()
        if order not in found:
            found.add(order)
            waiting |= {_lowered(order, axis) for axis in range(width) if order[axis]}
    return sorted(found, key=lambda o: (sum(o), o))


def of_inputs(x: Tensor, rates: Tensor, orders: Sequence[Orders]) -> Tensor:
    """The jet of inputs ``x [S, N, d]`` that have slopes ``rates [d]`` by the coordinates: ``[S, J, N, d]``."""
    jet = x.new_zeros(len(x), len(orders), *x.shape[1:])
    jet[:, 0] = x
    for number, order in enumerate(orders):
        if sum(order) == 1:
            axis = order.index(1)
            jet[:, number, :, axis] = rates[axis]
    return jet


def linear(jet: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[S, J, N, m] -> [S, J, N, n]``; a constant has no derivatives."""
    out = (jet.flatten(1, 2) @ weight).unflatten(1, jet.shape[1:3])
    return out if bias is None else torch.cat([out[:, :1] + bias[:, None], out[:, 1:]], 1)


def composed(jet: Tensor, orders: Sequence[Orders], ladder: Callable[[Tensor, int], list[Tensor]]) -> Tensor:
    """The jet of ``f(h)`` from that of ``h``; ``ladder(h, k)`` lists ``f, f', …`` up to the derivative ``k``."""
    rungs = ladder(jet[:, 0], max(sum(order) for order in orders))
    entries = [rungs[0]]
    index = {order: number for number, order in enumerate(orders)}
    for order in orders[1:]:
        total: Tensor | None = None
        for blocks, times in _products(order):
            term = rungs[len(blocks)]
            for block in blocks:
                term = term * jet[:, index[block]]
            term = term if times == 1 else times * term
            total = term if total is None else total + term
        assert total is not None
        entries.append(total)
    return torch.stack(entries, 1)


def tanh_ladder(h: Tensor, last: int) -> list[Tensor]:
    """``tanh`` and its derivatives, polynomials in it: ``P_(k+1) = P_k' (1 - y²)``."""
    y = h.tanh()
    powers = [torch.ones_like(y), y]
    found, polynomial = [y], [0.0, 1.0]
    for _ in range(last):
        slope = [k * c for k, c in enumerate(polynomial)][1:]
        polynomial = [*slope, 0.0, 0.0]
        for k, c in enumerate(slope):
            polynomial[k + 2] -= c
        while len(powers) < len(polynomial):
            powers.append(powers[-1] * y)
        terms = [c * p for c, p in zip(polynomial, powers, strict=False) if c]
        found.append(torch.stack(terms).sum(0) if len(terms) > 2 else sum(terms[1:], terms[0]))
    return found


def wave_ladder(h: Tensor, last: int) -> list[Tensor]:
    """``sin`` and its derivatives; those of ``cos`` are the same from the second on."""
    sine, cosine = h.sin(), h.cos()
    return [(sine, cosine, -sine, -cosine)[k % 4] for k in range(last + 1)]


def by_weights(rows: Tensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Slope of pointwise rows by the weights of linear layers, from one backward pass.

    Args:
        rows: ``[S, N]``, row ``n`` a function of the layers' jets at point ``n``.
        inputs: of every layer ``[S, J, N, m]``. outputs: ``[S, J, N, n]``, in the graph of ``rows``.

    Returns:
        For every layer ``[S, N, m, n]`` by the weight and ``[S, N, n]`` by the bias.
    """
    slopes = torch.autograd.grad(rows.sum(), list(outputs), retain_graph=True)
    return [
        (torch.einsum("sjnm,sjnk->snmk", jet.detach(), slope), slope[:, 0])
        for jet, slope in zip(inputs, slopes, strict=True)
    ]


# ---------------------------------------------------------------- partitions


def _lowered(order: Orders, axis: int) -> Orders:
    return tuple(n - (i == axis) for i, n in enumerate(order))


@cache
def _products(order: Orders) -> list[tuple[tuple[Orders, ...], int]]:
    """Partitions of an order's axes as products of derivatives, with how often each product occurs."""
    axes = [axis for axis, times in enumerate(order) for _ in range(times)]
    counts: dict[tuple[Orders, ...], int] = {}
    for partition in _partitions(tuple(range(len(axes)))):
        blocks = tuple(
            sorted(tuple(sum(axes[k] == axis for k in block) for axis in range(len(order))) for block in partition)
        )
        counts[blocks] = counts.get(blocks, 0) + 1
    return list(counts.items())


def _partitions(items: tuple[int, ...]) -> Iterator[Partition]:
    """All ways to split items into non-empty blocks."""
    if not items:
        yield ()
        return
    first, *rest = items
    for smaller in _partitions(tuple(rest)):
        yield ((first,), *smaller)
        for number, block in enumerate(smaller):
            yield (*smaller[:number], (first, *block), *smaller[number + 1 :])
