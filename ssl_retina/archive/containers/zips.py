"""ZIP files: the central directory read in blocks, members by their offset (PKWARE APPNOTE 4.3, 4.4, 4.5).

The directory is parsed here and not by `zipfile`, since that holds about 600 bytes of objects a member, reads
it anew in every process, gives up a whole archive for one name that is no UTF-8, and lets members overlap.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ssl_retina.archive.containers.entry import Entry
from ssl_retina.archive.found import Member
from ssl_retina.archive.rejection import Rejected

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
COMMENT_LIMIT = 65535
BLOCK = 1 << 20
STORED, DEFLATED = 0, 8
PACKINGS = {STORED: "stored", DEFLATED: "deflated"}
ENCRYPTED = 0x0001 | 0x0040 | 0x2000
UTF8 = 0x0800
UNIX = 3
UNKNOWN = 0xFFFFFFFF


def entries(stream: BinaryIO) -> Iterator[Entry]:
    """The files of a ZIP in the order of their data. Raises Rejected (container_damaged)."""
    begin, size, base = _directory(stream)
    found = [one for one in _central(stream, begin, size) if not one.name.endswith("/")]
    found.sort(key=lambda one: one.offset)
    for number, one in enumerate(found):
        following = found[number + 1].offset if number + 1 < len(found) else begin - base
        overlaps = one.offset + LOCAL.size + one.packed > following
        yield one._replace(
            offset=one.offset + base, reason=one.reason or ("member_damaged" if overlaps else "")
        )


def _directory(stream: BinaryIO) -> tuple[int, int, int]:
    """Where the central directory begins, its bytes, and how far all is moved by what stands before."""
    length = os.fstat(stream.fileno()).st_size
    start = max(0, length - COMMENT_LIMIT - END.size)
    stream.seek(start)
    tail = stream.read(length - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise Rejected("container_damaged", "no end of central directory")
    _, disk, first_disk, _, _, size, offset, _ = END.unpack_from(tail, at)
    end = start + at
    if disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF):
        raise Rejected("container_damaged", "one of several volumes")
    locator = end - END64_LOCATOR.size
    if locator >= 0:
        stream.seek(locator)
        mark, _, _, _ = END64_LOCATOR.unpack(stream.read(END64_LOCATOR.size))
        if mark == b"PK\x06\x07" and locator >= END64.size:
            end = locator - END64.size
            stream.seek(end)
            mark, *_, size, offset = END64.unpack(stream.read(END64.size))
            if mark != b"PK\x06\x06":
                raise Rejected("container_damaged", "no zip64 end of central directory")
    begin = end - size
    if begin < 0 or begin < offset:
        raise Rejected("container_damaged", "the central directory lies outside")
    return begin, size, begin - offset


def _central(stream: BinaryIO, begin: int, size: int) -> Iterator[Entry]:
    """The records of the central directory."""
    stream.seek(begin)
    left, buffer, at = size, b"", 0
    while left or at < len(buffer):
        if len(buffer) - at < CENTRAL.size + 3 * COMMENT_LIMIT and left:
            block = stream.read(min(BLOCK, left))
            if not block:
                raise EOFError
            buffer, at, left = buffer[at:] + block, 0, left - len(block)
        if len(buffer) - at < CENTRAL.size or buffer[at : at + 4] != b"PK\x01\x02":
            raise Rejected("container_damaged", "a record of the central directory")
        entry, length = _entry(buffer, at)
        at += length
        if at > len(buffer):
            raise EOFError
        yield entry


def _entry(buffer: bytes, at: int) -> tuple[Entry, int]:
    """One record of the central directory, and its bytes."""
    fields = CENTRAL.unpack_from(buffer, at)
    _, made_by, _, flags, method, _, _, crc, packed, size, *lengths, _, _, outer, offset = fields
    names, extras, comments = lengths
    begin = at + CENTRAL.size
    extra = buffer[begin + names : begin + names + extras]
    size, packed, offset = _large(extra, size, packed, offset)
    mode = outer >> 16 if made_by >> 8 == UNIX else 0
    reason = ""
    if flags & ENCRYPTED:
        reason = "encrypted"
    elif mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "not_regular"
    elif method not in PACKINGS:
        reason = f"no_decoder:zip-{method}"
    elif method == STORED and size != packed:
        reason = "member_damaged"
    name = _name(buffer[begin : begin + names], flags)
    packing = PACKINGS.get(method, "")
    return Entry(name, size, offset, packed, packing, crc, reason), CENTRAL.size + names + extras + comments


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The numbers with those that stand in the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra[: at + 4 + length], at + 4))
            found = [next(numbers, UNKNOWN) if one == UNKNOWN else one for one in (size, packed, offset)]
            return found[0], found[1], found[2]
        at += 4 + length
    return size, packed, offset


def _name(raw: bytes, flags: int) -> str:
    """A name as it is stored: UTF-8 where the file says so or where it is, else the code page of old."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "surrogateescape") if flags & UTF8 else raw.decode("cp437")
    return name if "/" in name else name.replace("\\", "/")


def read(stream: BinaryIO, member: Member, size: int) -> bytes:
    """A member's bytes, never more than `size`, with its CRC-32 checked. Raises Rejected (member_damaged)."""
    stream.seek(member.offset)
    header = stream.read(LOCAL.size)
    if len(header) < LOCAL.size or header[:4] != b"PK\x03\x04":
        raise Rejected("member_damaged", "no local header")
    names, extras = LOCAL.unpack(header)[-2:]
    stream.seek(names + extras, os.SEEK_CUR)
    packed = _packed(stream, member.packed)
    content = _inflated(packed, size) if member.packing == "deflated" else b"".join(packed)
    if len(content) != size or zlib.crc32(content) != member.crc:
        raise Rejected("member_damaged", f"{len(content)} bytes of {size}, or another CRC-32")
    return content


def _packed(stream: BinaryIO, left: int) -> Iterator[bytes]:
    """The packed bytes in blocks, read as they are asked for. Raises EOFError where some are missing."""
    while left:
        block = stream.read(min(BLOCK, left))
        if not block:
            raise EOFError
        left -= len(block)
        yield block


def _inflated(packed: Iterator[bytes], size: int) -> bytes:
    """At most `size` + 1 bytes; what is packed behind them is not read. Raises EOFError where it is cut."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray()
    for block in packed:
        content += inflater.decompress(block, size + 1 - len(content))
        if inflater.eof or len(content) > size:
            return bytes(content)
    raise EOFError
