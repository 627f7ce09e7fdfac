"""Heidelberg OCT files: `.vol` (the open export) and `.E2E` (the database's own) -> B-scans and SLO pictures.

In: a file's bytes. Out: parts. Of the header only the patient's id, the date, the eye and sizes are looked
at. Reflectivity between 0 and 1 is shown on the logarithmic scale of the maker's viewer.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_retina.archive.picture import Part, Pixels, Place, check_size
from ssl_retina.archive.readers import vendor
from ssl_retina.archive.readers.vendor import Slice, block, text
from ssl_retina.archive.selection import Selection

VOL_MARK, E2E_MARKS = b"HSF-OCT-", (b"CMDb", b"E2EMultipleVolumeFile")
VOL_HEADER = 2048
SHIFTED = 64
"""Bytes in front of everything in an E2E file of several volumes."""

DIRECTORY_MARK, DATA_MARK = b"MDbDir", b"MDbData\0\0\0\0\0"
ENTRY_BYTES, DIRECTORY_BYTES, CHUNK_BYTES = 44, 52, 60
PATIENT, EYE, SCAN, IMAGE = 9, 11, 10004, 1 << 30
FLOAT = np.dtype("<u2")
TICKS = datetime(1601, 1, 1)
DAYS = datetime(1899, 12, 30)


def recognised(content: bytes) -> bool:
    """Whether the bytes begin like a Heidelberg file."""
    return content.startswith((VOL_MARK, *E2E_MARKS))


def parts(content: bytes, selection: Selection) -> Sequence[Part]:
    """The B-scans and SLO pictures. Raises Rejected: vendor_parse, too_large; its parts too: truncated."""
    with vendor.parsing():
        return (_vol if content.startswith(VOL_MARK) else _e2e)(content, selection)


def _vol(content: bytes, selection: Selection) -> Sequence[Part]:
    width, count, height = struct.unpack_from("<3I", content, 12)
    slo_width, slo_height = struct.unpack_from("<2I", content, 48)
    (header,) = struct.unpack_from("<I", content, 100)
    begin = VOL_HEADER + slo_width * slo_height
    step = header + 4 * width * height
    if not 1 <= count <= vendor.SLICE_LIMIT or step * (count - 1) + begin > len(content):
        raise ValueError
    slices = [
        Slice(
            Place(f"slice {number}", volume="", slice=number, slices=count),
            "oct",
            functools.partial(_reals, content, begin + number * step + header, (height, width)),
        )
        for number in range(count)
    ]
    slo = functools.partial(_bytes, content, VOL_HEADER, (slo_height, slo_width))
    slices.append(Slice(Place("slo"), "other", slo))
    (days,) = struct.unpack_from("<d", content, 200)
    facts = {
        "patient": text(content, 140, 21),
        "eye": text(content, 84, 4),
        "eye_source": "vendor",
        "visit": f"{DAYS + timedelta(days=days):%Y%m%d}" if 1 < days < 100_000 else "",
    }
    return vendor.parts(slices, facts, (vendor.UNVERIFIED,), selection)


def _reals(content: bytes, start: int, shape: tuple[int, int]) -> Pixels:
    """A B-scan of 32-bit floats, FLT_MAX where nothing was measured."""
    check_size(shape[1], shape[0])
    raw = block(content, start, 4 * shape[0] * shape[1])
    return _shown(np.frombuffer(raw, "<f4").reshape(shape))


def _bytes(content: bytes, start: int, shape: tuple[int, int]) -> Pixels:
    check_size(shape[1], shape[0])
    raw = block(content, start, shape[0] * shape[1])
    return vendor.grey(np.frombuffer(raw, np.uint8).reshape(shape))


def _packed(content: bytes, start: int, shape: tuple[int, int]) -> Pixels:
    """A B-scan of an E2E file: 16-bit floats without a sign, 6 bits of exponent, 10 of fraction.

    The fraction counts as it stands: only so does the density of real values fall smoothly over an octave
    (tried). eyepy and OCT-Converter turn its bits round.
    """
    check_size(shape[1], shape[0])
    values = np.frombuffer(block(content, start, 2 * shape[0] * shape[1]), FLOAT).reshape(shape)
    fraction = 1 + (values & 1023).astype(np.float32) / 1024
    return _shown(np.ldexp(fraction, (values >> 10).astype(np.int32) - 63))


def _shown(reflectivity: NDArray[np.float32]) -> Pixels:
    """The viewer's scale, (ln(v + 2.44e-4) + 8.3) / 8.285 (found by eyepy's authors); black where unknown."""
    known = np.isfinite(reflectivity) & (reflectivity >= 0) & (reflectivity < 1.99)
    safe = np.where(known, reflectivity, np.float32(1))
    shown = np.clip((np.log(safe + np.float32(2.44e-4)) + 8.3) / 8.285, 0, 1)
    return vendor.grey(np.rint(np.where(known, shown, 0) * 255).astype(np.uint8))


class _Chunk(NamedTuple):
    """One chunk of an E2E file: where its data begin, whose it is, what it holds."""

    start: int
    series: tuple[int, int, int]
    slice: int
    ind: int
    kind: int


def _e2e(content: bytes, selection: Selection) -> Sequence[Part]:
    shift = SHIFTED if content.startswith(E2E_MARKS[1]) else 0
    found: tuple[str, ...] = ()
    try:
        chunks = list(_listed(content, shift))
    except (EOFError, struct.error, ValueError):
        chunks, found = list(_searched(content)), ("no_directory",)
    groups: dict[tuple[int, int, int], list[_Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.series, []).append(chunk)
    owners = {
        chunk.series[0]: text(content, chunk.start + 102, 25) for chunk in chunks if chunk.kind == PATIENT
    }
    held = [own for own in groups.values() if any(one.kind == IMAGE for one in own)]
    several = sum(any(one.kind == IMAGE and one.ind == 1 for one in own) for own in held) > 1
    made: list[Part] = []
    for number, own in enumerate(held):
        facts = {"patient": owners.get(own[0].series[0], ""), "visit": _visit(content, own)}
        slices = _series(content, own, number, f"series {number}" if several else "")
        made.extend(vendor.parts(slices, facts, _eye(content, own) + found, selection))
    if not made:
        raise ValueError
    return made


def _listed(content: bytes, shift: int) -> Iterator[_Chunk]:
    """The chunks that the directories name. Raises EOFError, ValueError where one is not there."""
    current = struct.unpack_from("<I", content, shift + 36 + 40)[0]
    seen: set[int] = set()
    while current:
        place = current + shift
        if current in seen or DIRECTORY_MARK not in block(content, place, 12):
            raise ValueError
        seen.add(current)
        entries, _, previous = struct.unpack_from("<3I", content, place + 36)
        table = block(content, place + DIRECTORY_BYTES, entries * ENTRY_BYTES)
        for at in range(0, len(table), ENTRY_BYTES):
            position, start = struct.unpack_from("<2I", table, at)
            if start > position:
                yield _chunk(content, start + shift)
        current = previous


def _searched(content: bytes) -> Iterator[_Chunk]:
    """The chunks of a file whose directory is lost, by their mark."""
    at = content.find(DATA_MARK)
    while at >= 0:
        yield _chunk(content, at)
        at = content.find(DATA_MARK, at + CHUNK_BYTES)


def _chunk(content: bytes, at: int) -> _Chunk:
    header = block(content, at, CHUNK_BYTES)
    patient, study, series, number, ind, _, kind = struct.unpack_from("<3Ii2HI", header, 32)
    return _Chunk(at + CHUNK_BYTES, (patient, study, series), number, ind, kind)


def _series(content: bytes, own: Sequence[_Chunk], number: int, volume: str) -> list[Slice]:
    """The pictures of one series: B-scans by their number, and SLO pictures."""
    images = [one for one in own if one.kind == IMAGE]
    scans = [one for one in images if one.ind == 1]
    count = max((max(one.slice, 0) // 2 for one in scans), default=0) + 1
    found: list[Slice] = []
    names: set[str] = set()
    for one in images:
        height, width = struct.unpack_from("<2I", block(content, one.start, 20), 12)
        shape, at = (height, width), max(one.slice, 0) // 2
        name = f"series {number} {f'slice {at}' if one.ind == 1 else 'slo'}"
        name = name if name not in names else f"{name} again {len(names)}"
        names.add(name)
        if one.ind == 1:
            place = Place(name, volume=volume, slice=at, slices=count)
            found.append(Slice(place, "oct", functools.partial(_packed, content, one.start + 20, shape)))
        elif one.ind == 0:
            found.append(
                Slice(Place(name), "other", functools.partial(_bytes, content, one.start + 20, shape))
            )
    return found


def _eye(content: bytes, own: Sequence[_Chunk]) -> tuple[str, ...]:
    """The eye that a series names: a note and no fact, since other readers of E2E took the wrong one."""
    stated = {content[one.start + 14 : one.start + 15] for one in own if one.kind == EYE} & {b"L", b"R"}
    if len(stated) != 1:
        return ()
    return (f"{vendor.UNVERIFIED}:{'left' if b'L' in stated else 'right'}",)


def _visit(content: bytes, own: Sequence[_Chunk]) -> str:
    """The day of the first B-scan: it orders visits and does not leave memory."""
    for one in own:
        if one.kind == SCAN:
            (ticks,) = struct.unpack_from("<Q", block(content, one.start, 104), 88)
            return f"{TICKS + timedelta(microseconds=ticks // 10):%Y%m%d}"
    return ""
