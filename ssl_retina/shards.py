"""The shard contract: names, the JSON of a sample, the index, and a reader that jumps to any sample.

In: a folder of tar shards with `index.json` and `positions.npy` (`shards/FORMAT.md`). Out: samples by
number, without reading anything before them. numpy only: archive workers and probes import this too.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_retina.errors import ShardError

FORMAT = 1
INDEX_NAME = "index.json"
POSITIONS_NAME = "positions.npy"
LEDGER_NAME = "ledger.jsonl"
KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")
IMAGE_SUFFIXES = ("jpg", "png")
JSON_LIMIT = 64 * 1024
IMAGE_LIMIT = 256 * 1024 * 1024
COLUMNS = ("modality", "eye", "device", "split")
"""What `data.where` may ask for; each is a small vocabulary in the index and a code in the table."""

POSITION = np.dtype(
    [
        ("key", "S64"),
        ("shard", "<u4"),
        ("image_offset", "<u8"),
        ("image_size", "<u4"),
        ("image_crc", "<u4"),
        ("json_offset", "<u8"),
        ("json_size", "<u4"),
        ("group", "<i8"),
        ("suffix", "u1"),
        *((column, "<u2") for column in COLUMNS),
    ]
)
"""One row of `positions.npy`: where a sample's bytes lie, who belongs together, and its column codes."""


@dataclass(frozen=True)
class Shard:
    """One tar file as the index promises it."""

    url: str
    nsamples: int
    filesize: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What `index.json` says. `digest` is the SHA-256 of the file: it names the set in checkpoints."""

    folder: Path
    shards: tuple[Shard, ...]
    columns: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    digest: str

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


def group_number(pseudonym: str) -> int:
    """A group's pseudonym as the integer of the position table: 63 bits of its base32 digits."""
    return int(pseudonym[:13].translate(_BASE32), 32) & (2**63 - 1)


_BASE32 = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")


def read_index(folder: Path) -> Index:
    """Read and check `index.json`; no shard is opened. Raises ShardError that says what to do."""
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ShardError(_no_index(folder))
    content = path.read_bytes()
    try:
        parsed = json.loads(content)
        ours = parsed["ssl_retina"]
        shards = tuple(
            Shard(one["url"], one["nsamples"], one["filesize"], one["sha256"]) for one in parsed["shardlist"]
        )
        columns = {name: tuple(values) for name, values in ours["columns"].items()}
        version = ours["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path} is not an index of ours ({type(error).__name__}: {error}); "
            f"make one: ssl-retina inspect {folder} --write-index"
        ) from None
    if version != FORMAT:
        raise ShardError(f"{path} has format {version}, this version reads format {FORMAT}: shard again")
    for shard in shards:
        _check_url(shard.url, path)
    return Index(folder, shards, MappingProxyType(columns), MappingProxyType(ours), _digest(content))


def _no_index(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} does not exist: make shards with ssl-retina shard SRC --out {folder}"
    if any(folder.glob("*.tar")):
        return f"{folder} holds tars but no {INDEX_NAME}: ssl-retina inspect {folder} --write-index makes one"
    return f"{folder} holds no shards: make them with ssl-retina shard SRC --out {folder}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_url(url: object, path: Path) -> None:
    """Only a plain file name beside the index: no `pipe:`, no address, no way out of the folder."""
    if not isinstance(url, str) or not re.fullmatch(r"[A-Za-z0-9._-]+\.tar", url) or url.startswith("."):
        raise ShardError(f"{path} names a shard {url!r}; only plain names of tar files beside it are read")


def read_positions(index: Index) -> NDArray[np.void]:
    """The position table, memory-mapped: (samples,) rows of POSITION."""
    path = index.folder / POSITIONS_NAME
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise ShardError(
            f"{path} cannot be read ({error}): ssl-retina inspect --write-index makes it"
        ) from None
    if table.dtype != POSITION or table.shape != (index.samples,):
        raise ShardError(f"{path} does not fit {INDEX_NAME}: {table.shape[0]} rows, {index.samples} samples")
    return table


class Reader:
    """Random access to one set. Opened files stay open; make one Reader in each process."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.positions = read_positions(index)
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.positions)

    def sample(self, number: int) -> Sample:
        """Read the sample in row `number` of the table."""
        row = self.positions[number]
        content = self._read(row, "json", JSON_LIMIT)
        try:
            facts = json.loads(content)
        except ValueError:
            raise ShardError(f"{self._name(row)}: sample {self._key(row)} has no readable JSON") from None
        return Sample(self._key(row), IMAGE_SUFFIXES[int(row["suffix"])], self.image(number), facts)

    def image(self, number: int) -> bytes:
        """The encoded image of row `number`, without its JSON."""
        return self._read(self.positions[number], "image", IMAGE_LIMIT)

    def key(self, number: int) -> str:
        """The key of row `number`."""
        return self._key(self.positions[number])

    def close(self) -> None:
        """Close the opened shards."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _key(self, row: np.void) -> str:
        return bytes(row["key"]).decode("ascii")

    def _name(self, row: np.void) -> str:
        return self.index.shards[int(row["shard"])].url

    def _read(self, row: np.void, part: str, limit: int) -> bytes:
        size, offset = int(row[f"{part}_size"]), int(row[f"{part}_offset"])
        if size > limit:
            raise ShardError(f"{self._name(row)}: {part} of {self._key(row)} has {size} bytes, limit {limit}")
        number = int(row["shard"])
        if number not in self._files:
            self._files[number] = os.open(self.index.folder / self._name(row), os.O_RDONLY | os.O_CLOEXEC)
        content = os.pread(self._files[number], size, offset)
        if len(content) != size:
            raise ShardError(f"{self._name(row)} ends inside sample {self._key(row)}: ssl-retina inspect")
        return content


def positions_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[str]]
) -> NDArray[np.void]:
    """Build the table from plain rows; a row holds POSITION's fields, its columns as text."""
    codes = {name: {value: code for code, value in enumerate(values)} for name, values in columns.items()}
    table = np.zeros(len(rows), dtype=POSITION)
    for number, row in enumerate(rows):
        for name in POSITION.names or ():
            value = row[name]
            table[name][number] = codes[name][value] if name in COLUMNS else value
    return table


def split_names(value: str) -> frozenset[str]:
    """The declared splits of a sample: aliases in other splits are joined with `|`."""
    return frozenset(value.split("|")) if value else frozenset()
