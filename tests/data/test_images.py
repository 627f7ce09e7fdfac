"""Decoding: Pillow's pixels and refusals, whoever decodes; parts of the size; only the promised formats."""

import io

import factory
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.data import images
from ssl_retina.data.images import Undecodable, decode, opened


def photograph(width: int = 96, height: int = 80) -> Image.Image:
    """Smooth colours, an edge and some noise."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    waves = np.stack((90 + 60 * np.sin(x / 7), 110 + 50 * np.cos(y / 5 + x / 30), 0.8 * x + 0.4 * y), axis=2)
    waves[(x - 40) ** 2 + (y - 30) ** 2 < 120] = (230, 210, 120)
    return Image.fromarray(np.clip(waves + random.normal(0, 4, waves.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    """The image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def by_pillow(content: bytes, suffix: str) -> NDArray[np.uint8] | None:
    """What Pillow alone makes of it; None if it refuses."""
    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS[suffix]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError):
        return None


JPEGS = {
    "420": {"quality": 92, "subsampling": "4:2:0"},
    "422": {"quality": 92, "subsampling": "4:2:2"},
    "444": {"quality": 75, "subsampling": "4:4:4"},
    "progressive": {"quality": 92, "progressive": True},
    "restarts": {"quality": 92, "restart_marker_blocks": 4},
    "coarse": {"quality": 10},
    "kept as RGB": {"quality": 92, "keep_rgb": True, "subsampling": "4:4:4"},
}
MODES = ("L", "CMYK")


@pytest.fixture(scope="module")
def jpegs() -> dict[str, bytes]:
    found = {name: saved(photograph(), "JPEG", **options) for name, options in JPEGS.items()}
    return found | {mode: saved(photograph().convert(mode), "JPEG", quality=92) for mode in MODES}


@pytest.mark.parametrize("name", [*JPEGS, *MODES])
def test_pixels_are_pillows_bit_for_bit(jpegs: dict[str, bytes], name: str) -> None:
    content = jpegs[name]
    encoded = opened(content, "jpg")
    assert (encoded.width, encoded.height) == (96, 80)
    assert encoded.direct == (name not in {"CMYK", "kept as RGB"})
    found, share = encoded.pixels()
    assert share == 1
    assert found.flags.writeable
    expected = by_pillow(content, "jpg")
    assert expected is not None
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_is_as_pillow_reads_it(mode: str) -> None:
    content = saved(photograph().convert(mode), "PNG")
    found = decode(content, "png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(photograph().convert(mode).convert("RGB")))


def test_damaged_files_are_judged_as_by_pillow_alone(jpegs: dict[str, bytes]) -> None:
    """A thousand damages: cut short, bytes changed in the header and in the scan, holes, tails."""
    random = np.random.default_rng(3)
    refused = read = 0
    for content in jpegs.values():
        bad = [
            content[:end] for end in (0, 2, 30, 600, len(content) // 2, len(content) - 9, len(content) - 1)
        ]
        bad += [content + b"\0" * 50, content + content, content[:900] + content[990:]]
        for low, high in ((2, 640), (640, len(content))):
            for _ in range(50):
                changed = bytearray(content)
                changed[random.integers(low, high)] = random.integers(0, 256)
                bad.append(bytes(changed))
        for one in bad:
            expected = by_pillow(one, "jpg")
            if expected is None:
                refused += 1
                with pytest.raises(Undecodable):
                    decode(one, "jpg")
            else:
                read += 1
                assert np.array_equal(decode(one, "jpg"), expected)
    assert refused > 100
    assert read > 300


@pytest.mark.parametrize(("width", "height"), [(96, 80), (97, 83), (64, 333), (9, 7)])
@pytest.mark.parametrize("share", [2, 4, 8])
def test_a_part_of_the_size_is_the_mean_of_what_it_holds(width: int, height: int, share: int) -> None:
    """Each pixel of 1 / share is near the mean of share x share full ones; sizes are rounded up."""
    content = saved(photograph(width, height), "JPEG", quality=95, subsampling="4:4:4")
    small, found = opened(content, "jpg").pixels(share)
    assert found == share
    assert small.shape == (-(-height // share), -(-width // share), 3)
    tall, wide = height // share, width // share
    whole = decode(content, "jpg")[: tall * share, : wide * share].astype(float)
    means = whole.reshape(tall, share, wide, share, 3).mean(axis=(1, 3))
    if min(tall, wide):
        assert np.abs(small[:tall, :wide] - means).mean() < 3


def test_only_powers_of_two_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other parts of the size have no fast inverse transform: slower than none."""
    asked = []
    real = simplejpeg.decode_jpeg

    def spied(content: bytes, **sizes: int) -> NDArray[np.uint8]:
        asked.append((sizes["min_height"], sizes["min_width"]))
        return real(content, **sizes)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spied)
    encoded = opened(saved(photograph(97, 83), "JPEG"), "jpg")
    for share in (1, 2, 4, 8):
        encoded.pixels(share)
    assert asked == [(83, 97), (42, 49), (21, 25), (11, 13)]


def test_what_only_pillow_decodes_keeps_its_size(jpegs: dict[str, bytes]) -> None:
    for content, suffix in ((jpegs["CMYK"], "jpg"), (saved(photograph(), "PNG"), "png")):
        pixels, share = opened(content, suffix).pixels(4)
        assert (pixels.shape, share) == ((80, 96, 3), 1)
    spoiled = jpegs["420"][:-40] + b"\xff\xd9"  # Pillow shows what is left; so do we, in full
    assert by_pillow(spoiled, "jpg") is not None
    assert opened(spoiled, "jpg").pixels(2)[1] == 1


def test_f52_only_the_promised_formats_are_decoded() -> None:
    image = Image.fromarray(factory.pixels(1))
    assert decode(saved(image, "JPEG"), "jpg").shape == (64, 64, 3)
    assert decode(saved(image.convert("L"), "PNG"), "png").shape == (64, 64, 3)
    for content, suffix, reason in (
        (saved(image, "GIF"), "jpg", "UnidentifiedImageError"),
        (saved(image, "PNG"), "jpg", "UnidentifiedImageError"),
        (saved(image, "JPEG"), "png", "UnidentifiedImageError"),
        (saved(image, "JPEG")[:600], "jpg", "OSError"),
        (saved(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG"), "png", "mode I;16"),
        (saved(Image.new("L", (9000, 9000)), "PNG"), "png", "9000 x 9000 pixels, limit"),
        (saved(Image.new("L", (9000, 9000)), "JPEG"), "jpg", "9000 x 9000 pixels, limit"),
        (saved(Image.new("CMYK", (9000, 9000)), "JPEG"), "jpg", "9000 x 9000 pixels, limit"),
        (b"", "jpg", "UnidentifiedImageError"),
        (b"\0" * 500, "png", "UnidentifiedImageError"),
    ):
        with pytest.raises(Undecodable, match=reason):
            decode(content, suffix)


def test_the_size_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXEL_LIMIT", 1000)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    monkeypatch.setattr(Image.Image, "convert", None)
    for name, suffix in (("JPEG", "jpg"), ("PNG", "png")):
        with pytest.raises(Undecodable, match="limit 1000"):
            decode(saved(photograph(), name), suffix)
