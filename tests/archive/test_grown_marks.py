"""An archive that grows: near duplicates and visits of the set are those of one run over all files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_objects
import factory
import numpy as np
import pytest
from photographs import contents, damage_of, samples_of, save, shard, write_table
from test_near import COPIES, eye

from ssl_retina import pseudonyms, shards
from ssl_retina.archive.build import Listener, Settings, Totals
from ssl_retina.archive.duplicates import against, near
from ssl_retina.archive.pixels import look
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.near_again import Growing

OLD = {
    "m0": ("P0", eye(0)),
    "m1": ("P1", COPIES["smaller"](eye(0))),
    "m2": ("P2", eye(2)),
    "m3": ("P3", COPIES["darker"](COPIES["smaller"](eye(2)))),
    "m4": ("P4", eye(4)),
    "m5": ("P5", eye(5)),
    "m6": ("P6", eye(6)),
}
"""Two pairs of near duplicates and three single eyes, in shards of two."""

NEW = {
    "a4": ("Q4", COPIES["brighter"](eye(4))),
    "z2": ("Q2", eye(2, 300)),
    "z5": ("Q5", COPIES["mirrored"](COPIES["smaller"](eye(5)))),
    "z8": ("Q8", eye(8)),
    "z9": ("Q9", COPIES["smaller"](eye(8))),
}
"""a4 leads m4: as large, and before it in the scan. z2 leads m2 and m3, z5 follows m5, z9 follows z8."""


def _settings(folder: Path, files: dict[str, Any], **options: object) -> Settings:
    (folder / "archive").mkdir(exist_ok=True)
    for name, (_, picture) in files.items():
        picture.save(folder / "archive" / f"{name}.png")
    table = write_table(folder / "t.csv", ["file", "patient"], [[n, who] for n, (who, _) in files.items()])
    if not (folder / "key").exists():
        factory.write_key(folder / "key")
    return Settings(table=table, key_file=folder / "key", processes=1, samples_per_shard=2, **options)


def _both(folder: Path) -> Totals:
    """Make `old`, let it grow, and make `once` of all files."""
    _settings(folder, OLD)
    shard(folder, folder / "archive", "old", table=folder / "t.csv", samples_per_shard=2)
    settings = _settings(folder, OLD | NEW)
    totals = append(folder / "archive", folder / "old", settings, Listener())
    shard(folder, folder / "archive", "once", table=folder / "t.csv", samples_per_shard=2)
    return totals


def _key(name: str) -> str:
    return pseudonyms.image(factory.KEY, f"{name}.png")


def test_near_duplicates_are_marked_as_in_one_run(tmp_path: Path) -> None:
    totals = _both(tmp_path)
    grown, once = samples_of(tmp_path / "old"), samples_of(tmp_path / "once")
    assert grown == once
    leaders = {"m1": "m0", "m2": "z2", "m3": "z2", "m4": "a4", "z5": "m5", "z9": "z8"}
    assert {name: grown[_key(name)]["near"] for name in leaders} == {
        name: _key(leader) for name, leader in leaders.items()
    }
    told = shards.read_index(tmp_path / "once").facts["totals"]["remarks"]
    assert dict(totals.remarks) == told
    assert totals.remarks["near_duplicate"] == 6
    assert damage_of(tmp_path / "old") == ()


def test_marks_that_nothing_new_touches_stay_whatever_the_shards_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compression may move a pair across the limit; an unrelated file must not part it."""
    _settings(tmp_path, OLD)
    shard(tmp_path, tmp_path / "archive", "old", table=tmp_path / "t.csv", samples_per_shard=2)
    before = contents(tmp_path / "old")
    others = iter(range(50, 99))
    monkeypatch.setattr(against, "seen", lambda *_: _look(next(others)))
    settings = _settings(tmp_path, OLD | {"z8": NEW["z8"]})
    append(tmp_path / "archive", tmp_path / "old", settings, Listener())
    after = contents(tmp_path / "old")
    assert all(after[name] == content for name, content in before.items() if name.endswith(".tar"))


def _look(number: int) -> look.Look:
    found = look.look(np.asarray(eye(number)), None)
    assert found is not None
    return found


def test_worker_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _settings(tmp_path, OLD)
    shard(tmp_path, tmp_path / "archive", "old", table=tmp_path / "t.csv", samples_per_shard=2)
    monkeypatch.setattr(against, "PIECE", 3)
    reader = shards.Reader(shards.read_index(tmp_path / "old"))
    alone = list(against.hashes(reader, 1))
    assert list(against.hashes(reader, 2)) == alone
    assert len(alone) == len(OLD)


VISITS = {"m0": ("P0", 2012), "m1": ("P0", 2014), "m2": ("P1", 2012), "m3": ("P1", 2013), "m4": ("P2", 2012)}
LATER = {"n0": ("P0", 2013), "n1": ("P1", 2015), "n2": ("P2", 2012), "n3": ("P3", 2011)}


