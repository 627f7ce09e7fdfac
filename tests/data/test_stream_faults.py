"""Rows F40-F44 and F51-F53 for the stream: a damaged or hostile set in a folder and at an address alike.

`verify` is what a run calls before its first step; `stream` is what happens to one that goes on all the same.
"""

import hashlib
import io
import json
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from servers import Server, served

from ssl_retina import config, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.remote import sets
from ssl_retina.data.remote.fetching import Patience
from ssl_retina.errors import ShardError

SAMPLES = 20
SECOND = "factory-000001.tar"
SPEC = ViewSpec("mae", global_views=1, global_size=24)
HEADER, BLOCK = 512, 512


@dataclass
class Place:
    """A set that can be damaged where it lies. `name`: what data.shards calls it."""

    folder: Path
    name: str
    cache: Path
    site: Server | None = None

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes | None) -> None:
        """Replace a file, or remove it."""
        path = self.folder / name
        path.write_bytes(content) if content is not None else path.unlink()
        if self.site is not None:
            self.site.files = {f"/a/{one.name}": one.read_bytes() for one in self.folder.iterdir()}
            self.site.files["/a/"] = "".join(
                f"<a href='{one}'>x</a>" for one in os.listdir(self.folder)
            ).encode()

    def source(self) -> Source:
        given = config.Data(
            shards=(self.name,),  # type: ignore[arg-type]
            batch_size=4,
            workers=0,
            held_out=0.0,
            cache=self.cache,
        )
        return open_source(given, SPEC, seed=1)

    def stream(self) -> list[str]:
        """The keys of an epoch."""
        batches = islice(self.source().batches(0, rank=0, world=1, micro_batch=4), SAMPLES // 4)
        return [key for batch in batches for key in batch.keys]

    def verified(self) -> list[str]:
        """What a run is told before its first step at an address, or on a folder after a change of a file."""
        try:
            self.source().verify(hashes=True)
        except ShardError as error:
            return str(error).splitlines()[1:]
        return []


@pytest.fixture(params=["folder", "address"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    patience = Patience(stall_seconds=1.5, attempts=2, pause_seconds=0.01, longest_pause=0.01)
    monkeypatch.setattr(sets, "PATIENCE", patience)
    folder = tmp_path / "set"
    factory.make_shards(folder, samples=SAMPLES, shards=2, size=48)
    if request.param == "folder":
        yield Place(folder, str(folder), tmp_path / "cache")
        return
    with served({path.name: path.read_bytes() for path in folder.iterdir()}) as site:
        yield Place(folder, site.address, tmp_path / "cache", site)


def _ends(content: bytes) -> list[int]:
    """Where each member of a tar ends."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [one.offset_data + -(-one.size // BLOCK) * BLOCK for one in archive.getmembers()]


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _resealed(place: Place, **changes: bytes) -> None:
    """Replace files and make the index promise exactly these: what only who wrote the set can do."""
    index = json.loads(place.read(shards.INDEX_NAME))
    for name, content in changes.items():
        name = {"table": shards.POSITIONS_NAME}.get(name, f"factory-00000{name[-1]}.tar")
        place.write(name, content)
        for one in index["shardlist"]:
            if one["url"] == name:
                one["filesize"], one["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        if name == shards.POSITIONS_NAME:
            index["ssl_retina"]["positions_sha256"] = hashlib.sha256(content).hexdigest()
    place.write(shards.INDEX_NAME, json.dumps(index).encode())


CUTS: dict[str, Callable[[list[int]], int]] = {
    "f40, between members": lambda ends: ends[9],
    "f40, before the end mark": lambda ends: ends[-1],
    "f41, in a header": lambda ends: ends[9] + 100,
    "f42, in a payload": lambda ends: ends[9] + HEADER + 300,
}


@pytest.mark.parametrize("where", CUTS)
def test_f40_f41_f42_a_cut_shard_stops_the_stream_by_name(place: Place, where: str) -> None:
    content = place.read(SECOND)
    place.write(SECOND, content[: CUTS[where](_ends(content))])
    (told,) = place.verified()
    assert f"{SECOND} has" in told
    if place.site is not None or "end mark" not in where:  # a folder's tar without its end holds every sample
        with pytest.raises(ShardError, match=SECOND):
            place.stream()


def test_f41_f43_one_flipped_bit_anywhere_is_told(place: Place) -> None:
    content = place.read(SECOND)
    ends = _ends(content)
    for at in (ends[8] + 150, ends[8] + HEADER + 900):
        place.write(SECOND, _flipped(content, at))
        if place.site is None:
            (told,) = place.verified()
            assert f"{SECOND} has other bytes" in told
        else:
            with pytest.raises(ShardError, match=rf"{SECOND} did not come .*SHA-256"):
                place.stream()


def test_f44_missing_empty_extra_and_foreign_shards_are_all_named_at_once(place: Place) -> None:
    factory.make_shards(place.folder.parent / "other", samples=SAMPLES, shards=2, size=80)
    place.write("extra-000000.tar", b"x" * 1024)
    place.write("factory-000000.tar", None)
    place.write(SECOND, (place.folder.parent / "other" / SECOND).read_bytes())
    told = place.verified()
    assert len(told) == 3
    assert "factory-000000.tar" in told[0]
    assert "is missing" in told[0]
    assert f"{SECOND} has" in told[1]
    assert "extra-000000.tar is not in index.json" in told[2]


def test_f51_what_is_not_in_the_table_is_never_looked_at(place: Place) -> None:
    """A tar with members that lead out, links and devices, promised as it is: nothing appears anywhere."""
    stream = io.BytesIO(place.read(SECOND))
    with tarfile.open(fileobj=stream, mode="a") as archive:
        for name, kind in (
            ("../../out.jpg", tarfile.REGTYPE),
            ("l.jpg", tarfile.SYMTYPE),
            ("d", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            archive.addfile(member)
    before = set(place.folder.parent.rglob("*"))
    _resealed(place, s1=stream.getvalue())
    assert sorted(place.stream()) == sorted(factory.key(number) for number in range(SAMPLES))
    made = {path.name for path in set(place.folder.parent.rglob("*")) - before}
    assert not {"out.jpg", "l.jpg", "d"} & made
    assert all(path.is_file() and not path.is_symlink() for path in place.cache.rglob("*.tar"))


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_f52_a_pickle_in_the_place_of_an_image_or_the_table_is_never_loaded(
    place: Place, tmp_path: Path
) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    table = np.load(io.BytesIO(place.read(shards.POSITIONS_NAME)))
    row = int(np.flatnonzero(table["shard"] == 1)[0])
    at, size = int(table["image_offset"][row]), int(table["image_size"][row])
    content = place.read(SECOND)
    content = content[:at] + trap.ljust(size, b"\0") + content[at + size :]
    table["image_crc"][row] = zlib.crc32(content[at : at + size])
    stream = io.BytesIO()
    np.save(stream, table)
    _resealed(place, s1=content, table=stream.getvalue())
    assert factory.key(row) not in place.stream()  # replaced, as whatever does not decode
    pickled = io.BytesIO()
    np.save(pickled, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    for table_of_traps in (pickled.getvalue(), trap):
        _resealed(place, table=table_of_traps)
        with pytest.raises(ShardError, match="cannot be read"):
            place.stream()
    assert not (tmp_path / "sprung").exists()


def test_f52_a_json_of_megabytes_is_refused_by_its_size(place: Place) -> None:
    table = np.load(io.BytesIO(place.read(shards.POSITIONS_NAME)))
    table["json_size"][3] = 200_000_000
    stream = io.BytesIO()
    np.save(stream, table)
    _resealed(place, table=stream.getvalue())
    with pytest.raises(ShardError, match="json of .* has 200000000 bytes, limit"):
        place.stream()


@pytest.mark.parametrize("url", ["pipe:touch x", "http://127.0.0.1:9/x.tar", "file:///x.tar", "../x.tar"])
def test_f53_a_stream_follows_no_address_of_an_index(place: Place, url: str) -> None:
    place.write(shards.INDEX_NAME, place.read(shards.INDEX_NAME).replace(SECOND.encode(), url.encode()))
    with pytest.raises(ShardError, match="only plain names of tar files beside it are read"):
        place.stream()
    assert place.site is None or {one.path for one in place.site.asked} == {"/a/index.json"}
