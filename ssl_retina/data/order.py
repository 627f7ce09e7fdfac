"""(seed, position) -> sample: which sample stands at a place of the endless global order.

In: a seed, places, how many samples there are. Out: their numbers. A pure function: nothing is stored,
shuffled or consumed, so any rank, worker or resumed run computes the same order (law 2).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
SMALLEST_HALF = 3

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

Words = NDArray[np.uint64]


def mixed(value: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a fixed bijection of 64-bit words."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


def sample_at(seed: int, positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The sample, 0 to count - 1, at each position.

    Position p lies in epoch p // count; every epoch is a permutation of all samples of its own, keyed by
    seed and epoch: a Feistel network on the next power of two (Luby and Rackoff 1988), walked until it
    falls below `count` (Black and Rogaway 2002). Costs about a microsecond a position.
    """
    assert count > 0, count
    epochs, places = np.divmod(positions.astype(np.int64), count)
    assert not (positions < 0).any(), "positions count from 0"
    stream = hashlib.blake2b(f"{seed}/order".encode(), digest_size=8).digest()
    base = np.frombuffer(stream, dtype="<u8")
    keys = mixed(mixed(epochs.astype(np.uint64) + base) + _GOLDEN)
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
