"""Order is arithmetic (law 2): epochs are permutations, any slice equals the whole."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_retina.data.order import Integers, Order, Runs, sample_at
from ssl_retina.data.shared import SharedArray


@pytest.mark.parametrize("count", [1, 2, 3, 7, 63, 64, 65, 1000, 1025])
def test_every_epoch_is_a_permutation(count: int) -> None:
    epochs = sample_at(5, np.arange(3 * count), count).reshape(3, count)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    first = sample_at(5, np.arange(200), 100)
    assert (first[:100] != first[100:]).mean() > 0.9
    assert (first != sample_at(6, np.arange(200), 100)).mean() > 0.9


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 5000),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 32),
)
def test_any_slice_equals_the_whole(seed: int, count: int, start: int, cut: int) -> None:
    positions = np.arange(start, start + 32)
    whole = sample_at(seed, positions, count)
    parts = [sample_at(seed, part, count) for part in (positions[:cut], positions[cut:])]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole[::-1], sample_at(seed, positions[::-1], count))


def test_places_are_uniform() -> None:
    """Every sample at every place equally often over 7,000 epochs: chi-square, 36 degrees of freedom."""
    epochs = sample_at(1, np.arange(7 * 7000), 7).reshape(7000, 7)
    counts = np.array([[(epochs[:, place] == sample).sum() for sample in range(7)] for place in range(7)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 80
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 3500  # 3,783 of 5,040 orders are expected


def test_neighbours_are_not_neighbours() -> None:
    order = sample_at(1, np.arange(10_000), 10_000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05


def test_the_order_is_the_recorded_one() -> None:
    """A change of the arithmetic would break the resume of every run that exists."""
    assert sample_at(3, np.arange(8), 1025).tolist() == [915, 745, 756, 845, 229, 1011, 929, 488]
    assert sample_at(3, np.arange(8), 7).tolist() == [1, 6, 2, 5, 0, 3, 4, 4]


def _order(
    count: int, *, window: int | None = None, weights: Integers | None = None, shards: int = 9
) -> Order:
    """`count` samples in shards of unequal size; the weights are whole ticks."""
    starts = np.linspace(0, 1, shards + 1) ** 1.5 * count
    runs = Runs(starts.astype(np.int64), np.stack([np.arange(shards) // 4, np.arange(shards) % 4], 1))
    return Order(5, runs, None, None if weights is None else SharedArray.of(np.cumsum(weights)), window)


def _weights(count: int) -> Integers:
    """Some samples never, most seldom, a few often."""
    drawn = np.random.default_rng(count).integers(0, 1000, count) ** 3
    return np.where(np.arange(count) % 11 == 3, 0, drawn) + (np.arange(count) == 0)


def _epochs(order: Order, epochs: int) -> Integers:
    """(epochs, draws) numbers of samples."""
    return order.number_at(np.arange(epochs * len(order))).reshape(epochs, -1)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 9, 100])
@pytest.mark.parametrize("count", [1, 2, 37, 1000])
def test_f55_an_epoch_holds_each_sample_once_however_it_is_shuffled(window: int | None, count: int) -> None:
    epochs = _epochs(_order(count, window=window), 4)
    assert (np.sort(epochs) == np.arange(count)).all()
    assert count < 30 or (epochs[0] != epochs[1]).mean() > 0.8


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("count", [1, 7, 64, 1001])
def test_a_sample_comes_as_often_as_its_weight_says_rounded_up_or_down(
    window: int | None, count: int
) -> None:
    weights = _weights(count)
    order = _order(count, window=window, weights=weights)
    expected = [Fraction(int(weight) * count, int(weights.sum())) for weight in weights]
    for epoch in _epochs(order, 5):
        for found, exact in zip(np.bincount(epoch, minlength=count).tolist(), expected, strict=True):
            assert found in (math.floor(exact), math.ceil(exact))


def test_over_the_epochs_counts_stay_near_their_expectation() -> None:
    """u moves by the golden ratio: nobody is two draws off after 200 epochs; independent u give 16."""
    count, epochs = 211, 200
    weights = _weights(count)
    order = _order(count, weights=weights)
    counts = np.bincount(_epochs(order, epochs).ravel(), minlength=count)
    assert np.abs(counts - epochs * count * weights / weights.sum()).max() < 2


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("weight", [1, 3, 2**40 + 1])
def test_equal_weights_change_nothing(window: int | None, weight: int) -> None:
    even = _order(500, window=window)
    weighted = _order(500, window=window, weights=np.full(500, weight, np.int64))
    assert np.array_equal(_epochs(even, 3), _epochs(weighted, 3))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_few_shards_are_open_at_a_time(window: int, weighted: bool) -> None:
    """A shard is opened once an epoch, and closed before more than `window` others are.

    Windows are as large as each other: 3 and 2 of 5 shards where 4 are allowed.
    """
    order = _order(1200, window=window, weights=_weights(1200) if weighted else None)
    opened_first = set()
    for epoch in _epochs(order, 6):
        runs = np.searchsorted(order.runs.starts, epoch, side="right") - 1
        spans = [np.flatnonzero(runs == run)[[0, -1]] for run in np.unique(runs)]
        crowd = [sum(first <= place <= last for first, last in spans) for place in range(len(runs))]
        assert max(crowd) == -(-len(spans) // -(-len(spans) // window)) <= window
        assert window == 1 or (np.diff(np.sort(epoch[: len(epoch) // 3])) > 0).any()
        assert window == 1 or (np.diff(runs) != 0).sum() > 100
        opened_first.add(runs[0])
    assert len(opened_first) > 2


def test_samples_of_a_window_are_mixed() -> None:
    order = _order(4000, window=3)
    epoch = _epochs(order, 1)[0]
    first = epoch[: int(order._windows(0).closes[0])]
    assert abs(np.corrcoef(np.arange(len(first)), first)[0, 1]) < 0.1
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 400),
    window=st.sampled_from([None, 1, 3]),
    weighted=st.booleans(),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 32),
)
def test_any_slice_of_any_order_equals_the_whole(
    count: int, window: int | None, weighted: bool, start: int, cut: int
) -> None:
    """A fresh order that starts anywhere gives what one that came there gives, whatever was asked before."""
    weights = _weights(count) if weighted else None
    positions = np.arange(start, start + 32)
    used = _order(count, window=window, weights=weights)
    used.number_at(np.arange(3 * count))
    whole = used.number_at(positions)
    parts = [
        _order(count, window=window, weights=weights).number_at(part)
        for part in (positions[:cut], positions[cut:])
    ]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole[::-1], used.number_at(positions[::-1]))


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_shards_that_positions_need(window: int | None, weighted: bool) -> None:
    order = _order(300, window=window, weights=_weights(300) if weighted else None)
    for start, stop in ((0, 5), (250, 350), (10_001, 10_050)):
        numbers = order.number_at(np.arange(start, stop))
        runs = np.searchsorted(order.runs.starts, numbers, side="right") - 1
        needed = list(dict.fromkeys((run // 4, run % 4) for run in runs.tolist()))
        assert [tuple(shard) for shard in order.shards(start, stop)] == needed


def test_the_orders_with_weights_and_windows_are_the_recorded_ones() -> None:
    """As above: a change would break the resume of every run that exists."""
    weights = np.arange(1025, dtype=np.int64) ** 2
    positions = np.arange(2047, 2055)
    found = [
        _order(1025, window=window, weights=ticks).number_at(positions).tolist()
        for window, ticks in ((None, weights), (2, None), (2, weights))
    ]
    assert found == [
        [1009, 990, 849, 931, 821, 833, 382, 688],
        [135, 705, 733, 226, 243, 252, 251, 227],
        [814, 759, 818, 281, 298, 302, 285, 267],
    ]


def test_no_window_is_left_with_a_single_shard() -> None:
    """17 shards, 16 at a time at most: 8 and 9."""
    shards = np.stack([np.zeros(17, np.int64), np.arange(17)], axis=1)
    order = Order(0, Runs(np.arange(18) * 10, shards), window=16)
    first, second = order.shards(0, 80), order.shards(80, 170)
    assert (len(first), len(second)) == (8, 9)
    assert not set(first) & set(second)
