"""Near duplicates in a set that changes: they leave together, and stay together with new files (F19)."""

from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import damage_of, samples_of, shard, write_table
from test_near import COPIES, eye

from ssl_retina import pseudonyms
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.withdraw import withdraw

ROWS = [("a.png", "A"), ("b.png", "B"), ("c.png", "C"), ("d.png", "D")]
"""a is the largest: b and c are copies of it under other patients; d is another eye."""


def _table(folder: Path, rows: list[tuple[str, str]]) -> Path:
    return write_table(folder / "t.csv", ["file", "patient"], [list(row) for row in rows])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An archive with near duplicates, and `set`: its shards."""
    source = tmp_path / "archive"
    source.mkdir()
    eye(1).save(source / "a.png")
    COPIES["smaller"](eye(1)).save(source / "b.png")
    COPIES["smaller"](COPIES["darker"](eye(1))).save(source / "c.png")
    eye(2).save(source / "d.png")
    shard(tmp_path, source, "set", table=_table(tmp_path, ROWS))
    return tmp_path


def _samples(place: Path) -> dict[str, dict[str, Any]]:
    assert not damage_of(place / "set")
    names = {pseudonyms.image(factory.KEY, f"{name}.png"): name for name in "abcde"}
    return {names[key]: facts for key, facts in samples_of(place / "set").items()}


def test_a_withdrawn_patient_takes_the_copies_of_their_eye_along(place: Path) -> None:
    before = _samples(place)
    assert [before[name]["near"] for name in "abcd"] == [None, before["a"]["key"], before["a"]["key"], None]
    assert [before[name]["id_conflict"] for name in "abcd"] == [True, True, True, False]
    withdraw(place / "set", "B", key_file=place / "key")
    assert _samples(place) == {"d": before["d"]}


def test_new_files_leave_near_duplicates_together(place: Path) -> None:
    before = _samples(place)
    eye(3).save(place / "archive" / "e.png")
    settings = Settings(table=_table(place, [*ROWS, ("e.png", "D")]), key_file=place / "key", processes=1)
    append(place / "archive", place / "set", settings, Listener())
    after = _samples(place)
    assert set(after) == set("abcde")
    assert {name: after[name] for name in "abcd"} == before
