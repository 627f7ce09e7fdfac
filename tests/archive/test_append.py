"""An archive that grows: new shards, old ones keep their bytes, whole or not at all, nobody comes back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import factory
import pytest
from killing import Bomb, killed
from photographs import contents, damage_of, samples_of, save, shard, write_table

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import build as build_module
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.errors import StateError

OLD = [(f"m{number:02d}.png", number, f"P{number // 2}") for number in range(8)]
GROWN = [("a0.png", 20, "P9"), ("z1.png", 21, "P1"), ("z2.png", 22, "")]
COPIES = [("zcopy1.png", 2, "P9"), ("zcopy2.png", 6, "P0")]
"""Photographs of P1 (in the first shard) and P3 (in the second), filed under others."""


def _archive(folder: Path, rows: list[tuple[str, int, str]]) -> Settings:
    for name, number, _ in rows:
        save(folder / "archive" / name, number, size=40)
    (folder / "archive" / "page.jpg").write_text("<html>")
    table = write_table(
        folder / "t.csv",
        ["file", "patient", "visit"],
        [[name, who, f"20{10 + number}-01-01"] for name, number, who in rows],
    )
    if not (folder / "key").exists():
        factory.write_key(folder / "key")
    return Settings(table=table, key_file=folder / "key", processes=1, samples_per_shard=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive as it was, and `old`: the set of it."""
    folder = tmp_path_factory.mktemp("made")
    _archive(folder, OLD)
    shard(folder, folder / "archive", "old", table=folder / "t.csv", samples_per_shard=4)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "place")
    return tmp_path / "place"


def _add(place: Path, rows: list[tuple[str, int, str]], out: str = "old") -> Any:
    return append(place / "archive", place / out, _archive(place, OLD + rows), Listener())


def test_old_shards_keep_their_bytes_and_new_ones_follow(place: Path) -> None:
    before = contents(place / "old")
    totals = _add(place, GROWN)
    after = contents(place / "old")
    tars = [name for name in before if name.endswith(".tar")]
    assert all(after[name] == before[name] for name in tars)
    assert sorted(set(after) - set(before)) == ["retina-000002.tar"]
    assert (totals.scanned, totals.written, totals.rejected, totals.patients) == (12, 11, 1, 5)
    assert "visit_unknown" not in totals.remarks
    samples = samples_of(place / "old")
    assert samples[pseudonyms.image(factory.KEY, "a0.png")]["visit"] == 0
    assert samples[pseudonyms.image(factory.KEY, "z1.png")]["visit"] == 2  # after those of P1 in the set
    assert after["ledger.jsonl"].startswith(before["ledger.jsonl"])
    assert damage_of(place / "old") == ()
    assert append(place / "archive", place / "old", _archive(place, OLD + GROWN), Listener()) == totals
    shard(place, place / "archive", "old", table=place / "t.csv", samples_per_shard=4)  # complete for `shard`
    assert contents(place / "old") == after


def test_a_copy_of_an_old_photograph_becomes_its_alias_as_in_one_run(place: Path) -> None:
    """The samples are those of a set that is made at once, but for visits of patients of the set."""
    before = contents(place / "old")
    totals = _add(place, COPIES)
    shard(place, place / "archive", "once", table=place / "t.csv", samples_per_shard=4)
    once, added = samples_of(place / "once"), samples_of(place / "old")
    assert added == once
    counts = shards.read_index(place / "once").facts["totals"]
    same = ("scanned", "written", "rejected", "duplicates", "patients")
    assert {name: getattr(totals, name) for name in same} == {name: counts[name] for name in same}
    after = contents(place / "old")
    assert all(after[name] != before[name] for name in ("retina-000000.tar", "retina-000001.tar"))
    assert damage_of(place / "old") == ()
    ids = {pseudonyms.patient(factory.KEY, one) for one in ("P1", "P9")}
    assert added[pseudonyms.image(factory.KEY, "m02.png")]["group"] == min(ids)


def test_a_withdrawn_patient_does_not_come_back(place: Path) -> None:
    withdraw(place / "old", "P1", key_file=place / "key")
    (place / "archive" / "m02.png").unlink()  # one of their files is gone, the other is still there
    totals = _add(place, [*GROWN, ("m02.png", 30, "P1")])
    assert totals.reasons["withdrawn"] == 3
    gone = pseudonyms.patient(factory.KEY, "P1").encode()
    assert not any(gone in content for content in contents(place / "old").values())
    assert damage_of(place / "old") == ()


