"""Excel and Parquet tables give what the same CSV gives; damage and doubt are one sentence."""

import datetime
import io
import zipfile
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from ssl_retina import labels
from ssl_retina.errors import InputError
from ssl_retina.labels import sheets

DAY = datetime.datetime(2020, 1, 31)
ROWS = [("a.jpg", 12, 0.5, DAY, "R"), ("ä/b.jpg", 13, 1.0, None, None)]
NAMES = ("file", "patient", "score", "visit", "eye")
EXPECTED = (("a.jpg", "12", "0.5", "2020-01-31", "R"), ("ä/b.jpg", "13", "1", "", ""))


def write_excel(path: Path, *sheets: list[tuple[object, ...]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"s{number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_parquet(path: Path) -> Path:
    columns = {name: list(column) for name, column in zip(NAMES, zip(*ROWS, strict=True), strict=True)}
    parquet.write_table(pyarrow.table({**columns, "embedding": [[1.0], [2.0]]}), path)
    return path


def test_excel_and_parquet_are_read_as_csv_would_be(tmp_path: Path) -> None:
    for path in (
        write_excel(tmp_path / "t.xlsx", [NAMES, *ROWS], []),
        write_parquet(tmp_path / "t.parquet"),
        write_excel(tmp_path / "named.csv", [NAMES, *ROWS, (None,) * 5]),
    ):
        table = labels.read(path)
        assert (table.columns, table.rows) == (NAMES, EXPECTED), path


@pytest.mark.parametrize("stray", [" ", "x"])
@pytest.mark.parametrize("place", ["AMJ20000", "XFD1048576", "XFD2", "E2", "A1048576"])
def test_a_stray_cell_far_from_the_table_costs_nothing(tmp_path: Path, place: str, stray: str) -> None:
    """A blank in AMJ20000 cost 37 s and 931 MB, one in the last cell of the sheet never ended."""
    book = openpyxl.Workbook()
    for row in (("file", "patient"), ("a.png", 65.0), ("b.png", "066")):
        book.active.append(row)
    book.active[place] = stray
    book.save(tmp_path / "t.xlsx")
    rows = labels.read(tmp_path / "t.xlsx").rows
    assert rows[:2] == (("a.png", "65"), ("b.png", "066"))
    assert rows[2:] == ((("x", ""),) if (place, stray) == ("A1048576", "x") else ())


def test_a_sheet_of_more_cells_than_can_be_held_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tuple(f"c{number}" for number in range(3000))
    path = write_excel(tmp_path / "t.xlsx", [wide, *[wide] * 3])
    assert len(labels.read(path).rows) == 3
    monkeypatch.setattr(sheets, "CELLS_LIMIT", 10_000)
    with pytest.raises(InputError, match=r"more than 10,000 cells, rows x columns.*save it as CSV"):
        labels.read(path)


def test_an_empty_sheet_with_a_blank_is_no_second_table(tmp_path: Path) -> None:
    path = write_excel(tmp_path / "t.xlsx", [(" ",)], [(), NAMES, (), *ROWS])
    assert (labels.read(path).columns, labels.read(path).rows) == (NAMES, EXPECTED)


def test_several_sheets_are_refused(tmp_path: Path) -> None:
    path = write_excel(tmp_path / "t.xlsx", [NAMES, *ROWS], [("other",), ("x",)])
    with pytest.raises(InputError, match="2 sheets with content"):
        labels.read(path)


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_cut_file_is_one_sentence(tmp_path: Path, kind: str, share: float) -> None:
    whole = write_excel(tmp_path / "t", [NAMES, *ROWS]) if kind == "xlsx" else write_parquet(tmp_path / "t")
    content = whole.read_bytes()
    whole.write_bytes(content[: max(8, int(len(content) * share))])
    with pytest.raises(InputError, match="that can be read"):
        labels.read(whole)


def test_any_zip_is_no_excel_file_and_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(InputError, match="no Excel file"):
        labels.read(path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b"x")
    content = bytearray(stream.getvalue())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match="more than 1 GiB"):
        labels.read(path)
