"""Excel and Parquet files -> rows of text as a CSV file would hold them.

In: a file's bytes, what messages call it. Out: lines of cells, the first of them the columns' names. Whole
numbers lose their `.0`, dates become `2020-01-31`, empty cells and missing values are empty.
"""

import datetime
import io
import itertools
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import openpyxl
import pyarrow
from openpyxl.utils.exceptions import InvalidFileException
from pyarrow import parquet as parquet_file

from ssl_retina.errors import InputError

EXCEL = b"PK\x03\x04"
PARQUET = b"PAR1"
UNPACKED_LIMIT = 1 << 30
"""Bytes that an Excel file may unpack to."""
ROWS_LIMIT, CELLS_LIMIT = 1 << 20, 50_000_000
"""Rows that a sheet of Excel can have, and rows x columns that are read of one."""

DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile)


def excel(content: bytes, called: str) -> list[list[str]]:
    """The one sheet of an .xlsx file that is not empty. Raises InputError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(one.file_size for one in archive.infolist()) > UNPACKED_LIMIT:
                raise InputError(f"{called} unpacks to more than 1 GiB: save it as CSV")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = [_lines(sheet, called) for sheet in book.worksheets]
    except (*DAMAGE, InvalidFileException):
        raise InputError(f"{called} is no Excel file (.xlsx) that can be read") from None
    filled = [lines for lines in sheets if lines]
    if len(filled) > 1:
        raise InputError(f"{called} has {len(filled)} sheets with content: save the one that is meant alone")
    return filled[0] if filled else []


def _lines(sheet: Any, called: str) -> list[list[str]]:
    """The rows of a sheet that are not empty, all as wide as the first: the columns' names.

    Empty rows are not built, nor what stands beside the columns with a name: one stray blank in a far cell
    would make a sheet of 17 billion cells. Raises InputError for more than CELLS_LIMIT.
    """
    sheet.reset_dimensions()  # what the file says of its own size may be anything
    for number, row in enumerate(_rows(sheet, called, width=None), 1):
        named = [at for at, cell in enumerate(row, 1) if _text(cell).strip()]
        if named:
            return list(_filled(_rows(sheet, called, width=named[-1]), after=number - 1))
    return []


def _rows(sheet: Any, called: str, *, width: int | None) -> Iterator[Sequence[object]]:
    """Every row down to the last one that has a cell, up to `width` cells of each."""
    cells = 0
    for number, row in enumerate(sheet.iter_rows(max_col=width, values_only=True), 1):
        cells += len(row)
        if number > ROWS_LIMIT or cells > CELLS_LIMIT:
            raise InputError(
                f"{called}: a sheet has more than {CELLS_LIMIT:,} cells, rows x columns, or more "
                "rows than Excel knows. Remove what stands far from the table, or save it as CSV or Parquet"
            )
        yield row


def _filled(rows: Iterator[Sequence[object]], *, after: int) -> Iterator[list[str]]:
    """The rows behind the first `after` that hold anything, as text."""
    for row in itertools.islice(rows, after, None):
        if any(cell is not None for cell in row):
            texts = [_text(cell) for cell in row]
            if any(text.strip() for text in texts):
                yield texts


def parquet(content: bytes, called: str) -> list[list[str]]:
    """The columns of plain values of a Parquet file; those of lists and structures have no cells."""
    try:
        table = parquet_file.read_table(io.BytesIO(content))
        plain = [at for at, field in enumerate(table.schema) if not pyarrow.types.is_nested(field.type)]
        columns = [[_text(cell) for cell in table.column(at).to_pylist()] for at in plain]
    except (*DAMAGE, pyarrow.ArrowException):
        raise InputError(f"{called} is no Parquet file that can be read") from None
    names = [str(table.schema.names[at]) for at in plain]
    return [names, *(list(row) for row in zip(*columns, strict=True))]


def _text(cell: object) -> str:
    """A cell as a CSV file would hold it."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return (cell.date() if cell.time() == datetime.time() else cell).isoformat()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    return str(cell)
