"""Files of several pictures: each is a record with its own key, line, reason and place (F13, F26, F37)."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from dicom_objects import b_scan, encapsulated, file, jpeg, volume
from photographs import samples_of, save, shard
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import worker
from ssl_retina.archive.readers import dicom, images
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection
from ssl_retina.errors import InputError


def _ledger(out: Path) -> dict[str, dict[str, str]]:
    lines = map(json.loads, (out / shards.LEDGER_NAME).read_text().splitlines())
    return {line["key"]: line for line in lines}


def _pages(count: int, kind: str = "TIFF") -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(factory.pixels(number)) for number in range(count))
    first.save(stream, kind, save_all=True, append_images=others)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("frames", "count", "taken"),
    [
        *(("all", 3, [0, 1, 2]), ("every-2", 7, [0, 2, 4, 6]), ("every-3", 7, [0, 3, 6])),
        *(("every-4", 8, [1, 5]), ("every-9", 3, [1]), ("central-1", 5, [2]), ("central-3", 8, [3, 4, 5])),
        *(("central-9", 4, [0, 1, 2, 3]), ("every-5", 1, [0])),
    ],
)
def test_which_slices_are_taken(frames: str, count: int, taken: list[int]) -> None:
    assert list(Selection(frames).slices(count)) == taken


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"frames": "every-0"}, "--frames every-0"), ({"pages": "2"}, "--pages 2"), ({"also": ("ct",)}, "ct")],
)
def test_an_unknown_selection_is_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Selection(**settings)


def test_a_volume_becomes_samples_with_their_place(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    save(source / "one.png", 1)
    (source / "volume.dcm").write_bytes(file(volume(5)))
    totals = shard(tmp_path, source, frames := "out", id_map=tmp_path / "map.csv")
    assert (totals.scanned, totals.written, totals.patients) == (6, 6, 1)
    samples = samples_of(tmp_path / frames)
    keys = [pseudonyms.part(factory.KEY, "volume.dcm", f"frame {number}") for number in range(5)]
    place = [(samples[key]["volume"], samples[key]["slice"], samples[key]["slices"]) for key in keys]
    assert place == [(pseudonyms.image(factory.KEY, "volume.dcm"), number, 5) for number in range(5)]
    assert {samples[key]["modality"] for key in keys} == {"oct"}
    alone = samples[pseudonyms.image(factory.KEY, "one.png")]
    assert (alone["volume"], alone["slice"], alone["slices"]) == (None, None, None)
    ledger = _ledger(tmp_path / frames)
    assert ledger[keys[3]] | {"place": "frame 3"} == ledger[keys[3]]
    assert "place" not in ledger[alone["key"]]
    with (tmp_path / "map.csv").open(newline="") as stream:
        ways_back = {row["pseudonym"]: row["original"] for row in csv.DictReader(stream)}
    assert ways_back[keys[3]] == "volume.dcm frame 3"
    assert ways_back[pseudonyms.patient(factory.KEY, "4711")] == "4711"


def test_slices_that_are_not_taken_have_their_line(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    (source / "volume.dcm").write_bytes(file(volume(5)))
    totals = shard(tmp_path, source, selection=Selection("central-2"))
    assert (totals.scanned, totals.written, dict(totals.reasons)) == (5, 2, {"not_selected": 3})
    assert {one["slice"] for one in samples_of(tmp_path / "out").values()} == {2, 3}


def test_f37_one_bad_slice_leaves_the_volume(tmp_path: Path) -> None:
    """Six good frames, one cut, one of another size."""
    source = tmp_path / "archive"
    source.mkdir()
    stream = io.BytesIO()
    Image.fromarray(b_scan(1)[:, :40]).save(stream, "JPEG")
    good = [_grey_jpeg(number) for number in range(6)]
    made = volume(8, PixelData=encapsulate([*good[:3], good[3][:-300], stream.getvalue(), *good[3:]]))
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    (source / "volume.dcm").write_bytes(file(made))
    totals = shard(tmp_path, source)
    assert (totals.scanned, totals.written) == (8, 6)
    assert dict(totals.reasons) == {"truncated": 1, "bad_geometry": 1}
    assert sorted(one["slice"] for one in samples_of(tmp_path / "out").values()) == [0, 1, 2, 5, 6, 7]


def _grey_jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(b_scan(number)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_frames_decode_to_their_own_pixels() -> None:
    """Native, and packed with RLE."""
    packed = volume(4)
    packed.compress(RLELossless)
    for made in (volume(4), packed):
        pixels = [part.decode().pixels[..., 0] for part in dicom.parts(file(made))]
        assert all(np.array_equal(found, b_scan(number)) for number, found in enumerate(pixels))


def test_in_stack_positions_and_the_eye_of_a_frame() -> None:
    groups = []
    for position, eye in ((3, "R"), (1, "L"), (2, "L")):
        group, content, anatomy = Dataset(), Dataset(), Dataset()
        content.InStackPositionNumber, anatomy.FrameLaterality = position, eye
        group.FrameContentSequence, group.FrameAnatomySequence = [content], [anatomy]
        groups.append(group)
    made = volume(3, PerFrameFunctionalGroupsSequence=groups, ImageLaterality=None)
    parts = dicom.parts(file(made))
    assert [part.place.slice for part in parts] == [2, 0, 1]
    assert [part.decode().facts["eye"] for part in parts] == ["R", "L", "L"]
    content.InStackPositionNumber = 7
    assert [part.place.slice for part in dicom.parts(file(made))] == [0, 1, 2]


def test_frames_of_a_photograph_are_no_volume() -> None:
    frame = jpeg()
    made = encapsulated(frame, JPEGBaseline8Bit, NumberOfFrames=2)
    made.PixelData = encapsulate([frame, frame])
    parts = dicom.parts(file(made), Selection("central-1"))
    assert [part.place.name for part in parts] == ["frame 0", "frame 1"]
    assert {part.place.volume for part in parts} == {None}
    assert parts[1].decode().modality == "fundus"
    made.NumberOfFrames = 5
    with pytest.raises(Rejected, match=r"bad_geometry|malformed"):
        dicom.parts(file(made))


def test_without_a_patient_all_pictures_of_a_file_are_one_group(tmp_path: Path) -> None:
    """Also where two files share a slice."""
    source = tmp_path / "archive"
    source.mkdir()
    (source / "a.dcm").write_bytes(file(volume(3, PatientID="")))
    shared = b"".join(b_scan(number).tobytes() for number in (2, 7, 8))
    (source / "b.dcm").write_bytes(file(volume(3, PatientID="", PixelData=shared)))
    far = b"".join(b_scan(number).tobytes() for number in (20, 21))
    (source / "c.dcm").write_bytes(file(volume(2, PatientID="", PixelData=far)))
    totals = shard(tmp_path, source)
    assert (totals.scanned, totals.written, totals.duplicates) == (8, 7, 1)
    groups = {one["volume"]: one["group"] for one in samples_of(tmp_path / "out").values()}
    a, b, c = (pseudonyms.image(factory.KEY, f"{name}.dcm") for name in "abc")
    assert groups == {a: min(a, b), b: min(a, b), c: c}


def test_f13_pages_are_refused_or_taken(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    (source / "pages.tif").write_bytes(_pages(3))
    save(source / "one.png", 9)
    assert dict(shard(tmp_path, source, "refuse").reasons) == {"pages": 1}
    first = shard(tmp_path, source, "first", selection=Selection(pages="first"))
    assert (first.scanned, first.written, dict(first.reasons)) == (4, 2, {"not_selected": 2})
    assert shard(tmp_path, source, "all", selection=Selection(pages="all")).written == 4
    keys = [pseudonyms.part(factory.KEY, "pages.tif", f"page {number}") for number in range(3)]
    samples = samples_of(tmp_path / "all")
    assert {samples[key]["group"] for key in keys} == {pseudonyms.image(factory.KEY, "pages.tif")}
    assert {samples[key]["volume"] for key in keys} == {None}


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_f13_every_page_is_its_own_picture(kind: str) -> None:
    parts = images.parts(_pages(3, kind), Selection(pages="all"))
    for number, part in enumerate(parts):
        assert np.abs(part.decode().pixels.astype(int) - factory.pixels(number)).mean() < 12, number
    alone = images.parts(_pages(1, kind), Selection(pages="all"))
    assert [part.place.name for part in alone] == [""]


def test_bad_slices_are_no_broken_mount() -> None:
    """A file counts once for the limit, and only where all its pictures failed alike (F15)."""
    good, bad = {"key": "a"}, {"key": "b", "reason": "unexpected"}
    assert worker._reason([bad] * 60) == "unexpected"
    assert worker._reason([bad] * 60 + [good]) == ""
    assert worker._reason([good]) == ""
