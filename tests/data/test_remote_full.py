"""A cache that cannot take what comes: a full disk, rests of killed jobs, a second run; and lost workers."""

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_retina.addresses import Address
from ssl_retina.data import workers
from ssl_retina.data.remote import cache, fetch_ahead, sets
from ssl_retina.data.remote.fetching import Part, Patience, Wanted
from ssl_retina.errors import ShardError, StateError
from ssl_retina.shards import Index, Shard

SIZE = 100
CONTENT = b"z" * SIZE


@dataclass
class Source:
    """A transport whose every shard is the same bytes."""

    shown: str = "http://h/x"
    asked: list[str] = field(default_factory=list)

    def receive(self, wanted: Wanted, part: Part) -> None:
        self.asked.append(wanted.name)
        part.write(CONTENT, wanted)

    def sizes(self, names: list[str], patience: Patience) -> dict[str, int | str]:
        raise AssertionError("fetching asks for no sizes")


def _set(folder: Path, name: str, *, shards: int, limit: int) -> tuple[Index, Source]:
    """A set that was opened: its folder is there, no shard is."""
    held = cache.Cache(folder, limit)
    held.claim()
    (folder / name).mkdir()
    remote = sets.RemoteSet(Address(f"http://h/{name}"), held, Patience(attempts=1))
    remote.folder, remote.digest = folder / name, hashlib.sha256(CONTENT).hexdigest()
    remote._transport = source = Source()
    digest = hashlib.sha256(CONTENT).hexdigest()
    listed = tuple(Shard(f"{number}.tar", 1, SIZE, digest) for number in range(shards))
    return Index(folder / name, listed, {}, {}, name, remote), source


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _in_turn(count: int) -> fetch_ahead.Coming:
    return lambda start, stop: [(0, number % count) for number in range(start, stop)][:count]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_ahead, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(fetch_ahead, "RETRY_SECONDS", 0.1)


@pytest.fixture
def ended() -> Iterator[Callable[..., fetch_ahead.Ahead]]:
    """Makes fetchers that are closed at the end."""
    made: list[fetch_ahead.Ahead] = []

    def make(*given: Any, **options: Any) -> fetch_ahead.Ahead:
        made.append(fetch_ahead.Ahead(*given, **options))
        return made[-1]

    before = set(threading.enumerate())
    yield make
    for one in made:
        one.close()
    for thread in set(threading.enumerate()) - before:  # one that goes on would speak in the next test
        thread.join(60)


def test_fetching_ahead_outlives_a_full_disk_and_says_so_once(
    tmp_path: Path,
    quick: None,
    ended: Callable[..., fetch_ahead.Ahead],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    index, source = _set(tmp_path, "a", shards=6, limit=1000)
    real, full = os.pwrite, threading.Event()
    full.set()

    def pwrite(descriptor: int, *given: Any) -> int:
        if full.is_set() and "memfd" not in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, *given)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert isinstance(index.opener, sets.RemoteSet)
    with pytest.raises(ShardError, match="has no room for 0.tar"):
        index.opener(index.shards[0])
    ended(_in_turn(6), [index], start=0, epoch=6)
    _until(lambda: len(source.asked) > 30)
    assert list(tmp_path.glob("*/*.tar")) == []
    full.clear()
    _until(lambda: len(list(tmp_path.glob("*/*.tar"))) == 6)
    assert capfd.readouterr().err.count("has no room for") == 1


