"""How fast a run goes and what it waits for: the numbers under `"clock"` in the metrics.

In: the moments of steps and of waiting for data. Out: images a second over all ranks, the share of step
time spent waiting for data, and memory. Monotonic time, so that a set clock harms nothing.
"""

import contextlib
import resource
import time
from collections.abc import Iterator

import torch

GIB = 2**30


class Meter:
    """Sums since the last reading; evaluation and saving are not step time."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps = 0
        self._seconds = 0.0
        self._waited = 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around one optimiser step, its waiting for data included."""
        begin = time.monotonic()
        yield
        self._seconds += time.monotonic() - begin
        self._steps += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the next micro-batch and brings it to the device."""
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    def read(self) -> dict[str, float]:
        """The numbers since the last reading, and the time of day (seconds since 1970)."""
        seconds = max(self._seconds, 1e-9)
        numbers = {
            "time": time.time(),
            "images_per_second": self._steps * self._batch_size / seconds,
            "data_wait": min(1.0, self._waited / seconds),
            "memory_gib": _memory(),
        }
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return numbers


def _memory() -> float:
    """The most that was in use: of the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
