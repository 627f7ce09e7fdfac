"""F99: nothing of a patient in any byte that the archive step writes or prints, whatever carried it."""

import base64
import json
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import factory
import numpy as np
import pydicom
import pytest
from photographs import contents, save, shard, write_table
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ssl_retina.archive import stage
from ssl_retina.archive.pixels.encode import Encoding

CANARIES = ("Zywickovna", "QX77319540", "19470513")
"""A name, a record number and a birth date that stand nowhere else."""
NAME, RECORD, BIRTH = CANARIES
WORD = f"{NAME}^JANE {RECORD} {BIRTH}"


def _forms(canary: str) -> Iterator[bytes]:
    """How a word may hide in a file (compared in lower case)."""
    for text in (canary, canary[::-1], canary.upper()):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            raw = text.encode(encoding)
            yield raw
            yield raw.hex().encode()
            for shift in range(3):
                coded = base64.b64encode(b"\0" * shift + raw)
                yield coded[4 if shift else 0 : -4]
    yield base64.b32encode(canary.encode())[:-8]


def _found(content: bytes) -> list[bytes]:
    low = content.lower()
    return [form for canary in CANARIES for form in _forms(canary) if form.lower() in low]


def _archive(folder: Path) -> tuple[Path, Path]:
    """One file for each carrier, good ones and broken ones, under a folder that names the patient too."""
    place = folder / "archive" / f"{NAME} {RECORD}"
    place.mkdir(parents=True)
    picture = [Image.fromarray(factory.pixels(number, size=64)) for number in range(8)]
    save(place / f"{NAME}_{BIRTH}_OD.jpg", 0)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = WORD, WORD, WORD
    picture[1].save(place / "exif.jpg", exif=exif, comment=WORD.encode())
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", WORD)
    texts.add_text("Packed", WORD, zip=True)
    texts.add_itxt("International", WORD)
    picture[2].save(place / "text.png", pnginfo=texts)
    picture[3].save(place / "tags.tif", tiffinfo={270: WORD, 315: WORD, 65000: WORD})
    _dicom(place / f"{RECORD}.dcm", np.asarray(picture[4]))
    picture[5].save(place / "xmp.jpg", xmp=f"<x>{WORD}</x>".encode())
    (place / "cut.jpg").write_bytes(factory.encoded(factory.pixels(6))[:900] + WORD.encode())
    (place / "page.jpg").write_text(f"<html>{WORD}</html>")
    whole = (place / f"{RECORD}.dcm").read_bytes()
    (place / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (place / "wild.dcm").write_bytes(whole[:400] + WORD.encode() * 40)
    (place / f"{NAME}.link").symlink_to(f"/{WORD}")
    rows = [
        [f"{NAME}_{BIRTH}_OD.jpg", RECORD, "R", "2020-01-02", WORD, f"{NAME}, was seen"],
        ["absent", WORD, "", "", "", ""],
    ]
    header = ["file", "patient id", "eye", "visit", "diagnosis", "remarks"]
    return folder / "archive", write_table(folder / "table.csv", header, rows)


def _dicom(path: Path, pixels: np.ndarray) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{BIRTH}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = f"{NAME}^JANE", RECORD, BIRTH
    data.StudyDate, data.ImageComments, data.InstitutionName = BIRTH, WORD, NAME
    data.ManufacturerModelName, data.DeviceSerialNumber = f"Topcon {NAME}", RECORD
    data.Modality, data.ImageLaterality = "OP", "L"
    inner = Dataset()
    inner.RequestingPhysician, inner.PatientComments = NAME, WORD
    data.RequestAttributesSequence = [inner]
    data.add_new(0x00091001, "LO", WORD)
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PlanarConfiguration, data.PhotometricInterpretation = 3, 0, "RGB"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def _run(folder: Path, source: Path, table: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ssl_retina", "shard", str(source), "--out", str(folder / "out")]
    command += ["--table", str(table), "--key-file", str(factory.write_key(folder / "key"))]
    command += ["--processes", "1", "--json", *options]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, "COLUMNS": "400"})