class Failing:
    """A stream whose every batch is an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def pixel_bytes(self, samples: int) -> int:
        return samples

    def fill(self, positions: Any, room: Any) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [FileNotFoundError, ConnectionResetError, EOFError])
def test_what_a_worker_raises_is_no_lost_worker(kind: type[Exception]) -> None:
    stream: Any = Failing(kind("of the worker itself"))
    with pytest.raises(kind, match="of the worker itself"):
        next(workers.load(stream, iter([np.arange(2)] * 4), workers=1))


class Dying:
    """A stream whose process ends."""

    def pixel_bytes(self, samples: int) -> int:
        return samples

    def fill(self, positions: Any, room: Any) -> None:
        os._exit(9)


def test_a_worker_that_ends_is_a_lost_worker() -> None:
    stream: Any = Dying()
    with pytest.raises(StateError, match="a loader process of rank 0 was killed"):
        next(workers.load(stream, iter([np.arange(2)] * 4), workers=1))


def test_the_rest_of_a_killed_job_does_not_count_beside_the_shard(tmp_path: Path) -> None:
    index, _ = _set(tmp_path, "a", shards=1, limit=SIZE + SIZE // 2)
    assert isinstance(index.opener, sets.RemoteSet)
    (tmp_path / "a" / ".0.tar.part").write_bytes(CONTENT)  # it died after this process claimed the cache
    opened: list[int] = []
    remote, shard = index.opener, index.shards[0]
    thread = threading.Thread(target=lambda: opened.append(remote(shard)), daemon=True)
    thread.start()
    thread.join(60)
    assert len(opened) == 1
    assert os.read(opened[0], SIZE + 1) == CONTENT
    os.close(opened[0])


def test_a_part_that_becomes_a_shard_while_it_is_counted_evicts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _ = _set(tmp_path, "a", shards=3, limit=3 * SIZE)
    assert isinstance(index.opener, sets.RemoteSet)
    os.close(index.opener(index.shards[0]))
    part, real = tmp_path / "a" / ".1.tar.part", cache._remove_dead
    with open(part, "wb") as another:  # another process has fetched it
        another.write(CONTENT)
        another.flush()
        fcntl.flock(another, fcntl.LOCK_EX)

        def remove_dead(path: Path) -> bool:
            gone = real(path)
            if path == part and part.exists():
                part.replace(tmp_path / "a" / "1.tar")
            return gone

        monkeypatch.setattr(cache, "_remove_dead", remove_dead)
        os.close(index.opener(index.shards[2]))
    assert sorted(path.name for path in tmp_path.glob("*/*.tar")) == ["0.tar", "1.tar", "2.tar"]


def test_planning_ends_when_every_shard_is_planned(
    tmp_path: Path, quick: None, ended: Callable[..., fetch_ahead.Ahead]
) -> None:
    index, _ = _set(tmp_path, "a", shards=6, limit=1000)
    furthest = [0]

    def needs(start: int, stop: int) -> list[tuple[int, int]]:
        furthest.append(stop)
        return [(0, number) for number in range(6) if number != 3]

    used = [(0, number) for number in range(6) if number != 3]
    ended(needs, [index], start=0, epoch=10_000_000, used=used)
    _until(lambda: len(list(tmp_path.glob("*/*.tar"))) == 5)
    time.sleep(0.2)
    assert max(furthest) == fetch_ahead.SMALLEST_CHUNK


def test_two_runs_that_evict_each_other_are_told_once(
    tmp_path: Path,
    quick: None,
    ended: Callable[..., fetch_ahead.Ahead],
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = [_set(tmp_path, name, shards=7, limit=1000) for name in "ab"]  # 7 fit in, 14 do not
    first = ended(_in_turn(7), [made[0][0]], start=0, epoch=7)
    _until(lambda: len(made[0][1].asked) >= 7)
    for position in range(40):  # alone, nobody complains
        first.moved(position)
        time.sleep(0.02)
    assert len(made[0][1].asked) == 7
    assert capfd.readouterr().err == ""
    both = [first, ended(_in_turn(7), [made[1][0]], start=0, epoch=7)]
    coming = iter(range(40, 10_000))

    def again() -> bool:
        at = next(coming)
        for one in both:
            one.moved(at)
        return all(len(source.asked) > 40 for _, source in made)

    _until(again)
    told = capfd.readouterr().err
    assert 1 <= told.count("another run uses this cache") <= 2  # each says it once


def test_a_run_alone_in_a_cache_smaller_than_its_set_is_told_nothing(
    tmp_path: Path,
    quick: None,
    ended: Callable[..., fetch_ahead.Ahead],
    capfd: pytest.CaptureFixture[str],
) -> None:
    index, source = _set(tmp_path, "a", shards=20, limit=500)
    run = ended(
        lambda start, stop: [(0, n // 10 % 20) for n in range(start, stop)], [index], start=0, epoch=200
    )
    for position in range(0, 600, 5):
        run.moved(position)
        time.sleep(0.02)
    assert len(source.asked) > 25
    assert capfd.readouterr().err == ""
