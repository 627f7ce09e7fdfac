"""A folder has one writer (law 9), also where writers are processes of different machines.

In: a folder. Out: its lock, held with a sign of life every few seconds, or an error that names the holder.
Whether a holder on another machine lives is judged by the file system's clock: no two machines' agree.
"""

import contextlib
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from ssl_retina import scheduler
from ssl_retina.errors import StateError

LOCK_NAME = ".lock"
BEAT_SECONDS = 10.0
"""A holder touches its lock this often."""
SILENT_SECONDS = 300.0
"""So long without a touch, and a holder on another machine is dead. (NFS shows times a minute late.)"""
LEAVING_SECONDS = 30.0
"""The same for an earlier start of our own job: SLURM ended it, unless its machine is cut off."""
PATIENCE_SECONDS = 120.0
"""So long a restarted job waits for its earlier start to be gone."""
POLL_SECONDS = 0.5

State = Literal["dead", "alive", "leaving", "unsure"]
Holder = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """One look at a lock file: its content, its last touch (nanoseconds), and for how long it is silent."""

    content: bytes
    touched: int
    silent: float

    @property
    def holder(self) -> Holder:
        """Who wrote it; empty where the file is not ours."""
        try:
            held = json.loads(self.content)
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}


def _mine() -> Holder:
    job = scheduler.current()
    return {
        "host": socket.gethostname(),
        **_here(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "beat": BEAT_SECONDS,
        "nonce": secrets.token_hex(8),
        "job": job.id if job else None,
        "restart": job.restart if job else None,
    }


def _started(pid: int) -> str | None:
    """The kernel's start time of a process: tells a live holder from another process with its number.

    None where the system does not say.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return "ended" if fields[0] in "ZX" else fields[19]  # a zombie only waits to be waited for


def _here() -> Holder:
    """What tells this machine from others of its name: its boot, and whose process numbers are meant."""
    facts: Holder = {"boot": None, "processes": None}
    with contextlib.suppress(OSError):  # another system
        facts["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts["processes"] = os.readlink("/proc/self/ns/pid")
    return facts


def _is_neighbour(holder: Holder, mine: Holder) -> bool:
    """Whether the holder's process number is seen from here; the name decides where a side says no more."""
    told = [(holder.get(key), mine.get(key)) for key in ("boot", "processes")]
    return holder.get("host") == mine["host"] and all(None in pair or pair[0] == pair[1] for pair in told)


def _runs_here(holder: Holder) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _started(pid) == holder.get("started")


def judge(holder: Holder, mine: Holder, silent: float) -> State:
    """Whether a holder lives, seen from `mine`; `silent`: seconds since its last sign of life.

    leaving: an earlier start of our own job, which is about to end. unsure: another machine's process that
    was alive a moment ago.
    """
    if not holder:
        return "dead"
    earlier = mine["job"] is not None and holder.get("job") == mine["job"]
    earlier = earlier and isinstance(holder.get("restart"), int) and holder["restart"] < mine["restart"]
    if _is_neighbour(holder, mine):
        if not _runs_here(holder):
            return "dead"
        return "leaving" if earlier else "alive"
    if "beat" not in holder:  # written by a version without signs of life: believed
        return "alive"
    if silent > (LEAVING_SECONDS if earlier else SILENT_SECONDS):
        return "dead"
    return "leaving" if earlier else "unsure"


def is_held(folder: Path) -> bool:
    """Whether a live process writes in `folder`. Changes nothing, so it goes by this machine's clock."""
    try:
        look = _look(folder / LOCK_NAME, now=time.time())
    except OSError:  # it is there, and it is not ours to read
        return True
    return look is not None and judge(look.holder, _mine(), look.silent) != "dead"


def _look(path: Path, *, now: float) -> Look | None:
    try:
        with path.open("rb") as stream:
            touched = os.fstat(stream.fileno())
            return Look(stream.read(), touched.st_mtime_ns, now - touched.st_mtime)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder as its only writer; a dead holder's lock is taken over.

    A restarted SLURM job waits for its earlier start to be gone, and any SLURM job waits until it is sure
    about a holder on another machine. Raises StateError that names the holder where another process is
    writing.
    """
    mine = _mine()
    taker = _Taker(folder / LOCK_NAME, folder / f"{LOCK_NAME}-{mine['nonce']}", mine)
    taker.candidate.write_text(json.dumps(mine))
    try:
        taker.take()
        taker.sweep()
    finally:
        taker.candidate.unlink(missing_ok=True)
    with _beating(taker.path, taker.candidate, json.dumps(mine).encode()):
        yield


class _Taker:
    """One attempt to get a lock: `candidate` holds our name and becomes the lock by a link."""

    def __init__(self, path: Path, candidate: Path, mine: Holder) -> None:
        self.path, self.candidate, self._mine = path, candidate, mine

    def take(self) -> None:
        """Return with the lock held, or raise StateError."""
        begin, first = time.monotonic(), None
        while not self._linked(self.path):
            look = self._look(self.path)
            if look is None:  # gone in the meantime
                continue
            state = judge(look.holder, self._mine, look.silent)
            if state == "dead":
                self._retire(self.path, look.content)
                continue
            first = first or look.touched
            waited = time.monotonic() - begin
            if not self._waits(state, waited, moved=look.touched != first):
                raise StateError(_held(self.path, look))
            time.sleep(POLL_SECONDS)

    def _waits(self, state: State, waited: float, *, moved: bool) -> bool:
        """Nobody sits before a job: it can wait for an answer that a person gets at once as an error."""
        if state == "leaving":
            return waited < PATIENCE_SECONDS
        return state == "unsure" and self._mine["job"] is not None and not moved

    def _linked(self, target: Path) -> bool:
        """Whether `target` now is our candidate: atomic, and a lock is never seen empty."""
        try:
            os.link(self.candidate, target)
        except FileExistsError:  # NFS may say so of a link that it made, when its answer was lost
            look = self._look(target)
            return look is not None and look.holder.get("nonce") == self._mine["nonce"]
        return True

    def _look(self, path: Path) -> Look | None:
        os.utime(self.candidate)  # now, as the file system's own clock has it
        return _look(path, now=self.candidate.stat().st_mtime)

    def _retire(self, path: Path, dead: bytes) -> None:
        """Remove a dead holder's file: of many that try, one does, and none removes what came after it.

        The right to remove exactly this content is a file of its own, which may have a dead holder too.
        """
        digest = hashlib.blake2b(dead, digest_size=8).hexdigest()
        right = path.with_name(f"{LOCK_NAME}-{digest}-retired")
        if not self._linked(right):
            look = self._look(right)
            if look and judge(look.holder, self._mine, look.silent) == "dead":
                self._retire(right, look.content)
            time.sleep(0.01)
            return
        try:
            look = self._look(path)
            if look and look.content == dead:
                path.unlink(missing_ok=True)
        finally:
            right.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what processes that were killed while they asked for the lock left behind."""
        for path in self.path.parent.glob(f"{LOCK_NAME}-*"):
            look = self._look(path)
            if look and judge(look.holder, self._mine, look.silent) == "dead":
                self._retire(path, look.content)


def _held(path: Path, look: Look) -> str:
    holder = look.holder
    seen = f"; its last sign of life was {look.silent:.0f} s ago" if "beat" in holder else ""
    dead = f", and after {SILENT_SECONDS:.0f} s it counts as dead" if seen else ""
    return (
        f"{path.parent} is being written by process {holder.get('pid')} on {holder.get('host')}{seen}{dead}: "
        f"wait for it, or end it; if that machine is gone, remove {path}"
    )


@contextlib.contextmanager
def _beating(path: Path, candidate: Path, content: bytes) -> Iterator[None]:
    """Give signs of life while the lock is held, and remove it at the end."""
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, candidate, content, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=BEAT_SECONDS)
        look = _look(path, now=0)
        if look and look.content == content:
            path.unlink(missing_ok=True)


