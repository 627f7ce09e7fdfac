"""F99: identifiers planted in every carrier are in no byte that `shard`, `inspect`, `withdraw` leave."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import factory
import numpy as np
import pydicom
import pytest
from photographs import contents, write_table
from PIL import Image, PngImagePlugin
from test_privacy import BIRTH, NAME, RECORD, WORD, _dicom, _found

OTHER = "Second patient"
"""A record number that is none of the canaries: the set is not empty once they are withdrawn."""


def _picture(number: int) -> Image.Image:
    return Image.fromarray(factory.pixels(number, size=64))


def _jpeg(number: int, **options: object) -> bytes:
    stream = io.BytesIO()
    _picture(number).save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _photographs() -> Iterator[tuple[str, bytes]]:
    """Pictures that decode, each with words in another place."""
    word = WORD.encode()
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286], exif[0xC4A5] = WORD, WORD, WORD, word
    exif.get_ifd(0x8825)[0x1D] = WORD
    yield "exif.jpg", _jpeg(1, exif=exif)
    yield "comment.jpg", _jpeg(2, comment=word)
    yield "xmp.jpg", _jpeg(3, xmp=f"<x>{WORD}</x>".encode())
    plain = _jpeg(4)
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + struct.pack(">I", len(word) + 5)
    iptc += b"\x1c\x02\x78" + struct.pack(">H", len(word)) + word
    yield "iptc.jpg", plain[:2] + _segment(0xED, iptc) + plain[2:]
    yield "icc.jpg", _jpeg(5, icc_profile=b"\0" * 128 + word)
    yield "behind.jpg", _jpeg(6) + word
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", WORD)
    texts.add_text("Packed", WORD, zip=True)
    texts.add_itxt("International", WORD, lang=NAME[:8])
    stream = io.BytesIO()
    _picture(7).save(stream, "PNG", pnginfo=texts, exif=exif)
    png = stream.getvalue()
    yield (
        "text.png",
        png[:-12] + _chunk(b"paTi", word) + _chunk(b"tIME", b"\x07\x9b\x05\x0d\0\0\0") + png[-12:],
    )
    stream = io.BytesIO()
    _picture(8).save(stream, "TIFF", tiffinfo={269: WORD, 270: WORD, 306: BIRTH, 315: WORD, 65000: WORD})
    yield "tags.tif", stream.getvalue()
    stream = io.BytesIO()
    _picture(9).save(stream, "BMP")
    yield "behind.bmp", stream.getvalue() + word


def _broken() -> Iterator[tuple[str, bytes]]:
    """Files that are refused: what a parser says of them may quote them."""
    word = WORD.encode()
    yield "header.e2e", b"CMDb" + b"\0" * 32 + word + WORD.encode("utf-16-le") * 9
    yield "header.fda", b"FOCTFDA" + word * 9
    yield "header.vol", b"HSF-OCT-103" + word * 300
    yield "cut.jpg", factory.encoded(factory.pixels(10))[:900] + word
    yield "page.jpg", f"<html>{WORD}</html>".encode()
    yield "notes.txt", word
    yield "damaged.zip", b"PK\x03\x04" + word * 9


def _containers(place: Path) -> None:
    """A ZIP and a tar with words in their own fields, each with a photograph."""
    with zipfile.ZipFile(place / f"{NAME}.zip", "w") as archive:
        member = zipfile.ZipInfo(f"{NAME} {RECORD}/{BIRTH}_OS.jpg", (1980, 1, 1, 0, 0, 0))
        member.comment = WORD.encode()
        member.extra = struct.pack("<HH", 0xCAFE, len(WORD)) + WORD.encode()
        archive.writestr(member, _jpeg(11))
        archive.comment = WORD.encode()
    with tarfile.open(
        place / "more.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": WORD}
    ) as tar:
        info = tarfile.TarInfo(f"{NAME}/{RECORD}.png")
        stream = io.BytesIO()
        _picture(12).save(stream, "PNG")
        info.size, info.uname, info.gname = len(stream.getvalue()), NAME, NAME
        info.pax_headers = {"patient": WORD}
        tar.addfile(info, io.BytesIO(stream.getvalue()))


def _overlaid(path: Path) -> None:
    """A DICOM object whose overlay, nested and private elements carry words, and its preamble."""
    _dicom(path, np.asarray(_picture(13)))
    data = pydicom.dcmread(path)
    data.add_new(0x60000022, "LO", WORD)
    data.add_new(0x60001500, "LO", WORD)
    data.add_new(0x60003000, "OW", WORD.encode() + b"\0" * (len(WORD) % 2))
    data.ManufacturerModelName = f"CAM {NAME}"
    data.OtherPatientNames, data.AccessionNumber, data.StudyID = NAME, RECORD, RECORD
    data.preamble = WORD.encode().ljust(128, b"\0")[:128]
    data.save_as(path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive, its table and the key."""
    folder = tmp_path_factory.mktemp("planted")
    place = folder / "archive" / f"{NAME} {RECORD}"
    place.mkdir(parents=True)
    for name, content in (*_photographs(), *_broken()):
        (place / name).write_bytes(content)
    (place / f"{NAME}_{BIRTH}_OD.jpg").write_bytes(_jpeg(0))
    _containers(place)
    _overlaid(place / f"{RECORD}.dcm")
    (place / f"{NAME}.link").symlink_to(f"/{WORD}")
    rows = [
        [f"{NAME}_{BIRTH}_OD.jpg", RECORD, "R", "1947-05-13", WORD, f"{NAME}, was seen", 95],
        ["comment.jpg", OTHER, "L", "2020-01-02", WORD, WORD, 61],
        ["absent", WORD, "", "", "", "", ""],
    ]
    header = ["file", "patient id", "eye", "visit", "diagnosis", f"remarks of {NAME}", "age"]
    write_table(folder / "table.csv", header, rows)
    factory.write_key(folder / "key")
    return folder


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ssl_retina", *arguments]
    return subprocess.run(
        command, capture_output=True, check=False, cwd=folder, env={**os.environ, "COLUMNS": "400"}
    )


