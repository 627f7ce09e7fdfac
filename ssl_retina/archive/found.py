"""What a scan finds: one row an entry, whatever it is, and where the bytes of a container's member lie."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Member(NamedTuple):
    """Where a file's bytes lie in its container.

    container: its path below the source, empty where it is the source itself. offset: of the zip's local
    header, of the tar's data, of the data in the unpacked stream of a tar.gz. packed: bytes there.
    packing: `stored` or `deflated` in a zip, `tar` or `stream`. crc: CRC-32 of the content, None in a tar.
    """

    container: str
    offset: int
    packed: int
    packing: str
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One entry below the source.

    path: relative, with `/`; bytes that are no UTF-8 as surrogates, as `os.fsdecode` gives them. A member's
    path is its container's path, `/` and its name there.
    size: bytes. reason: empty for a regular file, else why it cannot be read (not_regular, io, ...).
    modified: nanoseconds since 1970, of the container for a member; only tells whether an interrupted run's
    chunk is still right. member: where its bytes lie, None for a file of its own.
    """

    path: str
    size: int
    reason: str = ""
    modified: int = field(default=0, compare=False)
    member: Member | None = field(default=None, compare=False)
