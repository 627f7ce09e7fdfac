"""Which photographs of an archive are one: the same decoded pixels, or near duplicates that somebody found.

In: the records of all files in the order of the scan. Out: `Groups`, by number in the scan.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ssl_retina.archive.chunk_store import Record

REPEATED = "repeated"
COPIES_LIMIT = 256
"""More equal pictures than this are a placeholder ("no image available"), not a photograph of an eye: all are
rejected, else one such file would make one group of all patients, and a JSON above its limit."""


@dataclass(frozen=True)
class Groups:
    """Which photographs are one, by number in the scan.

    original: duplicate -> the photograph it is an alias of. repeated: files rejected as placeholders.
    near: near duplicate that stays -> the photograph that leads its group. refused: number -> why a filter
    takes it out. counts: what to tell of them.
    """

    original: Mapping[int, int]
    repeated: frozenset[int]
    near: Mapping[int, int] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def leader(self, number: int) -> int:
        """The photograph that stands for all copies of this one, near ones included."""
        first = self.original.get(number, number)
        return self.near.get(first, first)

    def out(self, number: int, record: Record) -> bool:
        """Whether the file becomes neither a sample nor an alias."""
        return bool(record.get("reason")) or number in self.repeated or number in self.refused


def same_pixels(records: Iterable[Record], refused: Mapping[int, str] | None = None) -> Groups:
    """Exact duplicates, and sets that are too large to be photographs; `refused` files are not looked at."""
    refused = refused or {}
    first: dict[bytes, int] = {}
    original: dict[int, int] = {}
    for number, record in enumerate(records):
        if not record.get("reason") and number not in refused:
            same = first.setdefault(bytes.fromhex(record["pixels_xxh128"]), number)
            if same != number:
                original[number] = same
    sizes = Counter(original.values())
    placeholders = {at for at, copies in sizes.items() if copies >= COPIES_LIMIT}
    repeated = frozenset(number for number, at in original.items() if at in placeholders) | placeholders
    kept = {number: at for number, at in original.items() if at not in placeholders}
    return Groups(kept, repeated, refused=refused)


def with_near(groups: Groups, near: Mapping[int, int], merged: Collection[int]) -> Groups:
    """Add near duplicates (copy -> leader): those in `merged` become aliases, the others are marked."""
    gone = {copy: leader for copy, leader in near.items() if copy in merged}
    original = {number: gone.get(first, first) for number, first in groups.original.items()} | gone
    marked = {copy: leader for copy, leader in near.items() if copy not in gone}
    counts = {"near_duplicate": len(marked), "near_merged": len(gone)}
    return replace(groups, original=original, near=marked, counts={**groups.counts, **counts})
