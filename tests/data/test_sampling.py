"""Weights, proportions and shards shuffled few at a time, through real shards and the trainer's source."""

import gc
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from multiprocessing import context, popen_forkserver
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from rank_parts import put_together

from ssl_retina import config, positions, shard_index, shards
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import sampling
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.order import Integers
from ssl_retina.data.sampling import Ways
from ssl_retina.data.shared import SharedArray
from ssl_retina.errors import ConfigError, InputError, ShardError

SPEC = ViewSpec("mae", 1, 16)


def _balanced(folder: Path, *, samples: int, shards: int, seed: int = 0) -> Path:
    """A set with weights by modality: every eighth sample is a B-scan and counts four times."""
    factory.make_shards(folder, samples=samples, shards=shards, seed=seed, size=32)
    shard_index.write(folder, {**factory.index_facts(), "balance": "modality"})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """56 samples in 5 shards, 40 others in 3."""
    path = tmp_path_factory.mktemp("sets")
    first = _balanced(path / "site-a", samples=56, shards=5)
    second = path / "site-b"
    second.mkdir()
    for number in range(3):
        images = [factory.encoded(factory.pixels(100 + at, size=32)) for at in range(number, 40, 3)]
        parts = [(f"b{number}-{at:02d}.jpg", image) for at, image in enumerate(images)]
        factory.write_tar(second / f"b-{number:06d}.tar", parts)
    shard_index.write(second, {"balance": "modality"})
    return first, second


def _source(*folders: Path, workers: int = 0, **data: object) -> Source:
    values = {"held_out": 0.0, **data}
    return open_source(config.Data(shards=folders, batch_size=8, workers=workers, **values), SPEC, seed=3)


def _epoch(source: Source, epoch: int = 0) -> Integers:
    """The rows of an epoch's draws."""
    count = source.epoch.draws
    return source.stream.order.row_at(np.arange(epoch * count, (epoch + 1) * count))


def test_rare_words_come_as_often_as_common_ones(folders: tuple[Path, Path]) -> None:
    source = _source(folders[0], sampling="balanced")
    table = shards.read_positions(source.indexes[0])
    assert source.samples == 56
    assert sorted({round(float(weight), 3) for weight in table["weight"]}) == [0.571, 4.0]
    for epoch in range(4):
        counts = np.bincount(_epoch(source, epoch), minlength=56)
        assert set(counts[table["weight"] == 4].tolist()) == {4}
        assert set(counts[table["weight"] < 1].tolist()) == {0, 1}
    words = f"an epoch is 56 draws; about {7 + 28} different photographs"
    assert any(words in sentence for sentence in source.epoch.sentences())
    weights = table["weight"].astype(float)
    assert source.epoch.effective == round(weights.sum() ** 2 / (weights**2).sum())
    assert source.epoch.parts[0].balanced == "modality"


def test_equal_weights_are_the_order_without_weights(tmp_path: Path) -> None:
    factory.make_shards(tmp_path, samples=32, shards=2, size=16)
    shard_index.write(tmp_path, {**factory.index_facts(), "balance": "device"})
    even, weighted = _source(tmp_path), _source(tmp_path, sampling="balanced")
    for epoch in range(3):
        assert np.array_equal(_epoch(even, epoch), _epoch(weighted, epoch))
    assert even.epoch.sentences() == []


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "balanced"])
def test_sets_give_their_proportions(folders: tuple[Path, Path], kind: str, named: bool) -> None:
    asked = {"site-a": 1, str(folders[1]): 3.0} if named else [1, 3.0]
    source = _source(*folders, sampling=kind, proportions=asked)
    assert [part.share for part in source.epoch.parts] == [0.25, 0.75]
    for epoch in range(3):
        rows = _epoch(source, epoch)
        assert len(rows) == 96
        assert (rows < 56).sum() in (23, 24, 25)
        assert np.ptp(np.bincount(rows, minlength=96)[56:]) <= 1  # each 1.8 times
    (said,) = [sentence for sentence in source.epoch.sentences() if "25.0%" in sentence]
    assert f"75.0% from {folders[1]} (40 chosen)" in said


