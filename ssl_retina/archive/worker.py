"""Stage 1, in a worker process: files of an archive -> one chunk of encoded images and their records.

In: a `Job` and rows of the scan. Out: `chunk-000012.bin` and, last, `chunk-000012.json` in the work folder,
both whole; they hold pseudonyms and no word of the source.
"""

import functools
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ssl_retina import files, pseudonyms
from ssl_retina.archive import containers, fingerprint, readers
from ssl_retina.archive.chunk_store import Chunk, Record, identity, images_path, records_path
from ssl_retina.archive.found import Found
from ssl_retina.archive.identity import deidentify
from ssl_retina.archive.picture import WHOLE, Part, Picture, Place
from ssl_retina.archive.pixels import clean, features, look, ocr, quality, text
from ssl_retina.archive.pixels.encode import Encoding, encode
from ssl_retina.archive.rejection import IO, WITHDRAWN, Rejected, Unforeseen
from ssl_retina.archive.selection import EVERYTHING, Selection
from ssl_retina.archive.statements.attributes import Attributes

PAUSES = (0.02, 0.1)
"""Seconds before a file that could not be read is tried again."""


@dataclass(frozen=True)
class Job:
    """What all chunks of one run share. withdrawn: marks of patients who must not come back."""

    source: Path
    work: Path
    key: bytes = field(repr=False)
    site: str
    size: int
    encoding: Encoding
    keep_other: bool = False
    selection: Selection = EVERYTHING
    keep_text: bool = False
    ocr: bool = False
    withdrawn: frozenset[str] = frozenset()


def process_chunks(job: Job, chunks: Sequence[Chunk]) -> list[list[str]]:
    """Make chunks one after another; those of a tar.gz share its stream, which is unpacked once."""
    with closing(containers.Reader(job.source)) as reader:
        return [process_chunk(job, chunk, reader) for chunk in chunks]


def process_chunk(job: Job, chunk: Chunk, reader: containers.Reader) -> list[str]:
    """Make one chunk; give the reason of each row, empty where a picture of it did not fail by our doing."""
    images = images_path(job.work, chunk.number)
    with files.whole(images, 0o600) as temporary, temporary.open("wb") as stream:
        made = [_records(job, source, stream) for source in _opened(job, chunk, reader)]
    content = {
        "bytes": images.stat().st_size,
        "made_from": identity(job.key, chunk),
        "pictures": [len(records) for records in made],
        "records": [record for records in made for record in records],
    }
    spelled = json.dumps(content, sort_keys=True, separators=(",", ":"))
    files.write_bytes(records_path(job.work, chunk.number), spelled.encode(), 0o600)
    return [_reason(records) for records in made]


def _reason(records: list[Record]) -> str:
    """The reason of a file: one bad slice among good ones says nothing about the storage."""
    reasons = [record.get("reason", "") for record in records]
    return reasons[0] if len(set(reasons)) == 1 else ""


@dataclass(frozen=True)
class _Source:
    """One row of a chunk, and how its bytes are read."""

    found: Found
    stated: Attributes | None
    content: Callable[[], bytes]


def _opened(job: Job, chunk: Chunk, reader: containers.Reader) -> Iterator[_Source]:
    for found, stated in chunk.rows:
        yield _Source(found, stated, functools.partial(content_of, job, found, reader))


def _records(job: Job, source: _Source, stream: BinaryIO) -> list[Record]:
    """The records of one file, one for each of its pictures; each with a digest of the file.

    What is stated to be a withdrawn patient's is not opened, and no digest of it is kept.
    """
    digest = ""
    try:
        with Unforeseen():
            if _is_withdrawn(job, source.stated):
                raise Rejected(WITHDRAWN)
            if source.found.reason:
                raise Rejected(*source.found.reason.split(": ", 1))
            content = source.content()
            digest = fingerprint.of_bytes(job.key, content)
            parts = _parts(job, source.found, content)
    except Rejected as refusal:
        made = [_refused(job, source, WHOLE, refusal)]
    else:
        made = [_record(job, source, part, stream) for part in parts]
    return [record | {"source": "" if record.get("reason") == WITHDRAWN else digest} for record in made]


def _is_withdrawn(job: Job, stated: Attributes | None) -> bool:
    patient = stated.patient if stated else None
    if patient is None or not job.withdrawn:
        return False
    return pseudonyms.withdrawal_mark(job.key, patient, job.site) in job.withdrawn


def _refused(
    job: Job, source: _Source, place: Place, refusal: Rejected, identity: deidentify.Identity | None = None
) -> Record:
    """A record without a picture: whose it is stays known where it is stated, so that it can be withdrawn."""
    path, stated = source.found.path, source.stated.patient if source.stated else None
    patient = None if stated is None else pseudonyms.patient(job.key, stated, job.site)
    patient = patient if identity is None else identity.patient
    return {
        "key": pseudonyms.part(job.key, path, place.name, job.site),
        "file": pseudonyms.image(job.key, path, job.site),
        "place": place.name,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "patient": None if refusal.reason == WITHDRAWN else patient,
    }


