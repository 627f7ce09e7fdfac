"""Law 2: which sample stands at a position depends on seed, position and index alone; and clean endings."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from rank_parts import put_together

from ssl_retina import config, shard_index, shards
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import recipes, stream, views, workers
from ssl_retina.data.geometry import Crop
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.memory import Pool
from ssl_retina.data.recipes import Recipe
from ssl_retina.data.stream import Loaded
from ssl_retina.errors import ConfigError, InputError, ShardError, StateError

SAMPLES = 65
SPEC = ViewSpec("mae", global_views=2, global_size=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=SAMPLES, shards=3, size=48)
    return path


def _source(*folders: Path, workers: int = 0, seed: int = 3, spec: ViewSpec = SPEC, **data: object) -> Source:
    values = {"held_out": 0.0, **data}
    return open_source(config.Data(shards=folders, batch_size=8, workers=workers, **values), spec, seed=seed)


def _global_batches(source: Source, start: int, steps: int, world: int, batch: int = 12) -> list[list[Batch]]:
    """The first `steps` global batches, each as the micro-batches of all ranks."""
    parts = [
        list(islice(source.batches(start, rank=rank, world=world, micro_batch=batch // world), steps))
        for rank in range(world)
    ]
    return [[parts[rank][step] for rank in range(world)] for step in range(steps)]


def _assert_equal(one: Batch, other: Batch) -> None:
    assert one.keys == other.keys
    assert torch.equal(one.position, other.position)
    assert torch.equal(one.group, other.group)
    assert torch.equal(one.kin, other.kin)
    assert torch.equal(one.global_views, other.global_views)
    assert torch.equal(one.field_of_view.nan_to_num(-1), other.field_of_view.nan_to_num(-1))


def test_f55_one_epoch_covers_every_sample_once(folder: Path) -> None:
    """65 samples in 3 shards over 3 ranks and 2 workers: nothing divides anything."""
    keys: Counter[str] = Counter()
    for rank in range(3):
        source = _source(folder, workers=2)
        for batch in islice(source.batches(0, rank=rank, world=3, micro_batch=5), 9):
            keys.update(
                key for key, place in zip(batch.keys, batch.position.tolist(), strict=True) if place < SAMPLES
            )
    assert keys == Counter({factory.key(number): 1 for number in range(SAMPLES)})


@pytest.mark.parametrize(
    ("world", "workers"), [(1, 1), (1, 2), (1, 3), (2, 0), (2, 2), (3, 0), (4, 0), (4, 1)]
)
def test_f56_f58_global_batches_hang_on_neither_ranks_nor_workers(
    folder: Path, world: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")  # what the environment says must not matter
    monkeypatch.setenv("WORLD_SIZE", "7")
    expected = _global_batches(_source(folder), 29, 6, world=1)
    found = _global_batches(_source(folder, workers=workers), 29, 6, world=world)
    for one, other in zip(expected, found, strict=True):
        _assert_equal(put_together(one), put_together(other))


def test_f57_starting_anywhere_equals_having_streamed_there(folder: Path) -> None:
    source = _source(folder)
    whole = list(islice(source.batches(0, rank=0, world=1, micro_batch=7), 20))
    for step in (1, 9, 10, 19):  # position 63 and 70: on both sides of the first epoch's end
        (later,) = islice(_source(folder, workers=1).batches(7 * step, rank=0, world=1, micro_batch=7), 1)
        _assert_equal(whole[step], later)


def test_positions_are_contiguous_over_micro_steps_and_ranks(folder: Path) -> None:
    source = _source(folder)
    batches = _global_batches(source, 100, 4, world=4)
    places = [place for parts in batches for part in parts for place in part.position.tolist()]
    assert places == list(range(100, 148))


def test_views_are_those_of_the_position(folder: Path) -> None:
    """The same sample in two epochs is cropped differently; the same position always the same."""
    source = _source(folder)
    first = next(source.batches(0, rank=0, world=1, micro_batch=SAMPLES))
    second = next(source.batches(SAMPLES, rank=0, world=1, micro_batch=SAMPLES))
    place = {key: number for number, key in enumerate(second.keys)}
    same = [
        torch.equal(first.global_views[0, number], second.global_views[0, place[key]])
        for number, key in enumerate(first.keys)
    ]
    assert not any(same)
    assert not torch.equal(first.global_views[0], first.global_views[1])
    assert first.global_views.dtype == torch.uint8
    assert first.global_views.shape == (2, SAMPLES, 3, 24, 24)
    assert first.field_of_view.shape == (2, SAMPLES, 4)
    other = next(_source(folder, seed=4).batches(0, rank=0, world=1, micro_batch=SAMPLES))
    assert other.keys != first.keys


def test_groups_are_patients(folder: Path) -> None:
    batch = next(_source(folder).batches(0, rank=0, world=1, micro_batch=SAMPLES))
    facts = {factory.key(number): factory.facts(number) for number in range(SAMPLES)}
    for key, group in zip(batch.keys, batch.group.tolist(), strict=True):
        assert group == shards.group_number(str(facts[key]["group"]))


def test_local_views_of_a_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(Crop((0.4, 1.0)), local_crop=Crop((0.05, 0.4)))
    monkeypatch.setattr(recipes, "RECIPES", {"multi": recipe})
    spec = ViewSpec("multi", global_views=2, global_size=24, local_views=3, local_size=16)
    batch = next(_source(folder, spec=spec).batches(0, rank=0, world=1, micro_batch=5))
    assert batch.local_views is not None
    assert batch.local_views.shape == (3, 5, 3, 16, 16)
    assert len({view.numpy().tobytes() for view in batch.local_views[:, 0]}) == 3
    assert views.finish(batch, device=torch.device("cpu")).local_views is not None


def test_a_loader_process_writes_into_memory_that_it_hands_over(folder: Path) -> None:
    """No copy, and none of new memory: the same pieces come again, a pixel's colours side by side."""
    spec = ViewSpec("dino_paper", global_views=2, global_size=24, local_views=3, local_size=16)
    streams = [
        _source(folder, spec=spec, workers=count).batches(0, rank=0, world=1, micro_batch=5)
        for count in (1, 0)
    ]
    places = set()
    for batch, own in islice(zip(*streams, strict=True), 20):
        assert batch.local_views is not None
        assert own.local_views is not None
        for theirs, here in ((batch.global_views, own.global_views), (batch.local_views, own.local_views)):
            assert torch.equal(theirs, here)
            assert theirs[0].is_contiguous(memory_format=torch.channels_last)
        places.add(batch.global_views.data_ptr())
    assert len(places) <= workers.PREFETCH + workers.KEPT
    done = views.finish(batch, device=torch.device("cpu"))
    assert done.global_views.is_contiguous()


