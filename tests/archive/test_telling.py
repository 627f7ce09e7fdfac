"""No stretch of a run is silent: what goes on is told every few seconds, with what has passed."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import save, write_table

from ssl_retina import shard_index
from ssl_retina.archive import build as build_module
from ssl_retina.archive import output, pack, settings, stage, together, worker
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.revision import append as append_module
from ssl_retina.archive.statements import matching


def _slow(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """Let a function take a quarter of a second more."""
    real: Callable[..., Any] = getattr(module, name)

    def slow(*given: Any, **more: Any) -> Any:
        time.sleep(0.25)
        return real(*given, **more)

    monkeypatch.setattr(module, name, slow)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "SECONDS_BETWEEN", 0.05)
    for number in range(3):
        save(tmp_path / "archive" / f"{number}.png", number, size=40)
    write_table(tmp_path / "t.csv", ["file", "patient"], [[f"{number}.png", number] for number in range(4)])
    factory.write_key(tmp_path / "key")
    return tmp_path


def _options(place: Path) -> Settings:
    return Settings(table=place / "t.csv", key_file=place / "key", processes=1)


def _told(notes: list[str]) -> dict[str, str]:
    """What was told to go on, and how far it was at last."""
    fitting = (re.fullmatch(r"([a-z ,]+): ((?:\d+ done, )?)\d+ s", note) for note in notes)
    return {one[1]: one[2] for one in fitting if one}


def test_every_stretch_of_a_build_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        *((build_module, "scan"), (matching, "from_table"), (stage, "missing"), (together, "resolve")),
        *((pack, "_shard"), (shard_index, "write"), (output, "require_intact")),
    ):
        _slow(monkeypatch, module, name)
    notes: list[str] = []
    listener = Listener(note=notes.append)
    build_module.build(place / "archive", place / "out", _options(place), listener)
    build_module.build(place / "archive", place / "out", _options(place), listener)
    told = _told(notes)
    assert list(told) == [
        *("listing the source", "fitting tables and names to files", "looking for what is done already"),
        *("looking for copies, groups and visits", "writing the shards", "writing the index"),
        "looking at the set",
    ]
    assert told["writing the shards"] == "3 done, "


def test_every_stretch_of_an_append_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_module.build(place / "archive", place / "out", _options(place), Listener())
    save(place / "archive" / "3.png", 3, size=40)
    _slow(monkeypatch, worker, "digest")
    _slow(monkeypatch, append_module.pack, "pack")
    notes: list[str] = []
    append_module.append(place / "archive", place / "out", _options(place), Listener(note=notes.append))
    told = _told(notes)
    assert told["comparing the archive with the set"] == "2 done, "
    assert "taking the new files into the set" in told


def test_the_first_stage_is_told_while_no_chunk_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker makes the chunks of a tar.gz in turn: nothing ends for hours."""
    _slow(monkeypatch, stage, "run")
    told: list[tuple[int, int]] = []
    listener = Listener(progress=lambda done, total: told.append((done, total)))
    build_module.build(place / "archive", place / "out", _options(place), listener)
    assert told.count((0, 3)) > 1
    assert told[-1] == (3, 3)


def test_who_listens_to_nothing_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "beating", None)
    with Listener().during("nothing") as passing:
        assert list(passing("ab")) == ["a", "b"]
    assert passing.count == 2