def _visits(folder: Path, rows: dict[str, tuple[str, int]], *, undated: tuple[str, ...] = ()) -> Settings:
    for number, name in enumerate(sorted({**VISITS, **LATER})):
        if name in rows:
            save(folder / "archive" / f"{name}.png", number, size=40)
    dated = [[n, who, "" if n in undated else f"{year}-05-01"] for n, (who, year) in rows.items()]
    table = write_table(folder / "t.csv", ["file", "patient", "visit"], dated)
    if not (folder / "key").exists():
        factory.write_key(folder / "key")
    return Settings(table=table, key_file=folder / "key", processes=1, samples_per_shard=2)


def test_new_visits_find_their_place_as_in_one_run(tmp_path: Path) -> None:
    """The set keeps the order alone; the archive still has the dates. A visit between two moves the later."""
    _visits(tmp_path, VISITS)
    shard(tmp_path, tmp_path / "archive", "old", table=tmp_path / "t.csv", samples_per_shard=2)
    before = contents(tmp_path / "old")
    totals = append(tmp_path / "archive", tmp_path / "old", _visits(tmp_path, VISITS | LATER), Listener())
    shard(tmp_path, tmp_path / "archive", "once", table=tmp_path / "t.csv", samples_per_shard=2)
    grown = samples_of(tmp_path / "old")
    assert grown == samples_of(tmp_path / "once")
    visits = {name: grown[_key(name)]["visit"] for name in (*VISITS, *LATER)}
    assert visits == {"m0": 0, "m1": 2, "m2": 0, "m3": 1, "m4": 0, "n0": 1, "n1": 2, "n2": 0, "n3": 0}
    assert "visit_unknown" not in totals.remarks
    after = contents(tmp_path / "old")
    changed = {name for name in before if name.endswith(".tar") and after[name] != before[name]}
    assert changed == {"retina-000000.tar"}
    assert damage_of(tmp_path / "old") == ()


def test_visits_that_the_archive_tells_no_more_are_not_guessed(tmp_path: Path) -> None:
    _visits(tmp_path, VISITS)
    shard(tmp_path, tmp_path / "archive", "old", table=tmp_path / "t.csv", samples_per_shard=2)
    before = samples_of(tmp_path / "old")
    settings = _visits(tmp_path, VISITS | LATER, undated=("m0",))
    totals = append(tmp_path / "archive", tmp_path / "old", settings, Listener())
    grown = samples_of(tmp_path / "old")
    assert {key: grown[key] for key in before} == before
    assert {name: grown[_key(name)]["visit"] for name in LATER} == {"n0": None, "n1": 2, "n2": 0, "n3": 0}
    assert totals.remarks["visit_unknown"] == 1


def test_a_visit_that_the_file_itself_states_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    factory.write_key(tmp_path / "key")

    def put(name: str, date: str, light: int) -> None:
        pixels = dicom_objects.colours() // light
        made = dicom_objects.dataset(StudyDate=date, PixelData=pixels.tobytes())
        (source / name).write_bytes(dicom_objects.file(made))

    put("a.dcm", "20180101", 1)
    put("b.dcm", "20200101", 2)
    shard(tmp_path, source, "old")
    put("c.dcm", "20190101", 3)
    append(source, tmp_path / "old", Settings(key_file=tmp_path / "key", processes=1), Listener())
    keys = {name: pseudonyms.image(factory.KEY, f"{name}.dcm") for name in "abc"}
    grown = samples_of(tmp_path / "old")
    assert {name: grown[key]["visit"] for name, key in keys.items()} == {"a": 0, "b": 2, "c": 1}


def test_a_copy_whose_leader_is_led_now_finds_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups do not chain: 3 leads 0, so 1 is left to 2, which is like it but less than 0 was."""
    scores = {(0, 1): 0.9, (0, 3): 0.8, (1, 2): 0.75}
    sizes = {"source_height": 1}
    facts = [{"key": str(at), "source_width": width, **sizes} for at, width in enumerate((4, 1, 3))]
    older: Any = SimpleNamespace(
        reader=None,
        several={},
        near=lambda: {1: 0},
        numbered=lambda: iter([(at, at, one) for at, one in enumerate(facts)]),
    )
    monkeypatch.setattr(against, "hashes", lambda *_: [(at, bytes(32)) for at in range(3)])
    monkeypatch.setattr(near, "candidates", lambda _: [(*pair, False) for pair in scores])
    monkeypatch.setattr(Growing, "_compare", lambda _, *pair: scores[min(pair[:2]), max(pair[:2])])
    growing = Growing(older, tmp_path, {str(at): at for at in range(4)}, 1)
    seen = {"offset": 0, "hash": bytes(32).hex()}
    growing.add(3, 0, {"key": "3", "source_width": 9, "source_height": 1, "look": seen})
    assert growing.near() == {0: 3, 1: 2}
