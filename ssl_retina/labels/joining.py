"""Rows of a labels file -> photographs of the shards, by keyed pseudonyms; aliases count."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_retina import pseudonyms
from ssl_retina.errors import InputError, StateError
from ssl_retina.labels.table import FILE_COLUMNS, Table
from ssl_retina.labels.tasks import Target
from ssl_retina.shards import Reader, key_of

MATCHED_SHARE = 0.1
"""Below this share of the smaller side (labels, photographs) a join is taken for a mistake."""

CONFLICT = -2
"""The class of a photograph whose aliases contradict each other."""

Found = tuple[int, str]
"""The photograph of a row, and how it was found."""


@dataclass(frozen=True)
class Joined:
    """Which photographs of the shards the rows of a labels file speak of.

    numbers: (photographs,) int64, ascending: rows of the reader that have a label row.
    rows: for each of them its rows in the labels file; more than one where it has aliases.
    how: how many rows were found by path, by bare name, by the shards' own key.
    unknown: rows that speak of no photograph here. ambiguous: rows whose bare name fits several.
    """

    numbers: NDArray[np.int64]
    rows: tuple[tuple[int, ...], ...]
    how: Mapping[str, int]
    unknown: int
    ambiguous: int


def join(table: Table, reader: Reader, key: bytes | None, *, file: str | None = None) -> Joined:
    """Find the photograph of every row: by its path below the archive's root, else by its bare name.

    key: the site's key, or None for shards without pseudonyms (then the file column holds their keys).
    file: the column of file names; without it a common name (`file`, `image`, ...) is recognised.
    A bare name counts only where it is the name of one photograph and of one path in the labels file.
    Raises StateError for another key than the shards', InputError where next to nothing is found.
    """
    cells = [cell.replace("\\", "/") for cell in table.column(file or _file_column(table))]
    names = _Names(_checked_key(reader, key), str(reader.index.facts.get("site") or ""))
    samples = {reader.key(number): number for number in range(len(reader))}
    found = [_by_path(cell, samples, names) for cell in cells]
    ambiguous = 0
    if any(one is None for one in found):
        others = _other_names(reader)
        paths = Counter(_bare(cell) for cell in set(cells))
        for row, cell in enumerate(cells):
            if found[row] is None:
                one, several = _by_name(cell, others, names)
                doubtful = several or (one is not None and one[1] == "name" and paths[_bare(cell)] > 1)
                found[row] = None if doubtful else one
                ambiguous += doubtful
    joined = _collect(found, ambiguous)
    _check_matched(joined, len(table.rows), len(reader))
    return joined


def agreed(joined: Joined, target: Target) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the reader with a class, and the class: (n,), (n,) int64.

    Left out: photographs without a value, and those whose aliases contradict each other.
    """
    classes = np.array([class_of(rows, target) for rows in joined.rows], np.int64)
    return joined.numbers[classes >= 0], classes[classes >= 0]


def class_of(rows: Sequence[int], target: Target) -> int:
    """The class that all rows of a photograph give; -1 where none gives one, CONFLICT where they differ."""
    given = {int(target.values[row]) for row in rows} - {-1}
    if len(given) > 1:
        return CONFLICT
    return given.pop() if given else -1


def _file_column(table: Table) -> str:
    found = table.recognised(FILE_COLUMNS)
    if len(found) != 1:
        trouble = (
            f"several may hold file names ({', '.join(found)})" if found else "none is known to hold them"
        )
        raise InputError(
            f"which column of the labels file holds the file names? {trouble}: say --file COLUMN; "
            f"the columns are: {', '.join(table.columns)}"
        )
    return found[0]


def _checked_key(reader: Reader, key: bytes | None) -> bytes | None:
    made_with = reader.index.facts.get("key_fingerprint")
    if made_with is None:
        return key
    if key is None or pseudonyms.fingerprint(key) != made_with:
        given = "no key is here" if key is None else "the key given is another one"
        raise StateError(
            f"the shards were made with the key of fingerprint {made_with}, but {given}: without it labels "
            f"cannot be joined. Name it: --key-file FILE, or {pseudonyms.KEY_VARIABLE}"
        )
    return key


@dataclass(frozen=True)
class _Names:
    """The pseudonyms that a cell of the file column may stand for."""

    key: bytes | None
    site: str

    def path(self, cell: str) -> str | None:
        return pseudonyms.image(self.key, cell, self.site) if self.key and cell else None

    def bare(self, cell: str) -> str | None:
        return pseudonyms.name(self.key, cell, self.site) if self.key and cell else None


def _bare(cell: str) -> str:
    return re.sub(r"\.[^.]*$", "", cell.rsplit("/", 1)[-1]).casefold()


def _by_path(cell: str, samples: Mapping[str, int], names: _Names) -> Found | None:
    number = samples.get(names.path(cell) or "")
    return None if number is None else (number, "path")


def _other_names(reader: Reader) -> dict[tuple[str, str], set[int]]:
    """Every further name of a photograph (aliases' keys, bare names, its own key) -> its numbers."""
    others: dict[tuple[str, str], set[int]] = {}
    for number in range(len(reader)):
        facts = reader.facts(number)
        own = {"key": reader.key(number), "name": facts.get("name")}
        for one in (own, *facts.get("aliases", ())):
            for field in ("key", "name"):
                if one.get(field):
                    others.setdefault((field, str(one[field])), set()).add(number)
    return others


def _by_name(
    cell: str, others: Mapping[tuple[str, str], set[int]], names: _Names
) -> tuple[Found | None, bool]:
    """A photograph by an alias's path, by bare name, by the shards' own key; and whether several fit."""
    stem = re.sub(r"\.[^./]*$", "", cell)
    spellings = [("key", key_of(spelling), "key") for spelling in (cell, stem, stem.rsplit("/", 1)[-1])]
    wanted = (("key", names.path(cell), "path"), ("name", names.bare(cell), "name"), *spellings)
    for field, name, how in wanted:
        fitting = others.get((field, name), set()) if name else set()
        if len(fitting) > 1:
            return None, True
        if fitting:
            return (next(iter(fitting)), how), False
    return None, False


def _collect(found: Sequence[Found | None], ambiguous: int) -> Joined:
    rows: dict[int, list[int]] = {}
    how: dict[str, int] = {}
    for row, one in enumerate(found):
        if one is not None:
            rows.setdefault(one[0], []).append(row)
            how[one[1]] = how.get(one[1], 0) + 1
    numbers = sorted(rows)
    unknown = sum(one is None for one in found) - ambiguous
    return Joined(
        np.array(numbers, np.int64), tuple(tuple(rows[number]) for number in numbers), how, unknown, ambiguous
    )


def _check_matched(joined: Joined, rows: int, photographs: int) -> None:
    matched = len(joined.numbers)
    if matched and matched >= MATCHED_SHARE * min(rows, photographs):
        return
    several = (
        f" {joined.ambiguous} rows fit several photographs by their bare name." if joined.ambiguous else ""
    )
    raise InputError(
        f"only {matched} of {photographs} photographs of the shards were found among {rows} rows of the "
        f"labels file.{several} Is the file column right (--file COLUMN)? Does it hold paths as below the "
        "folder that was given to `shard`, or unique bare names? Is it the key that made the shards "
        "(--key-file FILE)?"
    )
