"""Small archives for the archive step's tests: coloured discs in folders, a key, a CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import factory

from ssl_retina import shards
from ssl_retina.archive.build import Settings, Totals, build
from ssl_retina.data import inspection


def save(path: Path, number: int, size: int = 64) -> Path:
    """Photograph `number` under a name whose suffix says how it is encoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "png" if path.suffix.lower() == ".png" else "jpg"
    path.write_bytes(factory.encoded(factory.pixels(number, size=size), suffix))
    return path


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def shard(folder: Path, source: Path, out: str = "out", **settings: object) -> Totals:
    """Build `source` into `folder / out` under the factory's key, with one worker unless told otherwise."""
    key_file = folder / "key"
    if not key_file.exists():
        factory.write_key(key_file)
    options = {"key_file": key_file, "processes": 1, **settings}
    return build(source, folder / out, Settings(**options))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples_of(out: Path) -> dict[str, dict[str, Any]]:
    """The JSON of every sample of a set, by its key."""
    reader = shards.Reader(shards.read_index(out))
    try:
        return {reader.key(row): dict(reader.facts(row)) for row in range(len(reader))}
    finally:
        reader.close()


def damage_of(out: Path) -> tuple[str, ...]:
    """What `inspect` finds wrong with a set."""
    return inspection.inspect(out, advance=lambda _: None).damage
