"""s3:// and gs:// addresses: who reads them, and what is said where nobody can.

No store is here: the pieces, sizes and errors are tried on fsspec's own memory filesystem under the name of a
scheme, which proves our side of the call and nothing about s3fs or gcsfs.
"""

import errno
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import factory
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ssl_retina import shards
from ssl_retina.addresses import Address
from ssl_retina.data import remote
from ssl_retina.data.remote import bucket, sets
from ssl_retina.data.remote.fetching import Patience
from ssl_retina.errors import InputError, ShardError

REGISTRY = import_module("fsspec.registry")._registry
QUICK = Patience(stall_seconds=0.5, attempts=3, pause_seconds=0.01, longest_pause=0.02)


class Store(MemoryFileSystem):
    """A memory filesystem that takes what a store's client takes and fails as told."""

    protocol = ("s3", "gs")
    asked: list[tuple[str, int]] = []
    failing: list[OSError] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.split("://")[-1])

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.asked.append((path.rsplit("/", 1)[-1], start or 0))
        if self.failing:
            raise self.failing.pop(0)
        return bytes(super().cat_file(path, start=start, end=end, **options))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(sets, "PATIENCE", QUICK)
    monkeypatch.setattr(bucket, "PIECE", 5000)
    monkeypatch.setitem(REGISTRY, "s3", Store)
    monkeypatch.setitem(REGISTRY, "gs", Store)
    factory.make_shards(tmp_path / "set", samples=20, shards=2, size=48)
    store = Store()
    for path in (tmp_path / "set").iterdir():
        store.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    Store.asked.clear()
    Store.failing.clear()
    yield store
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_is_read_in_pieces_and_continued(store: Store, tmp_path: Path, scheme: str) -> None:
    index = remote.opened(Address(f"{scheme}://bucket/set"), tmp_path / "cache", 1.0)
    reader = shards.Reader(index)
    Store.asked.clear()
    Store.failing += [OSError(errno.EBUSY, "slow down"), TimeoutError()]
    beside = shards.Reader(shards.read_index(tmp_path / "set"))
    assert [reader.sample(n) for n in range(20)] == [beside.sample(n) for n in range(20)]
    starts = [start for name, start in Store.asked if name == "factory-000000.tar"]
    assert starts[:3] == [0, 0, 0]
    assert starts[3:] == list(range(5000, index.shards[0].filesize, 5000))
    reader.close()


def test_f44_sizes_come_with_one_listing(store: Store, tmp_path: Path) -> None:
    index = remote.opened(Address("s3://bucket/set"), tmp_path / "cache", 1.0)
    assert isinstance(index.opener, remote.RemoteSet)
    assert remote.verify(index.opener, index) == []
    store.rm("/bucket/set/factory-000000.tar")
    store.pipe_file("/bucket/set/factory-000001.tar", b"short")
    store.pipe_file("/bucket/set/other.tar", b"more")
    first, second, third = remote.verify(index.opener, index)
    assert first.startswith("factory-000000.tar: factory-000000.tar is missing at s3://bucket/set")
    assert second.startswith("factory-000001.tar has 5 bytes")
    assert third == "other.tar is not in index.json"
    with pytest.raises(ShardError, match="it has 5 bytes, the index promises"):
        index.opener(index.shards[1])


def test_who_may_not_read_is_told_at_once(store: Store, tmp_path: Path) -> None:
    Store.failing += [PermissionError("AccessDenied for key AKIA123")]
    with pytest.raises(ShardError, match="s3://bucket/set does not let you read index.json") as caught:
        remote.opened(Address("s3://bucket/set"), tmp_path / "cache", 1.0)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "module"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    monkeypatch.delitem(REGISTRY, scheme, raising=False)
    with pytest.raises(InputError, match=rf"pip install 'ssl-retina\[{scheme}\]'"):
        remote.opened(Address(f"{scheme}://bucket/set"), tmp_path, 1.0)
