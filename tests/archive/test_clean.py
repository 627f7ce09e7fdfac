"""Fields of view of every kind are found, and what is no fundus keeps its shape (faults.md F09)."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_retina.archive import readers
from ssl_retina.archive.pixels.clean import Cleaned, clean, pixels_xxh128
from ssl_retina.archive.pixels.encode import Encoding, encode
from ssl_retina.archive.rejection import Rejected


@dataclass(frozen=True)
class Eye:
    """A drawn photograph: a textured disc on black."""

    width: int = 360
    height: int = 300
    x: float = 175.0
    y: float = 152.0
    radius: float = 130.0
    light: float = 1.0
    noise: float = 0.0
    black: float = 0.0


def draw(eye: Eye) -> np.ndarray:
    rows, columns = np.mgrid[: eye.height, : eye.width]
    across, down = columns + 0.5 - eye.x, rows + 0.5 - eye.y
    inside = np.clip(eye.radius - np.hypot(across, down) + 0.5, 0, 1)
    texture = 1 + 0.25 * np.sin(across / 9) * np.cos(down / 7) - 0.3 * across / eye.radius
    disc = 80 * np.exp(-((across - eye.radius / 2) ** 2 + down**2) / (0.02 * eye.radius**2))
    colours = np.stack([150 * texture + disc, 75 * texture + disc, 25 * texture + disc], axis=2)
    pixels = colours * inside[..., None] * eye.light + eye.black
    pixels += np.random.default_rng(1).normal(0, eye.noise, pixels.shape) if eye.noise else 0
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def expected(eye: Eye, cleaned: Cleaned) -> tuple[float, float, float]:
    """Where the drawn circle lies in stored pixels: what is seen of it fills the square."""
    left, right = max(0.0, eye.x - eye.radius), min(float(eye.width), eye.x + eye.radius)
    top, bottom = max(0.0, eye.y - eye.radius), min(float(eye.height), eye.y + eye.radius)
    side = max(right - left, bottom - top)
    size = cleaned.pixels.shape[0]
    ratio = size / side
    x = (eye.x - (left + right) / 2) * ratio + size / 2
    y = (eye.y - (top + bottom) / 2) * ratio + size / 2
    return x, y, eye.radius * ratio


def assert_found(eye: Eye, pixels: np.ndarray, tolerance: float = 0.015) -> Cleaned:
    cleaned = clean(pixels, None, 128)
    assert cleaned.modality == "fundus"
    size = cleaned.pixels.shape[0]
    assert cleaned.pixels.shape == (size, size, 3)
    assert size == 128 or 0 <= size - 2 * eye.radius < 3
    assert cleaned.field_of_view is not None
    x, y, radius_x, radius_y = cleaned.field_of_view
    assert radius_x == radius_y
    assert np.abs(np.array([x, y, radius_x]) - expected(eye, cleaned)).max() < tolerance * 128
    return cleaned


EYES = {
    "whole": Eye(),
    "off centre": Eye(x=205, y=145),
    "top and bottom cut": Eye(width=420, height=200, x=200, y=100),
    "bottom cut": Eye(height=220),
    "one side cut": Eye(width=260),
    "tight": Eye(width=260, height=260, x=130, y=130),
    "corners only": Eye(width=260, height=260, x=130, y=130, radius=172),
    "far down": Eye(height=700, y=540),
    "small": Eye(radius=60),
    "tiny source": Eye(width=80, height=70, x=38, y=34, radius=30),
    "dark": Eye(light=0.1),
    "noise in the black": Eye(noise=6.0),
    "dark and noisy": Eye(light=0.25, noise=4.0),
    "lifted black": Eye(black=25.0),
    "lifted and noisy": Eye(black=25.0, noise=5.0),
    "over-exposed": Eye(light=5.0),
}


@pytest.mark.parametrize("name", EYES)
def test_the_circle_is_found(name: str) -> None:
    cleaned = assert_found(EYES[name], draw(EYES[name]))
    rows, columns = np.indices(cleaned.pixels.shape[:2])
    assert cleaned.field_of_view is not None
    x, y, radius, _ = cleaned.field_of_view
    outside = np.hypot(columns + 0.5 - x, rows + 0.5 - y) > radius + 1
    assert not cleaned.pixels[outside].any()


def test_bright_flare_at_the_border() -> None:
    eye = Eye()
    rows, columns = np.mgrid[: eye.height, : eye.width]
    flare = 255 * np.exp(-((columns - eye.x - 95) ** 2 + (rows - eye.y + 95) ** 2) / (2 * 14**2))
    pixels = np.clip(draw(eye) + flare[..., None], 0, 255).astype(np.uint8)
    assert_found(eye, pixels)


def test_letters_and_a_notch_outside_are_blackened() -> None:
    eye = Eye()
    pixels = draw(eye)
    pixels[4:10, 4:60] = 255
    pixels[60:72, 285:300] = 200
    cleaned = assert_found(eye, pixels)
    assert not cleaned.pixels[:12, :12].any()


def test_a_dark_half_does_not_move_the_circle() -> None:
    eye = Eye()
    columns = np.arange(eye.width) - eye.x
    pixels = (draw(eye) * (1 - 0.93 / (1 + np.exp(-columns / 20)))[None, :, None]).astype(np.uint8)
    assert_found(eye, pixels)


def test_without_a_border_everything_is_kept() -> None:
    pixels = draw(Eye())[80:220, 90:270]
    cleaned = clean(pixels, None, 512)
    assert (cleaned.modality, cleaned.field_of_view) == ("fundus", None)
    assert cleaned.pixels.shape == (180, 180, 3)
    assert np.array_equal(cleaned.pixels[20:160], pixels)
    assert not cleaned.pixels[:20].any()


@pytest.mark.parametrize("left", [0, 190])
def test_a_white_page_around_it_is_not_taken_for_the_black(left: int) -> None:
    eye = Eye(width=420, x=140)
    rows, columns = np.mgrid[: eye.height, : eye.width]
    outside = np.hypot(columns + 0.5 - eye.x, rows + 0.5 - eye.y) > eye.radius
    pixels = np.where((outside & (columns >= left))[..., None], 255, draw(eye)).astype(np.uint8)
    assert clean(pixels, "fundus", 128).field_of_view is None


@pytest.mark.parametrize(
    "name", ["whole", "top and bottom cut", "one side cut", "dark", "noise in the black"]
)
def test_cleaning_twice_changes_nothing(name: str) -> None:
    once = clean(draw(EYES[name]), None, 200)
    for again in (clean(once.pixels, None, 200), clean(through_jpeg(once.pixels), None, 200)):
        assert again.pixels.shape == once.pixels.shape
        assert np.abs(np.subtract(again.field_of_view, once.field_of_view)).max() < 1.0
    twice = clean(once.pixels, None, 200).pixels
    assert (np.abs(twice.astype(int) - once.pixels).max(axis=2) > 8).mean() < 0.02


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode(pixels, Encoding())[1])))


def test_never_enlarged_and_untouched_where_no_shrinking_is_needed() -> None:
    eye = Eye()
    pixels = draw(eye)
    cleaned = clean(pixels, None, 512)
    side = cleaned.pixels.shape[0]
    assert 258 <= side <= 264
    assert cleaned.field_of_view is not None
    left, top = round(eye.x - cleaned.field_of_view[0]), round(eye.y - cleaned.field_of_view[1])
    kept = cleaned.pixels.any(axis=2)
    assert np.array_equal(cleaned.pixels[kept], pixels[top : top + side, left : left + side][kept])
    assert kept.mean() > 0.7


@pytest.mark.parametrize("modality", ["fundus", "oct"])
def test_shrinking_is_antialiased(modality: str) -> None:
    rows, columns = np.mgrid[:700, :700]
    stripes = np.where(rows % 2 == 0, 200, 0) * (np.hypot(columns - 349.5, rows - 349.5) < 340)
    pixels = np.repeat(stripes[..., None], 3, axis=2).astype(np.uint8)
    middle = clean(pixels, modality, 128).pixels[40:90, 40:90].astype(int)
    assert np.abs(middle - 100).max() < 12


def b_scan(height: int = 240, width: int = 400) -> np.ndarray:
    """A grey B-scan: two curved bright layers between dark vitreous and choroid, with speckle."""
    rows, columns = np.mgrid[:height, :width]
    surface = 0.35 * height + 20 * np.cos((columns - width / 2) / 60)
    layers = np.exp(-((rows - surface) ** 2) / 60) + np.exp(-((rows - surface - 50) ** 2) / 200)
    speckle = np.random.default_rng(2).gamma(4, 0.25, (height, width))
    grey = np.clip((20 + 170 * layers) * speckle, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("modality", [None, "oct"])
def test_a_b_scan_keeps_its_shape(modality: str | None) -> None:
    cleaned = clean(b_scan(), modality, 100)
    assert (cleaned.modality, cleaned.field_of_view) == ("oct", None)
    assert cleaned.pixels.shape == (60, 100, 3)
    assert cleaned.pixels.any(axis=2).mean() > 0.9
    untouched = clean(b_scan(), modality, 512)
    assert np.array_equal(untouched.pixels, b_scan())


def test_a_scan_said_to_be_oct_is_never_cropped_even_if_it_looks_like_a_fundus() -> None:
    pixels = draw(Eye())
    assert np.array_equal(clean(pixels, "oct", 512).pixels, pixels)
    assert np.array_equal(clean(pixels, "other", 512).pixels, pixels)


def test_modality_is_decided_from_pixels() -> None:
    grey = np.repeat(draw(Eye())[..., :1], 3, axis=2)
    assert clean(grey, None, 128).modality == "fundus"
    noise = np.random.default_rng(0).integers(0, 255, (100, 120, 1), np.uint8)
    assert clean(np.repeat(noise, 3, axis=2), None, 128).modality == "other"
    blue = np.zeros((100, 120, 3), np.uint8)
    blue[..., 2] = np.arange(120) * 2
    assert clean(blue, None, 128).modality == "other"


@pytest.mark.parametrize("paper", [(255, 255, 255), (250, 238, 214), (214, 230, 250)])
def test_a_letter_is_no_scan_and_no_photograph(paper: tuple[int, int, int]) -> None:
    """Lines of text look like layers, and yellowed paper is a little red."""
    page = np.full((400, 300, 3), paper, np.uint8)
    for row in range(30, 370, 24):
        page[row : row + 8, 20 : 200 + row % 70] = 20
    assert clean(page, None, 128).modality == "other"


def test_a_photograph_that_fills_its_frame_is_a_fundus_without_a_field() -> None:
    rows, columns = np.mgrid[:200, :240]
    pixels = np.stack([150 + rows // 8, 70 + columns // 8, 40 + rows // 16], axis=2).astype(np.uint8)
    cleaned = clean(pixels, None, 128)
    assert (cleaned.modality, cleaned.field_of_view) == ("fundus", None)


@pytest.mark.parametrize("name", ["black", "one colour", "noise on black", "white"])
@pytest.mark.parametrize("modality", [None, "fundus", "oct"])
def test_f09_blank(name: str, modality: str | None) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (200, 240, 3), np.uint8)
    pixels = {
        "black": np.zeros_like(noise),
        "one colour": np.full_like(noise, (200, 90, 40)),
        "noise on black": noise,
        "white": np.full_like(noise, 255),
    }[name]
    with pytest.raises(Rejected) as caught:
        clean(pixels, modality, 128)
    assert caught.value.reason == "blank"


@pytest.mark.parametrize(
    ("shape", "reason"), [((1, 1), "too_small"), ((16, 4000), "aspect"), ((31, 60), "too_small")]
)
def test_f09_sizes(shape: tuple[int, int], reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        clean(np.zeros((*shape, 3), np.uint8), None, 128)
    assert caught.value.reason == reason


def test_same_pixels_same_result_and_the_input_is_left_alone() -> None:
    pixels = draw(Eye(noise=3.0))
    before = pixels.copy()
    first, second = clean(pixels, None, 128), clean(pixels.copy(), None, 128)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.field_of_view == second.field_of_view
    assert np.array_equal(pixels, before)


def test_pixels_xxh128_tells_pixels_and_shapes_apart() -> None:
    pixels = draw(Eye(width=60, height=40, x=30, y=20, radius=15))
    assert pixels_xxh128(pixels) == pixels_xxh128(pixels[:, ::-1][:, ::-1])
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert pixels_xxh128(other) != pixels_xxh128(pixels)
    assert pixels_xxh128(pixels.reshape(60, 40, 3)) != pixels_xxh128(pixels)


@pytest.mark.data
def test_real_photographs(real_data: Path) -> None:
    """Both cameras have one geometry each: a circle that lies elsewhere is a circle wrongly found."""
    for pattern, radius, tolerance in (("hygd/images/*", 470, 13), ("idrid/train/*.jpg", 510.5, 3)):
        for path in sorted(real_data.glob(pattern))[::25]:
            cleaned = clean(readers.read(path).pixels, None, 10_000)
            assert cleaned.modality == "fundus"
            assert cleaned.field_of_view is not None
            assert abs(cleaned.field_of_view[2] - radius) < tolerance


def test_a_piece_of_a_circle_in_a_grey_picture_is_no_fundus() -> None:
    """A curved retina looks like one; only grey pictures with most of a circle are taken for photographs."""
    eye = Eye(height=100, y=230, radius=200)
    pixels = np.repeat(draw(eye)[..., :1], 3, axis=2)
    cleaned = clean(pixels, None, 128)
    assert cleaned.modality != "fundus"
    assert cleaned.pixels.shape == (round(100 * 128 / 360), 128, 3)


@pytest.mark.parametrize("seed", range(40))
def test_any_pixels_are_cleaned_without_a_warning(seed: int) -> None:
    chance = np.random.default_rng(seed)
    height, width = chance.integers(32, 200, 2)
    rows, columns = np.mgrid[:height, :width]
    pixels = chance.integers(0, chance.choice([2, 12, 256]), (height, width, 3)).astype(float)
    for _ in range(int(chance.integers(0, 6))):
        x, y, reach = chance.uniform(-50, 250, 3)
        inside = np.hypot(columns - x, rows - y) < reach if chance.random() < 0.5 else rows * x < columns * y
        pixels[inside] += chance.uniform(-200, 255, 3)
    try:
        cleaned = clean(np.clip(pixels, 0, 255).astype(np.uint8), chance.choice([None, "fundus"]), 64)
    except Rejected:
        return
    assert max(cleaned.pixels.shape[:2]) <= 64
    assert cleaned.field_of_view is None or np.isfinite(cleaned.field_of_view).all()


def test_one_photograph_at_two_sizes_gives_the_same_crop() -> None:
    eye = Eye()
    large = draw(replace(eye, width=1080, height=900, x=525, y=456, radius=390))
    assert_found(eye, large)
