"""Files of every kind and every fault -> pixels or a reason (faults.md F01-F08, F10-F14, F15)."""

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssl_retina.archive import readers
from ssl_retina.archive.readers import images
from ssl_retina.archive.rejection import Rejected


def photograph(width: int = 80, height: int = 64) -> np.ndarray:
    """A disc with a gradient and a little noise; no two quarters look alike."""
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot(columns + 0.5 - width / 2, rows + 0.5 - height / 2) < height / 2 - 2
    red = 120 + 100 * columns / width
    green = 40 + 80 * rows / height
    pixels = np.stack([red, green, np.full_like(red, 30.0)], axis=2) * disc[..., None]
    noise = np.random.default_rng(0).integers(0, 4, pixels.shape)
    return (pixels + noise).astype(np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **settings: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(photograph())).save(stream, kind, **settings)
    return stream.getvalue()


def reason(content: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        images.read(content)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_kinds_give_the_same_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(encoded(kind))
    picture = readers.read(path)
    assert np.array_equal(picture.pixels, photograph())
    assert picture.notes == ()
    assert picture.modality is None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_f01_jpeg_cut(share: float, progressive: bool) -> None:
    content = encoded("JPEG", progressive=progressive)
    assert reason(content[: int(len(content) * share)]) == "truncated"


def test_f02_png_without_its_last_ten_bytes_is_kept_and_noted() -> None:
    picture = images.read(encoded("PNG")[:-10])
    assert np.array_equal(picture.pixels, photograph())
    assert picture.notes == ("trailer",)


def test_f02_png_cut_in_its_pixels() -> None:
    content = encoded("PNG")
    assert reason(content[: len(content) // 2]) == "truncated"


def test_f03_one_flipped_byte_in_a_jpeg_is_not_detectable() -> None:
    """Documents the limit: entropy-coded data has no check sum, so that a flip decodes to other pixels."""
    content = bytearray(encoded("JPEG", quality=95))
    content[len(content) * 3 // 4] ^= 0x10
    assert not np.array_equal(
        images.read(bytes(content)).pixels, images.read(encoded("JPEG", quality=95)).pixels
    )


@pytest.mark.parametrize("settings", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_f04_tiff_cut(settings: dict[str, str], share: float) -> None:
    content = encoded("TIFF", **settings)
    assert reason(content[: int(len(content) * share)]) == "truncated"


@pytest.mark.parametrize("length", [4, 8, 20])
def test_f04_tiff_header_only(length: int) -> None:
    assert reason(encoded("TIFF")[:length]) == "truncated"


@pytest.mark.parametrize("content", [b"", bytes(10_000), b"<html><body>404</body></html>", b"%PDF-1.7 x"])
def test_f05_not_an_image_whatever_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(Rejected, match="not_an_image"):
        readers.read(path)


@pytest.mark.parametrize("name", ["scan.png", "SCAN.JPG", "scan", "scan.dcm"])
def test_f06_content_counts_not_the_suffix(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encoded("JPEG"))
    assert readers.read(path).pixels.shape == (64, 80, 3)


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    data = b"IDAT" + zlib.compress(bytes(4096))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (chunk, data, b"IEND")
    )


@pytest.mark.parametrize("side", [20_000, 12_000])
def test_f07_f08_too_large_is_refused_from_the_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoding(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_decoding)
    assert reason(png_header(side, side)) == "too_large"


def test_f08_one_hundred_megapixels_are_not_too_large() -> None:
    assert reason(png_header(10_000, 10_000)) == "truncated"


def test_f09_sizes_refused_from_the_header() -> None:
    assert reason(encoded("PNG", Image.new("RGB", (1, 1)))) == "too_small"
    assert reason(encoded("PNG", Image.new("RGB", (31, 200)))) == "too_small"
    assert reason(encoded("PNG", Image.new("RGB", (16, 4000)))) == "aspect"


def ramp(top: int) -> np.ndarray:
    return (np.arange(64 * 80).reshape(64, 80) * top // (64 * 80 - 1)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("top", [1000, 4095, 65535])
def test_f10_sixteen_bit_grey_is_scaled_not_saturated(kind: str, top: int) -> None:
    picture = images.read(encoded(kind, Image.fromarray(ramp(top))))
    grey = picture.pixels[..., 0].astype(int).ravel()
    assert (grey == 255).mean() < 0.01
    assert (grey == 0).mean() < 0.01
    assert np.abs(grey - np.linspace(0, 255, len(grey))).max() <= 2
    assert np.array_equal(picture.pixels[..., 0], picture.pixels[..., 2])
    assert picture.notes[0].startswith("scaled_16_bit:")


def test_f10_one_hot_pixel_does_not_darken_the_rest() -> None:
    values = ramp(1000)
    values[5, 5] = 65535
    assert images.read(encoded("PNG", Image.fromarray(values))).pixels.mean() > 100


def deep_colour_png(top: int) -> bytes:
    values = np.repeat(ramp(top)[..., None], 3, axis=2).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    parts = (
        b"IHDR" + struct.pack(">IIBBBBB", 80, 64, 16, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(lines),
        b"IEND",
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def test_f10_sixteen_bit_colour_keeps_its_high_byte_or_is_refused() -> None:
    picture = images.read(deep_colour_png(65535))
    assert picture.notes == ("high_byte_of_16_bit",)
    assert picture.pixels.max() == 255
    assert reason(deep_colour_png(4095)) == "bit_depth"


def test_f11_cmyk() -> None:
    cyan, magenta, yellow, black = 10, 100, 200, 50
    image = Image.new("CMYK", (40, 40), (cyan, magenta, yellow, black))
    for kind, tolerance in (("TIFF", 1), ("JPEG", 4)):
        stored = images.read(encoded(kind, image)).pixels[20, 20].astype(int)
        expected = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
        assert np.abs(stored - expected).max() <= tolerance, kind


def test_f11_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.paste(1, (0, 0, 20, 40))
    assert images.read(encoded("PNG", image)).pixels[0, [0, 39]].tolist() == [[10, 20, 30], [200, 100, 50]]
    clear = images.read(encoded("PNG", image, transparency=1)).pixels
    assert clear[0, [0, 39]].tolist() == [[0, 0, 0], [200, 100, 50]]


def test_f11_alpha_lies_over_black() -> None:
    image = Image.new("RGBA", (40, 40), (200, 100, 50, 128))
    assert images.read(encoded("PNG", image)).pixels[0, 0].tolist() == [100, 50, 25]
    grey = Image.new("LA", (40, 40), (200, 0))
    assert images.read(encoded("PNG", grey)).pixels.max() == 0


def test_f11_one_bit_and_grey() -> None:
    values = (np.arange(40 * 40).reshape(40, 40) % 7 == 0).astype(np.uint8) * 255
    for mode in ("1", "L"):
        picture = images.read(encoded("PNG", Image.fromarray(values).convert(mode)))
        assert np.array_equal(picture.pixels, np.repeat(values[..., None], 3, axis=2))


def test_f11_float_is_refused() -> None:
    image = Image.fromarray(np.random.default_rng(0).random((40, 40), dtype=np.float32))
    assert reason(encoded("TIFF", image)) == "float"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_f12_orientation_is_applied(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    pixels = images.read(encoded(kind, exif=exif)).pixels
    assert pixels.shape == (80, 64, 3)
    assert np.abs(pixels.astype(int) - np.rot90(photograph(), -1)).mean() < 5


def test_f12_a_broken_exif_block_turns_nothing() -> None:
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\xff\xff" + bytes(range(64))
    assert images.read(encoded("JPEG", exif=exif)).pixels.shape == (64, 80, 3)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_f13_several_pages_are_refused(kind: str) -> None:
    pages = [Image.fromarray(photograph()), Image.fromarray(photograph()[::-1])]
    assert reason(encoded(kind, pages[0], save_all=True, append_images=pages[1:])) == "pages"


def test_f13_previews_inside_a_jpeg_are_not_pages() -> None:
    content = encoded("MPO", save_all=True, append_images=[Image.new("RGB", (40, 32))])
    picture = images.read(content)
    assert picture.pixels.shape == (64, 80, 3)
    assert picture.notes == ("previews:1",)


def test_f13_a_gif_of_one_picture_is_read() -> None:
    assert images.read(encoded("GIF")).pixels.shape == (64, 80, 3)


@pytest.mark.timeout(20)
def test_f14_a_pipe_or_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        with pytest.raises(Rejected, match="not_regular"):
            readers.read(path)


def test_f15_a_vanished_file_is_an_io_rejection_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        readers.read(tmp_path / "Meier_1950.jpg")
    assert caught.value.reason == "io"
    assert "Meier" not in str(caught.value)


def test_other_packages_settings_of_pillow_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encoded("JPEG")
    assert images.read(content).pixels.shape == (64, 80, 3)
    assert reason(content[: len(content) // 2]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 100


SEEDS = {
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "png": encoded("PNG"),
    "tiff": encoded("TIFF"),
    "deflate": encoded("TIFF", compression="tiff_adobe_deflate"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "gif": encoded("GIF"),
    "deep": encoded("PNG", Image.fromarray(ramp(4095))),
}


@pytest.mark.parametrize("name", SEEDS)
def test_damage_gives_pixels_or_a_rejection_and_nothing_else(name: str) -> None:
    chance = random.Random(name)
    for _ in range(150):
        content = bytearray(SEEDS[name])
        for _ in range(chance.choice([1, 1, 4, 12])):
            content[chance.randrange(min(len(content), chance.choice([40, 400, len(content)])))] = (
                chance.randrange(256)
            )
        try:
            pixels = images.read(
                bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
            ).pixels
        except Rejected:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


def test_archive_pixels_never_import_torch() -> None:
    program = (
        "import sys, ssl_retina.archive.readers;"
        "from ssl_retina.archive.pixels import clean, encode;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
