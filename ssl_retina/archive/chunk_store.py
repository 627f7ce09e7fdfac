"""A chunk of stage 1 on disk: its encoded images, and, written last, its records.

In: rows of the scan. Out: `chunk-000012.bin` and `chunk-000012.json` in the work folder, and whether what
lies there is complete and made from the same rows.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_retina.archive.found import Found
from ssl_retina.archive.statements.attributes import Attributes

Record = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of the scan, and what is stated about each."""

    number: int
    rows: tuple[tuple[Found, Attributes | None], ...] = field(repr=False)


def images_path(work: Path, number: int) -> Path:
    """The encoded images of a chunk, one behind the other."""
    return work / f"chunk-{number:06d}.bin"


def records_path(work: Path, number: int) -> Path:
    """The records of a chunk; written last, so that its presence says that the chunk is complete."""
    return work / f"chunk-{number:06d}.json"


def identity(key: bytes, chunk: Chunk) -> str:
    """What a chunk is made from, as a keyed digest: paths, sizes and times of change, and what is stated."""
    rows = repr([(found.path, found.size, found.modified, stated) for found, stated in chunk.rows])
    return hmac.new(key, b"chunk\0" + rows.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def read_records(work: Path, number: int, made_from: str | None = None) -> list[Record] | None:
    """The records of a complete chunk, else None; with `made_from` only where that is its `identity`."""
    try:
        content = json.loads(records_path(work, number).read_bytes())
        if images_path(work, number).stat().st_size != content["bytes"]:
            return None
        if made_from is not None and content["made_from"] != made_from:
            return None
    except (FileNotFoundError, ValueError, KeyError):
        return None
    records: list[Record] = content["records"]
    assert min(content["pictures"]) >= 1, "a file without a record"
    assert sum(content["pictures"]) == len(records), "a record without a file"
    return records
