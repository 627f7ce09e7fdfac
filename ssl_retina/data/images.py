"""Encoded bytes -> RGB pixels: the one place of `data` that decodes, with a fixed list of formats.

In: the bytes of an image out of a shard. Out: its size, then its pixels, or Undecodable with its reason. Only
JPEG and PNG are tried, whatever the bytes claim to be, and the size is checked before anything is decoded.
numpy only: an inspection never loads torch.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

PIXEL_LIMIT = 64_000_000
FORMATS = {"jpg": ("JPEG",), "png": ("PNG",)}
MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
DIRECT = frozenset(("YCbCr", "Gray"))
"""JPEG colours that simplejpeg turns into the very pixels of Pillow; all others are left to Pillow."""

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB."""


class Undecodable(Exception):  # noqa: N818 - a finding about one sample, counted by the caller
    """The bytes of a sample are no image that is read here; the message is the reason."""


class Decodable(Protocol):
    """What can be decoded: its size is known before."""

    @property
    def width(self) -> int:
        """In pixels, as stored."""
        ...

    @property
    def height(self) -> int:
        """In pixels, as stored."""
        ...

    def pixels(self, share: int = 1) -> tuple[Pixels, int]:
        """See `Encoded.pixels`."""
        ...


@dataclass(frozen=True)
class Encoded:
    """An image of known size before it is decoded.

    direct: it is a JPEG for simplejpeg: without the interpreter's lock, at 1/2, 1/4 or 1/8 if so asked.
    """

    content: bytes
    suffix: str
    width: int
    height: int
    direct: bool

    def pixels(self, share: int = 1) -> tuple[Pixels, int]:
        """The pixels at 1 / share (1, 2, 4, 8) of the size, rounded up, and the share that they have.

        A wish: it is 1 in the answer where the image cannot be decoded smaller. Raises Undecodable.
        """
        if self.direct:
            wide, tall = -(-self.width // share), -(-self.height // share)
            try:
                # strict: what the library would only warn of (a scan that ends early) is judged by Pillow
                found: Pixels = simplejpeg.decode_jpeg(self.content, min_height=tall, min_width=wide)
            except ValueError:
                return self._by_pillow(), 1
            assert found.shape == (tall, wide, 3), (found.shape, tall, wide)
            return found, share
        return self._by_pillow(), 1

    def _by_pillow(self) -> Pixels:
        with _refusals(), Image.open(io.BytesIO(self.content), formats=FORMATS[self.suffix]) as image:
            return np.array(image.convert("RGB"))


def opened(content: bytes, suffix: str) -> Encoded:
    """Read the header. Raises Undecodable.

    16-bit and float images are refused: cutting them to 8 bits here would saturate them without a word;
    `ssl-retina shard` scales them.
    """
    if suffix == "jpg":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError:
            colours = ""
        if colours in DIRECT:
            _check_size(width, height)
            return Encoded(content, suffix, width, height, direct=True)
    with _refusals(), Image.open(io.BytesIO(content), formats=FORMATS[suffix]) as image:
        _check_size(*image.size)
        if image.mode not in MODES:
            raise Undecodable(f"pixels of mode {image.mode}, not 8 bits a channel")
        return Encoded(content, suffix, image.width, image.height, direct=False)


def decode(content: bytes, suffix: str) -> Pixels:
    """The image, decoded to its last row. Raises Undecodable."""
    return opened(content, suffix).pixels()[0]


def _check_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise Undecodable(f"{width} x {height} pixels, limit {PIXEL_LIMIT}")


@contextmanager
def _refusals() -> Iterator[None]:
    """What Pillow says of an image that it cannot read, as Undecodable."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise Undecodable(type(error).__name__) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Undecodable(f"more pixels than the limit {PIXEL_LIMIT}") from None
