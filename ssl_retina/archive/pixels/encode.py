"""Pixels -> the bytes of a shard's image. Nothing of the source but its pixels survives.

The same pixels, settings and Pillow give the same bytes.
"""

import io
from dataclasses import dataclass

from PIL import Image

from ssl_retina.archive.picture import Pixels, as_image


@dataclass(frozen=True)
class Encoding:
    """How images are stored: JPEG of a quality and chroma ("420" or "444"), or PNG where `lossless`."""

    quality: int = 92
    chroma: str = "420"
    lossless: bool = False

    def __post_init__(self) -> None:
        assert 1 <= self.quality <= 100, self.quality
        assert self.chroma in ("420", "444"), self.chroma


def encode(pixels: Pixels | Image.Image, encoding: Encoding) -> tuple[str, bytes]:
    """Give the suffix ("jpg" or "png") and the bytes of (height, width, 3) uint8 pixels.

    An image is what `as_image` makes of pixels: one that was opened could bring a comment along.
    """
    image = as_image(pixels)
    assert not image.info
    stream = io.BytesIO()
    if encoding.lossless:
        image.save(stream, "PNG", compress_level=6)
        return "png", stream.getvalue()
    subsampling = {"420": "4:2:0", "444": "4:4:4"}[encoding.chroma]
    image.save(stream, "JPEG", quality=encoding.quality, subsampling=subsampling)
    return "jpg", stream.getvalue()
