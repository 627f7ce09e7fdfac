"""Topcon OCT files, `.fda` and `.fds` -> B-scans, the colour photograph and the infrared picture beside them.

In: a file's bytes: a list of named chunks. Out: parts. Of the headers only the patient's id, the date, the
eye, the model and sizes are looked at.
"""

import functools
import re
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from ssl_retina.archive.picture import Part, Pixels, Place, check_size
from ssl_retina.archive.readers import images, vendor
from ssl_retina.archive.readers.vendor import Slice, block, text
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection

MARK = b"FOCT"
HEADER = 15
NATIVE = ("@IMG_SCAN_03", "@IMG_MOT_COMP_03")
CHUNK_LIMIT = 4096
SERIES = re.compile(r"3DOCT-[0-9A-Z]{1,8}")
"""Model names that hold no maker's word of their own."""


def recognised(content: bytes) -> bool:
    """Whether the bytes begin like a Topcon file."""
    return content.startswith(MARK)


def parts(content: bytes, selection: Selection) -> Sequence[Part]:
    """The B-scans and the pictures beside them. Raises Rejected: vendor_parse, too_large, truncated."""
    with vendor.parsing():
        chunks = _chunks(content)
        slices = [*_scans(chunks), *_beside(chunks)]
        return vendor.parts(slices, _facts(chunks), (vendor.UNVERIFIED,), selection)


def _chunks(content: bytes) -> Mapping[str, bytes]:
    """Name -> data of the first chunk of that name; the last one may be cut."""
    found: dict[str, bytes] = {}
    at = HEADER
    while at < len(content) and (length := content[at]) and len(found) < CHUNK_LIMIT:
        name = block(content, at + 1, length).decode("ascii")
        (size,) = struct.unpack_from("<I", content, at + 1 + length)
        at += 5 + length
        found.setdefault(name, content[at : at + size])
        at += size
    return found


def _scans(chunks: Mapping[str, bytes]) -> list[Slice]:
    """The B-scans: JPEG 2000 one by one, else 16-bit numbers in a row."""
    if "@IMG_JPEG" in chunks:
        return _packed(chunks["@IMG_JPEG"])
    for name in NATIVE:
        if name in chunks:
            return _native(chunks[name])
    return []


def _place(number: int, count: int) -> Place:
    if not 1 <= count <= vendor.SLICE_LIMIT:
        raise ValueError
    return Place(f"slice {number}", volume="", slice=number, slices=count)


def _packed(chunk: bytes) -> list[Slice]:
    (count,) = struct.unpack_from("<I", chunk, 17)
    found = []
    at = 25
    for number in range(min(count, vendor.SLICE_LIMIT + 1)):
        size = struct.unpack_from("<I", chunk, at)[0] if at + 4 <= len(chunk) else 0
        pixels = functools.partial(_coded, chunk, at + 4, size)
        found.append(Slice(_place(number, count), "oct", pixels))
        at += 4 + size
    return found


def _native(chunk: bytes) -> list[Slice]:
    width, height, _, count = struct.unpack_from("<4I", chunk, 1)
    return [
        Slice(_place(number, count), "oct", functools.partial(_numbers, chunk, number, (height, width)))
        for number in range(min(count, vendor.SLICE_LIMIT + 1))
    ]


def _numbers(chunk: bytes, number: int, shape: tuple[int, int]) -> Pixels:
    check_size(shape[1], shape[0])
    size = 2 * shape[0] * shape[1]
    values = np.frombuffer(block(chunk, 22 + number * size, size), "<u2").reshape(shape)
    return vendor.grey(images.scale(values, *images.robust_range(values)))


def _coded(chunk: bytes, start: int, size: int) -> Pixels:
    """A picture that is a JPEG or JPEG 2000 of its own."""
    if not size:
        raise EOFError
    stream = block(chunk, start, size)
    kind = "JPEG" if stream.startswith(b"\xff\xd8") else "JPEG2000"
    if not stream.rstrip(b"\0").endswith(images.JPEG_END):
        raise Rejected("truncated", "no end-of-image marker")
    return images.decode(stream, kind).pixels


def _beside(chunks: Mapping[str, bytes]) -> list[Slice]:
    """The colour photograph (stored blue first) and the infrared picture."""
    found = []
    if fundus := chunks.get("@IMG_FUNDUS"):
        (size,) = struct.unpack_from("<I", fundus, 20)
        found.append(Slice(Place("fundus"), "fundus", functools.partial(_turned, fundus, 24, size)))
    if observed := chunks.get("@IMG_OBS"):
        found.append(Slice(Place("fundus"), "fundus", functools.partial(_plain, observed)))
    if infrared := chunks.get("@IMG_TRC_02"):
        found.append(Slice(Place("slo"), "other", functools.partial(_infrared, infrared)))
    return found


def _turned(chunk: bytes, start: int, size: int) -> Pixels:
    return np.ascontiguousarray(_coded(chunk, start, size)[..., ::-1])


def _infrared(chunk: bytes) -> Pixels:
    """Packed in an FDA file, plain in an FDS file, where it may be one of several."""
    if chunk[21:].startswith((b"\xff\xd8", b"\0\0\0\x0cjP", b"\xff\x4f")):
        return _coded(chunk, 21, struct.unpack_from("<I", chunk, 17)[0])
    return _plain(chunk)


def _plain(chunk: bytes) -> Pixels:
    """(height, width) pixels of 8 bits grey or of 24 bits, blue first."""
    width, height, bits = struct.unpack_from("<3I", chunk, 0)
    check_size(width, height)
    values = np.frombuffer(block(chunk, 21, width * height * bits // 8), np.uint8)
    if bits == 8:
        return vendor.grey(values.reshape(height, width))
    return np.ascontiguousarray(values.reshape(height, width, 3)[..., ::-1])


def _facts(chunks: Mapping[str, bytes]) -> dict[str, str]:
    """Raw allow-listed values, as far as their chunks are there."""
    facts = {"eye_source": "vendor"}
    if patient := chunks.get("@PATIENT_INFO_02"):
        facts["patient"] = text(patient, 0, 32)
    for name, date in (("@CAPTURE_INFO_02", 106), ("@CAPTURE_INFO", 1)):
        if capture := chunks.get(name):
            facts["eye"] = {0: "R", 1: "L"}.get(capture[0], "")
            facts["visit"] = "{:04}{:02}{:02}".format(*struct.unpack_from("<3H", capture, date))
            break
    for name in ("@HW_INFO_03", "@HW_INFO_02", "@HW_INFO_01"):
        if model := chunks.get(name):
            name = text(model, 0, 16)
            facts["device"] = f"Topcon {name}" if SERIES.fullmatch(name) else name
            break
    return facts
