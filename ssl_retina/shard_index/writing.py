"""Index a folder of tars: `positions.npy` first, `index.json` last, both whole (law 9).

In: a folder and facts about it. Out: its Index; the same tars and facts give the same bytes. Memory is
bounded by one shard and 8 bytes a sample.
"""

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ssl_retina import files, shards
from ssl_retina.errors import ShardError
from ssl_retina.positions import UNKNOWN
from ssl_retina.shard_index import weights
from ssl_retina.shard_index.manifest import SEALED, seal
from ssl_retina.shard_index.walk import Member, members, tars
from ssl_retina.shards import Index, Shard

KIND = "wids-shard-index-v1"
VOCABULARY_LIMIT = 10_000
WORD_LIMIT = 64
OWN_FACTS = ("format", "columns", "positions_sha256", SEALED)
"""What `write` says of a set itself; all other facts of an index stay when it is written again."""


def _silent(samples: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Kept:
    """Shards of an older index of the same set that stay as they are: their rows and digests are taken over.

    index: the older index. names: of the shards that stay. clusters: other numbers of `index.columns` for its
    rows, where the table is to say others.
    """

    index: Index
    names: frozenset[str]
    clusters: NDArray[np.uint16] | None = None

    def rows(self, shard: Shard) -> NDArray[np.void]:
        """The shard's rows of the older table in the form of now, their weights 1."""
        rows = self._rows(shard)
        old = shards.read_positions(self.index)[rows]
        table = np.zeros(len(old), dtype=shards.POSITION)
        for name in old.dtype.names or ():
            table[name] = old[name]
        table["weight"] = 1
        if self.clusters is not None:
            table["cluster"] = self.clusters[rows]
        return table

    def clusters_of(self, name: str) -> dict[str, str]:
        """Key -> cluster of a shard that is written anew, where the older table alone knows it."""
        shard = next((one for one in self.index.shards if one.url == name), None)
        if shard is None or weights.CLUSTERS not in self.index.facts:
            return {}
        words = self.index.columns["cluster"]
        table = shards.read_positions(self.index)[self._rows(shard)]
        return {bytes(row["key"]).decode("ascii"): words[int(row["cluster"])] for row in table}

    def _rows(self, shard: Shard) -> slice:
        number = self.index.shards.index(shard)
        start = sum(one.nsamples for one in self.index.shards[:number])
        return slice(start, start + shard.nsamples)


def write(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    manifest: Mapping[str, Any] | None = None,
    kept: Kept | None = None,
    progress: Callable[[int], None] = _silent,
) -> Index:
    """Index every `*.tar` of `folder`, and the `kept` ones of an older index: `index.json` last, all whole.

    The same tars and facts give the same bytes. `manifest`: facts for `manifest.json`, which is written too
    where they are given (the ledger lies in `folder` then). `progress` is told the samples of each shard.
    Raises ShardError for tars that break the contract (`members`), and for a key in two shards.
    """
    known = {shard.url: shard for shard in kept.index.shards if shard.url in kept.names} if kept else {}
    found = {tar.name: tar for tar in tars(folder)}
    if not {*found, *known}:
        raise ShardError(shards.no_tars(folder))
    vocabulary: dict[str, dict[str, int]] = {name: {} for name in shards.COLUMNS}
    listed: list[Shard] = []
    path = folder / shards.POSITIONS_NAME
    mode = files.mode_beside(folder)
    with files.whole(path, mode) as temporary:
        with temporary.open("wb") as stream:
            _write_header(stream, 0)
            for number, name in enumerate(sorted({*found, *known})):
                shards.check_url(name, folder)
                if kept and name in known:
                    rows, shard = _taken_over(kept, known[name], number, vocabulary), known[name]
                else:
                    known_clusters = kept.clusters_of(name) if kept else {}
                    rows = _rows(found[name], number, vocabulary, known_clusters)
                    shard = _shard(found[name], len(rows))
                stream.write(rows.tobytes())
                listed.append(shard)
                progress(len(rows))
            stream.seek(0)
            _write_header(stream, sum(shard.nsamples for shard in listed))
        _refuse_twins(temporary, listed)
        weights.fill(temporary, facts.get(weights.BALANCE))
        table_sha256 = files.sha256(temporary)
    columns = {name: list(words) for name, words in vocabulary.items()}
    ours = {**facts, "format": shards.FORMAT, "columns": columns, "positions_sha256": table_sha256}
    if manifest is not None:
        ours[SEALED] = seal(folder, manifest, _index_json(listed, ours), table_sha256)
    files.write_json(folder / shards.INDEX_NAME, _index_json(listed, ours), mode)
    return shards.read_index(folder)


def _shard(tar: Path, samples: int) -> Shard:
    return Shard(tar.name, samples, tar.stat().st_size, files.sha256(tar))


def _taken_over(
    kept: Kept, shard: Shard, number: int, vocabulary: dict[str, dict[str, int]]
) -> NDArray[np.void]:
    """The rows of a shard that stays, with its new number, and codes in the new order of appearance."""
    table = kept.rows(shard)
    table["shard"] = number
    for name, words in vocabulary.items():
        old, first, place = np.unique(table[name], return_index=True, return_inverse=True)
        for code in old[np.argsort(first)]:
            words.setdefault(kept.index.columns[name][int(code)], len(words))
        codes = [words[kept.index.columns[name][int(code)]] for code in old]
        table[name] = np.asarray(codes, dtype=np.uint16)[place]
    return table


def _index_json(listed: Sequence[Shard], ours: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"-\d+$", "", listed[0].url.removesuffix(".tar"))
    shardlist = [vars(shard) for shard in listed]
    return {
        "__kind__": KIND,
        "wids_version": 1,
        "name": name,
        "shardlist": shardlist,
        "ssl_retina": dict(ours),
    }


def _write_header(stream: BinaryIO, rows: int) -> None:
    """A `.npy` header; numpy pads it so that it has one length for every number of rows."""
    facts = {"shape": (rows,), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(shards.POSITION)}
    np.lib.format.write_array_header_1_0(stream, facts)


def _rows(
    tar: Path, number: int, vocabulary: dict[str, dict[str, int]], clusters: Mapping[str, str]
) -> NDArray[np.void]:
    """The position table of one shard; new words join the vocabulary in the order of appearance.

    clusters: key -> cluster, where another than the JSON's counts.
    """
    found = members(tar)
    table = np.zeros(len(found), dtype=shards.POSITION)
    with tar.open("rb") as stream:
        for at, member in enumerate(found):
            facts = _facts(tar, stream, member)
            if member.key in clusters:
                facts["cluster"] = clusters[member.key]
            crc = zlib.crc32(_bytes(stream, member.image_offset, member.image_size))
            places = (member.image_offset, member.image_size, crc, member.json_offset, member.json_size)
            codes = (_code(tar, name, facts, vocabulary[name]) for name in shards.COLUMNS)
            suffix = shards.IMAGE_SUFFIXES.index(member.suffix)
            group = shards.group_number(group_of(member.key, facts, shard=tar.name))
            table[at] = (member.key.encode(), number, *places, group, suffix, *codes, 1.0)
    return table


def _bytes(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


def _facts(tar: Path, stream: BinaryIO, member: Member) -> dict[str, Any]:
    return shards.parse_facts(_bytes(stream, member.json_offset, member.json_size), tar.name, member.key)


def group_of(key: str, facts: Mapping[str, Any], *, shard: str) -> str:
    """Who belongs together: the group, else the patient (as foreign sets may call it), else the sample.

    Text and whole numbers are ids (12.0 is 12, NaN is none: so pandas writes them). Raises ShardError that
    names the shard and the sample for anything else: taken for none, it would part what belongs together.
    """
    for name in ("group", "patient", "patient_id"):
        value = facts.get(name)
        if isinstance(value, float) and math.isnan(value):
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            kind = type(value).__name__
            raise ShardError(
                f"{shard}: sample {key} has a {name} of type {kind}: only text and whole numbers"
            )
        if value is not None and str(value):
            return str(value)
    return key


def _code(tar: Path, column: str, facts: Mapping[str, Any], words: dict[str, int]) -> int:
    word = facts.get(column)
    if isinstance(word, dict):
        word = word.get("class")
    if not isinstance(word, str) or len(word) > WORD_LIMIT or not word.isprintable():
        word = "" if column == "split" else UNKNOWN
    code = words.setdefault(word, len(words))
    if code >= VOCABULARY_LIMIT:
        raise ShardError(f"{tar.name}: {column!r} has more than {VOCABULARY_LIMIT} different values")
    return code


def _refuse_twins(path: Path, listed: Sequence[Shard]) -> None:
    """Refuse a key that stands in two shards; 8 bytes a sample are held, not the keys."""
    table = np.load(path, mmap_mode="r", allow_pickle=False)
    digests = np.empty(len(table), dtype=np.uint64)
    for at, key in enumerate(table["key"]):
        digests[at] = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    order = np.argsort(digests, kind="stable")
    same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
    for one, other in zip(table[order[same]], table[order[same + 1]], strict=True):
        if one["key"] == other["key"]:  # the digest alone may collide
            first, second = listed[int(one["shard"])].url, listed[int(other["shard"])].url
            raise ShardError(f"{second}: sample {bytes(one['key']).decode()} is in {first} already")
