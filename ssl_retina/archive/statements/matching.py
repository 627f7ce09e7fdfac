"""Which row of a table speaks of which file: by relative path, then by bare name where only one fits.

In: `Found` rows, a table, a pattern. Out: what is stated about each file, and counts of what fitted nothing.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ssl_retina import pseudonyms
from ssl_retina.archive.found import Found
from ssl_retina.archive.statements import cells, pattern
from ssl_retina.archive.statements.attributes import Attributes
from ssl_retina.archive.statements.devices import Usage
from ssl_retina.archive.statements.table import Table
from ssl_retina.errors import InputError

Stated = dict[int, Attributes]
"""What is stated about a file, by its number in the scan."""

SEVERAL = -1
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".dcm", ".gif"))


def from_table(found: Sequence[Found], table: Table) -> tuple[Stated, Counter[str]]:
    """What the table states. Raises InputError if no row fits a file, or a file has two patients."""
    numbers = _Numbers(found)
    stated: Stated = {}
    counts: Counter[str] = Counter(table.remarks)
    for file, given in table.rows:
        number = numbers.of(file)
        if number is None or number == SEVERAL:
            counts["table_rows_without_file" if number is None else "table_rows_ambiguous"] += 1
        elif number in stated:
            stated[number] = _both(stated[number], given, counts)
        else:
            stated[number] = given
    if not stated:
        raise InputError(_no_row_fits(table, counts["table_rows_ambiguous"]))
    if counts["patient_contradicted"]:
        raise InputError(
            f"the table gives different patients for one file, in {counts['patient_contradicted']} rows: "
            "patients would straddle splits. Mend the table, or map another column"
        )
    counts["files_without_table_row"] = sum(
        not one.reason and number not in stated for number, one in enumerate(found)
    )
    return stated, +counts


def _no_row_fits(table: Table, ambiguous: int) -> str:
    begin = f"none of the {len(table.rows)} rows of the table fits a file of the source"
    column = f"column {table.columns['file']!r}"
    if ambiguous:
        return (
            f"{begin} and no other: {ambiguous} rows fit several files. Give paths below the source "
            f"in {column}, or the files' suffixes"
        )
    return (
        f"{begin}: {column} should hold paths below the source, or bare file names "
        "(--map file=COLUMN chooses another)"
    )


def from_pattern(found: Sequence[Found], text: str) -> tuple[Stated, Counter[str]]:
    """What the file names state. Raises InputError if none follows the pattern, or for free text."""
    compiled = pattern.compile_pattern(text)
    texts: dict[str, list[str]] = {field: [] for field in compiled.groupindex}
    fitting: list[int] = []
    for number, one in enumerate(found):
        fields = pattern.parts(compiled, one.path)
        if fields is not None:
            fitting.append(number)
            for field, column in texts.items():
                column.append(sys.intern(fields[field]))
    if not fitting:
        raise InputError(
            f"no file name follows --pattern {text!r}: it describes the bare name without folder and suffix"
        )
    titles = {field: f"{{{field}}} of --pattern" for field in texts}
    values, unknown = cells.parse(texts, titles)
    stated = {
        number: Attributes(**{field: column[at] for field, column in values.items()})
        for at, number in enumerate(fitting)
    }
    counts = Counter({f"unknown_{field}": count for field, count in unknown.items()})
    counts["names_unlike_pattern"] = len(found) - len(stated)
    return stated, +counts


def merged(table: Stated, names: Stated) -> tuple[Stated, Counter[str]]:
    """Both together: the table's word counts, but eyes that contradict each other become unknown.

    Raises InputError where the devices look like people.
    """
    stated = dict(names)
    counts: Counter[str] = Counter()
    for number, given in table.items():
        stated[number] = _over(given, stated[number], counts) if number in stated else given
    _refuse_identities(stated)
    return stated, counts


def _refuse_identities(stated: Stated) -> None:
    """Devices are written as they stand: nobody's name may be among them."""
    usage = Usage()
    for given in stated.values():
        usage.add(given.device, pseudonyms.normalise(given.patient) if given.patient else None)
    people = usage.identities()
    if people:
        raise InputError(
            f"the devices that --table or --pattern gives look like patients: {len(people)} of "
            f"{usage.distinct} values hold words of no maker and are not shared by several known patients. "
            "Shards carry devices as they stand. Take them from elsewhere, leave them out, or name them with "
            "a plain word, such as 'camera 1'"
        )


