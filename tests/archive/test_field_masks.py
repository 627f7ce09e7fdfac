"""The field of view against the mask a photograph was drawn with, and pictures that are no retina (F09)."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from ssl_retina.archive.picture import as_image
from ssl_retina.archive.pixels import clean as cleaning
from ssl_retina.archive.pixels.clean import clean
from ssl_retina.synthetic.cameras import CAMERAS, field_mask
from ssl_retina.synthetic.cohort import Shot, draw_cohort
from ssl_retina.synthetic.photograph import draw_photograph

Change = Callable[[np.ndarray], np.ndarray]

CHANGES: dict[str, Change] = {
    "as it is": lambda pixels: pixels,
    "dark": lambda pixels: pixels // 5,
    "overexposed": lambda pixels: np.minimum(pixels.astype(int) * 3, 255).astype(np.uint8),
    "cropped": lambda pixels: pixels[pixels.shape[0] // 10 :, : -pixels.shape[1] // 10],
    "square-cut": lambda pixels: pixels[:, (pixels.shape[1] - pixels.shape[0]) // 2 :][:, : pixels.shape[0]],
    "small": lambda pixels: np.asarray(Image.fromarray(pixels).reduce(3)),
}


@lru_cache
def drawn() -> tuple[tuple[Shot, np.ndarray, np.ndarray], ...]:
    """Two photographs of each camera, with their masks."""
    shots = [shot for shot in draw_cohort(0) if shot.modality == "fundus"]
    chosen = [
        [shot for shot in shots if shot.camera == camera][number] for camera in range(4) for number in (0, 40)
    ]
    return tuple((shot, draw_photograph(shot, 0), field_mask(CAMERAS[shot.camera])) for shot in chosen)


def overlap(pixels: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of the found circle with the mask, in source pixels."""
    circle = cleaning._circle(cleaning._thumbnail(as_image(pixels)))
    if circle is None:
        return 0.0
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    found = np.hypot(columns - circle.x, rows - circle.y) < circle.radius
    return float((found & mask).sum() / (found | mask).sum())


@pytest.mark.parametrize("name", CHANGES)
def test_the_circle_is_the_drawn_mask(name: str) -> None:
    for shot, pixels, mask in drawn():
        changed = CHANGES[name](pixels)
        truth = (
            CHANGES[name](np.repeat((mask > 0.5)[..., None], 3, axis=2).astype(np.uint8) * 255)[..., 0] > 25
        )
        assert overlap(changed, truth) > 0.97, (shot.camera, name)


@pytest.mark.parametrize("name", CHANGES)
def test_a_cleaned_photograph_keeps_its_field(name: str) -> None:
    for _, pixels, _ in drawn()[::2]:
        once = clean(CHANGES[name](pixels), None, 256)
        again = clean(once.pixels, None, 256)
        assert again.pixels.shape == once.pixels.shape
        assert once.field_of_view is not None
        assert again.field_of_view is not None
        assert np.abs(np.subtract(again.field_of_view, once.field_of_view)).max() < 2.5


def face() -> Image.Image:
    image = Image.new("RGB", (400, 500), (120, 150, 190))
    pen = ImageDraw.Draw(image)
    pen.ellipse((90, 80, 310, 420), fill=(224, 180, 150))
    for left in (140, 220):
        pen.ellipse((left, 200, left + 50, 225), fill=(250, 250, 250))
        pen.ellipse((left + 18, 204, left + 34, 221), fill=(60, 40, 30))
    pen.arc((150, 290, 250, 350), 20, 160, fill=(150, 60, 60), width=8)
    return image.filter(ImageFilter.GaussianBlur(2))


def close_up() -> Image.Image:
    """Skin before a wall of warm wood, hair above it: warm in the mean."""
    image = Image.new("RGB", (400, 500), (170, 120, 80))
    pen = ImageDraw.Draw(image)
    pen.ellipse((60, 40, 340, 480), fill=(198, 134, 96))
    pen.chord((60, 20, 340, 300), 180, 360, fill=(35, 32, 34))
    for left in (120, 230):
        pen.ellipse((left, 220, left + 55, 248), fill=(240, 240, 240))
    return image.filter(ImageFilter.GaussianBlur(2))


def pale() -> Image.Image:
    """Nothing but fair skin."""
    grain = np.random.default_rng(0).normal(0, 5, (400, 400, 1))
    return Image.fromarray(np.clip(np.array((226, 178, 148)) + grain, 0, 255).astype(np.uint8))


def chart() -> Image.Image:
    image = Image.new("RGB", (500, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.line((50, 20, 50, 360, 480, 360), fill="black", width=3)
    for number in range(8):
        pen.rectangle((70 + 50 * number, 340 - 35 * number, 100 + 50 * number, 360), fill=(40, 90, 200))
    return image


def visual_field() -> Image.Image:
    image = Image.new("RGB", (500, 500), "white")
    pen = ImageDraw.Draw(image)
    for number in range(5, 0, -1):
        pen.ellipse(
            (250 - 45 * number, 250 - 45 * number, 250 + 45 * number, 250 + 45 * number), outline="black"
        )
    return image


def slit_lamp() -> Image.Image:
    """A cornea: bluish iris, white sclera, a slit of light."""
    image = Image.new("RGB", (480, 360), (205, 195, 190))
    pen = ImageDraw.Draw(image)
    pen.ellipse((130, 70, 350, 290), fill=(80, 110, 140))
    pen.ellipse((205, 145, 275, 215), fill=(10, 10, 14))
    pen.polygon(((180, 70), (196, 70), (190, 290), (172, 290)), fill=(250, 250, 240))
    return image.filter(ImageFilter.GaussianBlur(3))


@pytest.mark.parametrize("draw", [face, close_up, pale, chart, visual_field, slit_lamp])
def test_what_is_no_retina_is_told(draw: Callable[[], Image.Image]) -> None:
    assert clean(np.asarray(draw()), None, 256).modality == "other"
    assert clean(np.asarray(draw().convert("L").convert("RGB")), None, 256).modality == "other"
