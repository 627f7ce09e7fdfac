"""Signals become a flag that the loop reads between two steps.

In: SIGTERM, SIGUSR1 and SIGUSR2 of a scheduler, SIGINT of the person. Out: the number of the one that came
first, or, before the first step, an error at once, since there is nothing to save.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from ssl_retina.errors import InterruptedRunError, RequeueError, UserError

SCHEDULER = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ALL = (signal.SIGINT, *SCHEDULER)


class Stop:
    """The first signal that came; later ones change nothing, so that a save is always finished."""

    def __init__(self) -> None:
        self.signal = 0
        self._stepping = False
        self._process = os.getpid()

    def begin(self) -> None:
        """From here on a signal waits for the end of the step."""
        self._stepping = True

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. Processes forked from this one (loader workers) inherit it and ignore the signal."""
        del frame
        if os.getpid() != self._process:
            return
        self.signal = self.signal or number
        if not self._stepping:
            raise stopped(number, "before its first step; there was nothing new to save")


def stopped(number: int, how: str) -> UserError:
    """The error with which a run ends after a signal: what happened, and how it goes on."""
    name = signal.Signals(number).name
    if number == signal.SIGINT:
        return InterruptedRunError(f"interrupted {how}; the same command continues")
    return RequeueError(f"stopped by {name} {how}; the same command continues", number)


@contextlib.contextmanager
def noted() -> Iterator[Stop]:
    """Note signals instead of dying of them; the old handlers come back at the end."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in ALL}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
