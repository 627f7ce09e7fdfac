"""The rows of `positions.npy`: their fields in each format, and the words of a column.

In: a position table, ours or an older one. Out: its column codes. numpy only.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("modality", "eye", "device", "split", "quality", "cluster")
"""What `data.where` may ask for; each is a small vocabulary in the index and a code in the table."""

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
