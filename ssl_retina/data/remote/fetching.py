"""One file from an address, with patience: tried again with growing pauses, continued, checked.

In: a transport and what the index promises. Out: the file's bytes behind an open descriptor, or a ShardError
that names file and reason. Every attempt in vain is told on stderr.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import SystemRandom
from typing import Protocol

from ssl_retina.errors import ShardError
from ssl_retina.http_rules import BusyError

BLOCK = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long a silent server is waited for, how often it may fail in a row, the pauses, which double."""

    stall_seconds: float = 30.0
    attempts: int = 10
    pause_seconds: float = 0.5
    longest_pause: float = 30.0

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt: between half and all of the doubled pause, by chance."""
        full = min(self.longest_pause, self.pause_seconds * 2.0 ** (failures - 1))
        return full * SystemRandom().uniform(0.5, 1.0)  # no generator that training draws from


@dataclass(frozen=True)
class Wanted:
    """A file of a set. `size` and `sha256` as the index promises them; `limit`: no more is taken."""

    name: str
    limit: int
    size: int | None = None
    sha256: str | None = None


class OtherError(BusyError):
    """Other bytes than promised came, or are announced: the file is asked for from its start."""


class Part:
    """What has arrived of a file, behind a descriptor that may be longer than that."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.done, self.mark = descriptor, 0, ""

    def begin(self, mark: str) -> None:
        """Start at 0; `mark` tells this version of the file from another one, where the server says."""
        self.done, self.mark = 0, mark

    def write(self, block: bytes, wanted: Wanted) -> None:
        """Append. Raises OtherError where it becomes too much, OSError."""
        if self.done + len(block) > wanted.limit:
            raise OtherError(f"it has more than {wanted.limit} bytes")
        view = memoryview(block)
        while view:
            count = os.pwrite(self.descriptor, view, self.done)
            self.done += count
            view = view[count:]

    def sha256(self) -> str:
        """Hex digest of what has arrived."""
        digest, at = hashlib.sha256(), 0
        while at < self.done:
            block = os.pread(self.descriptor, min(BLOCK, self.done - at), at)
            digest.update(block)
            at += len(block)
        return digest.hexdigest()


class Transport(Protocol):
    """How files of a set are read. `shown` is its address without secrets."""

    shown: str

    def receive(self, wanted: Wanted, part: Part) -> None:
        """One attempt; what comes is written at the part's end, or from its start where that must be.

        Raises BusyError for what may mend, ShardError for a plain no, OSError of the disk.
        """
        ...

    def sizes(self, names: list[str], patience: Patience) -> Mapping[str, int | str]:
        """The size of each file, or why it has none, all asked at once; other tars beside them too."""
        ...


def say(text: str) -> None:
    """A line on stderr, from whatever process and thread."""
    os.write(2, f"ssl-retina: {text}\n".encode())


def fetch(transport: Transport, wanted: Wanted, part: Part, patience: Patience) -> None:
    """Bring a file to its end, as promised.

    Failures count while nothing new arrives; how often other bytes came counts by itself. Raises ShardError,
    and OSError of the disk.
    """
    failures, others, furthest = 0, 0, 0
    while True:
        before = part.done
        try:
            transport.receive(wanted, part)
            if _is_whole(wanted, part):
                return
            if part.done > before:
                continue  # a legal answer that held a piece
            reason, after = f"the answer ended at byte {part.done}", 0.0
        except BusyError as error:
            reason, after = str(error), error.after
            if isinstance(error, OtherError):
                others, furthest = others + 1, 0
                part.begin("")
        failures = 0 if part.done > furthest else failures + 1
        furthest = max(furthest, part.done)
        if max(failures, others) >= patience.attempts:
            raise ShardError(
                f"{wanted.name} did not come from {transport.shown} ({reason}; "
                f"{max(failures, others)} attempts in vain). The run continues at its last checkpoint: "
                "start again when the server answers"
            )
        pause_after(f"{wanted.name}: {reason}", max(failures, others), after=after, patience=patience)


def pause_after(reason: str, failures: int, *, after: float, patience: Patience) -> None:
    """Tell of an attempt in vain, and wait."""
    seconds = max(patience.pause(max(failures, 1)), after)
    say(f"{reason}; again in {seconds:.1f} s ({failures} of {patience.attempts} attempts in vain)")
    time.sleep(seconds)


def _is_whole(wanted: Wanted, part: Part) -> bool:
    """Whether all of it is there. Raises OtherError where it is not what was promised."""
    if wanted.size is not None and part.done < wanted.size:
        return False
    if wanted.size is not None and part.done != wanted.size:
        raise OtherError(f"it has {part.done} bytes, the index promises {wanted.size}")
    if wanted.sha256 is not None and part.sha256() != wanted.sha256:
        raise OtherError("its bytes are not those that the index promises (SHA-256)")
    return True
