"""Walk an archive in a fixed order: every entry becomes one row, whatever it is; links are not followed.

In: a folder, or a ZIP or tar file. Out: `Found` rows, folder by folder in the byte order of the names; the
members of a container stand in its place, in its own order.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ssl_retina.archive import containers
from ssl_retina.archive.found import Found
from ssl_retina.errors import InputError

__all__ = ["Found", "scan"]

FOLDER = "folder"


def scan(source: Path) -> Iterator[Found]:
    """Every entry below `source` but its folders, in an order that depends on the names alone.

    One folder's names are held at a time. A folder that cannot be listed is one row with the reason `io`.
    Where the source itself is a container, paths are those inside it. Raises InputError where the source is
    no folder that can be listed and no container.
    """
    if source.is_file() and containers.kind(source.name) not in (None, "other"):
        status = source.stat()
        own = Found(source.name, status.st_size, modified=status.st_mtime_ns)
        yield from containers.members(source, own, "")
        return
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise InputError(
            f"the source {source} {what}: give the folder that holds the photographs, or a .zip, .tar, "
            ".tar.gz or .tgz file"
        )
    if not os.access(source, os.R_OK | os.X_OK):
        raise InputError(f"the source {source} cannot be listed: its permissions do not let this user in")
    pending = [Found("", 0, FOLDER)]
    while pending:
        one = pending.pop()
        if one.reason == FOLDER:
            pending.extend(reversed(_listed(source, one.path)))
        elif not one.reason and containers.kind(one.path):
            yield from containers.members(source / one.path, one, f"{one.path}/")
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
