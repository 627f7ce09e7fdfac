"""A folder of shards -> everything that is wrong with it, and what it holds.

In: a folder with an index. Out: a Report that names damage by shard and sample, all of it at once: SHA-256
of every shard, structure of every tar, CRC-32 and a full decode of every image. numpy and PIL, no torch.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_retina import files, positions, shard_index, shards
from ssl_retina.data.images import Undecodable, decode
from ssl_retina.errors import InputError, ShardError, StateError
from ssl_retina.shard_index import Member, weights
from ssl_retina.shard_index.manifest import SEALED
from ssl_retina.shards import COLUMNS, Index, Reader

CHUNK = 256
UNFINISHED = ".work"
"""The archive step's work folder; it is gone when the set is complete."""
FACTS_OF_THE_SAMPLES = ("totals", "made_from")
"""What the archive step says of the samples it wrote; untrue once there are more or fewer."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Report:
    """What a set holds and what is wrong with it.

    columns: for each column how many samples have each word. sizes: how many images are W x H pixels.
    ignored: members with other suffixes, which are never read. patients: how many are known, those of
    duplicates included. groups: those who share a photograph count as one, photographs of nobody known by
    themselves. proof: whether the manifest holds: `manifest`, `none` (there is none) or `broken`.
    """

    samples: int
    shards: int
    bytes: int
    digest: str
    patients: int
    groups: int
    columns: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    ignored: Mapping[str, int]
    proof: str
    damage: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**vars(self), "damage": list(self.damage)}


@dataclass
class _Seen:
    """What the samples looked at so far showed."""

    damage: list[str]
    sizes: Counter[str]
    patients: set[int]
    groups: set[int]


def inspect(folder: Path, *, advance: Advance) -> Report:
    """Read every byte of a set once or twice and decode every image, on all cores.

    `advance` is told how many samples were done. Raises ShardError where there is no index of ours.
    """
    index = shards.read_index(folder)
    damage = shard_index.verify(index, hashes=True)
    ignored: Counter[str] = Counter()
    seen = _Seen([], Counter(), set(), set())
    if any(sentence.startswith(shards.POSITIONS_NAME) for sentence in damage):
        columns: dict[str, dict[str, int]] = {}
        damage += [wrong for shard in index.shards for wrong in _unreadable(index, shard.url)]
    else:
        damage += _structure(index, ignored)
        columns = _columns(index)
        _look_at_all(index, seen, advance)
    return Report(
        samples=index.samples,
        shards=len(index.shards),
        bytes=sum(shard.filesize for shard in index.shards),
        digest=index.digest,
        patients=len(seen.patients),
        groups=len(seen.groups),
        columns=columns,
        sizes=dict(seen.sizes.most_common()),
        ignored=dict(sorted(ignored.items())),
        proof=_proof(index, damage),
        damage=tuple(dict.fromkeys(damage + seen.damage)),
    )


def _proof(index: Index, damage: Sequence[str]) -> str:
    if SEALED not in index.facts:
        return "none"
    return "broken" if damage else "manifest"


def write_index(folder: Path, *, advance: Advance) -> Index:
    """Index a folder of tars, ours or anybody's WebDataset; facts of an index that was there are kept.

    Raises StateError where an index of ours is there and fits, ShardError for tars that break the contract.
    """
    if (folder / shards.EXCHANGE_NAME).exists():
        shards.read_index(folder)  # says what to do
    if (folder / UNFINISHED).exists():
        raise StateError(f"{folder} is an unfinished output of ssl-retina shard: run the same command again")
    try:
        with files.lock(folder):
            facts = _kept_facts(folder)
            (folder / shards.MANIFEST_NAME).unlink(missing_ok=True)  # it proves what was there before
            return shard_index.write(folder, facts, progress=advance)
    except OSError as error:
        raise InputError(
            f"no index was written to {folder} ({error.strerror}): it lies beside its shards, in a folder "
            "that can be written and has room"
        ) from None


def _kept_facts(folder: Path) -> dict[str, Any]:
    if not (folder / shards.INDEX_NAME).is_file():
        return {}
    try:
        index = shards.read_index(folder)
    except ShardError:
        return {}
    if not shard_index.verify(index, hashes=True):
        raise StateError(f"{folder / shards.INDEX_NAME} is ours and fits its shards: nothing to write")
    now = sum(len(shard_index.members(tar)) for tar in shard_index.tars(folder))
    stale = shard_index.OWN_FACTS if now == index.samples else (*shard_index.OWN_FACTS, *FACTS_OF_THE_SAMPLES)
    facts = weights.as_made(index.facts)
    return {name: value for name, value in facts.items() if name not in stale}


def _unreadable(index: Index, url: str) -> list[str]:
    """What the walk through one tar complains of."""
    try:
        shard_index.members(index.folder / url)
    except ShardError as error:
        return [str(error)]
    return []


def _structure(index: Index, ignored: Counter[str]) -> list[str]:
    """Walk every tar by its headers and compare it with the position table."""
    table = shards.read_positions(index)
    wrong: list[str] = []
    start = 0
    for number, shard in enumerate(index.shards):
        rows = table[start : start + shard.nsamples]
        start += shard.nsamples
        try:
            found = shard_index.members(index.folder / shard.url)
        except ShardError as error:
            wrong.append(str(error))
            continue
        for member in found:
            ignored.update(map(printable, member.others))
        if len(found) != shard.nsamples:
            wrong.append(f"{shard.url} holds {len(found)} samples, {shard.nsamples} are promised")
        elif not all(_fits(row, member, number) for row, member in zip(rows, found, strict=True)):
            wrong.append(f"{shard.url} holds its samples elsewhere than {shards.POSITIONS_NAME} says")
    return wrong


def printable(text: str) -> str:
    """Text of a foreign set as a terminal may show it: with escapes where it is not plainly printable."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _fits(row: np.void, member: Member, shard: int) -> bool:
    places = (member.image_offset, member.image_size, member.json_offset, member.json_size)
    listed = tuple(int(row[name]) for name in ("image_offset", "image_size", "json_offset", "json_size"))
    return row["key"] == member.key.encode() and row["shard"] == shard and places == listed


