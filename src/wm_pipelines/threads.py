"""On how many threads sums are made: over more of them they round differently, and end in other bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and the linear algebra of numpy and scipy on ``count`` CPU threads, as long as the block lasts.

    The two have pools of their own. A library that is first loaded within the block is not held back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
