"""(seed, position) -> sample: which sample stands at a place of the endless global order.

In: a seed, places, what was chosen and how it is weighted. Out: row numbers. A pure function: nothing is
stored, shuffled or consumed, so any rank, worker or resumed run computes the same order (law 2).
"""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_retina.data.shared import SharedArray

ROUNDS = 8
SMALLEST_HALF = 3
REMEMBERED = 2
"""Epochs whose order of shards is kept: positions near the end of one need the next, too."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


def mixed(value: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a fixed bijection of 64-bit words."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


def sample_at(seed: int, positions: Integers, count: int) -> Integers:
    """The sample, 0 to count - 1, at each position.

    Position p lies in epoch p // count; every epoch is a permutation of all samples of its own, keyed by
    seed and epoch. Costs about a microsecond a position.
    """
    assert count > 0, count
    assert not (positions < 0).any(), "positions count from 0"
    epochs, places = np.divmod(positions.astype(np.int64), count)
    return shuffled(places, keys(seed, "order", epochs), count)


def keys(seed: int, purpose: str, epochs: Integers, part: int | None = None) -> Words:
    """A key for each epoch, or for a part of it, to shuffle by."""
    words = epochs.astype(np.uint64) + np.uint64(_base(seed, purpose))
    if part is not None:
        words = mixed(words) + np.uint64(part)
    return mixed(mixed(words) + _GOLDEN)


def _base(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "little")


def shuffled(places: Integers, keys: Words, count: int) -> Integers:
    """A permutation of [0, count) for each key.

    A Feistel network on the next power of two (Luby and Rackoff 1988), walked until it falls below `count`
    (Black and Rogaway 2002).
    """
    bits = max((count - 1).bit_length(), 2 * SMALLEST_HALF)
    values = _permuted(places.astype(np.uint64), keys, bits)
    while (outside := values >= count).any():
        values[outside] = _permuted(values[outside], keys[outside], bits)
    return values.astype(np.int64)


def _permuted(values: Words, keys: Words, bits: int) -> Words:
    """A permutation of [0, 2**bits) for each key: the halves are masked with each other in turn."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for turn in range(0, ROUNDS, 2):
        high = high ^ (_round(low, keys, turn) & high_mask)
        low = low ^ (_round(high, keys, turn + 1) & low_mask)
    return (high << low_bits) | low


def _round(half: Words, keys: Words, turn: int) -> Words:
    return mixed(half + keys + np.uint64(turn * int(_GOLDEN) % (1 << 64)))


class ShardAt(NamedTuple):
    """A shard: its set's place in `data.shards`, and its number in that set's index."""

    set: int
    shard: int


@dataclass(frozen=True)
class Runs:
    """The chosen samples of each shard that has some, one shard after the other.

    starts: (runs + 1,) the number of each run's first sample, and how many samples there are.
    shards: (runs, 2) set and shard of each run, as in `ShardAt`.
    """

    starts: Integers
    shards: Integers

    def __len__(self) -> int:
        return len(self.shards)


class Pairing(Protocol):
    """An order of its own, in which related samples stand side by side (`together`)."""

    def number_at(self, seed: int, places: Integers) -> Integers:
        """The number of the sample at each position; every epoch is a permutation of all samples."""
        ...


