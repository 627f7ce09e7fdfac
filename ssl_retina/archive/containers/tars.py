"""Tar files, plain or in one gzip stream: headers one by one, bounded, nothing skipped in silence.

In: a byte source that only goes forward. Out: entries with the place of their data. The headers are walked
here and not by `tarfile`, which reads a name of any claimed size into memory and takes a cut archive for a
whole one; a header itself is parsed by `tarfile.TarInfo`. A tar without its closing zero block was cut.
"""

import gzip
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from ssl_retina.archive.containers.entry import Entry
from ssl_retina.archive.rejection import Rejected

BLOCK = 512
NAME_LIMIT = 1 << 16
STEP = 1 << 20
LONG_NAME, LONG_LINK, EXTENDED, SHARED = b"L", b"K", (b"x", b"X"), b"g"
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
FREE_BYTES = 1 << 30
LARGEST_RATIO = 200
"""A gzip stream may become so many times larger beyond FREE_BYTES; photographs reach 2, gzip itself 1,000."""


class Forward(Protocol):
    """A source of bytes that goes forward; `position` counts unpacked bytes."""

    position: int

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises EOFError."""

    def skip(self, size: int) -> None:
        """Go on by `size` bytes. Raises EOFError."""


class Plain:
    """A tar as it lies on disk."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.position = stream, 0
        self._length = os.fstat(stream.fileno()).st_size

    def read(self, size: int) -> bytes:
        """As Forward."""
        self._stream.seek(self.position)
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError
        self.position += size
        return content

    def skip(self, size: int) -> None:
        """As Forward; costs nothing."""
        if self.position + size > self._length:
            raise EOFError
        self.position += size


class Inflated:
    """A tar inside gzip, unpacked in steps; never more of it in memory than is asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._raw, self._stream, self.position = stream, gzip.GzipFile(fileobj=stream), 0

    def read(self, size: int) -> bytes:
        """As Forward. Raises Rejected (too_large) for a stream that unpacks to no plausible size."""
        content = self._stream.read(size)
        self.position += len(content)
        if self.position > FREE_BYTES + LARGEST_RATIO * self._raw.tell():
            raise Rejected("too_large", "a stream that unpacks to more than 200 times its size")
        if len(content) != size:
            raise EOFError
        return content

    def skip(self, size: int) -> None:
        """As Forward; the bytes are unpacked and thrown away."""
        while size:
            size -= len(self.read(min(size, STEP)))


def entries(source: Forward, packing: str) -> Iterator[Entry]:
    """The files of a tar in its order. Raises Rejected (container_damaged), EOFError where it was cut."""
    stated: dict[str, str] = {}
    while (block := source.read(BLOCK)).strip(b"\0"):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise Rejected("container_damaged", "a header") from None
        if info.size < 0:
            raise Rejected("container_damaged", "a negative size")
        if info.type in (LONG_NAME, LONG_LINK, *EXTENDED, SHARED):
            stated |= _stated(info, source)
            continue
        if "size" in stated:
            info.size = _number(stated["size"])
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise Rejected("container_damaged", "sparse members are not read")
        filled = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if info.type != tarfile.DIRTYPE:
            reason = "" if info.type in REGULAR else "not_regular"
            name = stated.get("path", info.name)
            yield Entry(name, info.size, source.position, info.size, packing, reason=reason)
        source.skip(_padded(info.size) if filled else 0)
        stated = {}


def _stated(info: tarfile.TarInfo, source: Forward) -> dict[str, str]:
    """What a header in front of another one says about that: a long name, a path, a size."""
    if info.size > NAME_LIMIT:
        raise Rejected("container_damaged", "a name of more than 64 KiB")
    content = source.read(_padded(info.size))[: info.size]
    if info.type == LONG_NAME:
        return {"path": content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    if info.type not in EXTENDED:
        return {}
    found: dict[str, str] = {}
    while content.strip(b"\0"):
        length = _number(content.split(b" ", 1)[0].decode("ascii", "replace"))
        record, content = content[:length], content[length:]
        name, equals, value = record.partition(b" ")[2].partition(b"=")
        if not length or not equals or not value.endswith(b"\n"):
            raise Rejected("container_damaged", "an extended header")
        if name in (b"path", b"size"):
            found[name.decode()] = value[:-1].decode("utf-8", "surrogateescape")
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise Rejected("container_damaged", "an extended header")
    return int(text)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def read(stream: BinaryIO, offset: int, size: int) -> bytes:
    """A member of a plain tar. Raises EOFError where the file ends inside."""
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise EOFError
    return content
