"""Zeiss Cirrus cubes, `..._cube_raw.img` and `..._cube_z.img` -> B-scans with their place.

In: bytes without a header, and the file's name, of which two sizes and the eye are looked at and no more.
Out: parts, or `Rejected`: malformed. A byte is a pixel, 1024 rows are a B-scan that is turned by half a turn,
and B-scans follow each other: so AURA's octCirrusReader, RETIMAT and MITRE's Zeiss2Dcm agree on it.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from ssl_retina.archive.picture import Part, Pixels, Place
from ssl_retina.archive.readers import vendor
from ssl_retina.archive.readers.vendor import Slice, block
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection

SUFFIX = ".img"
DEPTH = 1024
CUBES = ((512, 128), (200, 200))
"""Width of a B-scan and number of B-scans: macular cube; macular and optic disc cube."""

STATED = re.compile(r"cube[ _]?(\d{2,4})x(\d{2,4})(?!\d)", re.IGNORECASE)
EYE = re.compile(r"_(O[DS])_sn\d")
"""Only before the scan's number, where Zeiss writes it: initials of a patient may be OD too."""


def recognised(content: bytes, suffix: str) -> bool:
    """Whether the file has the suffix and the size of a known cube."""
    return suffix == SUFFIX and len(content) in _sizes()


def parts(content: bytes, name: str, selection: Selection) -> Sequence[Part]:
    """The B-scans in the order of the file. Raises Rejected: malformed."""
    width, count = _cube(len(content), PurePosixPath(name).name)
    size = width * DEPTH
    slices = [
        Slice(
            Place(f"slice {number}", volume="", slice=number, slices=count),
            "oct",
            functools.partial(_turned, content, number * size, (DEPTH, width)),
        )
        for number in range(count)
    ]
    eye = EYE.search(PurePosixPath(name).name)
    facts = {"eye": eye[1], "eye_source": "vendor"} if eye else {}
    return vendor.parts(slices, facts, (vendor.UNVERIFIED,) if eye else (), selection)


def _sizes() -> Mapping[int, tuple[int, int]]:
    """Bytes of a file -> its cube."""
    return {width * count * DEPTH: (width, count) for width, count in CUBES}


def _cube(size: int, name: str) -> tuple[int, int]:
    """The cube of so many bytes; a name that states sizes must state the same. Raises Rejected: malformed."""
    cube = _sizes().get(size)
    if cube is None:
        known = " or ".join(f"{width}x{count}" for width, count in CUBES)
        raise Rejected("malformed", f"{size} bytes are no cube of {known}")
    stated = {(int(width), int(count)) for width, count in STATED.findall(name)}
    if stated - {cube}:
        raise Rejected("malformed", f"a cube of {cube[0]}x{cube[1]} by its bytes, of other sizes by its name")
    return cube


def _turned(content: bytes, start: int, shape: tuple[int, int]) -> Pixels:
    """A B-scan the right way up and round."""
    values = np.frombuffer(block(content, start, shape[0] * shape[1]), np.uint8).reshape(shape)
    return vendor.grey(values[::-1, ::-1])
