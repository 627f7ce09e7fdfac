"""Samples of one set that are copies of samples of another: what must leave a training set before a test.

In: two sets of shards. Out: the keys of the first set's exact and near duplicates of the second. Pixels are
told by their digest, near duplicates by looks that are made anew from the shards.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_retina import shards
from ssl_retina.archive import process
from ssl_retina.archive.duplicates import near
from ssl_retina.archive.pixels import look
from ssl_retina.archive.pixels.look import Look
from ssl_retina.archive.readers import images
from ssl_retina.archive.rejection import Rejected
from ssl_retina.errors import ShardError, StateError
from ssl_retina.shards import Index, Reader

Advance = Callable[[int], None]
LOOKS_HELD = 4096
PIECE = 512
"""Samples that one worker process looks at; so few are looked at without any."""


@dataclass(frozen=True)
class Copies:
    """Keys of the first set, in its order: same pixels; similar looks, without those of the same pixels."""

    exact: tuple[str, ...]
    near: tuple[str, ...]

    def listing(self) -> str:
        """A file for `data.exclude`."""
        head = f"# {len(self.exact)} exact and {len(self.near)} near duplicates of samples of another set\n"
        return head + "".join(f"{key}\n" for key in sorted({*self.exact, *self.near}))


def find(own: Index, other: Index, *, advance: Advance) -> Copies:
    """Compare two sets; `advance` is told of every sample read. Memory: 100 bytes a sample.

    Raises ShardError where an image cannot be read, StateError where their pixels have different digests.
    """
    _require_one_digest(own, other)
    first, second = _Set(own, advance), _Set(other, advance)
    try:
        exact = {number for number, pixels in first.pixels.items() if pixels in second.digests}
        count = len(first.rows)
        hashes = np.frombuffer(bytes(first.hashes + second.hashes), np.uint8).reshape(-1, look.BITS // 8)
        similar: set[int] = set()
        for one, two, turned in near.candidates(hashes):
            if one >= count or two < count or first.rows[one] in exact | similar:
                continue
            counterpart = second.look(second.rows[two - count])
            counterpart = look.mirrored(counterpart) if turned else counterpart
            if look.similarity(first.look(first.rows[one]), counterpart) >= near.SIMILAR:
                similar.add(first.rows[one])
        keys = [tuple(first.reader.key(number) for number in sorted(found)) for found in (exact, similar)]
    finally:
        first.reader.close()
        second.reader.close()
    return Copies(*keys)


def _require_one_digest(own: Index, other: Index) -> None:
    named = [_digest_of(one) for one in (own, other)]
    if None not in named and named[0] != named[1]:
        older = (own, other)[named.index(shards.PIXEL_DIGESTS[1])].folder
        raise StateError(
            f"{own.folder} has {named[0]} and {other.folder} has {named[1]}: equal photographs would not be "
            f"found. An earlier version made {older}: shard it again"
        )


def _digest_of(index: Index) -> str | None:
    """Which of PIXEL_DIGESTS the samples of a set have; None in sets of other tools."""
    with closing(Reader(index)) as reader:
        facts = reader.facts(0) if len(reader) else {}
    return next((name for name in shards.PIXEL_DIGESTS if name in facts), None)


class _Set:
    """One set: pixel digests by row, rows that have a look, and their hashes."""

    def __init__(self, index: Index, advance: Advance) -> None:
        self.reader = Reader(index)
        self.pixels: dict[int, bytes] = {}
        self.rows: list[int] = []
        self.hashes = bytearray()
        self.look = lru_cache(LOOKS_HELD)(self._look)
        for number in range(len(self.reader)):
            self._add(number, self.reader.facts(number))
            advance(1)
        self.digests = frozenset(self.pixels.values())

    def _add(self, number: int, facts: Mapping[str, Any]) -> None:
        for digest in map(facts.get, shards.PIXEL_DIGESTS):
            if isinstance(digest, str):
                self.pixels[number] = digest.encode()
        if facts.get("modality", "fundus") == "fundus":
            found = self._seen(number, facts)
            if found is not None:
                self.rows.append(number)
                self.hashes += look.perceptual_hash(found)

    def _look(self, number: int) -> Look:
        found = self._seen(number, self.reader.facts(number))
        assert found is not None, "a row without a look"
        return found

    def _seen(self, number: int, facts: Mapping[str, Any]) -> Look | None:
        return seen(self.reader, number, facts)


def seen(reader: Reader, number: int, facts: Mapping[str, Any]) -> Look | None:
    """The look of a sample, None where too little is seen. Raises ShardError for one that does not decode."""
    try:
        pixels = images.read(reader.image(number)).pixels
    except Rejected as refusal:
        where = f"{reader.shard(number)}: the image of sample {reader.key(number)}"
        raise ShardError(f"{where} cannot be decoded ({refusal.reason})") from None
    circle = facts.get("field_of_view")
    return look.look(pixels, tuple(circle) if isinstance(circle, list) and len(circle) == 4 else None)


def hashes(reader: Reader, processes: int) -> Iterator[tuple[int, bytes]]:
    """Row and hash of every photograph of the set that has a look: all of them are decoded."""
    pieces = [range(start, min(start + PIECE, len(reader))) for start in range(0, len(reader), PIECE)]
    if len(pieces) <= 1 or processes == 1:
        for piece in pieces:
            yield from _hashed(reader, piece)
        return
    with process.pool(min(processes, len(pieces))) as executor:
        for made in executor.map(_hashed_apart, [reader.index.folder] * len(pieces), pieces):
            yield from made


def _hashed_apart(folder: Path, rows: range) -> list[tuple[int, bytes]]:
    reader = Reader(shards.read_index(folder))
    try:
        return _hashed(reader, rows)
    finally:
        reader.close()


def _hashed(reader: Reader, rows: range) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for row in rows:
        facts = reader.facts(row)
        one = seen(reader, row, facts) if facts.get("modality") == "fundus" else None
        if one is not None:
            found.append((row, look.perceptual_hash(one)))
    return found
