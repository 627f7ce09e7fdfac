"""How often a sample should be drawn, so that rare cameras or rare pictures are seen as often as common ones.

In: a position table on disk and the column that is balanced. Out: its `weight` field.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

BALANCE = "balance"
"""The fact of the index that names the balanced column; without it all weights are 1."""

CLUSTERS = "clusters"
"""The fact of the index that says whose embeddings the table's clusters are of; without it they are those of
the samples' JSON."""

CHUNK = 65_536


def fill(path: Path, column: object) -> None:
    """Set `weight` in place: samples / (words * samples with this word). The mean is 1, each word sums alike.

    `column` is one of `positions.COLUMNS`; anything else leaves all weights at 1.
    """
    table = np.load(path, mmap_mode="r+", allow_pickle=False)
    if not isinstance(column, str) or column not in (table.dtype.names or ()) or not len(table):
        return
    starts = range(0, len(table), CHUNK)
    counts = np.zeros(np.iinfo(np.uint16).max + 1, np.int64)
    for start in starts:
        counts += np.bincount(table[column][start : start + CHUNK], minlength=len(counts))
    share = len(table) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    for start in starts:
        rows = table[start : start + CHUNK]
        rows["weight"] = share[rows[column]]
    table.flush()


def as_made(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of an index without clusters of embeddings: weights as the archive step was asked for."""
    if CLUSTERS not in facts:
        return dict(facts)
    made = facts.get("made_from", {}).get(BALANCE)
    left = {name: value for name, value in facts.items() if name not in (CLUSTERS, BALANCE)}
    return left | ({BALANCE: made} if made else {})