def _columns(index: Index) -> dict[str, dict[str, int]]:
    table = shards.read_positions(index)
    counted: dict[str, dict[str, int]] = {}
    for column in COLUMNS:
        words = index.columns[column]
        counts = np.bincount(positions.codes(table, column), minlength=len(words))
        counted[column] = {printable(word): int(count) for word, count in zip(words, counts, strict=False)}
    return counted


def _look_at_all(index: Index, seen: _Seen, advance: Advance) -> None:
    """Read and decode every sample, some hundred at a time on every core."""
    missing = {shard.url for shard in index.shards if not _has_bytes(index.folder / shard.url)}
    starts = range(0, index.samples, CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: list[Any] = []
        for start in starts:
            rows = range(start, min(start + CHUNK, index.samples))
            waiting.append(pool.submit(_look_at, index, rows, missing))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                _add(seen, waiting.pop(0).result(), advance)
        for done in waiting:
            _add(seen, done.result(), advance)


def _has_bytes(path: Path) -> bool:
    """A shard that is missing or empty is one finding, not one for each of its samples."""
    return path.is_file() and path.stat().st_size > 0


def _add(seen: _Seen, part: tuple[_Seen, int], advance: Advance) -> None:
    found, count = part
    seen.damage += found.damage
    seen.sizes += found.sizes
    seen.patients |= found.patients
    seen.groups |= found.groups
    advance(count)


def _look_at(index: Index, rows: range, missing: set[str]) -> tuple[_Seen, int]:
    """What a piece of the set shows; runs in a thread (PIL decodes without the interpreter lock)."""
    seen = _Seen([], Counter(), set(), set())
    reader = Reader(index)
    try:
        for row in rows:
            url = reader.shard(row)
            if url not in missing:
                seen.damage += [f"{url}: {finding}" for finding in _findings(reader, row, seen)]
    finally:
        reader.close()
    return seen, len(rows)


def _patients(facts: Mapping[str, Any]) -> Iterator[int]:
    """The patients that a sample's JSON names, its duplicates' too; a foreign JSON may name none."""
    aliases = facts.get("aliases")
    for record in (facts, *(aliases if isinstance(aliases, list) else ())):
        patient = record.get("patient") if isinstance(record, dict) else None
        if isinstance(patient, str):
            yield shards.group_number(patient)


def _findings(reader: Reader, row: int, seen: _Seen) -> Iterator[str]:
    """What is wrong with one sample: its bytes, its JSON, its pixels."""
    key = reader.key(row)
    facts: Mapping[str, Any] = {}
    try:
        facts = reader.facts(row)
        group = shard_index.group_of(key, facts, shard=reader.shard(row))
        content = reader.image(row)
        height, width, _ = decode(content, reader.suffix(row)).shape
    except ShardError as error:
        yield str(error).partition(": ")[2] or str(error)
        return
    except Undecodable as error:
        yield f"the image of sample {key} cannot be decoded ({error})"
        return
    seen.sizes[f"{width}x{height}"] += 1
    seen.groups.add(shards.group_number(group))
    seen.patients |= set(_patients(facts))
    ours = any(name in facts for name in shards.PIXEL_DIGESTS)
    for name, found in (("key", key), ("width", width), ("height", height)):
        if ours and facts.get(name) != found:
            yield f"sample {key} says {name} {facts.get(name)!r}, found {found!r}"
