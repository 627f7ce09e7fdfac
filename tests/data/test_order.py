"""Order is arithmetic (law 2): epochs are permutations, any slice equals the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_retina.data.order import sample_at


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
