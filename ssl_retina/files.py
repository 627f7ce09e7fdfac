"""Files appear whole or not at all, and a folder has one writer (law 9).

In: bytes or a function that writes. Out: the file under its final name, complete and on disk, or no file.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ssl_retina.errors import InputError
from ssl_retina.locks import LOCK_NAME, lock

__all__ = [
    "LOCK_NAME",
    "claim_folder",
    "lock",
    "lock_of_its_own",
    "sha256",
    "sync_folder",
    "whole",
    "whole_alone",
    "write_bytes",
    "write_json",
]


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


@contextlib.contextmanager
def lock_of_its_own(folder: Path) -> Iterator[None]:
    """Hold a folder that is there for its lock's sake: made when it is missing, gone with the lock if empty.

    Whoever is the next may hold it before it is gone: only an empty folder is removed, and without a lock.
    """
    with contextlib.ExitStack() as held:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # an earlier holder has just removed it
                held.enter_context(lock(folder))
                break
        try:
            yield
        finally:
            held.close()
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def whole_alone(path: Path) -> Iterator[Path]:
    """As `whole`, for a file that takes long to write: it has one writer, and what a kill left is removed.

    The temporary path lies in a hidden folder beside `path`, which is locked. Raises StateError where another
    process writes this file.
    """
    folder = path.with_name(f".{path.name}.partial")
    with lock_of_its_own(folder):
        for left in folder.iterdir():
            if not left.name.startswith(LOCK_NAME):
                left.unlink()
        with whole(folder / path.name) as temporary:
            yield temporary
        os.replace(folder / path.name, path)
        sync_folder(path.parent)


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