def _record(job: Job, source: _Source, part: Part, stream: BinaryIO) -> Record:
    identity: deidentify.Identity | None = None
    try:
        with Unforeseen():
            picture = part.decode()
            identity = _identity(job, source, picture, part.place)
            record, image, seen = _photograph(job, source.stated, (part, picture), identity)
    except Rejected as refusal:
        return _refused(job, source, part.place, refusal, identity)
    place = {"offset": stream.tell(), "bytes": len(image), "crc": zlib.crc32(image)}
    stream.write(image)
    return record | place | {"look": _write_look(seen, stream)}


def _write_look(seen: look.Look | None, stream: BinaryIO) -> dict[str, Any] | None:
    """Put a look behind its image; give where it lies and its hash."""
    if seen is None:
        return None
    place = stream.tell()
    stream.write(seen.tobytes())
    return {"offset": place, "hash": look.perceptual_hash(seen).hex()}


def _identity(job: Job, source: _Source, picture: Picture, place: Place) -> deidentify.Identity:
    """Whose picture it is. Raises Rejected where they were withdrawn."""
    identity = deidentify.identify(
        source.found.path, source.stated, picture.facts, key=job.key, site=job.site, place=place
    )
    if identity.mark in job.withdrawn:
        raise Rejected(WITHDRAWN)
    return identity


def _photograph(
    job: Job, stated: Attributes | None, shown: tuple[Part, Picture], identity: deidentify.Identity
) -> tuple[Record, bytes, look.Look | None]:
    """One picture as its record, its encoded image and its look, if it is a fundus. Raises Rejected."""
    picture, modality, cleaned = _cleaned(shown, stated, job.size)
    if modality is None and cleaned.modality == "other" and not job.keep_other:
        raise Rejected("not_retinal")
    _refuse_text(job, cleaned)
    suffix, image = encode(cleaned.image, job.encoding)
    width, height = cleaned.image.size
    ellipse = cleaned.field_of_view
    record = {name: value for name, value in vars(identity).items() if name != "mark"} | {
        "modality": cleaned.modality,
        "width": width,
        "height": height,
        "source_width": picture.size[0],
        "source_height": picture.size[1],
        "field_of_view": None if ellipse is None else [round(float(value), 2) for value in ellipse],
        "pixels_xxh128": clean.pixels_xxh128(picture.drawn),
        "quality": _quality(cleaned),
        "features": features.of(cleaned.image, ellipse) if cleaned.modality == "fundus" else None,
        "suffix": suffix,
        "notes": list(picture.notes),
    }
    seen = look.look(cleaned.image, ellipse) if cleaned.modality == "fundus" else None
    return record, image, seen


def _cleaned(
    shown: tuple[Part, Picture], stated: Attributes | None, size: int
) -> tuple[Picture, str | None, clean.Cleaned]:
    """A picture, what it is said to show, and what is stored of it.

    Decoded in full where a small field of view leaves fewer pixels than are wanted. Raises Rejected.
    """
    part, picture = shown
    modality = picture.modality or (stated.modality if stated else None)
    cleaned = clean.clean(picture.image, modality, size)
    if picture.stored is None or max(cleaned.image.size) >= size:
        return picture, modality, cleaned
    assert part.in_full is not None
    return _cleaned((part, part.in_full()), stated, size)


def _refuse_text(job: Job, cleaned: clean.Cleaned) -> None:
    """Raises Rejected."""
    if cleaned.field_of_view is None and not job.keep_text and text.bears_text(cleaned.pixels):
        raise Rejected("burned_in", "letters")
    if job.ocr and ocr.reads_words(cleaned.pixels):
        raise Rejected("burned_in", "ocr")


def _quality(cleaned: clean.Cleaned) -> dict[str, Any] | None:
    """Only photographs of a fundus are judged."""
    if cleaned.modality != "fundus":
        return None
    return quality.assess(cleaned.image, cleaned.field_of_view).facts()


def _parts(job: Job, found: Found, content: bytes) -> Sequence[Part]:
    """The pictures of a file. Raises Rejected."""
    parts = readers.parts(content, found.path, job.selection)
    if not parts:
        raise Rejected("no_picture")
    return parts


def digest(job: Job, found: Found, reader: containers.Reader) -> str:
    """The keyed digest of a file's bytes, "" where they cannot be read: as its ledger lines have it."""
    try:
        return "" if found.reason else fingerprint.of_bytes(job.key, content_of(job, found, reader))
    except Rejected:
        return ""


def content_of(job: Job, found: Found, reader: containers.Reader) -> bytes:
    """Read a file or a container's member; a mount that stumbles is asked again."""
    for pause in (*PAUSES, None):
        try:
            if found.member is not None:
                return reader.content(found, found.member)
            return readers.content(job.source / found.path)
        except Rejected as refusal:
            if refusal.reason != IO or pause is None:
                raise
        time.sleep(pause)
    raise AssertionError
