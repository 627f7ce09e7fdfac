"""Stage 2 of the build: records and chunks -> shards in the order of the scan, and the ledger.

In: a finished work folder and a `Resolution`. Out: `NAME-000000.tar` ... and `ledger.jsonl`, each whole. The
only user of webdataset's writer; importing this loads torch, which workers must not.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from webdataset import TarWriter

from ssl_retina import files, shards
from ssl_retina.archive import chunk_store
from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.dedup import Resolution
from ssl_retina.archive.duplicates.copies import REPEATED
from ssl_retina.errors import StateError

OWNER = "bigdata"
WRITTEN, REJECTED, DUPLICATE = "written", "rejected", "duplicate"
UNCROPPED = "no_field_of_view"


@dataclass(frozen=True)
class Plan:
    """Where the shards go and how they are cut; the number of the first shard, and of the first record."""

    work: Path
    out: Path
    name: str
    samples_per_shard: int
    first_shard: int = 0
    first_number: int = 0


@dataclass(frozen=True)
class Item:
    """One sample on its way into a shard."""

    key: str
    suffix: str
    facts: bytes
    chunk: int
    offset: int
    size: int
    crc: int
    uncropped: bool


def pack(plan: Plan, records: Iterable[tuple[int, Record]], resolution: Resolution) -> Counter[str]:
    """Write shards and ledger; give counts: outcomes, `reason:...` of the rejected, `no_field_of_view`.

    A shard that is there with the right size was renamed into place by an interrupted run of the same
    settings and is kept.
    """
    counts: Counter[str] = Counter()
    with (
        files.whole(plan.out / shards.LEDGER_NAME, files.mode_beside(plan.out)) as temporary,
        temporary.open("w", encoding="utf-8") as ledger,
    ):
        collected: list[Item] = []
        for item, line in _items(records, resolution, plan.first_number):
            ledger.write(json.dumps(line, sort_keys=True) + "\n")
            counts[line["outcome"]] += 1
            if line["outcome"] == REJECTED:
                counts[f"reason:{line['reason']}"] += 1
            if item is not None:
                counts[UNCROPPED] += item.uncropped
                collected.append(item)
            if len(collected) == plan.samples_per_shard:
                counts["shards"] += _shard(plan, counts["shards"], collected)
                collected = []
        if collected:
            counts["shards"] += _shard(plan, counts["shards"], collected)
    return counts


def _items(
    records: Iterable[tuple[int, Record]], resolution: Resolution, start: int = 0
) -> Iterator[tuple[Item | None, dict[str, str]]]:
    """Every row of the scan as its ledger line, with its item where it becomes a sample.

    `source` of a line is the keyed digest of the file's bytes; "" where they could not be read. `patient`
    stands in the lines of rejected pictures alone, where it is known: nothing else says whose they were.
    """
    seen: set[str] = set()
    groups = resolution.groups
    for number, (chunk, record) in enumerate(records, start):
        key = record["key"]
        assert shards.KEY_PATTERN.fullmatch(key), "a key that is no pseudonym"
        assert key not in seen, f"key {key} twice"
        seen.add(key)
        line = {name: record.get(name, "") for name in ("key", "reason", "detail", "source")}
        if record.get("place"):
            line |= {"file": record["file"], "place": record["place"]}
        if number in groups.repeated or number in groups.refused:
            line |= {"reason": groups.refused.get(number, REPEATED)}
        if line["reason"]:
            whose = {"patient": record["patient"]} if record.get("patient") else {}
            yield None, line | whose | {"outcome": REJECTED}
        elif number in groups.original:
            first = resolution.original_key(number)
            yield None, line | {"outcome": DUPLICATE, "of": first}
        else:
            line |= {"outcome": WRITTEN, "detail": ";".join(record["notes"])}
            yield _item(chunk, record, resolution.sample(number, record)), line


def encoded(sample: Mapping[str, Any]) -> bytes:
    """A sample's JSON as it stands in a shard."""
    facts = json.dumps(sample, sort_keys=True, separators=(",", ":")).encode()
    assert len(facts) <= shards.JSON_LIMIT, "a sample's JSON above the limit"
    return facts


def writer(stream: BinaryIO) -> TarWriter:
    """A tar on an open file; modification time and owner are fixed: the same samples give the same bytes."""
    return TarWriter(stream, encoder=False, mtime=0, user=OWNER, group=OWNER)


def _item(chunk: int, record: Record, sample: Mapping[str, Any]) -> Item:
    return Item(
        key=record["key"],
        suffix=record["suffix"],
        facts=encoded(sample),
        chunk=chunk,
        offset=record["offset"],
        size=record["bytes"],
        crc=record["crc"],
        uncropped=record["modality"] != "oct" and record["field_of_view"] is None,
    )


def _shard(plan: Plan, number: int, items: list[Item]) -> int:
    """Write one shard; give 1, the number of shards written."""
    path = plan.out / shards.shard_name(plan.name, plan.first_shard + number)
    size = _tar_size(items)
    if path.is_file() and path.stat().st_size == size:
        return 1
    private = files.mode_beside(plan.out)
    with files.whole(path, private) as temporary, temporary.open("wb") as stream:
        with writer(stream) as tar:
            for item, image in _with_images(plan.work, items):
                tar.write({"__key__": item.key, item.suffix: image, "json": item.facts})
        stream.flush()
        assert temporary.stat().st_size == size, "the size of a tar is arithmetic"
    return 1


def _with_images(work: Path, items: list[Item]) -> Iterator[tuple[Item, bytes]]:
    """Each item with its encoded image, checked against the CRC that the worker took."""
    for chunk in dict.fromkeys(item.chunk for item in items):
        with chunk_store.images_path(work, chunk).open("rb") as stream:
            for item in (one for one in items if one.chunk == chunk):
                stream.seek(item.offset)
                image = stream.read(item.size)
                if zlib.crc32(image) != item.crc:
                    raise StateError(
                        f"{work} is damaged (chunk {chunk}): the disk did not keep what was written. Remove "
                        f"{work} and run the same command again"
                    )
                yield item, image


def _tar_size(items: list[Item]) -> int:
    """Bytes of the tar: for each member a header and blocks of 512, two zero blocks, records of 10,240."""
    members = sum(1024 + _blocks(item.size) + _blocks(len(item.facts)) for item in items)
    return -(-(members + 1024) // 10240) * 10240


def _blocks(size: int) -> int:
    return -(-size // 512) * 512
