"""Which photographs of a finished stage 1 are near duplicates of which, by the looks in the work folder.

In: records in the order of the scan. Out: copy -> leader, by number in the scan. Memory: 60 bytes a
photograph; looks are read when two are compared.
"""

from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ssl_retina.archive import chunk_store
from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.duplicates import near
from ssl_retina.archive.pixels import look
from ssl_retina.archive.pixels.look import Look

OPEN_LIMIT = 64
HASH_BYTES = look.BITS // 8


class Looks:
    """The hashes of a work folder's photographs, and their looks on demand."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._hashes = bytearray()
        self._sizes = array("q")
        self._chunks = array("q")
        self._offsets = array("q")
        self.numbers = array("q")
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def add(self, number: int, chunk: int, record: Record) -> None:
        """Take photograph `number` of the scan in."""
        self.numbers.append(number)
        self._chunks.append(chunk)
        self._offsets.append(record["look"]["offset"])
        self._sizes.append(record["source_width"] * record["source_height"])
        self._hashes += bytes.fromhex(record["look"]["hash"])

    def near(self) -> dict[int, int]:
        """Copy -> leader, by number in the scan."""
        hashes = np.frombuffer(bytes(self._hashes), np.uint8).reshape(-1, HASH_BYTES)
        try:
            found = near.find(hashes, self._sizes, self._compare)
        finally:
            self.close()
        return {self.numbers[copy]: self.numbers[leader] for copy, leader in found.items()}

    def close(self) -> None:
        """Close the chunks; a later look opens them again."""
        for stream in self._files.values():
            stream.close()
        self._files.clear()

    def _compare(self, first: int, second: int, turned: bool) -> float:
        other = self.look(second)
        return look.similarity(self.look(first), look.mirrored(other) if turned else other)

    def look(self, at: int) -> Look:
        """The look of the `at`-th photograph that was taken in."""
        chunk = self._chunks[at]
        if chunk not in self._files:
            self._files[chunk] = chunk_store.images_path(self._work, chunk).open("rb")
        self._files.move_to_end(chunk)
        if len(self._files) > OPEN_LIMIT:
            self._files.popitem(last=False)[1].close()
        stream = self._files[chunk]
        stream.seek(self._offsets[at])
        return np.frombuffer(stream.read(look.BYTES), np.int8).reshape(look.SIDE, look.SIDE)


def find(work: Path, records: Iterable[tuple[int, Record]], without: Collection[int]) -> dict[int, int]:
    """Near duplicates among all photographs but those numbered in `without`."""
    looks = Looks(work)
    for number, (chunk, record) in enumerate(records):
        if not record.get("reason") and record["look"] and number not in without:
            looks.add(number, chunk, record)
    return looks.near()
