"""Zeiss cubes: B-scans the right way up, no word of the name but the eye, other sizes refused (F38, F99)."""

import functools
from pathlib import Path

import factory
import numpy as np
import pytest
from oct_files import PATIENT, WORD, cube, cube_name, cube_scan
from photographs import contents, samples_of, shard

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import readers
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection

SIZES = ((512, 128), (200, 200))
made = functools.cache(cube)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["cube_raw", "cube_z"])
def test_b_scans_in_their_order_and_the_right_way_up(size: tuple[int, int], kind: str) -> None:
    width, count = size
    parts = readers.parts(made(width, count), f"a b/{cube_name(width, count, kind=kind)}")
    assert [part.place.slice for part in parts] == list(range(count))
    assert {(part.place.volume, part.place.slices) for part in parts} == {("", count)}
    for number in (0, 1, count - 1):
        picture = parts[number].decode()
        assert picture.modality == "oct"
        assert np.array_equal(picture.pixels[..., 1], cube_scan(number, width))
        assert picture.facts == {"eye": "OS", "eye_source": "vendor"}
        assert picture.notes == ("eye_unverified",)


def test_only_the_chosen_b_scans_are_decoded() -> None:
    taken = []
    for part in readers.parts(made(200, 200), cube_name(200, 200), Selection("every-50")):
        try:
            part.decode()
            taken.append(part.place.slice)
        except Rejected as refusal:
            assert refusal.reason == "not_selected"  # noqa: PT017
    assert taken == [24, 74, 124, 174]


@pytest.mark.parametrize("name", ["OD.img", "OD_OS.img", "OD_Macular Cube 200x200_1-2-2010_x_cube_z.IMG"])
def test_initials_of_a_patient_are_no_eye(name: str) -> None:
    picture = readers.parts(made(200, 200), name)[0].decode()
    assert (picture.facts, picture.notes) == ({}, ())


@pytest.mark.parametrize("change", [-1, 1, -(200 * 1024), 200 * 1024])
def test_f38_a_cube_of_another_size_is_refused(change: int) -> None:
    content = (made(200, 200) + bytes(200 * 1024))[: 200 * 200 * 1024 + change]
    with pytest.raises(Rejected, match=r"malformed: \d+ bytes are no cube of 512x128 or 200x200$"):
        readers.parts(content, cube_name(200, 200))


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(9000)])
def test_f38_other_files_of_that_suffix_are_refused(content: bytes) -> None:
    with pytest.raises(Rejected, match="malformed"):
        readers.parts(content, f"{WORD.decode()}.IMG")


def test_a_name_that_states_other_sizes_is_refused() -> None:
    with pytest.raises(
        Rejected, match="malformed: a cube of 200x200 by its bytes, of other sizes by its name"
    ):
        readers.parts(made(200, 200), cube_name(512, 128))


def test_a_photograph_of_that_suffix_is_a_photograph() -> None:
    part = readers.parts(factory.encoded(factory.pixels(1)), "a.img")[0]
    assert part.decode().pixels.shape == (64, 64, 3)


def test_f99_a_cube_becomes_samples_without_a_word_of_its_name(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    name = cube_name(200, 200)
    (source / name).write_bytes(made(200, 200))
    (source / cube_name(200, 200, kind="cube_z")).write_bytes(made(200, 200)[:-1])
    totals = shard(tmp_path, source, selection=Selection("central-3"))
    assert dict(totals.reasons) == {"not_selected": 197, "malformed": 1}
    assert totals.remarks["eye_unverified"] == 3
    samples = list(samples_of(tmp_path / "out").values())
    assert sorted(one["slice"] for one in samples) == [99, 100, 101]
    assert {(one["eye"], one["slices"], one["modality"]) for one in samples} == {("left", 200, "oct")}
    assert {one["volume"] for one in samples} == {pseudonyms.image(factory.KEY, name)}
    for content in contents(tmp_path / "out").values():
        for word in (WORD, PATIENT, b"44088", b"7-9-2010", b"Optic Disc"):
            assert word.lower() not in content.lower()
    assert b"are no cube of" in (tmp_path / "out" / shards.LEDGER_NAME).read_bytes()
