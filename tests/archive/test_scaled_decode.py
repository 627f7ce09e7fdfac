"""Large JPEGs are decoded at a smaller scale: never below what is stored, and nothing else changes."""

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from photographs import samples_of, shard
from PIL import Image
from test_near import eye

from ssl_retina import shards
from ssl_retina.archive.duplicates import near
from ssl_retina.archive.picture import Pixels
from ssl_retina.archive.pixels import clean, look
from ssl_retina.archive.readers import images

SIZE = 160


def frame(number: int, side: int, width: int, height: int) -> Image.Image:
    """A drawn eye of `side` pixels in the middle of a black sensor."""
    sensor = Image.new("RGB", (width, height))
    sensor.paste(eye(number, side), ((width - side) // 2, (height - side) // 2))
    return sensor


def jpeg(image: Image.Image, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **more)  # type: ignore[arg-type]
    return stream.getvalue()


def stored(out: Path) -> list[Pixels]:
    index = shards.read_index(out)
    with closing(shards.Reader(index)) as reader:
        return [np.asarray(Image.open(io.BytesIO(reader.image(n)))) for n in range(index.samples)]


@pytest.mark.parametrize(
    ("size", "enough", "decoded"),
    [
        ((1024, 900), 300, (512, 450)),  # a third is no scale of a JPEG
        ((1024, 900), 450, (512, 450)),
        ((1024, 900), 451, (1024, 900)),
        ((1024, 1024), 128, (128, 128)),
        ((1024, 1024), 0, (1024, 1024)),
    ],
)
def test_both_sides_keep_enough(size: tuple[int, int], enough: int, decoded: tuple[int, int]) -> None:
    picture = images.decode(jpeg(frame(0, 800, *size)), "JPEG", enough=enough)
    assert picture.pixels.shape == (decoded[1], decoded[0], 3)
    assert picture.size == size
    assert (picture.stored is None) == (decoded == size)


def test_a_photograph_that_lies_on_its_side_keeps_its_own_size() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = images.decode(jpeg(frame(0, 700, 1024, 800), exif=turned), "JPEG", enough=256)
    assert picture.pixels.shape == (512, 400, 3)
    assert picture.size == (800, 1024)


def test_what_is_stored_is_what_a_full_decode_gives_but_for_a_fraction_of_a_pixel(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    (source / "a.jpg").write_bytes(jpeg(frame(3, 1000, 1200, 1040)))
    shard(tmp_path, source, "scaled", size=SIZE)
    shard(tmp_path, source, "full", size=SIZE, full_decode=True)
    (one,), (other,) = (samples_of(tmp_path / name).values() for name in ("scaled", "full"))
    assert one["pixels_xxh128"] != other["pixels_xxh128"]
    assert (one["source_width"], one["source_height"]) == (1200, 1040)
    np.testing.assert_allclose(one["field_of_view"], other["field_of_view"], atol=0.6)
    looks = [
        look.look(stored(tmp_path / name)[0], facts["field_of_view"])
        for name, facts in (("scaled", one), ("full", other))
    ]
    assert looks[0] is not None
    assert looks[1] is not None
    assert look.similarity(looks[0], looks[1]) > near.SIMILAR


def test_a_small_field_on_a_large_sensor_is_decoded_in_full(tmp_path: Path) -> None:
    content = jpeg(frame(5, 800, 2048, 2048))
    small = images.decode(content, "JPEG", enough=SIZE * 3 // 2).pixels
    assert clean.clean(small, None, SIZE).pixels.shape[0] < SIZE
    source = tmp_path / "photos"
    source.mkdir()
    (source / "a.jpg").write_bytes(content)
    shard(tmp_path, source, size=SIZE)
    assert stored(tmp_path / "out")[0].shape == (SIZE, SIZE, 3)
    (facts,) = samples_of(tmp_path / "out").values()
    assert (facts["source_width"], facts["source_height"]) == (2048, 2048)


@pytest.mark.parametrize("full", [False, True])
def test_copies_of_a_large_photograph(tmp_path: Path, full: bool) -> None:
    """Other metadata make no other photograph; another format does, unless all is decoded."""
    source = tmp_path / "photos"
    source.mkdir()
    content = jpeg(frame(7, 1000, 1100, 1024))
    (source / "a.jpg").write_bytes(content)
    (source / "b.jpg").write_bytes(content[:2] + b"\xff\xfe\x00\x06note" + content[2:])
    Image.open(io.BytesIO(content)).save(source / "c.png")
    totals = shard(tmp_path, source, size=SIZE, full_decode=full)
    assert (totals.written, totals.duplicates) == ((1, 2) if full else (2, 1))
    marked = [facts["near"] for facts in samples_of(tmp_path / "out").values()]
    assert sum(one is not None for one in marked) == (0 if full else 1)
