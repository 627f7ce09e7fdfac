"""Encoded bytes -> RGB pixels: the one place of `data` that decodes, with a fixed list of formats.

In: the bytes of an image out of a shard. Out: a loaded PIL image, or Undecodable with its reason. Only
JPEG and PNG are tried, whatever the bytes claim to be, and the size is checked before anything is decoded.
"""

import io

from PIL import Image

PIXEL_LIMIT = 64_000_000
FORMATS = {"jpg": ("JPEG",), "png": ("PNG",)}
MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))


class Undecodable(Exception):  # noqa: N818 - a finding about one sample, counted by the caller
    """The bytes of a sample are no image that is read here; the message is the reason."""


def decode(content: bytes, suffix: str) -> Image.Image:
    """The image as RGB, decoded to its last row. Raises Undecodable.

    16-bit and float images are refused: cutting them to 8 bits here would saturate them without a word;
    `ssl-retina shard` scales them.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS[suffix]) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise Undecodable(f"{width} x {height} pixels, limit {PIXEL_LIMIT}")
            if image.mode not in MODES:
                raise Undecodable(f"pixels of mode {image.mode}, not 8 bits a channel")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise Undecodable(type(error).__name__) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Undecodable(f"more pixels than the limit {PIXEL_LIMIT}") from None
