"""Which photographs are for training and which for the one final look; no label is read for it.

In: a set's shards and its labels file (names, patients, declared split). Out: the side of every photograph,
the pseudonyms that pretraining must not see, and labels files for the probe: of the training side alone, or
of both sides with a column that says which.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_retina import files, labels, pseudonyms, shards
from ssl_retina.metrics import Integers
from ssl_retina.probe import patients, splits
from ssl_retina.real.sources import Source
from ssl_retina.shards import Reader

SEED = 20261124
"""Draws HYGD's test patients: fixed before any encoder was trained on either half."""

SIDE = "real_side"
"""The column that says train or test in the final labels file."""


@dataclass(frozen=True)
class Halves:
    """One set, divided.

    table: the whole labels file. rows: for each row of it "train", "test" or "" (the photograph lies on both
    sides, or was not found). held_out: sample keys of every photograph that is not purely for training,
    test photographs and photographs that are identical to one among them. groups: patients on each side.
    """

    table: labels.Table
    rows: tuple[str, ...]
    held_out: tuple[str, ...]
    groups: tuple[int, int]

    def count(self, side: str) -> int:
        """Rows of the labels file on a side."""
        return self.rows.count(side)


def divide(source: Source, folder: Path, key_file: Path) -> Halves:
    """Divide the set whose shards lie in `folder`: by its declared split, else by a draw of its patients."""
    table = labels.read(source.labels)
    reader = Reader(shards.read_index(folder))
    joined = labels.join(table, reader, pseudonyms.read_key(key_file), file=source.file)
    records = [reader.facts(number) for number in joined.numbers.tolist()]
    keys = [reader.key(number) for number in range(len(reader))]
    reader.close()
    column = source.patient or patients.NO_PATIENTS
    groups = patients.grouping(joined, table, records=records, column=column).groups
    if source.split is None:
        role = _drawn(joined, groups)
    else:
        role = splits.roles(joined, table, records=records, column=source.split)
    sides = [""] * len(table.rows)
    for one, rows in zip(role.tolist(), joined.rows, strict=True):
        for row in rows:
            sides[row] = {splits.TRAIN: "train", splits.TEST: "test"}.get(one, "")
    seen = set(joined.numbers[role == splits.TRAIN].tolist())
    held_out = tuple(key for number, key in enumerate(keys) if number not in seen)
    counts = (len(np.unique(groups[role == splits.TRAIN])), len(np.unique(groups[role == splits.TEST])))
    return Halves(table, tuple(sides), held_out, counts)


def _drawn(joined: labels.Joined, groups: Integers) -> Integers:
    """TEST for a random half of the groups, by their place in the labels file: no key, no label matters."""
    first: dict[int, int] = {}
    for group, rows in zip(groups.tolist(), joined.rows, strict=True):
        first[group] = min(first.get(group, rows[0]), *rows)
    ordered = sorted(first, key=first.__getitem__)
    drawn = np.random.default_rng(SEED).permutation(len(ordered))[: len(ordered) // 2]
    test = np.array([ordered[int(place)] for place in drawn], np.int64)
    return np.where(np.isin(groups, test), splits.TEST, splits.TRAIN).astype(np.int64)


def write_exclusions(path: Path, divided: Sequence[Halves]) -> None:
    """The file for `data.exclude`: pseudonyms alone, one a line."""
    names = sorted(name for one in divided for name in one.held_out)
    lines = [
        "# photographs that pretraining must not see: test patients, and what is identical to theirs",
        *names,
    ]
    files.write_bytes(path, ("\n".join(lines) + "\n").encode())


def write_training_labels(path: Path, halves: Halves) -> None:
    """The labels of the training side alone: what choosing a recipe may look at."""
    table = halves.table
    kept = (row for row, side in zip(table.rows, halves.rows, strict=True) if side == "train")
    _write(path, table.columns, kept)


def write_all_labels(path: Path, halves: Halves) -> None:
    """The labels of both sides, with the column SIDE: for the final look alone."""
    table = halves.table
    _write(
        path,
        (*table.columns, SIDE),
        ((*row, side) for row, side in zip(table.rows, halves.rows, strict=True)),
    )


def _write(path: Path, columns: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
