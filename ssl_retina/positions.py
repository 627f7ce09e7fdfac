"""The rows of `positions.npy`: their fields in each format, keys, numbers of groups, the words of a column.

In: a position table, ours or an older one; names of others. Out: its column codes; keys. numpy only.
"""

import base64
import hashlib
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("modality", "eye", "device", "split", "quality", "cluster")
"""What `data.where` may ask for; each is a small vocabulary in the index and a code in the table."""

KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")

UNKNOWN = "unknown"
"""The word of a column where a sample's JSON says nothing; `split` has the empty word."""

_PLACES = [
    ("key", "S64"),
    ("shard", "<u4"),
    ("image_offset", "<u8"),
    ("image_size", "<u4"),
    ("image_crc", "<u4"),
    ("json_offset", "<u8"),
    ("json_size", "<u4"),
    ("group", "<i8"),
    ("suffix", "u1"),
]

POSITION = np.dtype([*_PLACES, *((column, "<u2") for column in COLUMNS), ("weight", "<f4")])
"""One row: where a sample's bytes lie, who belongs together, its column codes, how often to draw it."""

POSITIONS = {1: np.dtype([*_PLACES, *((column, "<u2") for column in COLUMNS[:4])]), 2: POSITION}
"""The rows of each format that is read; 1 has no quality, cluster and weight."""


def codes(rows: NDArray[np.void], column: str) -> NDArray[np.integer]:
    """The codes of a column; all 0 where the table is older than the column."""
    known = rows.dtype.names or ()
    found: NDArray[np.integer] = rows[column] if column in known else np.zeros(len(rows), np.uint16)
    return found


def vocabulary(listed: Mapping[str, list[str]], version: int) -> dict[str, tuple[str, ...]]:
    """The words of every column as the index lists them. Raises KeyError where one is missing."""
    known = POSITIONS[version].names or ()
    return {name: tuple(map(str, listed[name])) if name in known else (UNKNOWN,) for name in COLUMNS}


def group_number(pseudonym: str) -> int:
    """A group's pseudonym as the integer of the position table: 63 bits of its base32 digits.

    A group of a foreign set, in whatever spelling, is hashed first.
    """
    digits = pseudonym if re.fullmatch(r"[a-z2-7]{26}", pseudonym) else _hashed(pseudonym)
    return int(digits[:13].translate(_BASE32), 32) & (2**63 - 1)


_BASE32 = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")


def key_of(name: str) -> str:
    """A member's name without suffix as the sample's key.

    Our own keys stay as they are. A foreign name that a key cannot hold (folders, capitals, spaces, more
    than 64 letters) becomes `x-` and 26 digits of its SHA-256: always the same, and no name of a file.
    """
    return name if KEY_PATTERN.fullmatch(name) else f"x-{_hashed(name)}"


def _hashed(text: str) -> str:
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may spell
        content = text.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(content).digest()[:16]
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()