@pytest.mark.parametrize("options", [(), ("--lossless",)], ids=["jpeg", "png"])
def test_f99_no_canary_in_any_byte(tmp_path: Path, options: tuple[str, ...]) -> None:
    source, table = _archive(tmp_path)
    assert _found(b"".join(contents(source).values())), "the carriers carry nothing"
    done = _run(tmp_path, source, table, *options)
    assert done.returncode == 0, done.stderr.decode()
    counts = json.loads(done.stdout)
    assert set(counts) == {"scanned", "written", "rejected", "duplicates", "patients", "shards"}
    assert (counts["scanned"], counts["written"], counts["rejected"]) == (11, 6, 5)
    assert counts["patients"] == 1  # the table's and the DICOM file's record number are one patient
    assert _found(done.stdout) == []
    assert _found(done.stderr) == []
    for name, content in contents(tmp_path / "out").items():
        assert _found(name.encode()) == [], name
        assert _found(content) == [], name
    assert set(_chunks(tmp_path / "out")) <= {b"IHDR", b"IDAT", b"IEND"} | {
        *(b"\xff\xe0", b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda")
    }


def _chunks(out: Path) -> Iterator[bytes]:
    """The kinds of PNG chunks and JPEG segments in all shards: where a stowaway would sit."""
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                content = stream.read() if stream else b""
                if member.name.endswith(".png"):
                    at = 8
                    while at < len(content):
                        (size,) = struct.unpack(">I", content[at : at + 4])
                        yield content[at + 4 : at + 8]
                        at += 12 + size
                elif member.name.endswith(".jpg"):
                    at = 2
                    while (kind := content[at : at + 2]) != b"\xff\xda":
                        yield kind
                        at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]


def test_f99_no_canary_in_the_work_folder_of_a_killed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, table = _archive(tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "records", stop)
    with pytest.raises(KeyboardInterrupt):
        shard(tmp_path, source, table=table, encoding=Encoding(lossless=True))
    left = contents(tmp_path / "out")
    assert any(name.endswith("chunk-000001.json") for name in left)
    for name, content in left.items():
        assert _found(content) == [], name


def test_f100_a_user_error_repeats_no_word_of_table_or_archive(tmp_path: Path) -> None:
    """Mistakes in the command: the message names the user's own arguments, never a cell or a file."""
    source, table = _archive(tmp_path)
    for options in (("--map", "device=remarks"), ("--map", "split=diagnosis"), ("--map", "file=diagnosis")):
        done = _run(tmp_path, source, table, *options)
        assert done.returncode == 2, done.stderr.decode()
        assert done.stdout == b""
        assert _found(done.stderr) == []
        assert b"Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["table", "pattern"])
def test_f99_a_device_that_names_patients_is_refused_before_anything_is_written(
    tmp_path: Path, source: str
) -> None:
    """Words that pass as a device's name: only who was photographed with them tells."""
    archive = tmp_path / "names"
    people = (f"{NAME} Jane", "Anna Smith", "John Doe")
    for number, person in enumerate(people):
        save(archive / f"{person}_OD.png", number)
    rows = [[f"{person}_OD.png", number, person] for number, person in enumerate(people)]
    header = ["file", "patient", "device"]
    if source == "pattern":
        header[2] = "notes"
    table = write_table(tmp_path / "t.csv", header, rows)
    done = _run(tmp_path, archive, table, *(("--pattern", "{device}_{eye}") if source == "pattern" else ()))
    assert done.returncode == 2, done.stderr.decode()
    assert b"look like patients" in done.stderr
    assert _found(done.stderr) == []
    assert not (tmp_path / "out").exists()


def test_the_search_finds_what_it_looks_for() -> None:
    for canary in CANARIES:
        for raw in (canary.encode(), canary.encode("utf-16-le"), canary.encode().hex().encode()):
            assert _found(b"xx" + raw + b"yy")
        for shift in range(3):
            assert _found(base64.b64encode(b"a" * shift + canary.encode() + b"zz"))
