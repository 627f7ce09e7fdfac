"""What is computed cheaply is what the plain formula gives, and brings nothing of the file along."""

import io
from itertools import product

import numpy as np
import pytest
import xxhash
from PIL import Image

from ssl_retina.archive.picture import as_image
from ssl_retina.archive.pixels import clean, features, field_of_view, look
from ssl_retina.archive.pixels.encode import Encoding, encode
from ssl_retina.archive.readers import images

COMMENT = b"Maria Musterfrau"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("half", [1, 2, 4, 6, 8, 20])
def test_window_sums(half: int) -> None:
    values = noise(2, 45, 61).astype(np.float32)
    padded = np.pad(values, ((0, 0), (half, half), (half, half)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * half + 1,) * 2, axis=(1, 2))
    expected = windows.sum(axis=(3, 4))
    assert np.array_equal(look.window_sums(values, half), expected)
    assert np.array_equal(look.inner_window_sums(values, half), expected[:, half:-half, half:-half])
    assert np.array_equal(look.inner_window_sums(values[0].T, half), expected[0, half:-half, half:-half].T)


@pytest.mark.parametrize("shape", [(1,), (2,), (101,), (17, 23)])
def test_quantiles(shape: tuple[int, ...]) -> None:
    shares = (0.0, 0.002, 0.37, 0.5, 0.9, 1.0)
    values = noise(*shape)
    assert field_of_view.quantiles(values, shares) == pytest.approx(np.quantile(values, shares).tolist())


@pytest.mark.parametrize("count", [1, 2, 7, 240])
def test_middle(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    assert field_of_view._middle(values) == np.median(values)


@pytest.mark.parametrize("count", [1, 3, 240])
def test_solved(count: int) -> None:
    random = np.random.default_rng(count)
    normal, right = random.normal(size=(3, count)), random.normal(size=3)
    matrix = normal @ normal.T
    expected = np.linalg.solve(matrix + field_of_view.RIDGE * np.eye(3), right)
    assert field_of_view._solved(matrix.tolist(), right.tolist()) == pytest.approx(
        expected.tolist(), rel=1e-6
    )


def test_votes() -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 300, (333, 2))
    x, y, radius = random.uniform(100, 200, 200), random.uniform(100, 200, 200), random.uniform(1, 150, 200)
    expected = [
        sum(abs(np.hypot(*(point - (a, b))) - r) < 2.5 for point in points)
        for a, b, r in zip(x, y, radius, strict=True)
    ]
    assert field_of_view._votes(points, (x, y, radius), 2.5).tolist() == expected


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (256, 512), (500, 500), (70, 33)])
def test_means_are_those_of_a_resize_by_boxes(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size[1], size[0], 3))
    side = features.SIDE
    expected = image.resize((side, side), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(features._means(image)), np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (961, 640), (2143, 1425), (4289, 500)])
def test_thumbnail(width: int, height: int) -> None:
    pixels = noise(height, width, 3)
    found = clean._thumbnail(as_image(pixels))
    step = max(1, width // clean.THUMBNAIL // 4)
    sampled = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    expected = np.asarray(sampled.reduce(found.factor // step))
    assert np.array_equal(np.stack(found.planes, axis=2), expected)


@pytest.mark.parametrize(("x", "y", "radius"), [*product((32.25, -9.0), (20.5, 60.1), (3.0, 30.1, 90.0))])
def test_outside(x: float, y: float, radius: float) -> None:
    rows, columns = np.mgrid[:50, :64] + 0.5
    expected = np.hypot(columns - x, rows - y) > radius + 0.5
    assert np.array_equal(np.asarray(clean._outside((64, 50), x, y, radius)), expected)


@pytest.mark.parametrize("shape", [(1, 1), (40, 33), (211, 307)])
def test_pillows_pixels_have_the_digest_of_their_array(shape: tuple[int, int]) -> None:
    pixels = noise(*shape, 3)
    expected = xxhash.xxh3_128(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    assert clean.pixels_xxh128(pixels) == clean.pixels_xxh128(Image.fromarray(pixels)) == expected


@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("size", [64, 400])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_nothing_of_the_file_goes_along_with_its_pixels(modality: str, size: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, COMMENT.decode()
    file = io.BytesIO()
    Image.fromarray(noise(120, 160, 3)).save(file, "JPEG", comment=COMMENT, exif=exif)
    assert file.getvalue().count(COMMENT) == 2
    picture = images.read(file.getvalue())
    assert np.array_equal(np.asarray(picture.image), picture.pixels)
    assert picture.pixels.shape == ((160, 120, 3) if orientation == 6 else (120, 160, 3))
    stored = clean.clean(picture.image, modality, size)
    assert type(stored.image) is Image.Image
    assert np.array_equal(stored.pixels, clean.clean(picture.pixels, modality, size).pixels)
    for encoding in (Encoding(), Encoding(lossless=True)):
        assert COMMENT not in encode(stored.image, encoding)[1]


def test_an_image_that_was_opened_is_not_encoded() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(file, "JPEG", comment=COMMENT)
    with pytest.raises(AssertionError):
        encode(Image.open(file), Encoding())
