"""Which samples are trained on: conditions, an exclusion file, and patients held out of training.

In: the indexes of one or several sets. Out: row numbers of the training and of the held-out samples, in
the order of the sets. Rows of all sets count through: the second set's first row follows the first's last.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_retina import positions, shards
from ssl_retina.data.order import mixed
from ssl_retina.errors import ConfigError, InputError
from ssl_retina.shards import COLUMNS, Index

CHUNK = 1 << 16


class Names(NamedTuple):
    """What the user calls the condition and the exclusion file."""

    where: str
    exclude: str


IN_CONFIG = Names("data.where", "data.exclude")
AS_OPTIONS = Names("--where", "--exclude")

Rows = NDArray[np.uint32]
Mask = NDArray[np.bool_]

_CONDITION = re.compile(r"\s*(\w+)\s*(==|!=)\s*(?:'([^']*)'|\"([^\"]*)\"|([^\s'\"=!]+))\s*")


@dataclass(frozen=True)
class Condition:
    """`column == value` or `column != value`."""

    column: str
    negated: bool
    value: str

    def holds(self, word: str) -> bool:
        """Whether a sample with this word in the column is kept.

        A photograph whose aliases lie in several splits is in each of them: `split != test` drops it if
        any alias is in test, `split == train` keeps it only if all are in train.
        """
        words = shards.split_names(word) or {""} if self.column == "split" else {word}
        return self.value not in words if self.negated else words == {self.value}


@dataclass(frozen=True)
class Selection:
    """Row numbers (uint32, ascending) of the samples that are trained on and of those that never are."""

    train: Rows
    held_out: Rows


def select(
    indexes: Sequence[Index],
    *,
    where: str | None = None,
    exclude: Path | None = None,
    held_out: float = 0.0,
    named: Names = IN_CONFIG,
) -> Selection:
    """Choose the samples: 4 bytes a sample stay in memory.

    `held_out` is a share of the patients, chosen by a hash of their group alone: the same patients for
    every seed, method and combination of sets; at least one where there are two or more.
    Raises ConfigError for conditions that cannot be met, InputError for an exclusion that is not in the
    sets and where no sample is left.
    """
    sizes = [index.samples for index in indexes]
    kept = np.ones(sum(sizes), dtype=bool)
    conditions = parse(where, indexes, named.where) if where else ()
    offset = 0
    for index, size in zip(indexes, sizes, strict=True):
        _keep_where(index, conditions, kept[offset : offset + size])
        offset += size
    after_where = int(kept.sum())
    if exclude is not None:
        kept &= ~_excluded(indexes, exclude, named.exclude)
    if not kept.any():
        dropped = f"{len(kept) - after_where} by {named.where}, {after_where} by {named.exclude}"
        raise InputError(f"no sample is left: of {len(kept)} there went {dropped}")
    apart = _held_out(indexes, held_out, kept)
    return Selection(_rows(kept & ~apart), _rows(kept & apart))


def _rows(mask: Mask) -> Rows:
    rows, done = np.empty(np.count_nonzero(mask), np.uint32), 0
    for start in range(0, len(mask), CHUNK):
        found = np.flatnonzero(mask[start : start + CHUNK])
        rows[done : done + len(found)] = found + start
        done += len(found)
    return rows


def parse(where: str, indexes: Sequence[Index], named: str = IN_CONFIG.where) -> tuple[Condition, ...]:
    """Read conditions joined by `and`. Raises ConfigError that lists everything wrong with them."""
    conditions, problems = [], []
    for text in re.split(r"\s+and\s+", where.strip()):
        match = _CONDITION.fullmatch(text)
        if match is None:
            problems.append(f"{text!r}: write `column == value` or `column != value`, joined by `and`")
            continue
        value = next(group for group in match.groups()[2:] if group is not None)
        condition = Condition(match[1], match[2] == "!=", value)
        problems.extend(_problem(condition, indexes))
        conditions.append(condition)
    if problems:
        raise ConfigError(named, problems)
    return tuple(conditions)


def _problem(condition: Condition, indexes: Sequence[Index]) -> list[str]:
    """What is wrong with a condition; a value that no sample has would silently keep or drop everything."""
    if condition.column not in COLUMNS:
        return [f"{condition.column}: no such column; one of: {', '.join(COLUMNS)}"]
    words = {word for index in indexes for word in index.columns[condition.column]}
    known = {name for word in words for name in (shards.split_names(word) or {""})} if words else set()
    known = known if condition.column == "split" else words
    near = difflib.get_close_matches(condition.value, sorted(known), n=1, cutoff=0.6)
    if condition.value in known or (condition.negated and not near):
        return []
    if condition.column == "split" and known <= {""}:
        return ["split: no split was declared when these photographs were sharded, so none can be asked for"]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    choices = ", ".join(sorted(repr(word) for word in known))
    return [f"{condition.column}: no sample has {condition.value!r}{hint} (they have: {choices})"]


def _chunks(index: Index) -> Iterator[tuple[slice, NDArray[np.void]]]:
    """The position table in pieces, each mapped anew: a table of ten million rows is never in memory."""
    for start in range(0, index.samples, CHUNK):
        rows = shards.read_positions(index)[start : start + CHUNK]
        yield slice(start, start + len(rows)), rows


def _keep_where(index: Index, conditions: Sequence[Condition], kept: Mask) -> None:
    holds = {
        condition: np.array([condition.holds(word) for word in index.columns[condition.column]], dtype=bool)
        for condition in conditions
    }
    for place, rows in _chunks(index) if conditions else ():
        for condition, answers in holds.items():
            kept[place] &= answers[positions.codes(rows, condition.column)]


def _held_out(indexes: Sequence[Index], share: float, kept: Mask) -> Mask:
    """The rows of the held-out patients."""
    if share == 0:
        return np.zeros(len(kept), dtype=bool)
    draws = np.empty(len(kept), dtype=np.float32)
    offset = 0
    for index in indexes:
        for place, rows in _chunks(index):
            words = mixed(rows["group"].astype(np.uint64)) >> np.uint64(40)
            draws[offset + place.start : offset + place.start + len(rows)] = words / np.float32(1 << 24)
        offset += index.samples
    apart: Mask = draws < share
    lowest, highest = draws[kept].min(), draws[kept].max()
    if not (apart & kept).any() and lowest < highest:
        apart = draws == lowest
    if (apart & kept).sum() == kept.sum():
        apart &= draws < highest
    return apart


def _excluded(indexes: Sequence[Index], path: Path, named: str) -> Mask:
    """The rows that an exclusion file takes out; a patient takes the whole group along."""
    wanted = _read_exclusions(path, named)
    excluded = np.zeros(sum(index.samples for index in indexes), dtype=bool)
    keys = {name: shards.key_of(name).encode() for name in wanted}
    groups = {name: shards.group_number(name) for name in wanted}
    met: set[bytes | int] = set()
    hashes, numbers = np.sort(_hashes(np.array([*keys.values()], "S64"))), _sorted(groups.values())

    def mark(place: slice, rows: NDArray[np.void]) -> None:
        near = place.start + np.flatnonzero(_among(_hashes(rows["key"]), hashes))
        exact = near[np.isin(rows["key"][near - place.start], [*keys.values()])]
        together = place.start + np.flatnonzero(_among(rows["group"], numbers))
        excluded[exact] = excluded[together] = True
        met.update(rows["key"][exact - place.start].tolist(), rows["group"][together - place.start].tolist())

    _everywhere(indexes, mark)
    rest = {name for name in wanted if keys[name] not in met and groups[name] not in met}
    if rest:
        further, found = _excluded_by_records(indexes, rest)
        excluded |= further
        _refuse_unknown(f"{named}: ", path, wanted, rest - found)
    return excluded


def _sorted(numbers: Iterable[int]) -> NDArray[np.int64]:
    return np.array(sorted(numbers), dtype=np.int64)


def _among(values: NDArray[Any], wanted: NDArray[Any]) -> Mask:
    """Which values are in a short sorted array; np.isin would sort the values."""
    if not len(wanted):
        return np.zeros(len(values), dtype=bool)
    met: Mask = wanted[np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)] == values
    return met


def _hashes(keys: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """A number for each key, equal for equal keys: numbers are found faster than words."""
    words = np.ascontiguousarray(keys).view("<u8").reshape(len(keys), -1)
    odd = mixed(np.arange(words.shape[1], dtype=np.uint64)) | np.uint64(1)
    hashed: NDArray[np.uint64] = (words * odd).sum(axis=1, dtype=np.uint64)
    return hashed


def _everywhere(indexes: Sequence[Index], mark: Callable[[slice, NDArray[np.void]], None]) -> None:
    offset = 0
    for index in indexes:
        for place, rows in _chunks(index):
            mark(slice(offset + place.start, offset + place.start + len(rows)), rows)
        offset += index.samples


def _read_exclusions(path: Path, named: str) -> dict[str, int]:
    """The names in an exclusion file and their lines; `#` opens a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{named}: {path} cannot be read: {reason}") from None
    stripped = ((line.partition("#")[0].strip(), number) for number, line in enumerate(lines, 1))
    return {name: number for name, number in stripped if name}