def _packed(content: bytes) -> Iterator[bytes]:
    """What lies inside compressed streams: wherever a zlib or gzip header may begin."""
    at = 0
    while (at := content.find(b"\x78", at)) >= 0:
        if not int.from_bytes(content[at : at + 2], "big") % 31:  # the header's own check
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj().decompress(content[at : at + 65536], 1 << 18)
        at += 1


def _nowhere(content: bytes, where: str) -> None:
    assert _found(content) == [], where
    for inner in _packed(content):
        assert _found(inner) == [], f"{where}, unpacked"


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--lossless",)], ids=["jpeg", "png"])
def test_f99_no_planted_word_is_in_any_output(
    planted: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    carriers = b"".join(contents(planted / "archive").values())
    assert len(_found(carriers)) > 6
    out, command = tmp_path / "out", ["--key-file", str(planted / "key")]
    said = _run(
        *(
            planted,
            "shard",
            str(planted / "archive"),
            "--out",
            str(out),
            "--table",
            str(planted / "table.csv"),
        ),
        *("--map", "age=age", "--dates", "shift", "--processes", "1", "--json", *command, *options),
    )
    assert said.returncode == 0, said.stderr.decode()
    counts = json.loads(said.stdout)
    assert counts["written"] >= 12  # each carrier of words that decodes is a sample
    page = tmp_path / "page.html"
    shown = _run(planted, "inspect", str(out), "--json", "--datasheet", str(page))
    assert shown.returncode == 0, shown.stderr.decode()
    _search(out, said, shown)
    _nowhere(page.read_bytes(), "the datasheet")
    if options:
        return
    gone = _run(planted, "withdraw", str(out), "--patient", RECORD, "--json", *command)
    assert gone.returncode == 0, gone.stderr.decode()
    assert json.loads(gone.stdout)["samples"] >= 2  # the table's and the DICOM file's
    nobody = _run(planted, "withdraw", str(out), "--patient", f"{RECORD}0", "--json", *command)
    assert json.loads(nobody.stdout)["samples"] == 0
    _search(out, gone, nobody)


def _search(out: Path, *said: subprocess.CompletedProcess[bytes]) -> None:
    for one in said:
        _nowhere(one.stdout, "stdout")
        _nowhere(one.stderr.replace(os.fsencode(out), b""), "stderr")
    for name, content in contents(out).items():
        _nowhere(name.encode(), "a name")
        _nowhere(content, name)


def test_the_search_looks_inside_compressed_streams() -> None:
    assert [_found(inner) for inner in _packed(b"ab" + zlib.compress(WORD.encode()))][0]
