"""Rows of a labels file -> photographs of the shards, by keyed pseudonyms; aliases count."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    file: the column of file names, or a text with columns in braces (`train/{ID}.png`) where the column does
    not hold the folder; without it a common name (`file`, `image`, ...) is recognised.
    A bare name counts only where it is the name of one photograph and of one path in the labels file, and
    where the folders that the cell names end in those of the photograph: `train/1` is not `test/1.jpg`.
    Raises StateError for another key than the shards', InputError where next to nothing is found.
    """
    cells = [cell.replace("\\", "/") for cell in table.texts(file or _file_column(table))]
    names = _Names(_checked_key(reader, key), str(reader.index.facts.get("site") or ""))
    samples = {reader.key(number): number for number in range(len(reader))}
    found = [_by_path(cell, samples, names) for cell in cells]
    ambiguous = 0
    if any(one is None for one in found):
        others = _other_names(reader)
        paths = Counter(tail.casefold() for cell in set(cells) for tail in _tails(cell))
        for row, cell in enumerate(cells):
            if found[row] is None:
                found[row], several = _by_name(cell, others, names, paths)
                ambiguous += several
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
            f"the columns are: {table.listing}"
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


def _tails(cell: str) -> Iterator[str]:
    """The cell without suffix: whole, then without its first folder and so on, down to the bare name."""
    parts = [part for part in pseudonyms.without_suffix(cell).split("/") if part not in ("", ".")]
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _by_path(cell: str, samples: Mapping[str, int], names: _Names) -> Found | None:
    number = samples.get(names.path(cell) or "")
    return None if number is None else (number, "path")


Others = Mapping[tuple[str, str], set[int]]
"""Every further name of a photograph, as (field, pseudonym), and the photographs that have it."""


def _other_names(reader: Reader) -> Others:
    """Aliases' keys, bare names, and the shards' own keys."""
    others: dict[tuple[str, str], set[int]] = {}
    for number in range(len(reader)):
        facts = reader.facts(number)
        own = {"key": reader.key(number), "name": facts.get("name")}
        aliases = facts.get("aliases")
        for one in (own, *(aliases if isinstance(aliases, list) else ())):
            for field in ("key", "name") if isinstance(one, dict) else ():
                if one.get(field):
                    others.setdefault((field, str(one[field])), set()).add(number)
    return others


def _by_name(cell: str, others: Others, names: _Names, paths: Mapping[str, int]) -> tuple[Found | None, bool]:
    """A photograph by an alias's path, by bare name, by the shards' own key; and whether several fit.

    paths: how many cells of the labels file end in a path (`_tails`): a name of several is in doubt.
    """
    alias = others.get(("key", names.path(cell) or ""), set())
    if alias:
        return _only(alias, "path")
    named, tail = _by_bare_name(cell, others, names)
    if named:
        return (None, True) if paths.get(tail.casefold(), 0) > 1 else _only(named, "name")
    for spelling in (cell, *_tails(cell)):
        own = others.get(("key", key_of(spelling)), set())
        if own:
            return _only(own, "key")
    return None, False


def _only(fitting: set[int], how: str) -> tuple[Found | None, bool]:
    return ((next(iter(fitting)), how), False) if len(fitting) == 1 else (None, True)


def _by_bare_name(cell: str, others: Others, names: _Names) -> tuple[set[int], str]:
    """Photographs of the cell's bare name, and how much of the cell fits; folders that it names must fit."""
    tails = list(_tails(cell))
    fitting = others.get(("name", names.bare(cell) or ""), set())
    if not fitting or len(tails) < 2:
        return fitting, tails[-1] if tails else ""
    placed = {tail: fitting & _of_path(tail, cell, others, names) for tail in tails}
    return set().union(*placed.values()), next((tail for tail in tails if placed[tail]), "")


def _of_path(tail: str, cell: str, others: Others, names: _Names) -> set[int]:
    """Photographs that lie at this path below the archive's root, whatever suffix they have there."""
    written = cell.rpartition(".")[2]
    known = {suffix for one in pseudonyms.SUFFIXES for suffix in (one, one.upper(), one.capitalize())}
    paths = (tail, *(f"{tail}.{suffix}" for suffix in known | {written}))
    return {number for path in paths for number in others.get(("key", names.path(path) or ""), ())}


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
