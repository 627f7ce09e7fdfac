"""Pairs of one eye or patient in a batch (data.together): law 2, once an epoch, the same for any ranks."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_parts import put_together

from ssl_retina import config, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.together import Together
from ssl_retina.errors import ConfigError, InputError

SPEC = ViewSpec("mae", 1, 16)
SAMPLES = 61


def _units(sizes: list[int], seed: int = 0) -> np.ndarray:
    """The unit of each sample, mixed."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40), seed=st.integers(0, 2**31))
def test_every_epoch_holds_each_sample_once_in_whole_pairs(sizes: list[int], seed: int) -> None:
    units = _units(sizes)
    order, count = Together.of((units,)), len(units)
    found = order.number_at(seed, np.arange(4 * count))
    for epoch in found.reshape(4, count):
        assert sorted(epoch.tolist()) == list(range(count))
    assert order.paired == sum(size // 2 * 2 for size in sizes)
    whole = found[: 4 * count // 2 * 2].reshape(-1, 2)
    together = int((units[whole[:, 0]] == units[whole[:, 1]]).sum())
    assert together >= 4 * order.paired // 2, "no pair begins at an odd position"


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 2**40), cut=st.integers(0, 32), seed=st.integers(0, 2**31))
def test_any_slice_of_pairs_equals_the_whole(start: int, cut: int, seed: int) -> None:
    order = Together.of((_units([5, 1, 1, 4, 2, 8, 3, 1, 2]),))
    places = np.arange(start, start + 32)
    parts = [order.number_at(seed, part) for part in (places[:cut], places[cut:])]
    assert np.array_equal(order.number_at(seed, places), np.concatenate(parts))


def test_who_meets_whom_differs_from_epoch_to_epoch() -> None:
    """In four epochs of a unit of 5 its members meet others, and who is left over changes too."""
    order = Together.of((_units([5, 3, 5, 5]),))
    met = [
        {
            tuple(sorted(two))
            for two in order.number_at(3, np.arange(18 * e, 18 * e + 18)).reshape(9, 2).tolist()
        }
        for e in range(4)
    ]
    assert all(len(one & other) < 6 for one, other in pairwise(met))
    assert len(set.union(*met)) > 24


def test_pairs_stand_anywhere_in_the_epoch() -> None:
    """Half of the units are pairs: they do not come first."""
    units = _units([2] * 200 + [1] * 400)
    found = Together.of((units,)).number_at(5, np.arange(800)).reshape(-1, 2)
    pairs = units[found[:, 0]] == units[found[:, 1]]
    assert abs(pairs[:200].mean() - 0.5) < 0.12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=SAMPLES, patients=7, shards=3, size=24)
    return path


Open = Callable[..., Source]


@pytest.fixture
def opened(folder: Path) -> Open:
    def source(workers: int = 0, **data: object) -> Source:
        values = {"held_out": 0.0, "batch_size": 8, **data}
        return open_source(config.Data(shards=(folder,), workers=workers, **values), SPEC, seed=3)

    return source


@pytest.mark.parametrize("by", ["eye", "patient"])
@pytest.mark.parametrize("where", [None, "device != camera-b"])
def test_batches_hold_pairs_of_one_eye_or_patient(opened: Open, by: str, where: str | None) -> None:
    source = opened(together=by, where=where)
    count = source.samples
    batches = list(islice(source.batches(0, rank=0, world=1, micro_batch=8), 2 * count // 8))
    alike = 0
    for batch in batches:
        kin = batch.kin[:, [0, 2]].view(-1, 2, 2)  # of neighbours: group and eye
        same = (kin[:, 0] == kin[:, 1]) & (kin[:, 0] != -1)
        alike += 2 * int((same[:, 0] & (same[:, 1] | torch.tensor(by == "patient"))).sum())
    numbers = source.stream.order.every_row().tolist()
    rows = [(n % 7, n % 3 if by == "eye" and n % 3 < 2 else f"{n}?" if by == "eye" else 0) for n in numbers]
    paired = sum(size // 2 * 2 for size in Counter(rows).values())
    assert source.epoch.paired == (paired, by)
    assert 2 * paired - 16 <= alike
    said = f"data.together: {paired} of {count} photographs come in pairs of one {by}"
    assert source.epoch.sentences() == [said]
    for epoch in range(3):
        found = source.stream.order.row_at(np.arange(epoch * count, (epoch + 1) * count))
        assert sorted(found.tolist()) == numbers


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (4, 0), (2, 2)])
def test_pairs_do_not_hang_on_ranks_or_workers_and_resume_anywhere(
    opened: Open, world: int, workers: int
) -> None:
    """From both sides of an epoch's end; four ranks of two, two of four."""
    for start in (0, 56, 100_000):
        (whole,) = islice(opened(together="eye").batches(start, rank=0, world=1, micro_batch=8), 1)
        many = opened(workers, together="eye")
        parts = [
            next(iter(many.batches(start, rank=rank, world=world, micro_batch=8 // world)))
            for rank in range(world)
        ]
        found = put_together(parts)
        assert found.keys == whole.keys
        assert torch.equal(found.kin, whole.kin)
        assert torch.equal(found.global_views, whole.global_views)


def test_the_shards_of_pairs_are_named(opened: Open) -> None:
    source = opened(together="patient")
    reader = shards.Reader(source.indexes[0])
    held = [reader.shard(row) for row in source.stream.order.row_at(np.arange(50, 70)).tolist()]
    named = [source.indexes[0].shards[at.shard].url for at in source.stream.order.shards(50, 70)]
    assert named == list(dict.fromkeys(held))


def test_held_out_photographs_keep_their_order(opened: Open) -> None:
    """A loss on them can be compared between runs with and without pairs."""
    found = [
        [
            batch.keys
            for batch in opened(held_out=0.4, together=by).held_out(rank=0, world=1, batch=4, limit=12)
        ]
        for by in ("none", "eye")
    ]
    assert found[0] == found[1]


def test_what_does_not_go_with_pairs_is_told_at_once(opened: Open) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(together="eye", batch_size=7, shuffle_shards=2, proportions=[1], sampling="balanced")
    told = " ".join(caught.value.problems)
    for name in (
        "sampling=uniform",
        "proportions=null",
        "shuffle_shards=null",
        "batch_size",
        "together=none",
    ):
        assert f"data.{name}" in told


@pytest.mark.parametrize(("by", "words"), [("eye", "patient or none"), ("patient", "data.together=none")])
def test_a_set_without_any_pair_is_refused(tmp_path: Path, by: str, words: str) -> None:
    """Five photographs of five patients."""
    factory.make_shards(tmp_path, samples=5, size=16)
    data = config.Data(shards=(tmp_path,), batch_size=2, workers=0, held_out=0.0, together=by)
    with pytest.raises(InputError, match=f"data.together={by}: no .*{words}"):
        open_source(data, SPEC, seed=0)


def test_without_pairs_nothing_changes(opened: Open) -> None:
    order = opened().stream.order
    assert order.pairing is None
    assert dataclasses.replace(order, window=None) == order
