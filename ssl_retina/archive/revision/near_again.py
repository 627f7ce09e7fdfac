"""Near duplicates of a set that grows: among its new files, and between these and the photographs it has.

In: the set, the new files' records and looks. Out: copy -> leader, by number among old and new records. The
looks of old photographs are made anew from the shards, after their compression: a pair at the limit may fall
on its other side. Groups that no new photograph touches stay as they are marked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.duplicates import against, near
from ssl_retina.archive.duplicates.looks import HASH_BYTES, Looks
from ssl_retina.archive.pixels import look
from ssl_retina.archive.pixels.look import Look
from ssl_retina.archive.revision.older import Older

CERTAIN = 2.0
"""Above every similarity: a mark that stays."""

Pair = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One photograph. order: its file's number in the scan. row: in the set, or None; at: among new looks."""

    order: int
    number: int
    size: int
    hash: bytes
    row: int | None
    at: int


class Growing:
    """The photographs of a set, then its new ones; about 300 bytes each are held."""

    def __init__(self, older: Older, work: Path, order: Mapping[str, int], processes: int) -> None:
        self._older, self._order = older, order
        self._new = Looks(work)
        self._look = lru_cache(against.LOOKS_HELD)(self._made)
        hashes = dict(against.hashes(older.reader, processes))
        self._entries = [
            _Entry(self._place(facts), number, _pixels(facts), hashes[row], row, -1)
            for number, row, facts in older.numbered()
            if row in hashes
        ]

    def add(self, number: int, chunk: int, record: Record) -> None:
        """Take a new photograph in that has a look."""
        self._new.add(number, chunk, record)
        hashed = bytes.fromhex(record["look"]["hash"])
        at = len(self._new.numbers) - 1
        self._entries.append(_Entry(self._place(record), number, _pixels(record), hashed, None, at))

    def near(self) -> dict[int, int]:
        """Copy -> leader, by number: what one run over all files finds, the order of the scan included."""
        if not self._new.numbers:
            return self._older.near()
        self._entries.sort(key=lambda one: (one.order, one.number))
        at = {one.number: place for place, one in enumerate(self._entries)}
        told = self._older.near()
        unseen = {copy: leader for copy, leader in told.items() if copy not in at or leader not in at}
        marked = {at[copy]: at[leader] for copy, leader in told.items() if copy not in unseen}
        flat = b"".join(one.hash for one in self._entries)
        pairs = near.candidates(np.frombuffer(flat, np.uint8).reshape(-1, HASH_BYTES))
        try:
            fresh = list(near.scored((pair for pair in pairs if self._is_new(pair)), self._compare))
            touched = self._touched(fresh, marked)
            again = [pair for pair in pairs if not self._is_new(pair) and not touched.isdisjoint(pair[:2])]
            old = near.scored((pair for pair in again if not _is_marked(pair, marked)), self._compare)
            similar = [*fresh, *old, *self._stay(marked, touched)]
        finally:
            self._new.close()
        found = near.leaders(similar, [one.size for one in self._entries])
        numbers = [one.number for one in self._entries]
        return unseen | {numbers[copy]: numbers[leader] for copy, leader in found.items()}

    def _place(self, facts: Mapping[str, Any]) -> int:
        key = str(facts["key"])
        return self._order[str(self._older.several.get(key) or facts.get("file") or key)]

    def _is_new(self, pair: tuple[int, int, bool]) -> bool:
        return any(self._entries[place].row is None for place in pair[:2])

    def _touched(self, fresh: list[Pair], marked: Mapping[int, int]) -> frozenset[int]:
        """Old photographs that look like a new one, with their groups."""
        met = {place for pair in fresh for place in pair[:2] if self._entries[place].row is not None}
        leaders = {marked.get(place, place) for place in met}
        return frozenset(met | leaders | {copy for copy, leader in marked.items() if leader in leaders})

    def _stay(self, marked: Mapping[int, int], touched: frozenset[int]) -> Iterator[Pair]:
        """The marks of the set: certain where nothing new is near, else similar at least."""
        for copy, leader in marked.items():
            if copy not in touched:
                yield copy, leader, CERTAIN
            else:
                scores = (self._compare(copy, leader, turned) for turned in (False, True))
                yield copy, leader, max(*scores, near.SIMILAR)

    def _compare(self, first: int, second: int, turned: bool) -> float:
        other = self._look(second)
        return look.similarity(self._look(first), look.mirrored(other) if turned else other)

    def _made(self, place: int) -> Look:
        entry = self._entries[place]
        if entry.row is None:
            return self._new.look(entry.at)
        found = against.seen(self._older.reader, entry.row, self._older.reader.facts(entry.row))
        assert found is not None, "a row without a look"
        return found


def _pixels(facts: Mapping[str, Any]) -> int:
    return int(facts["source_width"] * facts["source_height"])


def _is_marked(pair: tuple[int, int, bool], marked: Mapping[int, int]) -> bool:
    first, second, _ = pair
    return marked.get(first) == second or marked.get(second) == first
