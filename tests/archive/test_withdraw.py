"""A patient leaves a set: every photograph, alias and pseudonym of theirs; whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path

import factory
import pytest
from killing import killed
from photographs import contents, damage_of, samples_of, save, shard, write_table
from typer.testing import CliRunner

from ssl_retina import files, pseudonyms, shard_index, shards
from ssl_retina.archive.revision import withdraw as module
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.cli import app
from ssl_retina.cli.withdraw import _tell_runs
from ssl_retina.errors import InputError, ShardError, StateError
from ssl_retina.release import exposure

OPTIONS = {"samples_per_shard": 4}


def _archive(folder: Path, without: frozenset[str] = frozenset()) -> tuple[Path, Path]:
    """20 photographs of seven patients, three each; one of P2 also lies under P6, one of P2 under nobody."""
    rows = [(f"{number:02d}.png", number, f"P{number // 3}") for number in range(20)]
    rows += [("zcopy.png", 8, "P6"), ("zother.png", 7, "")]
    gone = {number for _, number, patient in rows if patient in without}
    rows = [row for row in rows if row[1] not in gone]
    for name, number, _ in rows:
        save(folder / "archive" / name, number, size=40)
    (folder / "archive" / "page.jpg").write_text("<html>")
    table = write_table(folder / "t.csv", ["file", "patient"], [[name, who] for name, _, who in rows])
    return folder / "archive", table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set `whole` and its key."""
    folder = tmp_path_factory.mktemp("made")
    source, table = _archive(folder)
    shard(folder, source, "whole", table=table, **OPTIONS)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the set."""
    return Path(shutil.copytree(made / "whole", tmp_path / "out"))


def _key(made: Path) -> dict[str, Path]:
    return {"key_file": made / "key"}


def test_only_the_shards_that_hold_the_patient_are_written_again(made: Path, out: Path) -> None:
    before = contents(out)
    done = withdraw(out, " p1 ", **_key(made))  # ids as everywhere: any case, spaces around them
    assert (done.samples, done.files, done.shared, done.rewritten, done.removed) == (3, 3, 0, 2, 0)
    after = contents(out)
    changed = {name for name in before if after.get(name) != before[name]}
    tars = {"retina-000000.tar", "retina-000001.tar"}
    assert changed == tars | {"index.json", "ledger.jsonl", "manifest.json", "positions.npy"}
    assert damage_of(out) == ()
    patient = pseudonyms.patient(factory.KEY, "P1").encode()
    assert all(patient not in content for content in after.values())


@pytest.mark.parametrize("patient", ["P2", "P6"])
def test_the_set_is_what_a_build_without_the_patient_makes(
    made: Path, out: Path, tmp_path: Path, patient: str
) -> None:
    """P2 and P6 share a photograph: it goes with either, and the other is a group of its own again."""
    done = withdraw(out, patient, **_key(made))
    counts = {"P2": (3, 5, 1, 1, 17), "P6": (3, 4, 1, 1, 17)}
    assert (done.samples, done.files, done.shared, done.sharers, done.left) == counts[patient]
    source, table = _archive(tmp_path / "fresh", frozenset({patient}))
    shard(tmp_path / "fresh", source, "out", table=table, **OPTIONS)
    assert samples_of(out) == samples_of(tmp_path / "fresh" / "out")
    mine, theirs = (shards.read_index(one) for one in (out, tmp_path / "fresh" / "out"))
    assert mine.columns == theirs.columns
    assert mine.facts["totals"]["patients"] == theirs.facts["totals"]["patients"]
    both = {pseudonyms.patient(factory.KEY, patient)}
    for name, content in contents(out).items():
        if name != shards.LEDGER_NAME:
            assert not any(word.encode() in content for word in both), name


def test_near_duplicates_of_the_patients_photographs_go_too(tmp_path: Path) -> None:
    """A resized copy under another patient, marked as near: it shows the same eye, and names its leader."""
    parts: list[tuple[str, bytes]] = []
    for number, near in ((0, None), (1, 0), (2, None)):
        facts = factory.facts(number) | {"near": None if near is None else factory.key(near)}
        both = [pseudonyms.patient(factory.KEY, factory.patient_id(one, 16)) for one in (0, 1)]
        facts |= {"group": min(both)} if number < 2 else {}
        image = factory.encoded(factory.pixels(number))
        parts += [(f"{facts['key']}.jpg", image), (f"{facts['key']}.json", json.dumps(facts).encode())]
    factory.write_tar(tmp_path / "set-000000.tar", parts)
    lines = [
        {"key": factory.key(number), "outcome": "written", "reason": "", "detail": "", "source": ""}
        for number in range(3)
    ]
    (tmp_path / shards.LEDGER_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    totals = {"scanned": 3, "written": 3, "rejected": 0, "duplicates": 0, "patients": 3, "shards": 1}
    shard_index.write(tmp_path, {**factory.index_facts(), "totals": totals})
    done = withdraw(tmp_path, factory.patient_id(0, 16), key_file=factory.write_key(tmp_path.parent / "key"))
    assert (done.samples, done.shared, done.sharers, done.left) == (2, 2, 1, 1)
    assert list(samples_of(tmp_path)) == [factory.key(2)]


def test_law_1_holds_and_the_ledger_says_withdrawn(made: Path, out: Path) -> None:
    before = shards.read_index(out).facts["totals"]
    withdraw(out, "P2", **_key(made))
    totals = shards.read_index(out).facts["totals"]
    assert totals["scanned"] == before["scanned"] == 23
    assert totals["scanned"] == totals["written"] + totals["rejected"] + totals["duplicates"]
    assert (totals["written"], totals["duplicates"], totals["reasons"]["withdrawn"]) == (17, 0, 5)
    lines = [json.loads(text) for text in (out / shards.LEDGER_NAME).read_text().splitlines()]
    gone = [line for line in lines if line["reason"] == "withdrawn"]
    assert len(lines) == 23
    assert all(line["source"] == line["detail"] == "" and "of" not in line for line in gone)
    assert {line["key"] for line in gone} >= {pseudonyms.image(factory.KEY, "zcopy.png")}


def test_a_shard_that_is_empty_goes(made: Path, tmp_path: Path) -> None:
    factory.make_shards(tmp_path / "none")
    out = Path(shutil.copytree(made / "whole", tmp_path / "out"))
    for patient in ("P0", "P1"):
        withdraw(out, patient, **_key(made))
    assert not (out / "retina-000000.tar").exists()
    assert len(shards.read_index(out).facts["history"]) == 2
    assert damage_of(out) == ()


def test_killed_at_every_file_operation_the_same_command_finishes(
    made: Path, out: Path, tmp_path: Path
) -> None:
    whole = contents(out)
    told = withdraw(out, "P2", **_key(made))
    wanted, states = contents(out), set()
    at = 0
    while True:
        place = Path(shutil.copytree(made / "whole", tmp_path / str(at)))
        alive = not killed(at, lambda _, place=place: withdraw(place, "P2", **_key(made)))
        if not alive:
            left = {name: content for name, content in contents(place).items() if not name.startswith(".")}
            states.add("old" if left == whole else "new" if left == wanted else "between")
            assert left in (whole, wanted) or shards.INDEX_NAME not in left, at
            if shards.INDEX_NAME not in left:
                with pytest.raises(ShardError, match="run the same command again"):
                    shards.read_index(place)
            done = withdraw(place, "P2", **_key(made))
            assert done == told or (left == wanted and not done.samples)
        assert contents(place) == wanted, at
        if alive:
            break
        at += 1
    assert at > 30
    assert states == {"old", "between", "new"}


def test_another_command_finishes_an_interrupted_withdrawal(made: Path, out: Path, tmp_path: Path) -> None:
    wanted = Path(shutil.copytree(out, tmp_path / "wanted"))
    withdraw(wanted, "P2", **_key(made))
    for at in range(100):
        place = Path(shutil.copytree(out, tmp_path / str(at)))
        assert killed(at, lambda _, place=place: withdraw(place, "P2", **_key(made)))
        if not (place / shards.INDEX_NAME).exists():
            break
    shard(tmp_path, made / "archive", str(at), table=made / "t.csv", key_file=made / "key", **OPTIONS)
    assert contents(place) == contents(wanted)


def test_a_second_time_is_no_error_and_says_so(made: Path, out: Path) -> None:
    first = withdraw(out, "P1", **_key(made))
    before = contents(out)
    again = withdraw(out, "P1", **_key(made))
    assert (again.samples, again.digest, again.earlier) == (0, first.digest, first.earlier)
    assert contents(out) == before


def test_an_id_that_names_nobody_changes_nothing(made: Path, out: Path) -> None:
    before = contents(out)
    with pytest.raises(InputError, match="names nobody") as raised:
        withdraw(out, "0000", **_key(made))
    assert "0000" not in str(raised.value)
    assert contents(out) == before


def test_what_cannot_be_taken_out_of_is_refused(made: Path, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("ab" * 32)
    other.chmod(0o600)
    with pytest.raises(StateError, match="another key"):
        withdraw(out, "P1", key_file=other)
    with files.lock(out), pytest.raises(StateError, match="is being written"):
        withdraw(out, "P1", **_key(made))
    (out / "retina-000003.tar").write_bytes(b"cut")
    with pytest.raises(ShardError, match="Nothing was taken out"):
        withdraw(out, "P1", **_key(made))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    factory.write_tar(foreign / "a-000000.tar", factory.sample_parts(1))
    shard_index.write(foreign, {})
    with pytest.raises(StateError, match="not made by ssl-retina shard"):
        withdraw(foreign, "P1", **_key(made))


def test_the_only_patient_of_a_set_is_refused(made: Path, out: Path) -> None:
    for patient in ("P0", "P1", "P2", "P3", "P4", "P5"):
        withdraw(out, patient, **_key(made))
    with pytest.raises(StateError, match="remove that folder instead"):
        withdraw(out, "P6", **_key(made))


def test_pages_about_the_set_go_with_the_patient(made: Path, out: Path) -> None:
    for name in module.DERIVED:
        (out / name).write_text("shows a photograph")
    withdraw(out, "P1", **_key(made))
    assert not any((out / name).exists() for name in module.DERIVED)


def _run_of(folder: Path, digest: str, step: int) -> None:
    state = folder / "checkpoints" / f"step-{step:08d}" / "state.json"
    state.parent.mkdir(parents=True)
    files.write_json(state, {"step": step, "data": {"digests": [digest]}})


def test_folders_that_cannot_be_looked_into_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of runs that leaves some out without a word would be believed."""
    digest = "a" * 64
    _run_of(tmp_path / "open", digest, 1)
    _run_of(tmp_path / "shut", digest, 1)
    _run_of(tmp_path / "half", digest, 1)
    _run_of(tmp_path.joinpath(*"1234567"), digest, 1)
    scandir = os.scandir

    def listed(folder: Path) -> object:
        if folder in (tmp_path / "shut", tmp_path / "half" / "checkpoints"):
            raise PermissionError(errno.EACCES, "closed")
        return scandir(folder)

    monkeypatch.setattr(exposure.os, "scandir", listed)
    found = exposure.find(tmp_path, [digest])
    assert [(one.kind, one.path) for one in found] == [
        ("unread", "1/2/3/4/5/6/7"),
        ("unread", "half"),
        ("run", "open"),
        ("unread", "shut"),
    ]
    _tell_runs(found, tmp_path)
    assert capsys.readouterr().err.count("NOT LOOKED INTO") == 3


