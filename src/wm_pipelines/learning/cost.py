"""What a computation costs: seconds, floating-point operations, the memory it added at its peak."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass
class CostMeter:
    """Context manager that measures what happens inside it.

    `seconds` are those of a processor core, which do not depend on what else the machine does; with ``wall`` those of
    the clock, where a GPU does the work. `memory_mb` is the highest resident memory above that at the start (sampled
    every 20 ms); on a GPU it is the highest memory allocated there.
    """

    wall: bool = False
    seconds: float = 0.0
    memory_mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __enter__(self) -> CostMeter:
        self._process = psutil.Process()
        self._start_memory = self._peak = self._process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._began = self._now()
        return self

    def _now(self) -> float:
        return time.perf_counter() if self.wall else time.process_time()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._began

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += self.elapsed()
        self._stop.set()
        self._sampler.join()
        self._peak = max(self._peak, self._process.memory_info().rss)
        self.memory_mb = (self._peak - self._start_memory) / 2**20
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            self.memory_mb = torch.cuda.max_memory_allocated() / 2**20


class FlopCounter(TorchDispatchMode):
    """Counts floating-point operations of matrix products, convolutions and attention, by torch's own formulas.

    (`torch.utils.flop_counter.FlopCounterMode` also tracks modules, by hooks that forbid a gradient inside a loss.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