def _over(first: Attributes, second: Attributes, counts: Counter[str]) -> Attributes:
    """`first`, filled up from `second`."""
    filled = {
        field.name: getattr(second, field.name)
        for field in dataclasses.fields(Attributes)
        if getattr(first, field.name) in (None, "unknown")
    }
    known = {first.eye, second.eye} & {"left", "right"}
    if len(known) == 2:
        counts["eye_conflict"] += 1
        filled["eye"] = "unknown"
    return dataclasses.replace(first, **filled)


def _both(first: Attributes, second: Attributes, counts: Counter[str]) -> Attributes:
    """Two rows of one file: what they agree on; splits add up; two patients are counted as an error."""
    counts["table_rows_of_one_file"] += 1
    agreed = {
        field.name: _agreed(getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(Attributes)
    }
    if first.patient and second.patient:
        if pseudonyms.normalise(first.patient) != pseudonyms.normalise(second.patient):
            counts["patient_contradicted"] += 1
        agreed["patient"] = first.patient
    if agreed["eye"] is None and (first.eye or second.eye):
        counts["eye_conflict"] += 1
        agreed["eye"] = "unknown"
    parts = {part for one in (first, second) if one.split for part in one.split.split("|")}
    agreed["split"] = "|".join(sorted(parts)) or None
    return Attributes(**agreed)


def _agreed(first: object, second: object) -> Any:
    """The value that two rows agree on; one that says nothing agrees with all."""
    if first is None or second is None:
        return first if second is None else second
    return first if first == second else None


class _Numbers:
    """Files by path, and by bare name with and without suffix (case-folded). About 400 bytes a file."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._folders: list[tuple[str, ...]] = []
        self._images = bytearray(len(found))
        self._paths: dict[str, int] = {}
        self._names: dict[str, int | list[int]] = {}
        shared: dict[str, tuple[str, ...]] = {}
        for number, one in enumerate(found):
            path = pseudonyms.normalise_path(one.path)
            path = one.path if path == one.path else path  # one text, not two
            folder, _, name = path.rpartition("/")
            if folder not in shared:
                shared[folder] = PurePosixPath(folder).parts
            stem, suffix = _split_suffix(name)
            self._folders.append(shared[folder])
            self._images[number] = suffix.casefold() in IMAGE_SUFFIXES
            self._paths.setdefault(path, number)
            for spelling in {name.casefold(), stem.casefold()}:
                self._name(spelling, number)

    def _name(self, spelling: str, number: int) -> None:
        """Most names stand once: their number needs no list."""
        before = self._names.setdefault(spelling, number)
        if isinstance(before, list):
            before.append(number)
        elif before != number:
            self._names[spelling] = [before, number]

    def _named(self, spelling: str) -> Sequence[int]:
        found = self._names.get(spelling, ())
        return (found,) if isinstance(found, int) else found

    def of(self, cell: str) -> int | None:
        """The file's number, SEVERAL where the bare name fits more than one, None where nothing fits."""
        plain = pseudonyms.normalise_path(cell.strip().replace("\\", "/").lstrip("/"))
        if plain in self._paths:
            return self._paths[plain]
        path = PurePosixPath(plain)
        spellings = [path.name.casefold()]
        if path.suffix.casefold() in IMAGE_SUFFIXES:
            spellings.append(path.stem.casefold())
        for spelling in spellings:
            fitting = [number for number in self._named(spelling) if self._fits(number, path)]
            # a scan.xml beside scan.bmp is no second photograph
            fitting = [number for number in fitting if self._images[number]] or fitting
            if fitting:
                return fitting[0] if len(fitting) == 1 else SEVERAL
        return None

    def _fits(self, number: int, path: PurePosixPath) -> bool:
        """Whether the folders of both, as far as both name them, agree: train/1.jpg is not test/1.jpg."""
        pairs = zip(reversed(self._folders[number]), reversed(path.parts[:-1]), strict=False)
        return all(own == given for own, given in pairs)


def _split_suffix(name: str) -> tuple[str, str]:
    """A file's name and its suffix with the dot, as `pathlib` cuts them."""
    at = name.rfind(".")
    return (name[:at], name[at:]) if 0 < at < len(name) - 1 else (name, "")


def collisions(found: Sequence[Found]) -> Mapping[int, int]:
    """Files whose paths are one in NFC, such as two spellings of an accent: later number -> first number."""
    normal = ((one.path, pseudonyms.normalise_path(one.path)) for one in found)
    odd = {path for written, path in normal if path != written}
    if not odd:
        return {}
    spelled = ((number, pseudonyms.normalise_path(one.path)) for number, one in enumerate(found))
    first: dict[str, int] = {}
    twins: dict[int, int] = {}
    for number, path in spelled:
        if path in odd and first.setdefault(path, number) != number:
            twins[number] = first[path]
    return twins
