"""Walk a tar by its headers: where each sample's bytes lie, and whether the tar keeps the contract.

In: one tar, ours or anybody's. Out: its samples in order, or a ShardError that names the shard and the
member. Nothing is extracted or decoded.
"""

import os
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from ssl_retina import shards
from ssl_retina.errors import ShardError

BLOCK = 512
SUFFIXES = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "json": "json"}
"""Suffixes that are read, by the name under which they are known here; all others are only reported."""

_MEMBER_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
_META_NAME = re.compile(r"__[^/]*__(\..*)?")


@dataclass(frozen=True)
class Member:
    """One sample of a tar: its key and where its image and its JSON lie (`json_size` 0: it has none).

    `others` are the suffixes of its further members, which are never read.
    """

    key: str
    suffix: str
    image_offset: int
    image_size: int
    json_offset: int
    json_size: int
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """One tar member: the sample it belongs to, its suffix and where its bytes lie."""

    key: str
    suffix: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """The samples of one tar in their order, by its headers; the tar's structure is checked on the way.

    Raises ShardError that names the shard and the member: a tar that is cut or damaged, members that are
    not regular files or whose names lead out of the folder, a sample without an image or with two, members
    of a sample that are not adjacent, a key twice, sizes above the limits.
    """
    require_file(path)
    found: list[Member] = []
    seen: set[str] = set()
    for key, parts in _samples(path):
        if key in seen:
            _refuse(path, key, "comes twice, or its members are not adjacent")
        seen.add(key)
        found.append(_member(path, key, parts))
    return found


def require_file(path: Path) -> None:
    """Raise ShardError unless the shard is a regular, non-empty file inside its folder."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise ShardError(f"{path.name} is missing") from None
    if not stat.S_ISREG(facts.st_mode):
        raise ShardError(f"{path.name} is not a regular file")
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise ShardError(f"{path.name} is a link out of its folder: copy the shard into it")
    if facts.st_size == 0:
        raise ShardError(f"{path.name} is empty (0 bytes)")


def _refuse(path: Path, member: str, reason: str) -> NoReturn:
    raise ShardError(f"{path.name}: {member} {reason}")


def _samples(path: Path) -> Iterator[tuple[str, list[_Part]]]:
    """Runs of neighbouring members with the same key."""
    current: list[_Part] = []
    for part in _parts(path):
        if current and part.key != current[0].key:
            yield current[0].key, current
            current = []
        current.append(part)
    if current:
        yield current[0].key, current


def _parts(path: Path) -> Iterator[_Part]:
    """Every regular member; the standard library ends silently at a damaged header, this does not."""
    with path.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for number, info in enumerate(iter(archive.next, None)):
                    part = _part(path, number, info)
                    vars(archive)["members"].clear()  # else every header of the shard stays in memory
                    if part is not None:
                        yield part
                end = archive.offset
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise ShardError(f"{path.name} is not a readable tar ({type(error).__name__})") from None
        _check_end(path, stream, end)


def _check_end(path: Path, stream: BinaryIO, end: int) -> None:
    """Behind the last member stand two or more zero blocks and nothing else."""
    stream.seek(0, os.SEEK_END)
    tail = stream.tell() - end
    if tail < 0:
        raise ShardError(f"{path.name} is cut inside its last member")
    stream.seek(end)
    while block := stream.read(1 << 20):
        if any(block):
            raise ShardError(f"{path.name} is damaged: its members end at byte {end}, more bytes follow")
    if tail < 2 * BLOCK:
        raise ShardError(f"{path.name} is cut: it ends without the end mark of a tar")


def _part(path: Path, number: int, info: tarfile.TarInfo) -> _Part | None:
    """The member as a part of a sample; None for folders and for webdataset's own `__name__` members."""
    name = info.name.removeprefix("./")
    where = f"member {number}"
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        _refuse(path, where, "has a name that leads out of the folder")
    if info.isdir():
        return None
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
        _refuse(path, where, "is no regular file (a link, a device or a sparse file)")
    if _META_NAME.fullmatch(name):
        return None
    match = _MEMBER_NAME.fullmatch(name)
    if match is None:
        _refuse(path, where, "has a name without KEY.SUFFIX")
    suffix = match[2].lower()
    return _Part(shards.key_of(match[1]), SUFFIXES.get(suffix, suffix), info.offset_data, info.size)


def _member(path: Path, key: str, parts: Sequence[_Part]) -> Member:
    """The parts of one sample as its Member."""
    images = [part for part in parts if part.suffix in shards.IMAGE_SUFFIXES]
    records = [part for part in parts if part.suffix == "json"]
    if len(images) != 1 or len(records) > 1:
        what = f"{len(images)} images and {len(records)} JSON members"
        _refuse(path, f"sample {key}", f"has {what}; one jpg or png and at most one json belong to a key")
    image, record = images[0], (records or [_Part(key, "json", 0, 0)])[0]
    if not 0 < image.size <= shards.IMAGE_LIMIT:
        _refuse(path, f"sample {key}", f"has an image of {image.size} bytes, limit {shards.IMAGE_LIMIT}")
    if record.size > shards.JSON_LIMIT:
        _refuse(path, f"sample {key}", f"has a JSON of {record.size} bytes, limit {shards.JSON_LIMIT}")
    others = tuple(part.suffix for part in parts if part.suffix not in SUFFIXES)
    return Member(key, image.suffix, image.offset, image.size, record.offset, record.size, others)


def tars(folder: Path) -> list[Path]:
    """The shards that lie in a folder, sorted by name."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
