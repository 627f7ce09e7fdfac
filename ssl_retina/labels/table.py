"""A labels file -> column names and rows of text, with errors that name the line and never a value."""

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import pseudonyms
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError
from ssl_retina.labels import sheets

FILE_COLUMNS = frozenset(
    ("file", "filename", "filepath", "image", "imagename", "imagefile", "imageid", "imagepath", "path", "key")
)
PATIENT_COLUMNS = frozenset(("patient", "patientid", "subject", "subjectid", "participant", "participantid"))
COMMON_COLUMNS = (
    FILE_COLUMNS
    | PATIENT_COLUMNS
    | {"id", "eye", "side", "laterality", "label", "labels", "class", "grade", "disease", "diagnosis"}
    | {"split", "set", "fold", "age", "sex", "gender", "device", "camera", "visit", "date", "site", "quality"}
)

_NO_HEADER = re.compile(
    r"[-+]?\d[\d\s.,:/+TZ-]*"  # a number, a date, a time, a DICOM UID
    r"|\d{1,4}[-./ ]?[A-Za-z]{3,9}[-./, ]*\d{1,4}"  # a date with the month's name
    r"|[-+]?\d+(\.\d*)?[eE][-+]?\d+"
    r"|.*\^.*"  # a DICOM person's name
)


@dataclass(frozen=True)
class Table:
    """A labels file: column names, and rows of stripped text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> tuple[str, ...]:
        """All values of a column. Raises InputError that lists the columns there are."""
        if name not in self.columns:
            named = [
                one for one, shown in zip(self.columns, _shown(self.columns), strict=True) if one == shown
            ]
            raise InputError(
                f"the labels file has no column {name!r}{did_you_mean(name, named) or '.'} "
                f"It has: {self.listing}"
            )
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def texts(self, named: str) -> tuple[str, ...]:
        """A column by its name, or a text with columns in braces filled row by row: `train/{ID}.png`."""
        fields = re.findall(r"\{([^{}]+)\}", named)
        if named in self.columns or not fields:
            return self.column(named)
        filled = [named] * len(self.rows)
        for field in dict.fromkeys(fields):
            cells = self.column(field)
            filled = [text.replace(f"{{{field}}}", cell) for text, cell in zip(filled, cells, strict=True)]
        return tuple(filled)

    @property
    def listing(self) -> str:
        """The columns for a message; of a file without a header their places: its cells may be ids."""
        shown = ", ".join(_shown(self.columns))
        return shown if _is_header(self.columns) else f"{shown} (the file seems to have no line of names)"

    def recognised(self, names: frozenset[str]) -> tuple[str, ...]:
        """The columns whose name, without case, spaces and punctuation, is one of `names`."""
        return tuple(one for one in self.columns if _plain(one) in names)


def _plain(column: str) -> str:
    """A column's name without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", column.casefold())


def _is_header(cells: Sequence[str]) -> bool:
    """Whether no cell of the first line is what a column's name never is: a number, a date, a photograph."""
    return not any(_NO_HEADER.fullmatch(cell) or pseudonyms.without_suffix(cell) != cell for cell in cells)


def _shown(columns: Sequence[str]) -> list[str]:
    """The columns as a message may name them (law 8)."""
    if _is_header(columns):
        return list(columns)
    numbered = enumerate(columns, 1)
    return [one if _plain(one) in COMMON_COLUMNS else f"column {number}" for number, one in numbered]


def read(path: Path) -> Table:
    """Read a table: CSV (comma, semicolon or tab), Excel (.xlsx) or Parquet, told by the content.

    Text is UTF-8, or UTF-16 with its byte order mark. Raises InputError with the line that is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"labels file {path} cannot be read: {error.strerror}") from None
    return parse(content, f"labels file {path}")


def parse(content: bytes, called: str) -> Table:
    """The table in a file's bytes; `called` names it in messages. As `read`."""
    if content.startswith(sheets.EXCEL):
        lines = sheets.excel(content, called)
    elif content.startswith(sheets.PARQUET):
        lines = sheets.parquet(content, called)
    else:
        lines = _csv(content, called)
    numbered = [(number, line) for number, line in enumerate(lines, 1) if any(cell.strip() for cell in line)]
    if len(numbered) < 2:
        raise InputError(f"{called} holds no rows under a line of column names")
    return _table(called, numbered)


def _csv(content: bytes, called: str) -> list[list[str]]:
    text = _text(content, called)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{called}: {error}") from None


def _text(content: bytes, called: str) -> str:
    """UTF-8, or UTF-16 where a byte order mark says so (Excel's "Unicode Text"), with newlines as one."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = "\0"  # of UTF-16 without its mark every other byte is zero
    with contextlib.suppress(UnicodeError):
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-16" if marked else "utf-8-sig").read()
    if "\0" in text:
        raise InputError(
            f"{called} is not UTF-8 text, Excel (.xlsx) or Parquet. Save it as UTF-8: in Excel File, Save "
            "As, 'CSV UTF-8 (Comma delimited)'; in LibreOffice File, Save As, Text CSV, character set "
            "'Unicode (UTF-8)'; or save it as .xlsx"
        )
    return text


def _table(called: str, numbered: Sequence[tuple[int, list[str]]]) -> Table:
    header = [name.strip() for name in numbered[0][1]]
    kept = [place for place, name in enumerate(header) if name]
    names = [header[place] for place in kept]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        place = names.index(double[0])
        raise InputError(f"{called} has the column {_shown(names)[place]!r} twice")
    for number, line in numbered[1:]:
        if len(line) != len(header):
            raise InputError(f"{called}: row {number} has {len(line)} cells, the header has {len(header)}")
    rows = tuple(tuple(line[place].strip() for place in kept) for _, line in numbered[1:])
    return Table(tuple(names), rows)