@pytest.mark.parametrize("change", ["missing", "changed", "settings", "ages"])
def test_an_append_only_adds(place: Path, change: str) -> None:
    settings = _archive(place, OLD + GROWN)
    if change == "missing":
        (place / "archive" / "m03.png").unlink()
    elif change == "changed":
        save(place / "archive" / "m03.png", 77, size=40)
    elif change == "settings":
        settings = Settings(**{**vars(settings), "size": 64})
    else:
        settings = Settings(**{**vars(settings), "k": 2})
    before = contents(place / "old")
    words = {"missing": "0 files of the set were changed and 1 are missing", "changed": "1 files of the set"}
    with pytest.raises(StateError, match=words.get(change, "other settings")):
        append(place / "archive", place / "old", settings, Listener())
    assert contents(place / "old") == before


@pytest.mark.slow
def test_killed_anywhere_the_same_command_finishes_to_the_same_bytes(place: Path, tmp_path: Path) -> None:
    settings = _archive(place, OLD + GROWN + COPIES)
    shutil.copytree(place / "old", place / "wanted")
    append(place / "archive", place / "wanted", settings, Listener())
    wanted, at = contents(place / "wanted"), 4

    def work(bomb: Bomb, out: Path) -> None:
        append(place / "archive", out, settings, Listener(progress=bomb.tick))

    while True:
        out = Path(shutil.copytree(place / "old", place / str(at)))
        if not killed(at, lambda bomb, out=out: work(bomb, out)):
            break
        append(place / "archive", out, settings, Listener())
        assert contents(out) == wanted, at
        at += 9  # each costs a worker process; the exchange itself is walked through in test_withdraw
    assert at > 30
    assert json.loads(wanted["manifest.json"])["history"][0]["what"] == "appended"


def test_ages_that_the_set_has_not_are_refused(place: Path) -> None:
    settings = replace(_archive(place, OLD + GROWN), columns={"age": "Years"})
    rows = [[name, who, "50"] for name, _, who in OLD + GROWN]
    write_table(place / "t.csv", ["file", "patient", "Years"], rows)
    before = contents(place / "old")
    with pytest.raises(StateError, match="ages or sexes"):
        append(place / "archive", place / "old", settings, Listener())
    assert {name: one for name, one in contents(place / "old").items() if name in before} == before


def test_a_table_that_states_other_patients_for_old_photographs_is_refused(place: Path) -> None:
    """The mark of somebody withdrawn holds for one spelling, and splits hold for one name."""
    renamed = [(name, number, f"{who}x" if name == "m03.png" else who) for name, number, who in OLD]
    with pytest.raises(StateError, match="other patients for 1 photographs"):
        append(place / "archive", place / "old", _archive(place, renamed + GROWN), Listener())


def test_a_set_whose_pixels_have_the_digest_of_an_earlier_version_is_refused(place: Path) -> None:
    """Else a new copy of an old photograph would not be found."""
    path = place / "old" / shards.INDEX_NAME
    index = json.loads(path.read_text())
    assert index["ssl_retina"]["made_from"].pop("pixel_digest") == "pixels_xxh128"
    path.write_text(json.dumps(index))
    before = contents(place / "old")
    with pytest.raises(StateError, match="copies would not be found"):
        _add(place, GROWN)
    assert {name: one for name, one in contents(place / "old").items() if name in before} == before


def test_a_file_that_could_not_be_read_then_hinders_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = [*build_module.scan(place / "archive"), build_module.Found("unread.png", 1)]
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "scan", lambda _: iter(listing))
        shard(place, place / "archive", "new", table=place / "t.csv", samples_per_shard=4)
    lines = [json.loads(line) for line in (place / "new" / shards.LEDGER_NAME).read_text().splitlines()]
    assert [line["source"] for line in lines if line["reason"] == "io"] == [""]
    save(place / "archive" / "unread.png", 31, size=40)
    settings = _archive(place, OLD + GROWN)
    totals = append(place / "archive", place / "new", settings, Listener())
    assert (totals.written, totals.reasons["io"]) == (11, 1)


def test_contradicting_eyes_of_old_photographs_are_still_counted(tmp_path: Path) -> None:
    for name, number in (("one.png", 1), ("same.png", 1), ("two.png", 2)):
        save(tmp_path / "archive" / name, number)
    table = write_table(tmp_path / "t.csv", ["file", "eye"], [["one.png", "OD"], ["same.png", "OS"]])
    before = shard(tmp_path, tmp_path / "archive", table=table)
    assert before.remarks["eye_conflict"] == 1
    save(tmp_path / "archive" / "three.png", 3)
    settings = Settings(table=table, key_file=tmp_path / "key", processes=1)
    after = append(tmp_path / "archive", tmp_path / "out", settings, Listener())
    assert (after.written, after.remarks["eye_conflict"]) == (3, 1)
