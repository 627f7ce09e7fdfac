"""A CSV about the archive -> which of its columns are used, and what each row states.

In: a file and `--map ours=Theirs`. Out: a `Table` of file names and `Attributes`. Label columns are never
taken: only the six attributes below have a meaning here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina import labels
from ssl_retina.archive import attributes
from ssl_retina.archive.attributes import DEVICES_LIMIT, Attributes
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

COMMON = {
    "file": (
        *("file", "filename", "filepath", "relativepath", "path", "image", "imagename", "imagefile"),
        *("imagepath", "imagefilename", "imageid", "img", "imgname", "photo", "photograph", "fundus"),
    ),
    "patient": (
        *("patient", "patientid", "patientcode", "patientnumber", "patientno", "subject", "subjectid"),
        *("participant", "participantid", "personid", "person", "pid"),
    ),
    "eye": ("eye", "laterality", "imagelaterality", "eyeside", "eyelaterality", "side"),
    "device": ("device", "devicemodel", "camera", "cameramodel", "cameraname", "manufacturermodelname"),
    "visit": ("visit", "visitnumber", "visitid", "visitdate", "examdate", "studydate", "acquisitiondate"),
    "split": ("split", "subset", "partition", "fold"),
    "modality": ("modality", "imagemodality", "imagetype"),
}
"""Names of columns, without case, spaces and punctuation, in the order in which they are preferred."""


@dataclass(frozen=True)
class Table:
    """columns: ours -> the table's. ignored: columns not used. rows: (file, attributes).

    unknown: how many cells of a column were not understood (eye, visit, modality).
    """

    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    rows: tuple[tuple[str, Attributes], ...]
    unknown: Mapping[str, int]


def read(path: Path, mapping: Mapping[str, str]) -> Table:
    """Read a table. Raises InputError for columns that do not exist, or hold what may be free text."""
    content = labels.read(path)
    columns = _chosen(content.columns, mapping)
    if "file" not in columns:
        raise InputError(_no_file_column(content.columns))
    cells = {ours: content.column(theirs) for ours, theirs in columns.items()}
    values, unknown = _values(cells, columns)
    rows = tuple(
        (file, Attributes(**{ours: column[at] for ours, column in values.items()}))
        for at, file in enumerate(cells["file"])
    )
    ignored = tuple(name for name in content.columns if name not in columns.values())
    return Table(columns, ignored, rows, unknown)


def describe(table: Table) -> str:
    """Which columns are used for what, and which are not looked at."""
    used = ", ".join(f"{ours} = {_tame(theirs)}" for ours, theirs in table.columns.items())
    ignored = ", ".join(_tame(name) for name in table.ignored) or "none"
    return f"table of {len(table.rows)} rows: {used}; not used: {ignored}"


def parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """`["file=Image Name", ...]` as a mapping; raises InputError for what is none."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        ours, theirs = ours.strip(), theirs.strip()
        if not equals or not theirs:
            raise InputError(f"--map {pair!r} is not written ours=Theirs, such as --map 'patient=Patient ID'")
        if ours not in COMMON:
            raise InputError(
                f"--map knows no {ours!r}{did_you_mean(ours, list(COMMON))}; it knows: {', '.join(COMMON)}"
            )
        if ours in mapping:
            raise InputError(f"--map gives {ours!r} twice")
        mapping[ours] = theirs
    return mapping


def _chosen(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """ours -> theirs: what the user said, then the common names; no column is used twice."""
    for ours, theirs in mapping.items():
        if theirs not in names:
            hint = did_you_mean(theirs, names)
            raise InputError(f"--map {ours}={theirs}: the table has no such column{hint}; {_listed(names)}")
    plain = {re.sub(r"[\W_]", "", name.casefold()): name for name in names if name not in mapping.values()}
    chosen = dict(mapping)
    for ours, common in COMMON.items():
        known = [plain[word] for word in common if word in plain]
        if ours not in chosen and known:
            chosen[ours] = known[0]
    return {ours: chosen[ours] for ours in COMMON if ours in chosen}


def _listed(names: Sequence[str]) -> str:
    """The columns' names for a message; what looks like data is not repeated: a table may lack its header."""
    return f"its columns are: {', '.join(_tame(name) for name in names)}"


def _tame(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9 _-]{0,30}", name) else "(another)"


def _no_file_column(names: Sequence[str]) -> str:
    return (
        f"no column of the table is known to hold file names; {_listed(names)}. "
        "Name it: --map 'file=COLUMN' (the first line of the table must be its column names)"
    )


def _values(
    cells: Mapping[str, Sequence[str]], columns: Mapping[str, str]
) -> tuple[dict[str, Sequence[Any]], dict[str, int]]:
    """Every column's cells as known values, and how many of each were not understood."""
    parsers: dict[str, Callable[[str], str | int | None]] = {
        "patient": attributes.patient,
        "eye": attributes.eye,
        "device": attributes.device,
        "visit": attributes.visit,
        "split": attributes.split,
        "modality": attributes.modality,
    }
    values: dict[str, Sequence[Any]] = {}
    unknown: dict[str, int] = {}
    for ours, parse in parsers.items():
        if ours in cells:
            found = values[ours] = [parse(cell) for cell in cells[ours]]
            wrong = sum(
                bool(cell) and value in (None, "unknown")
                for cell, value in zip(cells[ours], found, strict=True)
            )
            _refuse_free_text(ours, columns[ours], wrong=wrong, found=found)
            if wrong and ours != "patient":
                unknown[ours] = wrong
    return values, unknown


def _refuse_free_text(ours: str, theirs: str, *, wrong: int, found: Sequence[object]) -> None:
    """Devices and splits go into the shards as they stand: only short words that come again and again may."""
    distinct = len(set(found) - {None})
    if ours == "device" and (wrong or distinct > min(DEVICES_LIMIT, max(8, len(found) // 4))):
        trouble = (
            f"{wrong} cells are no short plain names"
            if wrong
            else f"{distinct} different values in {len(found)} rows"
        )
        raise InputError(
            f"column {theirs!r}, taken for the device, looks like free text ({trouble}): shards carry "
            "none. Map another column (--map device=COLUMN), or clean it up"
        )
    if ours == "split" and wrong:
        raise InputError(
            f"column {theirs!r}, taken for the split, looks like free text: {wrong} cells are none of train, "
            "val, test, holdout, external, fold 0 ... 99. Map another column (--map split=COLUMN)"
        )
