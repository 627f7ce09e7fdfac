"""One member as its container's directory states it: numbers and a name, nothing read yet."""

from typing import NamedTuple


class Entry(NamedTuple):
    """name: with `/`. size: unpacked. offset, packed, packing, crc: as `found.Member`. reason: why not."""

    name: str
    size: int
    offset: int
    packed: int
    packing: str
    crc: int | None = None
    reason: str = ""
