"""Related photographs side by side: a place of an epoch -> a sample, so that pairs of one eye meet.

In: who the chosen samples are, a seed, places. Out: sample numbers. As `order`, a pure function: an epoch is
a permutation of all samples, and which of an eye's photographs meet is drawn anew in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_retina import positions, shards
from ssl_retina.data.order import Integers, keys, mixed, shuffled
from ssl_retina.data.origin import EYES
from ssl_retina.data.shared import SharedArray
from ssl_retina.errors import InputError
from ssl_retina.shards import Index

By = Literal["eye", "patient"]
CHUNK = 1 << 16


@dataclass(frozen=True)
class Together:
    """Samples sorted by unit (an eye, a patient); in an epoch each unit gives pairs, and one over if odd.

    members: (samples,) sample numbers, one unit after the other. starts: (units + 1,) where units begin.
    pairs: (units,) how many pairs there are up to the end of each unit. odd: the units with one over.
    4 bytes a sample and 8 to 12 a unit, shared by all processes.
    """

    members: SharedArray
    starts: SharedArray
    pairs: SharedArray
    odd: SharedArray

    @classmethod
    def of(cls, units: Sequence[NDArray[np.int64]]) -> "Together":
        """Of the columns that say which unit each sample belongs to."""
        members = np.lexsort(tuple(reversed(units)))
        new = np.ones(len(members), dtype=bool)
        new[1:] = np.any([column[members][1:] != column[members][:-1] for column in units], axis=0)
        starts = np.append(np.flatnonzero(new), len(members))
        sizes = np.diff(starts)
        parts = (members, starts, np.cumsum(sizes // 2), np.flatnonzero(sizes % 2))
        return cls(*(SharedArray.of(part.astype(np.uint32)) for part in parts))

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.members)

    @property
    def paired(self) -> int:
        """How many samples of an epoch stand in pairs."""
        return len(self) - len(self.odd)

    def number_at(self, seed: int, places: Integers) -> Integers:
        """The sample number at each position of the endless order.

        An epoch consists of twos that begin at even positions: pairs of one unit, and twos of what is over,
        in an order of the epoch's own. With an odd number of samples one stands alone: last, or first in an
        epoch that begins at an odd position, so that no two is ever cut by an even batch.
        """
        epochs, within = np.divmod(places, len(self))
        shifted = within - (epochs * len(self) & 1)  # -1: the one alone, first
        twos = len(self) // 2
        alone = (shifted < 0) | (shifted >= 2 * twos)
        slots = np.where(alone, 0, shifted) // 2
        chosen = shuffled(slots, keys(seed, "together", epochs), twos) if twos else slots
        halves = shifted & 1
        is_pair = ~alone & (chosen < self._pairs)
        found = np.empty_like(places)
        found[is_pair] = self._paired(seed, epochs[is_pair], chosen[is_pair], halves[is_pair])
        rest = np.where(alone, len(self.odd) - 1, 2 * (chosen - self._pairs) + halves)[~is_pair]
        found[~is_pair] = self._single(seed, epochs[~is_pair], rest)
        return found

    @property
    def _pairs(self) -> int:
        return self.paired // 2

    def _paired(self, seed: int, epochs: Integers, pairs: Integers, halves: Integers) -> Integers:
        """Half 0 or 1 of a pair, which is 2 neighbours in the epoch's order of its unit."""
        units = np.searchsorted(self.pairs.array, pairs, side="right")
        before = np.where(units > 0, self.pairs.array[units - 1], 0)
        return self._member(seed, epochs, units, 2 * (pairs - before) + halves)

    def _single(self, seed: int, epochs: Integers, rest: Integers) -> Integers:
        """What is over of an odd unit: the last in the epoch's order of it."""
        if not len(rest):
            return rest
        turns = shuffled(rest, keys(seed, "alone", epochs), len(self.odd))
        units = self.odd.array[turns].astype(np.int64)
        sizes = self.starts.array[units + 1].astype(np.int64) - self.starts.array[units]
        return self._member(seed, epochs, units, sizes - 1)

    def _member(self, seed: int, epochs: Integers, units: Integers, places: Integers) -> Integers:
        """The sample at a place of its unit, shuffled anew in each epoch by sorting a hash of each member."""
        starts = self.starts.array[units].astype(np.int64)
        sizes = self.starts.array[units + 1].astype(np.int64) - starts
        words = mixed(keys(seed, "unit", epochs) ^ mixed(units.astype(np.uint64)))
        found = np.empty_like(places)
        for size in np.unique(sizes).tolist():
            here = np.flatnonzero(sizes == size)
            _, first, which = np.unique(words[here], return_index=True, return_inverse=True)
            hashes = mixed(words[here][first][:, None] + np.arange(size, dtype=np.uint64)[None, :])
            turns = np.argsort(hashes, axis=1, kind="stable")
            found[here] = starts[here] + turns[which, places[here]]
        return self.members.array[found].astype(np.int64)


def related(indexes: Sequence[Index], rows: NDArray[np.uint32], by: By) -> Together:
    """The pairs of these rows (ascending, counted through all sets); what is unknown has no pair.

    A patient is a group of the table. With "eye", samples whose eye is unknown stay alone, since they may be
    of either. Raises InputError where there is no pair at all.
    """
    groups, sides = np.empty(len(rows), np.int64), np.zeros(len(rows), np.int64)
    offset = done = 0
    for index in indexes:
        codes = np.array([EYES.get(word, -1) for word in index.columns["eye"]], np.int64)
        for start in range(0, index.samples, CHUNK):
            table = shards.read_positions(index)[start : start + CHUNK]
            stop = int(np.searchsorted(rows, np.uint32(offset + start + len(table))))
            chosen = rows[done:stop].astype(np.int64) - offset - start
            groups[done:stop] = table["group"][chosen]
            if by == "eye":
                sides[done:stop] = codes[positions.codes(table, "eye")[chosen]]
            done = stop
        offset += index.samples
    nobody = np.flatnonzero(sides < 0)
    sides[nobody] = -1 - nobody  # each a unit of its own
    found = Together.of((groups, sides))
    if not found.paired:
        what = "no eye that is known" if by == "eye" else "no patient"
        raise InputError(
            f"data.together={by}: {what} has two of the chosen photographs, so none can come in pairs; take "
            + ("data.together=patient or none" if by == "eye" else "data.together=none")
        )
    return found