def _refuse_unknown(head: str, path: Path, wanted: dict[str, int], unknown: set[str]) -> None:
    """Names the lines and not what stands there: a patient's number may have got into the file."""
    if unknown:
        lines = ", ".join(str(wanted[name]) for name in sorted(unknown, key=wanted.__getitem__)[:10])
        raise InputError(
            f"{head}{len(unknown)} of {len(wanted)} entries of {path} are in no set (line {lines}); "
            "it takes sample keys, names, patients or groups as the shards write them (pseudonyms)"
        )


def _excluded_by_records(indexes: Sequence[Index], wanted: set[str]) -> tuple[Mask, set[str]]:
    """Look for names, patients and aliases in every sample's JSON: seconds per 100,000 samples."""
    excluded = np.zeros(sum(index.samples for index in indexes), dtype=bool)
    found: set[str] = set()
    groups: set[int] = set()
    offset = 0
    for index in indexes:
        reader = shards.Reader(index)
        for number in range(len(reader)):
            images, patients = _names(reader.facts(number))
            found |= (images | patients) & wanted
            excluded[offset + number] = bool(images & wanted)
            if patients & wanted:
                groups.add(int(reader.positions[number]["group"]))
        reader.close()
        offset += index.samples
    numbers = _sorted(groups)

    def mark(place: slice, rows: NDArray[np.void]) -> None:
        excluded[place] |= _among(rows["group"], numbers)

    _everywhere(indexes, mark)
    return excluded, found


def _names(facts: shards.Facts) -> tuple[set[str], set[str]]:
    """What a photograph is called, its aliases included, and what its patients are called."""
    aliases = [alias for alias in facts.get("aliases") or () if isinstance(alias, dict)]
    records = [facts, *aliases]
    images = {str(record.get(part)) for record in records for part in ("key", "name")}
    return images, {str(record.get("patient")) for record in records}
