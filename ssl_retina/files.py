"""Files appear whole or not at all, and a folder has one writer (law 9).

In: bytes or a function that writes. Out: the file under its final name, complete and on disk, or no file.
"""

import contextlib
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ssl_retina.errors import InputError, StateError

LOCK_NAME = ".lock"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed, on failure removed."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.touch(mode=0o600)  # a secret is never readable by others, not even while it is written
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def claim_folder(folder: Path, known: Collection[str], what: str) -> None:
    """Make an output folder, or accept one that is empty or already `what`: holds one of the `known` names.

    Raises InputError for a path that cannot be a folder of ours: before any work, not after it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): give a folder you may write to"
        ) from None
    if held and not held & set(known):
        raise InputError(f"{folder} holds other things than {what} ({len(held)} entries): give a new folder")


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` whole."""
    with whole(path, mode) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON whole: sorted keys and one trailing newline, so that equal content gives equal bytes."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode(), mode)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _holder(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return held if isinstance(held, dict) else {}


def _started(pid: int) -> str | None:
    """The kernel's start time of a process: tells a live holder from another process with its number.

    None where the system does not say.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return "ended" if fields[0] in "ZX" else fields[19]  # a zombie only waits to be waited for


def _alive(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return bool(holder)  # another machine's process cannot be looked at: believe the file
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


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder as its only writer; a dead holder's lock on this machine is taken over.

    Raises StateError that names the holder where another process is writing.
    """
    path = folder / LOCK_NAME
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    candidate = folder / f"{LOCK_NAME}-{os.getpid()}"
    candidate.write_text(json.dumps(mine))
    try:
        while True:
            try:
                os.link(candidate, path)  # atomic, and the lock is never seen empty
                break
            except FileExistsError:
                holder = _holder(path)
                if _alive(holder):
                    raise StateError(
                        f"{folder} is being written by process {holder.get('pid')} on {holder.get('host')}: "
                        f"wait for it, or end it; if that machine is gone, remove {path}"
                    ) from None
                _retire(path)
    finally:
        candidate.unlink(missing_ok=True)
    _sweep_candidates(folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _retire(path: Path) -> None:
    """Take a dead holder's lock away; put it back if somebody took it over in the meantime."""
    aside = path.with_name(f"{LOCK_NAME}-{os.getpid()}-stale")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _alive(_holder(aside)):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _sweep_candidates(folder: Path) -> None:
    """Remove what processes that were killed while they asked for the lock left behind."""
    for candidate in folder.glob(f"{LOCK_NAME}-*"):
        holder = _holder(candidate)
        if holder and not _alive(holder):
            candidate.unlink(missing_ok=True)