@dataclass(frozen=True)
class Order:
    """The endless order of one training: position -> epoch and place -> draw -> number -> row.

    An epoch has as many draws as samples are chosen. Draws are places on the line of all weights, sorted as
    the samples are; what is shuffled are the draws. Without weights draw d is sample number d.

    rows: the row of each chosen sample; None where every row is chosen.
    ends: where each sample's weight ends on the line of weights, in whole ticks; None for equal weights.
    window: shards that are open at a time; None shuffles over everything.
    pairing: keeps related samples together, for equal weights and no window; None shuffles each for itself.
    """

    seed: int
    runs: Runs
    rows: SharedArray | None = None
    ends: SharedArray | None = None
    window: int | None = None
    pairing: Pairing | None = None
    _known: dict[int, "_Windows"] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        """The draws of an epoch."""
        return int(self.runs.starts[-1])

    def row_at(self, positions: Integers) -> Integers:
        """The row, counted through all sets, at each position."""
        return self.row_of(self.number_at(positions))

    def row_of(self, numbers: Integers) -> Integers:
        """The row of each of the chosen samples with these numbers."""
        return numbers if self.rows is None else self.rows.array[numbers].astype(np.int64)

    def every_row(self) -> Integers:
        """The rows of all chosen samples."""
        return self.row_of(np.arange(len(self), dtype=np.int64))

    def evenly(self) -> "Order":
        """Every one of the same samples once an epoch, shuffled over everything."""
        return Order(self.seed, self.runs, self.rows)

    def number_at(self, positions: Integers) -> Integers:
        """Which of the chosen samples stands at each position."""
        assert not (positions < 0).any(), "positions count from 0"
        if self.pairing is not None:
            return self.pairing.number_at(self.seed, positions.astype(np.int64))
        epochs, places = np.divmod(positions.astype(np.int64), len(self))
        draws = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs).tolist() if self.window else ():
            here = epochs == epoch
            draws[here] = self._windows(epoch).draw_at(places[here])
        if self.window is None:
            draws = sample_at(self.seed, positions, len(self))
        if self.ends is None:
            return draws
        return np.searchsorted(self.ends.array, self._ticks(epochs, draws), side="right")

    def shards(self, start: int, stop: int) -> tuple[ShardAt, ...]:
        """The shards that hold the samples of positions `start` to `stop` - 1, in the order of their need."""
        numbers = self.number_at(np.arange(start, stop, dtype=np.int64))
        runs = np.searchsorted(self.runs.starts, numbers, side="right") - 1
        found, first = np.unique(runs, return_index=True)
        return tuple(ShardAt(*self.runs.shards[run].tolist()) for run in found[np.argsort(first)])

    def _ticks(self, epochs: Integers, draws: Integers) -> Integers:
        """Where draws stand on the line of weights: (draw + u) / draws of its length, in whole ticks.

        Systematic sampling (Madow 1949): a sample is drawn as often as its weight says, rounded up or down.
        u moves on by the golden ratio from epoch to epoch, so that over the epochs, too, counts stay near.
        """
        assert self.ends is not None
        whole, rest = divmod(int(self.ends.array[-1]), len(self))
        known, which = np.unique(epochs, return_inverse=True)
        offsets = np.array([self._offset(epoch) for epoch in known.tolist()], np.int64)
        return draws * whole + (draws * rest + offsets[which]) // len(self)

    def _offset(self, epoch: int) -> int:
        """u of an epoch, in ticks: below the length of the line."""
        assert self.ends is not None
        word = (_base(self.seed, "weights") + epoch * int(_GOLDEN)) % (1 << 64)
        return word * int(self.ends.array[-1]) >> 64

    def _windows(self, epoch: int) -> "_Windows":
        found = self._known.get(epoch)
        if found is None:
            found = _Windows.of(self, epoch)
            if len(self._known) >= REMEMBERED:  # threads that fetch ahead may be doing the same
                self._known.clear()
            self._known[epoch] = found
        return found

    def _first_draws(self, epoch: int) -> Integers:
        """The first draw of each run in an epoch, and how many draws there are."""
        if self.ends is None:
            return self.runs.starts
        total, offset = int(self.ends.array[-1]), self._offset(epoch)
        marks = [int(self.ends.array[start - 1]) if start else 0 for start in self.runs.starts.tolist()]
        return np.array([-((offset - mark * len(self)) // total) for mark in marks], np.int64)


@dataclass(frozen=True)
class _Windows:
    """One epoch in which a few shards at a time are shuffled.

    Shards come in an order of the epoch's own. On the line of their draws, `stops` (runs,) are where each
    run ends and `closes` (windows,) where each window ends; `firsts` (runs,) is the draw that a run begins
    with.
    """

    seed: int
    epoch: int
    firsts: Integers
    stops: Integers
    closes: Integers

    @classmethod
    def of(cls, order: Order, epoch: int) -> "_Windows":
        assert order.window is not None
        first, runs = order._first_draws(epoch), len(order.runs)
        key = keys(order.seed, "shards", np.full(runs, epoch))
        turn = shuffled(np.arange(runs), key, runs)
        stops = np.cumsum(np.diff(first)[turn])
        windows = -(-runs // order.window)  # nearly equally large: no last one of a single shard
        closes = stops[np.arange(1, windows + 1) * runs // windows - 1]
        return cls(order.seed, epoch, first[turn], stops, closes)

    def draw_at(self, places: Integers) -> Integers:
        windows = np.searchsorted(self.closes, places, side="right")
        spots = np.empty_like(places)
        for window in np.unique(windows).tolist():
            here, begin = windows == window, int(self.closes[window - 1]) if window else 0
            words = keys(self.seed, "window", np.full(int(here.sum()), self.epoch), window)
            spots[here] = begin + shuffled(places[here] - begin, words, int(self.closes[window]) - begin)
        runs = np.searchsorted(self.stops, spots, side="right")
        begins = np.where(runs > 0, self.stops[runs - 1], 0)
        return self.firsts[runs] + spots - begins
