"""`docs/faults.md`: every row of the archive's and the stream's faults is there; every test exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [f"F{number:02d}" for number in (*range(1, 65), 76, *range(99, 106))]


def _table() -> dict[str, str]:
    lines = (ROOT / "docs" / "faults.md").read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| F")
    ]
    return {row: " ".join(rest) for row, *rest in cells}


def test_every_row_has_a_test_or_the_reason_why_not() -> None:
    table = _table()
    assert list(table) == ROWS
    assert [row for row, text in table.items() if "::" not in text and "not yet" not in text] == []


def test_every_named_test_exists() -> None:
    named = {
        match for text in _table().values() for match in re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    }
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 60
    assert [pair for pair in sorted(named) if f"def {pair[1]}(" not in files.get(pair[0], "")] == []
