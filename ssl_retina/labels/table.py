"""A labels file -> column names and rows of text, with errors that name the line and never a value."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

FILE_COLUMNS = frozenset(
    ("file", "filename", "filepath", "image", "imagename", "imagefile", "imageid", "imagepath", "path", "key")
)
PATIENT_COLUMNS = frozenset(("patient", "patientid", "subject", "subjectid", "participant", "participantid"))


@dataclass(frozen=True)
class Table:
    """A labels file: column names, and rows of stripped text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> tuple[str, ...]:
        """All values of a column. Raises InputError that lists the columns there are."""
        if name not in self.columns:
            hint = did_you_mean(name, self.columns)
            raise InputError(
                f"the labels file has no column {name!r}{hint}; it has: {', '.join(self.columns)}"
            )
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def recognised(self, names: frozenset[str]) -> tuple[str, ...]:
        """The columns whose name, without case, spaces and punctuation, is one of `names`."""
        return tuple(one for one in self.columns if re.sub(r"[\W_]", "", one.casefold()) in names)


def read(path: Path) -> Table:
    """Read a CSV file (comma, semicolon or tab; UTF-8). Raises InputError with the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        raise InputError(f"labels file {path} {reason}") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"labels file {path}: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if any(cell.strip() for cell in line)]
    if len(numbered) < 2:
        raise InputError(f"labels file {path} holds no rows under a line of column names")
    return _table(path, numbered)


def _table(path: Path, numbered: Sequence[tuple[int, list[str]]]) -> Table:
    header = [name.strip() for name in numbered[0][1]]
    kept = [place for place, name in enumerate(header) if name]
    names = [header[place] for place in kept]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise InputError(f"labels file {path} has the column {double[0]!r} twice")
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise InputError(
                f"labels file {path}: row {number} has {len(line)} cells, the header has {len(header)}"
            )
    rows = tuple(tuple(line[place].strip() for place in kept) for _, line in numbered[1:])
    return Table(tuple(names), rows)
