"""`bench duplicates`: copies are counted by kind, and a search that finds nothing or everything shows."""

import json
from pathlib import Path

import pytest
from test_near import eye
from typer.testing import CliRunner

from ssl_retina.archive.duplicates import near
from ssl_retina.bench import duplicates as bench
from ssl_retina.cli import app
from ssl_retina.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn eyes, the last of them twice, and a file that is none."""
    photos = tmp_path_factory.mktemp("photos")
    for number in range(6):
        eye(number).save(photos / f"{number}.png")
    eye(5).save(photos / "again.png")
    (photos / "notes.txt").write_text("nothing")
    return photos


def test_copies_by_their_kind(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["bench", "duplicates", str(folder), "--every", "3", "--offset", "0", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["photographs"], found["copied"]) == (7, 3)
    assert set(found["ways"]) == set(bench.WAYS)
    assert all(one["of"] == 3 for one in found["ways"].values())
    assert found["copies"]["of"] == 39
    assert found["copies"]["found"] == sum(one["found"] for one in found["ways"].values()) >= 33
    assert found["ways"]["mirrored"]["found"] == 3
    low, high = found["copies"]["interval"]
    assert low < found["copies"]["found"] / 39 <= high <= 1
    assert found["matches_with_others"] == 0
    assert found["precision"] == 1


def test_matches_with_others_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "SIMILAR", -1.0)
    monkeypatch.setattr(near, "FARTHEST", 256)
    monkeypatch.setattr(near, "BAND_BITS", 1)
    found = bench.measure([folder], bench.Plan(every=7, offset=1), lambda _: None)
    assert found["matches_with_others"] > 0
    assert found["precision"] < 1


def test_a_search_that_finds_nothing_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "SIMILAR", 2.0)
    found = bench.measure([folder], bench.Plan(every=7, offset=1), lambda _: None)
    assert found["copies"]["found"] == 0


def test_too_few_photographs_are_told(folder: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        bench.measure([folder], bench.Plan(every=100, offset=50), lambda _: None)
    with pytest.raises(InputError, match="--every 3 --offset 3"):
        bench.Plan(3, 3)
