"""Near duplicates: copies of drawn eyes are found, other eyes are not, and groups never chain (F19)."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import factory
import numpy as np
import pytest
from photographs import samples_of, shard, write_table
from PIL import Image, ImageOps

from ssl_retina import pseudonyms, shards
from ssl_retina.archive.duplicates import near
from ssl_retina.archive.pixels import look
from ssl_retina.archive.pixels.clean import clean

SIZE = 256


def eye(number: int, size: int = SIZE) -> Image.Image:
    """A drawn fundus: shaded disc with random curved vessels, another for every number."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    value = 0.6 - 0.3 * (rows**2 + columns**2) + 0.1 * columns * random.normal()
    for _ in range(14):
        angle, bend, at = random.uniform(0, np.pi), random.uniform(-2, 2), random.uniform(-0.4, 0.4)
        along = columns * np.cos(angle) + rows * np.sin(angle)
        across = rows * np.cos(angle) - columns * np.sin(angle) - at - bend * along**2
        value -= 0.12 * np.exp(-((across / random.uniform(0.008, 0.02)) ** 2))
    value *= np.hypot(rows, columns) < 0.46
    colours = np.stack([240 * value, 150 * value, 80 * value], axis=2)
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda image: image.resize((150, 150), Image.Resampling.BICUBIC),
    "compressed": lambda image: jpeg(image, 50),
    "cropped": lambda image: image.crop((24, 10, SIZE, SIZE - 12)),
    "darker": lambda image: image.point(lambda level: level * 0.6),
    "brighter": lambda image: image.point(lambda level: min(255, 255 * (level / 255) ** 0.75)),
    "mirrored": ImageOps.mirror,
    "all": lambda image: ImageOps.mirror(
        jpeg(image.crop((10, 0, SIZE, SIZE)).point(lambda v: v * 0.8).resize((200, 208)), 70)
    ),
}


def look_of(image: Image.Image) -> look.Look:
    cleaned = clean(np.asarray(image), None, 512)
    found = look.look(cleaned.pixels, cleaned.field_of_view)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_a_candidate_and_similar(name: str) -> None:
    first, copy = look_of(eye(1)), look_of(COPIES[name](eye(1)))
    hashes = np.stack([np.frombuffer(look.perceptual_hash(one), np.uint8) for one in (first, copy)])
    turned = name in ("mirrored", "all")
    assert near.candidates(hashes) == [(0, 1, turned)]
    assert look.similarity(first, look.mirrored(copy) if turned else copy) > near.SIMILAR


def test_other_eyes_are_not_similar() -> None:
    looks = [look_of(eye(number)) for number in range(12)]
    pairs = [(a, b) for at, a in enumerate(looks) for b in looks[at + 1 :]]
    both = [look.similarity(a, turn) for a, b in pairs for turn in (b, look.mirrored(b))]
    assert max(both) < near.SIMILAR - 0.1


def test_the_hash_of_the_mirrored_look_is_bits_turned_round() -> None:
    one = look_of(eye(3))
    plain = np.frombuffer(look.perceptual_hash(one), np.uint8)
    turned = np.frombuffer(look.perceptual_hash(look.mirrored(one)), np.uint8)
    assert np.array_equal(plain ^ look.mirror_bits(), turned)


def test_nothing_is_said_about_a_small_field() -> None:
    """At 64 px two eyes of two patients looked alike."""
    for size, known in ((200, True), (100, False)):
        cleaned = clean(np.asarray(eye(1)), None, size)
        assert (look.look(cleaned.pixels, cleaned.field_of_view) is not None) is known


def test_nothing_is_said_about_a_photograph_without_structure() -> None:
    assert look.look(np.zeros((64, 64, 3), np.uint8), None) is None
    assert look.look(np.full((64, 64, 3), 90, np.uint8), (32.0, 32.0, 30.0, 30.0)) is None
    assert look.similarity(np.full((64, 64), look.UNSEEN, np.int8), look_of(eye(1))) == 0.0


def test_a_copy_of_a_copy_does_not_chain() -> None:
    """0 is like 1 and 1 like 2, but 0 is not like 2: 2 is alone. The largest leads."""
    hashes = np.zeros((3, 32), np.uint8)
    like = {(0, 1): 0.9, (1, 2): 0.8, (0, 2): 0.1}
    assert near.find(hashes, [9, 5, 5], lambda a, b, _: like[a, b]) == {1: 0}
    assert near.find(hashes, [5, 9, 5], lambda a, b, _: like[a, b]) == {0: 1, 2: 1}


def test_a_shadow_that_many_share_makes_no_group() -> None:
    hashes = np.zeros((near.LARGEST_GROUP + 1, 32), np.uint8)
    assert near.find(hashes, [1] * len(hashes), lambda *_: 1.0) == {}
    assert len(near.find(hashes[1:], [1] * (len(hashes) - 1), lambda *_: 1.0)) == near.LARGEST_GROUP - 1


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three eyes of three patients, and of the first a smaller mirrored copy under the second patient."""
    source = tmp_path / "archive"
    source.mkdir()
    for number in range(3):
        eye(number).save(source / f"p{number}.png")
    COPIES["all"](eye(0)).save(source / "a_copy.png")
    rows = [["a_copy.png", "p1"], *([f"p{number}.png", f"p{number}"] for number in range(3))]
    write_table(tmp_path / "table.csv", ["file", "patient"], rows)
    return source


def _filters(**settings: str) -> object:
    from ssl_retina.archive.filters import Filters, NearDuplicates

    if "near_duplicates" in settings:
        settings["near_duplicates"] = NearDuplicates(settings["near_duplicates"])
    return Filters(**settings)


def test_mark_keeps_the_sample_and_joins_the_patients(tmp_path: Path, archive: Path) -> None:
    totals = shard(tmp_path, archive, table=tmp_path / "table.csv")
    assert (totals.written, totals.duplicates) == (4, 0)
    assert (totals.remarks["near_duplicate"], totals.remarks["id_conflict"]) == (1, 2)
    samples = samples_of(tmp_path / "out")
    copy, first = (samples[pseudonyms.image(factory.KEY, name)] for name in ("a_copy.png", "p0.png"))
    assert (copy["near"], first["near"]) == (first["key"], None)
    assert copy["id_conflict"]
    assert first["id_conflict"]
    assert copy["group"] == first["group"]
    other = samples[pseudonyms.image(factory.KEY, "p2.png")]
    assert (other["id_conflict"], other["group"]) == (False, other["patient"])


def test_merge_makes_it_an_alias_of_the_largest_and_off_looks_for_none(tmp_path: Path, archive: Path) -> None:
    table = tmp_path / "table.csv"
    totals = shard(tmp_path, archive, table=table, filters=_filters(near_duplicates="merge"))
    assert (totals.written, totals.duplicates) == (3, 1)
    first = samples_of(tmp_path / "out")[pseudonyms.image(factory.KEY, "p0.png")]
    assert [alias["key"] for alias in first["aliases"]] == [pseudonyms.image(factory.KEY, "a_copy.png")]
    ledger = [json.loads(line) for line in (tmp_path / "out" / shards.LEDGER_NAME).read_text().splitlines()]
    assert [line["of"] for line in ledger if line["outcome"] == "duplicate"] == [first["key"]]
    totals = shard(tmp_path, archive, "off", table=table, filters=_filters(near_duplicates="off"))
    assert (totals.written, totals.remarks.get("near_duplicate")) == (4, None)
