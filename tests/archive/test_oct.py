"""Makers' OCT files: pixels and places, no word of the header, every damage a reason (F37, F38, F99)."""

import json
from collections.abc import Callable
from pathlib import Path

import factory
import numpy as np
import oct_files
import pytest
from oct_files import HEIGHT, PATIENT, WIDTH, WORD, reflectivity
from photographs import contents, shard

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import readers
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection

KINDS: dict[str, Callable[[], bytes]] = {
    "a.vol": lambda: oct_files.vol(3),
    "a.E2E": lambda: oct_files.e2e([3]),
    "a.fda": lambda: oct_files.fda(3),
    "a.fds": lambda: oct_files.fds(3),
}


def _scans(content: bytes, name: str) -> list[np.ndarray]:
    """The B-scans in the order of their place."""
    parts = [part for part in readers.parts(content, name) if part.place.slice is not None]
    return [part.decode().pixels[..., 0] for part in sorted(parts, key=lambda one: one.place.slice or 0)]


@pytest.mark.parametrize("name", KINDS)
def test_b_scans_in_their_order(name: str) -> None:
    scans = _scans(KINDS[name](), name)
    assert len(scans) == 3
    for number, scan in enumerate(scans):
        expected = oct_files.shown(reflectivity(number))
        if name == "a.fds":  # 16 bits are stretched over the range in use
            low, high = np.quantile(expected, (0.001, 0.999))
            expected = np.clip((expected - low) / (high - low), 0, 1) * 255
        assert np.abs(scan.astype(float) - expected).max() <= 2, number


@pytest.mark.parametrize("name", KINDS)
def test_places_facts_and_the_pictures_beside(name: str) -> None:
    parts = readers.parts(KINDS[name](), name)
    pictures = {part.place.name: part.decode() for part in parts}
    places = [part.place for part in parts if part.place.slice is not None]
    assert {(place.volume, place.slices) for place in places} == {("", 3)}
    scans = [pictures[place.name] for place in places]
    assert {one.modality for one in scans} == {"oct"}
    assert {one.facts["patient"] for one in scans} == {PATIENT.decode()}
    beside = next(picture for name, picture in pictures.items() if "slice" not in name)
    if name.startswith("a.fd"):
        assert beside.modality == "fundus"
        assert np.abs(beside.pixels.astype(int) - (200, 60, 10)).max() <= 2
    else:
        assert beside.modality == "other"
        assert beside.pixels.shape == (60, 64, 3)
    eye = {"a.vol": "OD", "a.fda": "L", "a.fds": "L"}.get(name)
    assert scans[0].facts.get("eye") == eye
    assert scans[0].notes[0] == ("eye_unverified" if eye else "eye_unverified:left")
    assert scans[0].facts["visit"] == {"a.vol": "20090706", "a.E2E": "20121214"}.get(name, "20100709")


def test_several_volumes_and_a_lost_directory() -> None:
    parts = readers.parts(oct_files.e2e([2, 3]), "a.e2e")
    volumes = [(one.place.volume, one.place.slice, one.place.slices) for one in parts if one.place.volume]
    assert sorted(volumes) == [
        *(("series 0", 0, 2), ("series 0", 1, 2)),
        *(("series 1", 0, 3), ("series 1", 1, 3), ("series 1", 2, 3)),
    ]
    lost = readers.parts(oct_files.e2e([2, 3], directory=False), "a.e2e")
    assert [one.place for one in lost] == [one.place for one in parts]
    assert "no_directory" in lost[0].decode().notes


def test_every_n_th_slice_and_the_central_ones() -> None:
    parts = readers.parts(oct_files.vol(6), "a.vol", Selection("central-2"))
    taken = []
    for part in parts:
        try:
            part.decode()
            taken.append(part.place.name)
        except Rejected as refusal:
            assert refusal.reason == "not_selected"  # noqa: PT017
    assert taken == ["slice 2", "slice 3", "slo"]


def test_f37_values_that_are_no_numbers_are_black() -> None:
    odd = reflectivity(0)
    odd[0, :4] = (np.nan, np.inf, np.finfo(np.float32).max, -1)
    scan = _scans(oct_files.vol(1, scan0=odd), "a.vol")[0]
    assert scan[0, :4].tolist() == [0, 0, 0, 0]
    assert scan[12].min() > 200


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_f38_a_cut_file_keeps_its_whole_slices(name: str, share: float) -> None:
    content = KINDS[name]()
    cut = content[: int(len(content) * share)]
    try:
        parts = readers.parts(cut, name)
    except Rejected as refusal:
        assert refusal.reason in ("vendor_parse", "truncated")  # noqa: PT017
        return
    whole = {part.place: part.decode().pixels for part in readers.parts(content, name)}
    for part in parts:
        try:
            pixels = part.decode().pixels
        except Rejected as refusal:
            assert refusal.reason in ("truncated", "vendor_parse")  # noqa: PT017
        else:
            assert np.array_equal(pixels, whole[part.place])