@pytest.mark.parametrize("kept", ["global", "local", "a pixel", "all"])
def test_what_is_kept_of_a_batch_is_not_written_over(folder: Path, kept: str) -> None:
    """A view of a view is enough; where too much is kept, batches come in memory of their own."""
    spec = ViewSpec("dino_paper", global_views=2, global_size=24, local_views=3, local_size=16)

    def some(batch: Batch) -> list[torch.Tensor]:
        assert batch.local_views is not None
        if kept == "a pixel":
            return [batch.global_views[1, 2, :, 3:4]]
        parts = {"global": [batch.global_views], "local": [batch.local_views[1:]]}
        return parts.get(kept, [batch.global_views, batch.local_views])

    def first(count: int) -> list[torch.Tensor]:
        batches = _source(folder, spec=spec, workers=count).batches(0, rank=0, world=1, micro_batch=5)
        return [part for batch in islice(batches, 12) for part in some(batch)]

    assert all(map(torch.equal, first(2), first(0)))


def test_streams_side_by_side_keep_their_memory_apart(folder: Path) -> None:
    """Pieces go by their numbers: those of another stream, and of another process, have the same."""

    def batches(workers: int) -> list[list[torch.Tensor]]:
        source = _source(folder, workers=workers)
        streams = [source.batches(start, rank=0, world=1, micro_batch=3) for start in (0, 100)]
        return [[batch.global_views for batch in step] for step in islice(zip(*streams, strict=True), 9)]

    for theirs, own in zip(batches(2), batches(0), strict=True):
        assert all(map(torch.equal, theirs, own))


