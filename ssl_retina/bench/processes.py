"""What processes have used: processor time and memory, of this one and of those that work for it.

In: process numbers. Out: seconds and bytes, as Linux counts them.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from ssl_retina.errors import StateError

QUIET = 0.002
"""Seconds of the processor, in a tenth of a second, below which processes count as waiting."""


def seconds(processes: Sequence[int]) -> float:
    """Processor time of these processes so far, all their threads included."""
    return sum(time.clock_gettime(_clock(number)) for number in processes)


def _clock(process: int) -> int:
    """The clock of another process, as clock_getcpuclockid(3) makes it."""
    return (~process << 3) | 2


def settle(processes: Sequence[int], patience: float = 300.0) -> None:
    """Wait until none of them computes: until loaders have filled their queues.

    Raises StateError where they do not come to rest: what would be measured then is not what was asked for.
    """
    until = time.monotonic() + patience
    quiet, last = 0, seconds(processes)
    while quiet < 2:
        if time.monotonic() >= until:
            raise StateError(
                f"loader processes do not come to rest within {patience:g} s: this machine is too busy to "
                "measure on; try again, or with fewer --workers"
            )
        time.sleep(0.1)
        now = seconds(processes)
        quiet = quiet + 1 if now - last < QUIET else 0
        last = now


def resident(process: int) -> int:
    """Bytes of memory that the process holds, a share of those it shares with others."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux gives Pss for every process")
