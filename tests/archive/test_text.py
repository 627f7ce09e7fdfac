"""Letters that a device wrote into the pixels are seen; layers of a retina are no letters (F39)."""

from pathlib import Path

import numpy as np
import pytest
from photographs import shard
from PIL import Image, ImageDraw, ImageFont

from ssl_retina.archive.pixels import text


def scan(number: int = 0) -> np.ndarray:
    """A B-scan with speckle on black."""
    rows, columns = np.mgrid[:288, :512]
    surface = 110 + 20 * np.cos((columns - 256) / (50 + 5 * number))
    layers = np.exp(-((rows - surface) ** 2) / 60) + np.exp(-((rows - surface - 50) ** 2) / 300)
    speckle = np.random.default_rng(number).gamma(4, 0.25, rows.shape)
    return np.repeat(np.clip((14 + 190 * layers) * speckle, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write(pixels: np.ndarray, words: str, size: int, place: str) -> np.ndarray:
    image = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    _, _, width, height = pen.textbbox((0, 0), words, font=font)
    left = 4 if "left" in place else image.width - width - 4
    top = 3 if "top" in place else image.height - height - 4
    pen.text((left, top), words, font=font, fill=(255, 255, 255))
    return np.asarray(image)


@pytest.mark.parametrize("size", [10, 16, 24, 40, 60])
@pytest.mark.parametrize("place", ["top left", "bottom right"])
def test_f39_letters_in_a_corner_of_a_scan(size: int, place: str) -> None:
    words = "DOE^JOHN 1950" if size < 60 else "Doe 1950"
    assert text.bears_text(write(scan(), words, size, place))


def test_dark_letters_on_a_light_page() -> None:
    page = 255 - write(np.zeros((200, 300, 3), np.uint8), "Ward 7, 1950", 16, "top left")
    assert text.bears_text(page)


def test_scans_without_letters_are_left_alone() -> None:
    assert [text.bears_text(scan(number)) for number in range(8)] == [False] * 8


def test_a_mark_or_an_r_is_no_line_of_text() -> None:
    assert not text.bears_text(write(scan(), "R", 24, "top left"))
    assert not text.bears_text(np.zeros((64, 64, 3), np.uint8))


def test_f39_such_a_scan_is_rejected_and_kept_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    Image.fromarray(scan(1)).save(source / "plain.png")
    Image.fromarray(write(scan(2), "DOE^JOHN 1950", 16, "top left")).save(source / "named.png")
    totals = shard(tmp_path, source)
    assert (totals.written, dict(totals.reasons)) == (1, {"burned_in": 1})
    assert b"DOE" not in (tmp_path / "out" / "ledger.jsonl").read_bytes()
    assert shard(tmp_path, source, "kept", keep_text=True).written == 2
