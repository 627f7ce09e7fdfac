"""The shard contract: names, the JSON of a sample, the index, and a reader that jumps to any sample.

In: a folder of tar shards with `index.json` and `positions.npy` (`shards/FORMAT.md`). Out: samples by
number, without reading anything before them. numpy only: archive workers and probes import this too.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_retina import positions
from ssl_retina.errors import ShardError
from ssl_retina.positions import COLUMNS as COLUMNS
from ssl_retina.positions import KEY_PATTERN as KEY_PATTERN
from ssl_retina.positions import POSITION as POSITION
from ssl_retina.positions import group_number as group_number
from ssl_retina.positions import key_of as key_of

Facts = Mapping[str, Any]
Row = Mapping[str, Any]

FORMAT = 2
INDEX_NAME = "index.json"
POSITIONS_NAME = "positions.npy"
LEDGER_NAME = "ledger.jsonl"
MANIFEST_NAME = "manifest.json"
EXCHANGE_NAME = ".exchange"
PIXEL_DIGESTS = ("pixels_xxh128", "pixels_sha256")
"""Fields of a sample's JSON, now and in older sets, that are equal for the same decoded pixels."""

IMAGE_SUFFIXES = ("jpg", "png")
JSON_LIMIT = 64 * 1024
IMAGE_LIMIT = 256 * 1024 * 1024
OPEN_LIMIT = 128
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Shard:
    """One tar file as the index promises it."""

    url: str
    nsamples: int
    filesize: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What `index.json` says. `digest` is the SHA-256 of the file: it names the set in checkpoints.

    opener: gives a descriptor of a shard that need not lie in `folder`; it crosses processes.
    """

    folder: Path
    shards: tuple[Shard, ...]
    columns: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    digest: str
    opener: Callable[[Shard], int] | None = field(default=None, compare=False)

    @property
    def samples(self) -> int:
        """How many samples the set holds."""
        return sum(shard.nsamples for shard in self.shards)


@dataclass(frozen=True)
class Sample:
    """One sample: its pseudonym, the encoded image and the sample's own JSON."""

    key: str
    suffix: str
    image: bytes
    facts: Mapping[str, Any]


def shard_name(name: str, number: int) -> str:
    """`NAME-000012.tar`."""
    return f"{name}-{number:06d}.tar"


def parse_facts(content: bytes, shard: str, key: str) -> dict[str, Any]:
    """The JSON of a sample: an object, empty where the sample has none. Raises ShardError."""
    if not content:
        return {}
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        raise ShardError(f"{shard}: sample {key} has no readable JSON") from None
    if not isinstance(facts, dict):
        raise ShardError(f"{shard}: the JSON of sample {key} is no object")
    return facts


def read_index(folder: Path) -> Index:
    """Read and check `index.json`; no shard is opened. Raises ShardError that says what to do."""
    if not (folder / INDEX_NAME).is_file():
        raise ShardError(_no_index(folder))
    return parse_index(folder, (folder / INDEX_NAME).read_bytes())


def parse_index(folder: Path, content: bytes) -> Index:
    """As `read_index`, for content that is about to become `folder`'s index."""
    path = folder / INDEX_NAME
    try:
        parsed = json.loads(content)
        ours = parsed["ssl_retina"]
        shards = tuple(_shard(one) for one in parsed["shardlist"])
        version = ours["format"]
        listed = positions.vocabulary(ours["columns"], version if version in positions.POSITIONS else FORMAT)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(
            f"{path} is not an index of ours ({type(error).__name__}: {error}); "
            f"make one: ssl-retina inspect {folder} --write-index"
        ) from None
    if version not in positions.POSITIONS:
        raise ShardError(f"{path} has format {version}, this version reads 1 to {FORMAT}: shard again")
    for shard in shards:
        check_url(shard.url, path)
    digest = hashlib.sha256(content).hexdigest()
    return Index(folder, shards, MappingProxyType(listed), MappingProxyType(ours), digest)


def _shard(listed: Mapping[str, Any]) -> Shard:
    shard = Shard(listed["url"], listed["nsamples"], listed["filesize"], listed["sha256"])
    if type(shard.nsamples) is not int or type(shard.filesize) is not int or shard.nsamples < 0:
        raise ValueError("nsamples and filesize are numbers")
    return shard


def _no_index(folder: Path) -> str:
    if (folder / EXCHANGE_NAME).exists():
        what = "withdrawal, append or balance"
        return f"{folder} is in an interrupted {what}: run the same command again, it ends"
    if not folder.is_dir():
        return f"{folder} does not exist: make shards with ssl-retina shard SRC --out {folder}"
    if any(folder.glob("*.tar")):
        return f"{folder} holds tars but no {INDEX_NAME}: ssl-retina inspect {folder} --write-index makes one"
    return no_tars(folder)