def test_runs_that_have_seen_the_set_are_listed_also_after_a_second_withdrawal(
    made: Path, out: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    _run_of(runs / "deep" / "a", shards.read_index(out).digest, 10)
    _run_of(runs / "b", "0" * 64, 10)
    first = withdraw(out, "P1", **_key(made))
    _run_of(runs / "c", first.digest, 5)
    (runs / "deep" / "model").mkdir()
    (runs / "deep" / "model" / exposure.WEIGHTS).touch()
    (runs / "deep" / "model" / exposure.CARD).write_text(f"data: {first.earlier[0]}")
    arguments = ["withdraw", str(out), "--patient", "P2", "--key-file", str(made / "key")]
    done = CliRunner().invoke(app, [*arguments, "--runs", str(runs), "--json"])
    assert done.exit_code == 0, done.output
    assert "1 of them also lay under 1 other patient: they went too" in done.stderr
    found = [(one["kind"], one["path"], one["checkpoints"]) for one in json.loads(done.stdout)["seen_by"]]
    assert found == [
        ("run", "c", ["step-00000005"]),
        ("run", "deep/a", ["step-00000010"]),
        ("export", "deep/model", []),
    ]
    assert "trained on a set that held the patient" in json.loads(done.stdout)["meaning"]
    assert "P2" not in done.output
