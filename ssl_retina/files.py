"""Files appear whole or not at all, and a folder has one writer (law 9).

In: bytes or a function that writes. Out: the file under its final name, complete and on disk, or no file.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ssl_retina.errors import InputError
from ssl_retina.locks import LOCK_NAME, lock

__all__ = [
    "LOCK_NAME",
    "PRIVATE_FOLDER",
    "NO_ROOM",
    "check_file",
    "check_folder",
    "claim_folder",
    "lock",
    "lock_of_its_own",
    "mode_beside",
    "sha256",
    "sync_folder",
    "whole",
    "whole_alone",
    "write_bytes",
    "write_first",
    "write_json",
]

NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""What a full disk, a spent quota and a limit of file sizes answer."""


PRIVATE_FOLDER = 0o700
"""What holds photographs of patients is for the user who made it, until they say otherwise."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is fsynced and renamed, on failure removed.

    Raises OSError; where the disk has no room, it names `path`.
    """
    temporary = _temporary(path)
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
    except OSError as error:
        _name(error, path)
        raise
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
        try:
            with whole(folder / path.name) as temporary:
                yield temporary
        except OSError as error:
            _name(error, path)
            raise
        os.replace(folder / path.name, path)
        sync_folder(path.parent)


def check_file(path: Path, named: str) -> None:
    """Refuse a place that no file can be put at: before the work, not after it. Replacing is not asked about.

    named: how the user gave it, such as `--out x.parquet`. Raises InputError.
    """
    temporary = _temporary(path)
    try:
        if path.is_dir():
            raise InputError(f"{named} is a folder: give the name of a file in it")
        if path.is_symlink():
            raise InputError(f"{named} is a link, and would be replaced and not followed: give another name")
        if not path.parent.is_dir():
            raise InputError(f"{named}: the folder {path.parent} does not exist; make it first")
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise InputError(
            f"{named} cannot be written ({error.strerror}): give a name in a folder you may write to"
        ) from None


def _name(error: OSError, path: Path) -> None:
    """Say which file found no room: a write knows no name."""
    if error.errno in NO_ROOM:
        error.filename = str(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def claim_folder(folder: Path, known: Collection[str], what: str) -> None:
    """Make an output folder, or accept one that is empty or already `what`: holds one of the `known` names.

    Raises InputError for a path that cannot be a folder of ours: before any work, not after it.
    """
    check_folder(folder, known, what)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error.strerror) from None


def check_folder(folder: Path, known: Collection[str], what: str) -> None:
    """Refuse what `claim_folder` would refuse, and write nothing: permissions are asked, not tried."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file, not a folder: give a folder for {what}")
        held = {path.name for path in folder.iterdir() if path.name[0] != "."} if there == folder else set()
    except OSError as error:
        raise _unwritable(folder, error.strerror) from None
    if held and not held & set(known):
        count = "1 entry" if len(held) == 1 else f"{len(held)} entries"
        raise InputError(f"{folder} holds other things than {what} ({count}): give a new folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, os.strerror(errno.EACCES))


def _unwritable(folder: Path, why: str | None) -> InputError:
    return InputError(f"{folder} cannot be written ({why}): give a folder you may write to")


def mode_beside(folder: Path) -> int:
    """The mode of a new file: private in a folder that is private, else readable by all."""
    return 0o644 if stat.S_IMODE(folder.stat().st_mode) & 0o077 else 0o600


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` whole."""
    with whole(path, mode) as temporary:
        temporary.write_bytes(content)


def write_first(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Write `content` whole unless the file is there already, and say whether it was written.

    Of several writers exactly one is first: a link fails where a rename would replace.
    """
    candidate = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")
    write_bytes(candidate, content, mode)
    try:
        os.link(candidate, path)
    except FileExistsError:
        return False
    finally:
        candidate.unlink()
    sync_folder(path.parent)
    return True


def write_json(path: Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON whole: sorted keys and one trailing newline, so that equal content gives equal bytes."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode(), mode)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