def _beat(path: Path, candidate: Path, content: bytes, done: threading.Event) -> None:
    seen = time.time()  # a clock that goes on while the machine is suspended
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a file system that hangs for a while is no reason to stop
            look = _look(path, now=0)
            if look is None:
                look = _put_back(path, candidate, content, missed=time.time() - seen)
            if look.content != content:
                _end_at_once(path, "has another writer now")
            with contextlib.suppress(FileNotFoundError):  # removed again, by hand
                os.utime(path)
            seen = time.time()


def _put_back(path: Path, candidate: Path, content: bytes, *, missed: float) -> Look:
    """The lock where ours is missing: ours again, or that of whoever was faster.

    Nobody can have thought us dead within LEAVING_SECONDS, so somebody removed the file. After a longer time
    another writer may have come and gone, and what this process knows of the folder may be wrong.
    """
    if missed > LEAVING_SECONDS:
        _end_at_once(path, f"may have had another writer, for this process stood still for {missed:.0f} s")
    with contextlib.suppress(FileExistsError, FileNotFoundError):  # a faster one; the folder itself is gone
        candidate.write_bytes(content)
        os.link(candidate, path)
    candidate.unlink(missing_ok=True)
    return _look(path, now=0) or Look(content, 0, 0)


def _end_at_once(path: Path, why: str) -> NoReturn:
    """Another process took the lock over while this one stood still (suspended, cut off): write no more."""
    os.write(2, f"ssl-retina: {path.parent} {why}; this process ends at once\n".encode())
    os._exit(StateError.exit_code)