def no_tars(folder: Path) -> str:
    """Why a folder without `*.tar` cannot be read, and what to do."""
    packed = [suffix for suffix in COMPRESSED if any(folder.glob(f"*{suffix}"))]
    if packed:
        return (
            f"{folder} holds compressed tars (*{', *'.join(packed)}): they are not read, since no sample can "
            f"be found in them without unpacking the rest. Unpack them first: gunzip {folder}/*.tar.gz "
            "(bunzip2, unxz, unzstd for the others)"
        )
    return f"{folder} holds no shards: make them with ssl-retina shard SRC --out {folder}"


def check_url(url: object, path: Path) -> None:
    """Only a plain file name beside the index: no `pipe:`, no address, no way out of the folder."""
    if not isinstance(url, str) or not re.fullmatch(r"[A-Za-z0-9._-]+\.tar", url) or url.startswith("."):
        raise ShardError(f"{path} names a shard {url!r}; only plain names of tar files beside it are read")


def read_positions(index: Index) -> NDArray[np.void]:
    """The position table, memory-mapped: (samples,) rows of `positions.POSITIONS[format]`."""
    path = index.folder / POSITIONS_NAME
    try:
        table: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise ShardError(
            f"{path} cannot be read ({error}): ssl-retina inspect --write-index makes it"
        ) from None
    if table.dtype != positions.POSITIONS[index.facts["format"]] or table.shape != (index.samples,):
        raise ShardError(f"{path} does not fit {INDEX_NAME}: {table.size} rows, {index.samples} samples")
    return np.asarray(table)  # the same memory; a row of numpy.memmap itself is made at a third of the speed


class Reader:
    """Random access to one set. The last OPEN_LIMIT shards stay open; make one Reader in each process."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.positions = read_positions(index)
        self._files: dict[int, int] = {}
        self._names = self.positions.dtype.names or ()
        self._last: tuple[int | None, Row] = (None, {})

    def __len__(self) -> int:
        return len(self.positions)

    def sample(self, number: int) -> Sample:
        """Read the sample in row `number` of the table."""
        return Sample(self.key(number), self.suffix(number), self.image(number), self.facts(number))

    def row(self, number: int) -> Row:
        """Row `number` of the table as Python's own values: numpy's are looked up at a tenth of the speed."""
        last, row = self._last
        if number != last:
            row = dict(zip(self._names, self.positions[number].item(), strict=True))
            self._last = number, row
        return row

    def suffix(self, number: int) -> str:
        """How the image of row `number` is encoded: one of IMAGE_SUFFIXES."""
        code = self.row(number)["suffix"]
        if code >= len(IMAGE_SUFFIXES):
            raise ShardError(f"{POSITIONS_NAME} gives sample {self.key(number)} an unknown suffix")
        return IMAGE_SUFFIXES[code]

    def facts(self, number: int) -> Mapping[str, Any]:
        """The JSON of row `number`, without its image; empty where a foreign set has none."""
        row = self.row(number)
        return parse_facts(self._read(row, "json", JSON_LIMIT), self._name(row), self._key(row))

    def image(self, number: int) -> bytes:
        """The encoded image of row `number`, without its JSON; its CRC-32 is checked."""
        row = self.row(number)
        content = self._read(row, "image", IMAGE_LIMIT)
        if zlib.crc32(content) != row["image_crc"]:
            raise ShardError(f"{self._name(row)}: the image of sample {self._key(row)} is damaged (CRC-32)")
        return content

    def key(self, number: int) -> str:
        """The key of row `number`."""
        return self._key(self.row(number))

    def shard(self, number: int) -> str:
        """The file name of the shard that holds row `number`."""
        return self._name(self.row(number))

    def close(self) -> None:
        """Close the opened shards."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _key(self, row: Row) -> str:
        return str(row["key"], "ascii")

    def _name(self, row: Row) -> str:
        number = row["shard"]
        if number >= len(self.index.shards):
            raise ShardError(f"{POSITIONS_NAME} names shard {number} of {len(self.index.shards)}")
        return self.index.shards[number].url

    def _read(self, row: Row, part: str, limit: int) -> bytes:
        size, offset = row[f"{part}_size"], row[f"{part}_offset"]
        if size > limit:
            raise ShardError(f"{self._name(row)}: {part} of {self._key(row)} has {size} bytes, limit {limit}")
        try:
            content = os.pread(self._file(row), size, offset)
        except OSError as error:
            raise ShardError(f"{self._name(row)}: it cannot be read ({error.strerror})") from None
        if len(content) != size:
            raise ShardError(f"{self._name(row)}: the shard ends inside sample {self._key(row)}")
        return content

    def _file(self, row: Row) -> int:
        number = row["shard"]
        if number not in self._files:
            if len(self._files) >= OPEN_LIMIT:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[number] = self._opened(self._name(row), number)
        return self._files[number]

    def _opened(self, name: str, number: int) -> int:
        if self.index.opener is None:
            return os.open(self.index.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        for gone in [key for key, file in self._files.items() if os.fstat(file).st_nlink == 0]:
            os.close(self._files.pop(gone))  # evicted: its room is free when nobody has it open
        return self.index.opener(self.index.shards[number])


def split_names(value: str) -> frozenset[str]:
    """The declared splits of a sample: aliases in other splits are joined with `|`."""
    return frozenset(value.split("|")) if value else frozenset()
