"""Hashes of photographs -> groups of near duplicates: resized, recompressed, cropped, lit or mirrored copies.

In: 256-bit hashes and a function that compares two looks. Out: each copy with the photograph that leads its
group. Candidates share a band of their hashes, so that a million photographs need no all-pairs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_retina.archive.pixels import look

Hashes = NDArray[np.uint8]
"""(photographs, 32) packed bits."""

Compare = Callable[[int, int, bool], float]
"""Similarity of two photographs, the second mirrored or not."""

BANDS, BAND_BITS = 32, 16
FARTHEST = 60
"""Differing bits of 256 up to which a pair is looked at again."""

SIMILAR = 0.70
"""Correlation of two looks from which on one is a copy of the other (measured: docs/duplicates.md)."""

LARGEST_BUCKET = 512
"""Neighbours of a photograph in one band that are compared: a band shared by more says nothing."""

LARGEST_GROUP = 64
"""A group with more members is a test pattern or a shadow that many photographs share: it is dissolved."""


def find(hashes: Hashes, sizes: Sequence[int], compare: Compare) -> dict[int, int]:
    """Copy -> leader, by number; every copy is similar to its leader itself, so that groups never chain.

    sizes: source pixels of each photograph; the largest leads, the first of equals.
    """
    return leaders(scored(candidates(hashes), compare), sizes)


def scored(pairs: Iterable[tuple[int, int, bool]], compare: Compare) -> Iterator[tuple[int, int, float]]:
    """The pairs that are similar, each with its score."""
    for first, second, turned in pairs:
        score = compare(first, second, turned)
        if score >= SIMILAR:
            yield first, second, score


def leaders(pairs: Iterable[tuple[int, int, float]], sizes: Sequence[int]) -> dict[int, int]:
    """Copy -> leader, given all similar pairs; sizes as for `find`."""
    rank = sorted(range(len(sizes)), key=lambda number: (-sizes[number], number))
    place = np.argsort(np.array(rank, np.int64)) if rank else np.zeros(0, np.int64)
    similar: dict[int, list[tuple[float, int]]] = {}
    for first, second, score in pairs:
        high, low = sorted((first, second), key=lambda number: int(place[number]))
        similar.setdefault(low, []).append((score, high))
    led: dict[int, int] = {}
    for number in sorted(similar, key=lambda one: int(place[one])):
        free = [(score, -place[high], high) for score, high in similar[number] if high not in led]
        if free:
            led[number] = max(free)[2]
    members = Counter(led.values())
    return {copy: leader for copy, leader in led.items() if members[leader] < LARGEST_GROUP}


def candidates(hashes: Hashes) -> list[tuple[int, int, bool]]:
    """Pairs (first, second, mirrored) that share a band and differ in at most FARTHEST bits, sorted."""
    count = len(hashes)
    both = np.concatenate([hashes, hashes ^ look.mirror_bits()])
    found: set[tuple[int, int, bool]] = set()
    for keys in _bands(both):
        for one, other in _neighbours(keys):
            kept = (one < count) | (other < count)
            one, other = one[kept], other[kept]
            near = np.bitwise_count(both[one] ^ both[other]).sum(axis=1, dtype=np.int64) <= FARTHEST
            turned = (one >= count) != (other >= count)
            first, second = one % count, other % count
            low, high = np.minimum(first, second), np.maximum(first, second)
            near &= low != high
            found.update(zip(low[near].tolist(), high[near].tolist(), turned[near].tolist(), strict=True))
    return sorted(found)


def _bands(both: Hashes) -> Iterator[NDArray[np.int64]]:
    """For each band the (entries,) number that its bits spell; bits are drawn once and for all."""
    draw = np.random.default_rng(0)
    for _ in range(BANDS):
        keys = np.zeros(len(both), np.int64)
        for bit in draw.permutation(look.BITS)[:BAND_BITS].tolist():
            keys = keys * 2 + (both[:, bit // 8] >> (7 - bit % 8) & 1)
        yield keys


def _neighbours(keys: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of entries with the same key, in pieces."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    active = np.arange(len(order))
    for offset in range(1, LARGEST_BUCKET):
        active = active[active + offset < len(order)]
        active = active[ordered[active] == ordered[active + offset]]
        if not len(active):
            return
        yield order[active], order[active + offset]
