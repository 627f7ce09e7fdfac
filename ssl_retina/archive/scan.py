"""Walk an archive in a fixed order: every entry becomes one row, whatever it is; links are not followed.

In: a folder. Out: `Found` rows, folder by folder in the byte order of the names.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssl_retina.errors import InputError

FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Found:
    """One entry below the source.

    path: relative, with `/`; bytes that are no UTF-8 as surrogates, as `os.fsdecode` gives them.
    size: bytes. reason: empty for a regular file, else why it is not read (not_regular, io), with the detail
    for the ledger behind `: `.
    modified: nanoseconds since 1970; only tells whether an interrupted run's chunk is still right.
    """

    path: str
    size: int
    reason: str = ""
    modified: int = field(default=0, compare=False)


def scan(source: Path) -> Iterator[Found]:
    """Every entry below `source` but its folders, in an order that depends on the names alone.

    One folder's names are held at a time. A folder that cannot be listed is one row with the reason `io`.
    Raises InputError where the source itself is no folder that can be listed.
    """
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise InputError(f"the source {source} {what}: give the folder that holds the photographs")
    if not os.access(source, os.R_OK | os.X_OK):
        raise InputError(f"the source {source} cannot be listed: its permissions do not let this user in")
    pending = [Found("", 0, FOLDER)]
    while pending:
        one = pending.pop()
        if one.reason == FOLDER:
            pending.extend(reversed(_listed(source, one.path)))
        else:
            yield one


def _listed(source: Path, folder: str) -> list[Found]:
    """The entries of one folder, sorted."""
    try:
        with os.scandir(source / folder) as entries:
            names = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return [Found(folder or ".", 0, "io")]
    return [_row(entry, f"{folder}/{entry.name}" if folder else entry.name) for entry in names]


def _row(entry: "os.DirEntry[str]", path: str) -> Found:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return Found(path, 0, "io")
    if stat.S_ISDIR(status.st_mode):
        return Found(path, 0, FOLDER)
    if not stat.S_ISREG(status.st_mode):
        return Found(path, 0, "not_regular")
    return Found(path, status.st_size, modified=status.st_mtime_ns)
