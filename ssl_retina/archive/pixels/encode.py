"""Pixels -> the bytes of a shard's image. Always from a bare array, so that nothing of the source survives.

The same pixels, settings and Pillow give the same bytes.
"""

import io
from dataclasses import dataclass

from PIL import Image

from ssl_retina.archive.picture import Pixels


@dataclass(frozen=True)
class Encoding:
    """How images are stored: JPEG of a quality and chroma ("420" or "444"), or PNG where `lossless`."""

    quality: int = 92
    chroma: str = "420"
    lossless: bool = False

    def __post_init__(self) -> None:
        assert 1 <= self.quality <= 100, self.quality
        assert self.chroma in ("420", "444"), self.chroma


def encode(pixels: Pixels, encoding: Encoding) -> tuple[str, bytes]:
    """Give the suffix ("jpg" or "png") and the bytes of (height, width, 3) uint8 pixels."""
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    if encoding.lossless:
        image.save(stream, "PNG", compress_level=6)
        return "png", stream.getvalue()
    subsampling = {"420": "4:2:0", "444": "4:4:4"}[encoding.chroma]
    image.save(stream, "JPEG", quality=encoding.quality, subsampling=subsampling)
    return "jpg", stream.getvalue()
