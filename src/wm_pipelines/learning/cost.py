"""What a computation costs: wall and processor seconds, and the memory it added at its peak."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

import psutil
import torch


@dataclass
class CostMeter:
    """Context manager that measures what happens inside it.

    `memory_mb` is the highest resident memory above that at the start (sampled every 20 ms); on a GPU it is the highest
    memory allocated there.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __enter__(self) -> CostMeter:
        self._process = psutil.Process()
        self._start_memory = self._peak = self._process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def elapsed(self) -> float:
        """Wall seconds since the start."""
        return time.perf_counter() - self._wall

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._wall
        self.cpu_seconds += time.process_time() - self._cpu
        self._stop.set()
        self._sampler.join()
        self._peak = max(self._peak, self._process.memory_info().rss)
        self.memory_mb = (self._peak - self._start_memory) / 2**20
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            self.memory_mb = torch.cuda.max_memory_allocated() / 2**20
