"""ZIP and tar archives -> the rows of their members. Nothing is extracted; no name is ever used as a path.

In: the path of a container. Out: `Found` rows in the container's own order. What cannot be read keeps its
row, with a reason: nested_container, encrypted, not_regular (links, devices), unsafe_name (absolute, `..`),
too_large, same_name, no_decoder:zip-<method>; for the container itself container_damaged, truncated, io,
empty_container, too_large.
"""

import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ssl_retina.archive.containers import tars, zips
from ssl_retina.archive.containers.entry import Entry
from ssl_retina.archive.found import Found, Member
from ssl_retina.archive.rejection import Rejected

KINDS = {".zip": "zip", ".tar": "tar", ".tar.gz": "stream", ".tgz": "stream"}
OTHERS = (".7z", ".rar", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".zst")
"""Suffixes of containers that are not read."""

MEMBER_LIMIT = 1024**3
"""Bytes of one member, packed and unpacked: it is held in memory while it is decoded, like a file."""

DAMAGE = (EOFError, zlib.error, OSError)
"""What reading a damaged container raises; an OSError with an errno is the storage's."""


def kind(name: str) -> str | None:
    """`zip`, `tar` or `stream` (tar.gz) by the suffix, `other` for containers that are not read, or None."""
    low = name.casefold()
    for suffix, found in KINDS.items():
        if low.endswith(suffix):
            return found
    return "other" if low.endswith(OTHERS) else None


def members(path: Path, own: Found, prefix: str) -> Iterator[Found]:
    """The rows of a container's members, and one of the container itself where it has none or is damaged.

    own: the container's own row. prefix: what stands before a member's name in its path.
    """
    what = kind(path.name)
    if what in (None, "other"):
        yield _itself(own, "no_reader:container")
        return
    seen: set[str] = set()
    try:
        with opened(path) as stream:
            changed = os.fstat(stream.fileno()).st_mtime_ns
            for number, entry in enumerate(_entries(stream, str(what))):
                container = own.path if prefix else ""
                member = Member(container, entry.offset, entry.packed, entry.packing, entry.crc)
                reason = entry.reason or _refusal(entry, seen)
                name = f"{entry.name}\0{number}" if entry.name in seen else entry.name
                seen.add(name)
                yield Found(prefix + name, max(entry.size, 0), reason, changed, None if reason else member)
    except Rejected as refusal:
        yield _itself(own, refusal.reason)
    else:
        if not seen:
            yield _itself(own, "empty_container")


def _itself(own: Found, reason: str) -> Found:
    """The container's own row; its path is no member's, since no name holds a zero byte."""
    return Found(f"{own.path}\0", own.size, reason, own.modified)


def opened(path: Path) -> BinaryIO:
    """Open a regular file; never waits on a pipe. Raises Rejected: not_regular, io."""
    try:
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise Rejected("io", f"errno {error.errno}") from None
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise Rejected("not_regular")
    return stream


def _entries(stream: BinaryIO, what: str) -> Iterator[Entry]:
    """The entries of an opened container. Raises Rejected for damage, after those before it."""
    try:
        if what == "zip":
            yield from zips.entries(stream)
        elif what == "tar":
            yield from tars.entries(tars.Plain(stream), "tar")
        else:
            yield from tars.entries(tars.Inflated(stream), "stream")
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise Rejected("io", f"errno {error.errno}") from None
        raise Rejected("truncated" if isinstance(error, EOFError) else "container_damaged") from None


def _refusal(entry: Entry, seen: set[str]) -> str:
    """Why a member is not read, by its name and size; empty where it is."""
    parts = entry.name.split("/")
    if entry.name in seen:
        return "same_name"
    if not parts[0] or ".." in parts or "\0" in entry.name or re.match(r"[A-Za-z]:", entry.name):
        return "unsafe_name"
    if kind(entry.name):
        return "nested_container"
    return "too_large" if max(entry.size, entry.packed) > MEMBER_LIMIT else ""


class Reader:
    """Reads members in one process; the last container stays open, and a tar.gz goes on where it stands."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name: str | None = None
        self._stream: BinaryIO | None = None
        self._inflated: tars.Inflated | None = None

    def content(self, found: Found, member: Member) -> bytes:
        """A member's bytes. Raises Rejected: member_damaged, truncated, not_regular, io."""
        if max(found.size, member.packed) > MEMBER_LIMIT:
            raise Rejected("too_large", f"{found.size} bytes, packed {member.packed}")
        try:
            stream = self._opened(found, member)
            if member.packing == "tar":
                return tars.read(stream, member.offset, found.size)
            if member.packing == "stream":
                return self._streamed(stream, member.offset, found.size)
            return zips.read(stream, member, found.size)
        except DAMAGE as error:
            self.close()
            if isinstance(error, OSError) and error.errno is not None:
                raise Rejected("io", f"errno {error.errno}") from None
            raise Rejected("truncated" if isinstance(error, EOFError) else "member_damaged") from None

    def _opened(self, found: Found, member: Member) -> BinaryIO:
        if self._stream is None or self._name != member.container:
            self.close()
            stream = opened(self._root / member.container if member.container else self._root)
            if os.fstat(stream.fileno()).st_mtime_ns != found.modified:
                stream.close()
                raise Rejected("io", "the container was changed since it was listed")
            self._stream, self._name = stream, member.container
        return self._stream

    def _streamed(self, stream: BinaryIO, offset: int, size: int) -> bytes:
        """Go on unpacking up to the member; only a member that lies behind needs a new start."""
        if self._inflated is None or self._inflated.position > offset:
            stream.seek(0)
            self._inflated = tars.Inflated(stream)
        self._inflated.skip(offset - self._inflated.position)
        return self._inflated.read(size)

    def close(self) -> None:
        """Close what is open."""
        self._inflated = None
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        self._stream = self._name = None