@pytest.mark.parametrize("sends", [True, False])
def test_pixels_in_a_piece_cross_only_where_a_thread_of_torchs_pins_them(folder: Path, sends: bool) -> None:
    stream = _source(folder).stream
    places = np.arange(4)
    pool = Pool(2, stream.pixel_bytes(4))
    filling = workers._Filling(stream, pool.pieces, sends=sends)
    crossed, piece = pickle.loads(pickle.dumps(filling[places, 1]))
    expected = stream.load(places).batch
    assert piece == 1
    assert expected is not None
    there, _ = stream.views_in(pool.pieces[piece], 4)
    assert torch.equal(there, expected.global_views)
    assert bool(crossed.batch.global_views.numel()) == sends
    assert crossed.batch.keys == expected.keys
    assert torch.equal(crossed.batch.position, expected.position)
    alone, _ = pickle.loads(pickle.dumps(filling[places, None]))
    assert torch.equal(alone.batch.global_views, expected.global_views)


@pytest.mark.parametrize("recipe", ["mae", "mocov3", "dino_paper"])
def test_a_view_is_the_same_in_every_batch(tmp_path: Path, recipe: str) -> None:
    """Bit for bit, whatever stands beside it, also where photographs are decoded at a part of their size."""
    factory.make_shards(tmp_path, samples=6, shards=1, size=200)
    spec = ViewSpec(recipe, 2, 24, 3 if recipe == "dino_paper" else 0, 16)
    stream = _source(tmp_path, spec=spec).stream
    whole = stream.load(np.arange(40, 52)).batch
    assert whole is not None
    for position in (51, 40, 45):
        alone = stream.load(np.array([position])).batch
        assert alone is not None
        assert torch.equal(alone.global_views[:, 0], whole.global_views[:, position - 40])
        if whole.local_views is not None:
            assert alone.local_views is not None
            assert torch.equal(alone.local_views[:, 0], whole.local_views[:, position - 40])


