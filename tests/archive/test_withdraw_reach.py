"""How far a withdrawal reaches: rejected files, files that come later, what killed runs left, linked runs."""

import json
import os
from pathlib import Path
from typing import Any

import factory
import pytest
from dicom_objects import encapsulate, file, volume
from photographs import contents, damage_of, samples_of, save, shard, write_table
from pydicom.uid import JPEGBaseline8Bit
from typer.testing import CliRunner

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import output
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.withdraw import DERIVED, withdraw
from ssl_retina.cli import app
from ssl_retina.errors import InputError
from ssl_retina.release import exposure

ROWS = [("a.png", "P0"), ("b.png", "P1"), ("c.png", "P2"), ("cut1.png", "P1"), ("cut3.png", "P3")]
"""P1 has a photograph and a file that cannot be read, P3 such a file alone."""
DEVICES = {"P0": "Topcon NW400", "P1": "Canon CX-1"}


def _archive(folder: Path, more: tuple[tuple[str, str], ...] = (), without: str = "") -> Settings:
    rows = [row for row in (*ROWS, *more) if row[1] != without]
    for name, _ in rows:
        path = folder / "archive" / name
        if not path.exists():
            save(path, sum(name.encode()), size=40)
        if name.startswith("cut"):
            path.write_bytes(name.encode())
    stated = [[name, who, DEVICES.get(who, "")] for name, who in rows]
    table = write_table(folder / "t.csv", ["file", "patient", "device"], stated)
    return Settings(table=table, key_file=folder / "key", processes=1)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with an archive and its set `out`."""
    settings = _archive(tmp_path)
    shard(tmp_path, tmp_path / "archive", table=settings.table)
    return tmp_path


def _ledger(out: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, (out / shards.LEDGER_NAME).read_text().splitlines())
    return {line["key"]: line for line in lines}


def _grow(folder: Path, *more: tuple[str, str]) -> Any:
    return append(folder / "archive", folder / "out", _archive(folder, more), Listener())


def _is_in_no_byte(out: Path, patient: str) -> bool:
    word = pseudonyms.patient(factory.KEY, patient).encode()
    return not any(word in content for content in contents(out).values())


def test_rejected_files_of_the_patient_are_withdrawn_and_may_then_go(made: Path) -> None:
    out = made / "out"
    assert not _is_in_no_byte(out, "P3")  # the ledger alone says whose the rejected files are
    done = withdraw(out, "P1", key_file=made / "key")
    assert (done.samples, done.files) == (1, 2)
    totals = shards.read_index(out).facts["totals"]
    assert totals["reasons"] == {"not_an_image": 1, "withdrawn": 2}
    assert (totals["scanned"], totals["written"], totals["rejected"]) == (5, 2, 3)
    line = _ledger(out)[pseudonyms.image(factory.KEY, "cut1.png")]
    assert (line["reason"], line["source"], line["detail"]) == ("withdrawn", "", "")
    assert _is_in_no_byte(out, "P1")
    for name in ("b.png", "cut1.png", "cut3.png"):  # the last was rejected: nothing hangs on it
        (made / "archive" / name).unlink()
    rows = [[name, who] for name, who in (*ROWS, ("d.png", "P4")) if (made / "archive" / name).exists()]
    save(made / "archive" / "d.png", 9, size=40)
    settings = Settings(
        table=write_table(made / "t.csv", ["file", "patient"], [*rows, ["d.png", "P4"]]),
        key_file=made / "key",
        processes=1,
    )
    assert append(made / "archive", out, settings, Listener()).written == 3
    assert damage_of(out) == ()


@pytest.mark.parametrize(("patient", "files_found"), [("P3", 1), ("P7", 0)])
def test_a_patient_without_a_photograph_is_marked_and_told(
    made: Path, patient: str, files_found: int
) -> None:
    out, key = made / "out", str(made / "key")
    before = samples_of(out)
    arguments = ["withdraw", str(out), "--patient", patient, "--key-file", key, "--json"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    assert (answer["samples"], answer["files"], answer["earlier"]) == (0, files_found, [])
    assert "WARNING" in told.stderr
    assert "holds no photograph of this patient" in told.stderr
    assert ("rejected files of theirs" in told.stderr) == bool(files_found)
    assert samples_of(out) == before
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["again"]
    totals = _grow(made, ("later.png", patient), ("cut-later.png", patient))
    assert totals.reasons["withdrawn"] == 2 + files_found
    late = _ledger(out)[pseudonyms.image(factory.KEY, "later.png")]
    assert (late["reason"], late["source"]) == ("withdrawn", "")
    assert _is_in_no_byte(out, patient)
    assert damage_of(out) == ()


def test_what_killed_runs_left_goes_with_the_patient(made: Path) -> None:
    """An append that was killed keeps pixels and pseudonyms of everybody in the work folder."""
    out = made / "out"
    for patient in ("P1", "P1", "P3"):
        (out / output.WORK_NAME).mkdir()
        (out / output.WORK_NAME / "chunk-000000.bin").write_bytes(b"photograph")
        (out / ".datasheet.html.tmp-1").write_bytes(b"photograph")
        withdraw(out, patient, key_file=made / "key")
        assert not (out / output.WORK_NAME).exists()
        assert not any(b"photograph" in content for content in contents(out).values())


def test_the_counts_are_those_of_a_build_without_the_patient(made: Path, tmp_path: Path) -> None:
    withdraw(made / "out", "P1", key_file=made / "key")
    for name in ("b.png", "cut1.png"):
        (made / "archive" / name).unlink()
    fresh = shard(made, made / "archive", "fresh", table=_archive(made, without="P1").table)
    remarks = shards.read_index(made / "out").facts["totals"]["remarks"]
    assert sum("Topcon" in name for name in remarks) == 1
    assert not any("Canon" in name for name in remarks)
    assert remarks == dict(fresh.remarks)


def test_rejected_slices_of_a_withdrawn_volume_keep_their_reason_alone(tmp_path: Path) -> None:
    save(tmp_path / "archive" / "one.png", 1)
    save(tmp_path / "archive" / "two.png", 2)
    scans = [factory.encoded(factory.pixels(number, size=96)) for number in range(3)]
    made = volume(3, PixelData=encapsulate([scans[0], scans[1][:-300], scans[2]]))
    made.Rows = made.Columns = 96
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "YBR_FULL_422", 0
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    (tmp_path / "archive" / "volume.dcm").write_bytes(file(made))
    assert dict(shard(tmp_path, tmp_path / "archive").reasons) == {"truncated": 1}
    out = tmp_path / "out"
    assert withdraw(out, "4711", key_file=tmp_path / "key").samples == 2
    line = _ledger(out)[pseudonyms.part(factory.KEY, "volume.dcm", "frame 1")]
    file_key = pseudonyms.image(factory.KEY, "volume.dcm")
    assert line == {
        **{"key": line["key"], "file": file_key, "outcome": "rejected", "reason": "truncated"},
        **{"detail": "", "source": ""},
    }
    (tmp_path / "archive" / "later.dcm").write_bytes(file(volume(1, PatientID="4711")))
    settings = Settings(key_file=tmp_path / "key", processes=1)
    assert append(tmp_path / "archive", out, settings, Listener()).reasons["withdrawn"] == 3
    late = _ledger(out)[pseudonyms.image(factory.KEY, "later.dcm")]
    assert (late["reason"], late["source"], "patient" in late) == ("withdrawn", "", False)


def test_pages_about_the_set_are_not_those_of_before_an_append(made: Path) -> None:
    for name in DERIVED:
        (made / "out" / name).write_text("of the smaller set")
    assert _grow(made, ("d.png", "P4")).written == 4
    assert not any((made / "out" / name).exists() for name in DERIVED)


def test_an_append_needs_a_set(made: Path) -> None:
    with pytest.raises(InputError, match="holds no complete set yet, and --append adds to one"):
        append(made / "archive", made / "none", _archive(made), Listener())
    assert not (made / "none").exists()


def test_without_a_folder_of_runs_the_patient_goes_and_the_folder_is_told(made: Path) -> None:
    arguments = ["withdraw", str(made / "out"), "--patient", "P1", "--key-file", str(made / "key"), "--json"]
    (made / "file").touch()
    refused = CliRunner().invoke(app, [*arguments, "--runs", str(made / "file")])
    assert isinstance(refused.exception, InputError)
    assert "is no folder" in str(refused.exception)
    assert len(samples_of(made / "out")) == 3
    done = CliRunner().invoke(app, [*arguments, "--runs", str(made / "runs")])
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["samples"], json.loads(done.stdout)["seen_by"]) == (1, None)
    assert f"WARNING: {made / 'runs'} does not exist: no run and no export was looked at" in done.stderr
    assert "id maps" in done.stderr
    assert "features" in done.stderr


def test_linked_runs_are_found_and_circles_end(tmp_path: Path) -> None:
    digest, runs = "a" * 64, tmp_path / "runs"
    for name in ("scratch/far", "runs/near"):
        state = tmp_path / name / "checkpoints" / "step-00000001" / "state.json"
        state.parent.mkdir(parents=True)
        files.write_json(state, {"data": {"digests": [digest]}})
    os.symlink(tmp_path / "scratch" / "far", runs / "linked")
    os.symlink(runs, runs / "near" / "circle")
    os.symlink(runs / "near", runs / "again")
    os.symlink(tmp_path / "nothing", runs / "broken")
    os.symlink(runs / "itself", runs / "itself")
    found = [(one.kind, one.path) for one in exposure.find(runs, [digest])]
    assert found == [("run", "linked"), ("run", "near")]
