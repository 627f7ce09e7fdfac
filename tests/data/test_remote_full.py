"""A cache that cannot take what comes: a full disk, rests of killed jobs, a second run; and lost workers."""

import errno
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
        raise NotImplementedError


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
    deadline = time.monotonic() + 10
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

    yield make
    for one in made:
        one.close()


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

    def __getitem__(self, positions: Any) -> None:
        raise self.error


@pytest.mark.parametrize("kind", [FileNotFoundError, ConnectionResetError, EOFError])
def test_what_a_worker_raises_is_no_lost_worker(kind: type[Exception]) -> None:
    stream: Any = Failing(kind("of the worker itself"))
    with pytest.raises(kind, match="of the worker itself"):
        next(workers.load(stream, iter([np.arange(2)] * 4), workers=1))


class Dying:
    """A stream whose process ends."""

    def __getitem__(self, positions: Any) -> None:
        os._exit(9)


def test_a_worker_that_ends_is_a_lost_worker() -> None:
    stream: Any = Dying()
    with pytest.raises(StateError, match="a loader process of rank 0 was killed"):
        next(workers.load(stream, iter([np.arange(2)] * 4), workers=1))