@pytest.mark.parametrize("name", ["a.vol", "b.E2E", "c.fda", "d.FDS"])
@pytest.mark.parametrize("content", [b"", b"<html>", bytes(9000)])
def test_f38_a_makers_suffix_without_his_mark(name: str, content: bytes) -> None:
    with pytest.raises(Rejected, match="vendor_parse"):
        readers.parts(content, name)


@pytest.mark.parametrize("name", KINDS)
def test_damage_gives_pixels_or_a_rejection_and_nothing_else(name: str) -> None:
    whole = KINDS[name]()
    chance = np.random.default_rng(7)
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(int(chance.choice([1, 4, 30]))):
            reach = int(chance.choice([120, 1500, len(whole)]))
            damaged[int(chance.integers(4, min(reach, len(whole))))] = int(chance.integers(256))
        try:
            for part in readers.parts(bytes(damaged), name):
                try:
                    assert part.decode().pixels.dtype == np.uint8
                except Rejected as refusal:
                    assert WORD.decode() not in str(refusal)  # noqa: PT017
        except Rejected as refusal:
            assert WORD.decode() not in str(refusal)  # noqa: PT017


def test_f99_makers_files_become_samples_without_a_word_of_their_headers(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    (source / "0a.vol").write_bytes(oct_files.vol(3))
    (source / "1a.E2E").write_bytes(oct_files.e2e([3]))
    (source / "2a.fda").write_bytes(oct_files.fda(3, first=40))
    (source / "3a.fds").write_bytes(oct_files.fds(3, first=60))
    whole = oct_files.fda(2, first=80)
    (source / "cut.fda").write_bytes(whole[: len(whole) // 2])
    totals = shard(tmp_path, source, keep_other=True)
    assert totals.patients == 1
    assert totals.written >= 14
    for content in contents(tmp_path / "out").values():
        for word in (WORD, PATIENT, b"19470513", b"20100709", WORD.decode().encode("utf-16-le")):
            assert word.lower() not in content.lower()
    reader = shards.Reader(shards.read_index(tmp_path / "out"))
    samples = [dict(reader.facts(number)) for number in range(len(reader))]
    reader.close()
    volume = pseudonyms.image(factory.KEY, "0a.vol")
    own = [one for one in samples if one["volume"] == volume]
    assert {(one["slice"], one["slices"], one["eye"]) for one in own} == {(n, 3, "right") for n in range(3)}
    assert {one["patient"] for one in samples} == {pseudonyms.patient(factory.KEY, PATIENT.decode())}
    e2e = [one for one in samples if one["volume"] == pseudonyms.image(factory.KEY, "1a.E2E")]
    assert {one["eye"] for one in e2e} == {"unknown"}
    assert totals.remarks["eye_unverified"] >= 3
    lines = [json.loads(line) for line in (tmp_path / "out" / shards.LEDGER_NAME).read_text().splitlines()]
    assert any(line["detail"] == "eye_unverified:left" for line in lines)


def test_real_makers_files(real_data: Path) -> None:
    """The B-scans of three makers' files, the SLO picture of one; the rest was cut down to a few pixels."""
    written, reasons = [], []
    for path in sorted((real_data / "oct").iterdir()):
        try:
            parts = readers.parts(readers.content(path), path.name)
        except Rejected as refusal:
            reasons.append((path.name, refusal.reason))
            continue
        for part in parts:
            try:
                picture = part.decode()
                written.append((path.name, picture.modality, picture.pixels.shape[:2]))
            except Rejected as refusal:
                reasons.append((path.name, refusal.reason))
    assert written == [
        ("e2e_minimized.E2E", "oct", (496, 512)),
        ("fda_minimized.fda", "oct", (650, 512)),
        *(("valid.vol", "oct", (496, 768)), ("valid.vol", "other", (768, 768))),
    ]
    assert {reason for name, reason in reasons if name not in ("corrupt.fds", "invalid.vol")} == {"too_small"}
    assert ("invalid.vol", "vendor_parse") in reasons
    assert (HEIGHT, WIDTH) == (40, 48)
