"""The way back from pseudonyms: it names the right person or nobody, and nobody who was withdrawn."""

import csv
import json
import struct
from pathlib import Path

import factory
import oct_files
import pytest
from dicom_objects import dataset, file
from photographs import damage_of, samples_of, save, shard, write_table

from ssl_retina import pseudonyms, shards
from ssl_retina.archive.build import Listener, Settings, build
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.archive.selection import Selection
from ssl_retina.errors import StateError

FIRST, SECOND = oct_files.PATIENT.decode(), "SECOND-8"


def _two_patients() -> bytes:
    """An E2E file of two series; the second is of another patient, and shows another eye."""
    raw = oct_files.e2e([2, 2], directory=False)
    series = struct.pack("<3I", 7, 40, 501)
    at = raw.index(series)
    second = raw[at:].replace(series, struct.pack("<3I", 8, 40, 501))
    for number in range(2):
        scans = [oct_files.packed(oct_files.reflectivity(one)).tobytes() for one in (number, number + 10)]
        second = second.replace(*scans)
    raw = raw[:at] + second.replace(bytes(range(240)) * 16, bytes(reversed(range(240))) * 16)
    word = oct_files.WORD
    who = struct.pack("<31s51s15sIs25s", word, word, b"", 19470513, b"F", SECOND.encode())
    raw = raw.replace(struct.pack("<12sI20s", b"MDbDir", 100, b""), struct.pack("<12sI20s", b"X", 100, b""))
    return raw + oct_files._chunk((8, 0, 0), -1, 0, 9, who)


def _read(path: Path, kind: str = "patient") -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["pseudonym"]: row["original"] for row in csv.DictReader(stream) if row["kind"] == kind}


def test_each_patient_of_a_file_is_named_and_nobody_after_their_withdrawal(tmp_path: Path) -> None:
    source, out = tmp_path / "archive", tmp_path / "out"
    save(source / "one.png", 1)
    (source / "two.E2E").write_bytes(_two_patients())
    shard(tmp_path, source, id_map=tmp_path / "map.csv")
    both = {pseudonyms.patient(factory.KEY, one): one for one in (FIRST, SECOND)}
    assert _read(tmp_path / "map.csv") == both
    pictures = _read(tmp_path / "map.csv", "image")
    withdraw(out, SECOND, key_file=tmp_path / "key")
    shard(tmp_path, source, id_map=tmp_path / "map.csv")
    assert list(_read(tmp_path / "map.csv").values()) == [FIRST]
    left = _read(tmp_path / "map.csv", "image")
    assert left.keys() == samples_of(out).keys()
    assert left.items() < pictures.items()
    assert damage_of(out) == ()


def test_a_withdrawn_patient_of_the_table_is_not_named(tmp_path: Path) -> None:
    rows = [["a.png", "P1"], ["b.png", "P2"], ["P1-cut.png", "P1"]]
    for number, (name, _) in enumerate(rows):
        save(tmp_path / "archive" / name, number)
    (tmp_path / "archive" / "P1-cut.png").write_bytes(b"")
    table = write_table(tmp_path / "t.csv", ["file", "patient"], rows)
    shard(tmp_path, tmp_path / "archive", table=table)
    withdraw(tmp_path / "out", "P1", key_file=tmp_path / "key")
    ledger = tmp_path / "out" / shards.LEDGER_NAME
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:  # sets of earlier versions do not say whose the rejected files are
        if line["key"] == pseudonyms.image(factory.KEY, "P1-cut.png"):
            line["reason"] = "not_an_image"
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shard(tmp_path, tmp_path / "archive", table=table, id_map=tmp_path / "map.csv")
    assert "P1" not in (tmp_path / "map.csv").read_text()
    assert list(_read(tmp_path / "map.csv", "image").values()) == ["b.png"]


def test_what_was_read_only_when_asked_for_is_named(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    eye = dataset(sop_class="1.2.840.10008.5.1.4.1.1.77.1.4", Modality="XC")
    (source / "a.dcm").write_bytes(file(eye))
    options = {"selection": Selection(also=("vl",)), "keep_other": True}
    shard(tmp_path, source, id_map=tmp_path / "map.csv", **options)
    assert list(_read(tmp_path / "map.csv").values()) == [str(eye.PatientID)]


def test_a_file_that_has_vanished_is_a_gap_that_is_counted(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    save(source / "one.png", 1)
    (source / "a.dcm").write_bytes(file(dataset()))
    factory.write_key(tmp_path / "key")
    notes: list[str] = []

    def vanish(done: int, total: int) -> None:
        if done == total:
            (source / "a.dcm").unlink(missing_ok=True)

    settings = Settings(key_file=tmp_path / "key", processes=1, id_map=tmp_path / "map.csv")
    assert build(source, tmp_path / "out", settings, Listener(notes.append, vanish)).patients == 1
    assert _read(tmp_path / "map.csv") == {}
    assert [note for note in notes if "lacks 1 patients" in note]


def test_it_lies_in_no_shards_and_no_checkout(tmp_path: Path) -> None:
    save(tmp_path / "archive" / "one.png", 1)
    shard(tmp_path, tmp_path / "archive", "other")
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    for folder, words in (("other", "which holds shards"), ("checkout", "git checkout")):
        with pytest.raises(StateError, match=words):
            shard(tmp_path, tmp_path / "archive", id_map=tmp_path / folder / "map.csv")
    assert not (tmp_path / "out").exists()