def test_shards_are_shuffled_few_at_a_time(folders: tuple[Path, Path]) -> None:
    source = _source(*folders, shuffle_shards=2, where="device != camera-b")
    order = source.stream.order
    assert 0 < source.samples < 96
    orders = set()
    for epoch in range(4):
        start = epoch * source.samples
        begun = order.shards(start, start + source.samples)
        assert sorted(begun) == [(0, n) for n in range(5)] + [(1, n) for n in range(3)]
        assert sorted(_epoch(source, epoch).tolist()) == sorted(order.every_row().tolist())
        orders.add(begun)
    assert len(orders) > 1
    assert source.epoch.sentences() == [
        f"data.shuffle_shards: photographs are shuffled within 2 of 8 shards at a time, about "
        f"{round(source.samples / 4)} draws"
    ]
    assert _source(folders[0], shuffle_shards=9).epoch.sentences() == []


def test_the_shards_an_order_names_hold_what_the_stream_reads(folders: tuple[Path, Path]) -> None:
    source = _source(*folders, sampling="balanced", proportions=[1, 1], shuffle_shards=2)
    readers = [shards.Reader(index) for index in source.indexes]
    for start in (0, 90, 1000):
        rows = source.stream.order.row_at(np.arange(start, start + 9)).tolist()
        held = [(int(row >= 56), readers[row >= 56].shard(row - 56 * (row >= 56))) for row in rows]
        named = [
            (at, source.indexes[at].shards[number].url)
            for at, number in source.stream.order.shards(start, start + 9)
        ]
        assert named == list(dict.fromkeys(held))


