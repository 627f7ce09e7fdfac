"""Excel and Parquet files -> rows of text as a CSV file would hold them.

In: a file's bytes. Out: lines of cells, the first of them the columns' names. Whole numbers lose their `.0`,
dates become `2020-01-31`, empty cells and missing values are empty.
"""

import datetime
import io
import math
import warnings
import zipfile
from pathlib import Path
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

DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile)


def excel(content: bytes, path: Path) -> list[list[str]]:
    """The one sheet of an .xlsx file that is not empty. Raises InputError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(one.file_size for one in archive.infolist()) > UNPACKED_LIMIT:
                raise InputError(f"labels file {path} unpacks to more than 1 GiB: save it as CSV")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = [_lines(sheet) for sheet in book.worksheets]
    except (*DAMAGE, InvalidFileException):
        raise InputError(f"labels file {path} is no Excel file (.xlsx) that can be read") from None
    filled = [lines for lines in sheets if lines]
    if len(filled) > 1:
        raise InputError(
            f"labels file {path} has {len(filled)} sheets with content: save the one that is meant alone"
        )
    return filled[0] if filled else []


def _lines(sheet: Any) -> list[list[str]]:
    """The rows of a sheet down to its last one that is not empty, all as wide as the first."""
    lines = [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    while lines and not any(lines[-1]):
        lines.pop()
    width = max((at + 1 for line in lines for at, cell in enumerate(line) if cell), default=0)
    return [(line + [""] * width)[:width] for line in lines]


def parquet(content: bytes, path: Path) -> list[list[str]]:
    """The columns of plain values of a Parquet file; those of lists and structures have no cells."""
    try:
        table = parquet_file.read_table(io.BytesIO(content))
        plain = [at for at, field in enumerate(table.schema) if not pyarrow.types.is_nested(field.type)]
        columns = [[_text(cell) for cell in table.column(at).to_pylist()] for at in plain]
    except (*DAMAGE, pyarrow.ArrowException):
        raise InputError(f"labels file {path} is no Parquet file that can be read") from None
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