def test_several_sets(folder: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    parts = [(f"b{number}.jpg", factory.encoded(factory.pixels(number, size=40))) for number in range(10)]
    factory.write_tar(second / "b-000000.tar", parts)
    shard_index.write(second, {})
    source = _source(folder, second)
    assert source.samples == SAMPLES + 10
    assert source.offsets == (0, SAMPLES)
    assert len(set(source.digests)) == 2
    batch = next(source.batches(0, rank=0, world=1, micro_batch=75))
    assert set(batch.keys) == {factory.key(n) for n in range(SAMPLES)} | {f"b{n}" for n in range(10)}
    with pytest.raises(InputError, match="same set twice"):
        _source(folder, folder)
    with pytest.raises(ShardError) as caught:
        _source(folder, tmp_path / "absent", tmp_path)
    assert str(caught.value).count("\n") == 1


def test_where_exclude_and_held_out_reach_the_stream(folder: Path, tmp_path: Path) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(factory.key(2) + "\n")
    source = _source(folder, where="split != test", exclude=exclude, held_out=0.2)
    facts = {factory.key(number): factory.facts(number) for number in range(SAMPLES)}
    trained = {
        key for batch in islice(source.batches(0, rank=0, world=1, micro_batch=10), 30) for key in batch.keys
    }
    held_out = {key for batch in source.held_out(rank=0, world=1, batch=1, limit=1000) for key in batch.keys}
    assert len(trained) == source.samples
    assert len(held_out) == source.held_out_samples > 0
    assert len(trained) + len(held_out) == 48  # 49 of 65 are not in test, one of them is excluded
    assert factory.key(2) not in trained | held_out
    assert not {facts[key]["group"] for key in trained} & {facts[key]["group"] for key in held_out}
    with pytest.raises(ConfigError):
        _source(folder, where="nonsense")


@pytest.mark.parametrize(("world", "batch"), [(1, 8), (2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("limit", [100, 9, 8, 5, 1])
def test_held_out_batches_do_not_depend_on_the_ranks(
    folder: Path, world: int, batch: int, limit: int
) -> None:
    """As many full global batches as there are."""
    source = _source(folder, held_out=0.3)
    (alone,) = [list(_source(folder, held_out=0.3, seed=9).held_out(rank=0, world=1, batch=8, limit=limit))]
    ranks = [list(source.held_out(rank=rank, world=world, batch=batch, limit=limit)) for rank in range(world)]
    assert len(alone) == max(min(limit, source.held_out_samples) // 8, 1)
    assert all(len(part.keys) == batch for batches in ranks for part in batches)
    found = [part for step in zip(*ranks, strict=True) for part in step]
    joined, wanted = put_together(found), put_together(alone)
    assert joined.keys == wanted.keys
    assert torch.equal(joined.global_views, wanted.global_views)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 32])
@pytest.mark.parametrize("limit", [100, 3])
def test_few_held_out_samples_are_each_there_once(folder: Path, world: int, limit: int) -> None:
    """A copy would be its own negative. The same samples and views for any number of ranks."""
    source = _source(folder, held_out=0.1)
    few = source.held_out_samples
    assert 3 < few < 16
    (alone,) = source.held_out(rank=0, world=1, batch=96, limit=limit)
    assert len(alone.keys) == len(set(alone.keys)) == few
    ranks = [
        list(source.held_out(rank=rank, world=world, batch=96 // world, limit=limit)) for rank in range(world)
    ]
    parts = [part for (part,) in ranks]
    assert {len(part.keys) for part in parts} <= {few // world, few // world + 1}
    joined = put_together(parts)
    assert joined.keys == alone.keys
    assert torch.equal(joined.global_views, alone.global_views)


def test_no_held_out_patients(folder: Path) -> None:
    source = _source(folder)
    assert source.held_out_samples == 0
    assert list(source.held_out(rank=0, world=1, batch=4, limit=10)) == []


def test_whole_images_by_row(folder: Path) -> None:
    rows = np.array([64, 3, 3, 10, 11])
    batches = list(_source(folder).whole(rows, batch=2, size=24))
    assert [len(batch.keys) for batch in batches] == [2, 2, 1]
    joined = put_together(batches)
    assert joined.keys == tuple(factory.key(int(row)) for row in rows)
    assert joined.position.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(joined.global_views[0, 1], joined.global_views[0, 2])


def test_f44_verify_refuses_by_name_before_the_first_step(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, place in enumerate(folders):
        factory.make_shards(place, samples=20, shards=2, seed=number)
    source = _source(*folders)
    source.verify(hashes=True)
    path = folders[0] / "factory-000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    (folders[1] / "factory-000000.tar").unlink()
    with pytest.raises(ShardError) as caught:
        source.verify(hashes=False)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "a: factory-000001.tar has 5000 bytes" in message
    assert "b: factory-000000.tar is missing" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_f43_a_flipped_bit_stops_the_stream_by_name(tmp_path: Path, workers: int) -> None:
    index = factory.make_shards(tmp_path, samples=20, shards=1)
    path = tmp_path / index.shards[0].url
    content = bytearray(path.read_bytes())
    content[int(shards.read_positions(index)["image_offset"][7]) + 800] ^= 1
    path.write_bytes(content)
    stream = _source(tmp_path, workers=workers).batches(0, rank=0, world=1, micro_batch=4)
    with pytest.raises(ShardError) as caught:
        list(islice(stream, 5))
    assert str(caught.value) == f"{path.name}: the image of sample {factory.key(7)} is damaged (CRC-32)"


def test_a_set_that_is_indexed_anew_while_it_streams_stops_the_stream(tmp_path: Path) -> None:
    factory.make_shards(tmp_path, samples=20)
    source = _source(tmp_path)
    factory.make_shards(tmp_path, samples=20, seed=1)
    with pytest.raises(ShardError, match="indexed anew"):
        next(source.batches(0, rank=0, world=1, micro_batch=4))


def _with_undecodable(folder: Path, samples: int, bad: set[int]) -> Path:
    folder.mkdir(exist_ok=True)
    image = factory.encoded(factory.pixels(0, size=16))
    parts = [(f"k{n:05d}.jpg", b"no image" if n in bad else image) for n in range(samples)]
    factory.write_tar(folder / "bad-000000.tar", parts)
    shard_index.write(folder, {})
    return folder


def test_f54_an_undecodable_sample_is_replaced_by_the_next_position(tmp_path: Path) -> None:
    """The same on every rank; counted; the batch keeps its size and its positions."""
    place = _with_undecodable(tmp_path, 40, {11})
    spec = ViewSpec("mae", 1, 16)
    sound = list(islice(_source(place, spec=spec).batches(0, rank=0, world=1, micro_batch=8), 5))
    keys = [key for batch in sound for key in batch.keys]
    counts = Counter(keys)
    (twice,) = [key for key, count in counts.items() if count == 2]
    at = keys.index(twice)
    assert "k00011" not in counts
    assert keys[at + 1] == twice
    source = _source(place, spec=spec, workers=1)
    parts = _global_batches(source, 0, 5, world=4, batch=8)
    assert [key for step in parts for part in step for key in part.keys] == keys
    assert source.replaced == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_f54_too_many_undecodable_samples_stop_the_run_by_name(tmp_path: Path, workers: int) -> None:
    place = _with_undecodable(tmp_path, 60, {3, 30, 50})
    source = _source(place, spec=ViewSpec("mae", 1, 16), workers=workers)
    with pytest.raises(ShardError) as caught:
        list(islice(source.batches(0, rank=0, world=1, micro_batch=6), 30))
    assert all(name in str(caught.value) for name in ("k00003", "k00030", "k00050"))
    nothing = _with_undecodable(tmp_path / "all", 5, set(range(5)))
    with pytest.raises(ShardError, match="cannot be decoded"):
        next(_source(nothing, spec=ViewSpec("mae", 1, 16)).batches(0, rank=0, world=1, micro_batch=2))


def test_the_loader_takes_nothing_from_torchs_generator(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    next(_source(folder, workers=1).batches(0, rank=0, world=1, micro_batch=4))
    assert torch.equal(torch.rand(1), expected)


def test_f60_a_killed_worker_stops_the_stream_with_a_reason(folder: Path) -> None:
    before = set(multiprocessing.active_children())
    stream = _source(folder, workers=1).batches(0, rank=1, world=2, micro_batch=4)
    keys = [*next(stream).keys]
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(StateError) as caught:
        for batch in islice(stream, 10):
            keys += batch.keys
    assert f"a loader process of rank 1 was killed after sample {keys[-1]} had come" in str(caught.value)


def _own_memory(pid: int) -> int:
    """Memory of this process alone, in bytes, and what it shares without a file."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status if line.endswith(" kB")}
    return sizes["RssAnon"] + sizes["RssShmem"]


@pytest.mark.slow
def test_memory_is_flat_over_thousands_of_batches(folder: Path) -> None:
    """At most 2 MB more after 4,000 batches than after 1,000, and open files of a batch on its way."""
    before = set(multiprocessing.active_children())
    stream = _source(folder, workers=1).batches(0, rank=0, world=1, micro_batch=2)
    seen = []
    for batches in (1000, 3000):
        for _ in islice(stream, batches):
            pass
        gc.collect()
        (worker,) = set(multiprocessing.active_children()) - before
        assert worker.pid is not None
        pids = (os.getpid(), worker.pid)
        seen.append([(_own_memory(pid), len(os.listdir(f"/proc/{pid}/fd"))) for pid in pids])
    for (early, open_early), (late, open_late) in zip(*seen, strict=True):
        assert late - early < 2 << 20, seen
        assert open_late - open_early <= 8, seen


def test_everything_in_a_batch_is_pinned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here: what torch's loader would ask for, seen by a stand-in."""
    loaded = _source(folder).stream.load(np.arange(4))
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    moved = loaded.pin_memory()
    assert loaded.batch is not None
    assert moved.batch is not None
    tensors = [value for value in vars(loaded.batch).values() if isinstance(value, torch.Tensor)]
    assert len(pinned) == len(tensors) >= 4
    assert moved.batch.keys == loaded.batch.keys
    broken = Loaded(None, trouble="a sentence")
    assert broken.pin_memory() is broken


SCRIPT = """
import os, signal, sys
from pathlib import Path
from ssl_retina import config
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source

if __name__ == "__main__":
    got = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: got.append(number))
    data = config.Data(shards=(Path(sys.argv[1]),), batch_size=4, workers=2, held_out=0.0)
    stream = open_source(data, ViewSpec("mae", 1, 24), seed=1).batches(0, rank=0, world=1, micro_batch=4)
    for _ in range(2):
        next(stream)  # one of each worker: both are up
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == os.getsid(0) and int(entry.name) != os.getpid():
                children.append(entry.name)
    print(*children, flush=True)
    if sys.stdin.readline() == "leave\\n":
        sys.exit(3)  # with a stream that nobody closed
    for _ in range(20):
        next(stream)
    stream.close()
    print("signals", *sorted(got), flush=True)
"""


@contextlib.contextmanager
def _started(folder: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A trainer in a session of its own and its loader's processes; whatever is left of them is killed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    children = [int(word) for word in process.stdout.readline().split()]
    try:
        assert len(children) >= 3  # the server and two workers (and multiprocessing's tracker)
        yield process, children
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _gone(pids: list[int]) -> bool:
    """Whether all have ended, waited for at most a minute (a zombie has ended)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if all(_ended(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_workers_ignore_the_trainers_signals_and_end_with_it(folder: Path, tmp_path: Path) -> None:
    """A scheduler signals the whole group: only the trainer hears it, and the stream goes on."""
    with _started(folder, tmp_path) as (process, children):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.killpg(process.pid, number)
        assert not any(_ended(pid) for pid in children)
        output, complaints = process.communicate("go\n", timeout=120)
        assert complaints == ""
        assert output.split()[0] == "signals"
        heard = {int(word) for word in output.split()[1:]}
        assert heard == {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
        assert process.returncode == 0
        assert _gone(children)


def test_a_trainer_that_ends_with_an_open_stream_ends(folder: Path, tmp_path: Path) -> None:
    with _started(folder, tmp_path) as (process, children):
        _, complaints = process.communicate("leave\n", timeout=120)
        assert (process.returncode, complaints) == (3, "")
        assert _gone(children)


def test_loader_processes_die_with_a_killed_parent(folder: Path, tmp_path: Path) -> None:
    with _started(folder, tmp_path) as (process, children):
        process.kill()
        process.wait(timeout=60)
        assert _gone(children)


@pytest.mark.parametrize(
    "field",
    [
        [float("nan"), 24, 20, 20],
        [24, float("nan"), 20, 20],
        [float("inf"), 24, 20, 20],
        [24, 24, 10**400, 20],
        [24, 24, 1e-300, 20],
        [24, 24, -20, 20],
        [True, 24, 20, 20],
        [24, 24, 20],
        "24",
    ],
)
def test_a_field_of_view_that_means_nothing_is_unknown(field: object) -> None:
    assert stream._four_numbers(field) is None
    assert stream._four_numbers([24, 24.5, 20, 20]) == [24, 24.5, 20, 20]