def _global(source: Source, start: int, world: int) -> Iterator[Batch]:
    """The first three global batches of 24 from a position."""
    ranks = [
        list(islice(source.batches(start, rank=rank, world=world, micro_batch=24 // world), 3))
        for rank in range(world)
    ]
    for parts in zip(*ranks, strict=True):
        yield put_together(parts)


WAYS = [
    {"sampling": "balanced", "proportions": [2, 1], "shuffle_shards": 2},
    {"sampling": "balanced"},
    {"shuffle_shards": 3},
]


@pytest.mark.parametrize("start", [0, 90, 100_003])
@pytest.mark.parametrize("ways", WAYS, ids=["all", "weights", "shards"])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_f58_the_global_order_does_not_hang_on_ranks(
    folders: tuple[Path, Path], world: int, ways: dict[str, object], start: int
) -> None:
    _assert_the_same(folders, ways, start, world=world)


@pytest.mark.parametrize(("world", "workers"), [(1, 8), (2, 1)])
def test_f58_the_global_order_does_not_hang_on_workers(
    folders: tuple[Path, Path], world: int, workers: int
) -> None:
    _assert_the_same(folders, WAYS[0], 90, world=world, workers=workers)


def _assert_the_same(
    folders: tuple[Path, Path], ways: dict[str, object], start: int, *, world: int, workers: int = 0
) -> None:
    expected = _global(_source(*folders, **ways), start, 1)
    found = _global(_source(*folders, workers=workers, **ways), start, world)
    for one, other in zip(expected, found, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.position, other.position)
        assert torch.equal(one.global_views, other.global_views)


def test_f57_a_resume_with_weights_and_windows_goes_on_with_the_next_sample(
    folders: tuple[Path, Path],
) -> None:
    source = _source(*folders, **WAYS[0])
    whole = list(islice(source.batches(0, rank=0, world=1, micro_batch=7), 30))
    keys = Counter(key for batch in whole for key in batch.keys)
    assert keys[factory.key(7)] > keys[factory.key(6)]
    for step in (1, 13, 14, 29):  # position 91 and 98: on both sides of the first epoch's end
        (later,) = islice(_source(*folders, **WAYS[0]).batches(7 * step, rank=0, world=1, micro_batch=7), 1)
        assert later.keys == whole[step].keys
        assert torch.equal(later.global_views, whole[step].global_views)


def test_sets_without_weights_are_all_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("plain", "others"):
        factory.make_shards(tmp_path / name, samples=len(name))
    with pytest.raises(ConfigError) as caught:
        _source(tmp_path / "plain", folders[0], tmp_path / "others", sampling="balanced")
    assert len(caught.value.problems) == 2
    assert f"ssl-retina balance {tmp_path / 'others'} --embeddings" in caught.value.problems[1]
    assert "data.sampling=uniform" in caught.value.problems[1]


def test_a_share_for_nothing_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"data.proportions gives a share to .*site-b, of which no sample"):
        _source(*folders, proportions=[1, 1], where="device == camera-a")


def test_weights_are_those_of_the_chosen_samples_in_pieces_of_any_size(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"sampling": "balanced", "where": "device == camera-b and modality != unknown"}
    source = _source(*folders, **asked, exclude=None)
    rows = source.stream.order.every_row()
    weights = shards.read_positions(source.indexes[0])["weight"][rows].astype(float)
    assert rows[0] == 1
    assert source.epoch.effective == round(weights.sum() ** 2 / (weights**2).sum())
    counts = np.bincount(_epoch(source), minlength=56)[rows]
    expected = weights / weights.sum() * len(rows)
    assert (np.abs(counts - expected) < 1).all()
    monkeypatch.setattr(sampling, "CHUNK", 5)
    pieces = _source(*folders, **asked)
    assert np.array_equal(_epoch(pieces, 3), _epoch(source, 3))
    assert pieces.epoch == source.epoch


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_weights_that_are_none_are_refused(tmp_path: Path, weight: float) -> None:
    _balanced(tmp_path, samples=8, shards=1)
    table = np.load(tmp_path / shards.POSITIONS_NAME)
    table["weight"][5] = weight
    np.save(tmp_path / shards.POSITIONS_NAME, table)
    with pytest.raises(ShardError, match="weights that are no weights"):
        _source(tmp_path, sampling="balanced")
    table["weight"] = 0
    np.save(tmp_path / shards.POSITIONS_NAME, table)
    with pytest.raises(ShardError, match="weight 0"):
        _source(tmp_path, sampling="balanced")


@pytest.mark.parametrize("window", [None, 2])
def test_a_batch_with_heavy_weights_repeats_samples(folders: tuple[Path, Path], window: int | None) -> None:
    """The stated number of repeated pairs is that of the batches, on the average."""
    source = _source(folders[0], sampling="balanced", shuffle_shards=window)
    rows = source.stream.order.row_at(np.arange(56 * 150)).reshape(-1, 14)
    pairs = [sum(n * (n - 1) // 2 for n in Counter(batch).values()) for batch in rows.tolist()]
    assert source.epoch.repeats(14) == pytest.approx(np.mean(pairs), rel=0.3)
    assert _source(folders[0]).epoch.repeats(28) == 0


def _vast(folder: Path, samples: int, per_shard: int = 1000) -> Path:
    """A set of which only index and table exist; the table is a hole, which takes no room on the disk."""
    factory.make_shards(folder, samples=1, shards=1, size=16)
    with (folder / shards.POSITIONS_NAME).open("wb") as stream:
        head = {"shape": (samples,), "fortran_order": False}
        np.lib.format.write_array_header_1_0(
            stream, {**head, "descr": np.lib.format.dtype_to_descr(positions.POSITION)}
        )
        stream.truncate(stream.tell() + samples * positions.POSITION.itemsize)
    content = json.loads((folder / shards.INDEX_NAME).read_text())
    (shard,) = content["shardlist"]
    content["shardlist"] = [{**shard, "nsamples": per_shard}] * (samples // per_shard)
    (folder / shards.INDEX_NAME).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("window", [None, 16])
def test_f57_ten_million_samples_resume_anywhere_in_under_a_second(
    tmp_path: Path, window: int | None
) -> None:
    """From an index to the first batch at a position deep in the run, in processor time."""
    record = np.load(factory.make_shards(tmp_path / "one", samples=1, size=16).folder / shards.POSITIONS_NAME)
    folder, start = _vast(tmp_path / "vast", 10_000_000), 10**10 + 12_345
    rows = _source(folder, shuffle_shards=window).stream.order.row_at(np.arange(start, start + 8))
    table = np.lib.format.open_memmap(folder / shards.POSITIONS_NAME, "r+")
    table[rows] = record  # the samples that are read exist
    table.flush()
    before = time.process_time()
    source = _source(folder, shuffle_shards=window)
    batch = next(source.batches(start, rank=0, world=1, micro_batch=8))
    assert time.process_time() - before < 1
    assert batch.global_views.shape == (1, 8, 3, 16, 16)
    assert len(np.unique(rows)) == 8


@pytest.mark.slow
def test_ten_million_weights_take_seconds(tmp_path: Path) -> None:
    """A table that is full: selection, held-out patients and weights, and 12 bytes a sample, shared."""
    folder, samples = _vast(tmp_path, 10_000_000), 10_000_000
    table = np.lib.format.open_memmap(folder / shards.POSITIONS_NAME, "r+")
    random = np.random.default_rng(0)
    for start in range(0, samples, 1 << 20):
        rows = table[start : start + (1 << 20)]
        rows["group"], rows["weight"] = (
            random.integers(0, 2**62, len(rows)),
            random.exponential(size=len(rows)),
        )
    table.flush()
    index = shards.read_index(folder)
    facts = json.loads((folder / shards.INDEX_NAME).read_text())
    facts["ssl_retina"]["balance"] = "device"
    (folder / shards.INDEX_NAME).write_text(json.dumps(facts))
    before = time.process_time()
    source = _source(folder, sampling="balanced", held_out=0.05, shuffle_shards=16)
    assert time.process_time() - before < 10
    assert source.samples + source.held_out_samples == index.samples
    assert abs(source.epoch.effective / source.samples - 0.5) < 0.01  # of an exponential distribution
    before = time.process_time()
    source.stream.order.row_at(np.arange(10**12, 10**12 + 64))
    assert time.process_time() - before < 1


class _Starting:
    """Stands for a process that is being started: keeps what it would be handed over."""

    def __init__(self) -> None:
        self.files: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.files.append(descriptor)
        return len(self.files)

    DupFd = popen_forkserver._DupFd


def test_processes_are_handed_open_files_and_no_rows() -> None:
    """For a million rows a few hundred bytes, and a descriptor of memory that has no name."""
    rows = SharedArray.of(np.arange(1_000_000, dtype=np.uint32))
    starting = _Starting()
    context.set_spawning_popen(starting)  # type: ignore[arg-type]
    try:
        sent = bytes(ForkingPickler.dumps([rows, rows]))
    finally:
        context.set_spawning_popen(None)
    assert len(sent) < 1000
    assert len(starting.files) == 1
    assert os.readlink(f"/proc/self/fd/{starting.files[0]}").startswith("/memfd:")


def test_shared_memory_is_freed_with_its_array() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    kept = SharedArray.of(np.arange(1000))
    values = kept.array[10:]
    assert len(os.listdir("/proc/self/fd")) > before
    del kept
    assert values[0] == 10  # what was taken from it stays
    del values
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_list_of_rows_is_never_shuffled() -> None:
    order = sampling.listed(np.array([5, 5, 2], np.uint32))
    assert order.row_of(np.arange(3)).tolist() == [5, 5, 2]


def test_the_ways_of_a_config() -> None:
    data = config.Data(shards=(Path("a"), Path("b/c")), batch_size=8, proportions={"c": 1, "a": 3})
    assert Ways.of(data) == Ways("uniform", (0.75, 0.25), None, ("a", "b/c"))
    assert Ways.of(data.model_copy(update={"proportions": None})).even
