"""Decoded pixels -> the pixels that are stored: field of view found, cropped, squared, shrunk.

Pure functions of arrays. Fundus photographs become squares with black outside the circle of light; OCT and
everything else keep their shape and are only shrunk. Nothing is ever enlarged or stretched.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.archive.picture import Pixels, as_image, check_size
from ssl_retina.archive.pixels import field_of_view
from ssl_retina.archive.pixels.field_of_view import Circle
from ssl_retina.archive.rejection import Rejected

THUMBNAIL = 256
BLANK_RANGE = 6
GREY_CHROMA = 10
SUPPORT = 0.5
GREY_SUPPORT, GREY_VISIBLE = 0.85, 0.3
"""A curved retina in a B-scan can look like a piece of a circle: grey pictures need a surer one."""

PAPER = 128
"""A B-scan is dark: a layered grey picture whose median is above this is a page of text."""

WARMTH = 1.2
"""Red over green of a pixel of a photograph without a rim: a retina is far redder than yellowed paper."""

REDNESS, EVENLY, LIT = 1.35, 0.85, 30
"""Red over green of the whole, and the share of pixels brighter than LIT that must be warm. Measured on the
middles of 316 photographs: 1.5 and 0.90 at least. A face is mostly less red, and has hair, eyes and a wall.
"""


@dataclass(frozen=True)
class Cleaned:
    """What is stored.

    image: RGB, without any metadata; a square where modality is "fundus".
    modality: "fundus", "oct" or "other".
    field_of_view: centre x, centre y, radius x, radius y in stored pixels (pixel i covers i to i + 1; the
        centre may lie off the middle and the circle may reach beyond the image); None where none was found.
    """

    image: Image.Image
    modality: str
    field_of_view: tuple[float, float, float, float] | None

    @functools.cached_property
    def pixels(self) -> Pixels:
        """(height, width, 3) uint8."""
        return np.asarray(self.image)


@dataclass(frozen=True)
class _Thumbnail:
    """Box-filtered red, green, blue; source coordinate = thumbnail coordinate * factor + shift."""

    planes: Sequence[NDArray[np.uint8]]
    factor: int
    shift: float


def pixels_xxh128(pixels: Pixels | Image.Image) -> str:
    """Hex XXH3 (128 bits) of decoded source pixels and their shape: equal for one photograph in two files.

    Of Pillow's RGB it is that of the same (height, width, 3) array, without making one. It tells copies from
    other photographs (of a million, two are taken for one with a chance of 1e-27), at a twentieth of what
    SHA-256 costs; nothing is proven by it, since whoever wants to can draw two pictures with one digest.
    """
    if isinstance(pixels, Image.Image):
        return _Digest.of(pixels)
    digest = xxhash.xxh3_128(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


class _Digest:
    """A stream that hashes the pixels of the PPM that is written to it: its head is left out."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.digest = xxhash.xxh3_128(repr((size[1], size[0], 3)).encode())
        self._head = len(b"P6\n%d %d\n255\n" % size)

    def write(self, part: bytes) -> int:
        """Take the next bytes of the file."""
        self.digest.update(part[self._head :] if self._head else part)
        self._head = max(0, self._head - len(part))
        return len(part)

    @classmethod
    def of(cls, image: Image.Image) -> str:
        """Hex digest of an RGB image, piece by piece: each is hashed while it lies in the cache."""
        assert image.mode == "RGB", image.mode
        stream = cls(image.size)
        image.save(cast(BinaryIO, stream), "PPM")
        return stream.digest.hexdigest()


def clean(pixels: Pixels | Image.Image, modality: str | None, size: int) -> Cleaned:
    """Crop and shrink (height, width, 3) uint8 pixels so that the longer side is at most `size`.

    `modality` None: decided from the pixels. Deterministic. Raises Rejected: blank, too_small, aspect,
    too_large.
    """
    image = as_image(pixels)
    check_size(*image.size)
    thumbnail = _thumbnail(image)
    if _blank(thumbnail.planes):
        raise Rejected("blank")
    circle = None if modality in ("oct", "other") else _circle(thumbnail)
    modality = modality or _modality(thumbnail.planes, circle)
    if modality != "fundus":
        return Cleaned(_shrink(image, size), modality, None)
    return _fundus(image, circle, size)


def _thumbnail(image: Image.Image) -> _Thumbnail:
    """Means of about 4 x 4 samples a pixel; enough against noise, and cheap at any size."""
    factor = max(1, max(image.size) // THUMBNAIL)
    step = max(1, factor // 4)
    shift = (1 - step) / 2
    if step > 1:
        every = -(-image.width // step), -(-image.height // step)
        image = image.transform(every, Image.Transform.AFFINE, (step, 0, shift, 0, step, shift))
    reduced = image.reduce(factor // step)
    return _Thumbnail([np.asarray(one) for one in reduced.split()], factor // step * step, shift)


def _blank(planes: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether no channel has more range than noise."""
    ranges = (field_of_view.quantiles(one[::2, ::2], (0.005, 0.995)) for one in planes)
    return all(high - low < BLANK_RANGE for low, high in ranges)


def _circle(thumbnail: _Thumbnail) -> Circle | None:
    """The circle of light in source pixels."""
    red, green, blue = thumbnail.planes
    found = field_of_view.find(np.maximum(np.maximum(red, green), blue))
    if found is None or found.support < SUPPORT:
        return None
    scale, shift = thumbnail.factor, thumbnail.shift
    return replace(found, x=found.x * scale + shift, y=found.y * scale + shift, radius=found.radius * scale)


def _modality(planes: Sequence[NDArray[np.uint8]], circle: Circle | None) -> str:
    """A grey picture without a sure circle is no photograph of a fundus; a clearly red one is."""
    red, green, blue = (np.ascontiguousarray(one[::2, ::2]) for one in planes)
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    (chroma,) = field_of_view.quantiles(most - least, (0.98,))
    if chroma <= GREY_CHROMA:
        if circle is not None and circle.support >= GREY_SUPPORT and circle.visible >= GREY_VISIBLE:
            return "fundus"
        return "oct" if _layered(planes[1]) else "other"
    if circle is not None:
        return "fundus"
    lit = most > LIT
    warm = (red > WARMTH * green) & (green >= 0.8 * blue)
    even = lit.any() and warm[lit].mean() >= EVENLY
    return "fundus" if even and red[lit].mean() > REDNESS * green[lit].mean() else "other"


def _layered(grey: NDArray[np.uint8]) -> bool:
    """Whether rows differ more than columns do, as the layers of a B-scan make them, on a dark ground."""
    return bool(np.median(grey) < PAPER) and bool(grey.mean(axis=1).std() > 1.5 * grey.mean(axis=0).std())


def _fundus(image: Image.Image, circle: Circle | None, size: int) -> Cleaned:
    left, top, side = _square(image.width, image.height, circle)
    ratio = min(1.0, size / side)
    stored = _place(image, (left, top, side), min(side, size))
    if circle is None:
        return Cleaned(stored, "fundus", None)
    x, y = (circle.x - left) * ratio, (circle.y - top) * ratio
    radius = circle.radius * ratio
    stored.paste((0, 0, 0), None, _outside(stored.size, x, y, radius))
    rounded = (round(x, 2), round(y, 2), round(radius, 2), round(radius, 2))
    return Cleaned(stored, "fundus", rounded)


def _square(width: int, height: int, circle: Circle | None) -> tuple[int, int, int]:
    """Left, top and side, in whole source pixels, of the square around what is seen of the circle."""
    if circle is None:
        side = max(width, height)
        return (width - side) // 2, (height - side) // 2, side
    x0, x1 = max(0.0, circle.x - circle.radius), min(float(width), circle.x + circle.radius)
    y0, y1 = max(0.0, circle.y - circle.radius), min(float(height), circle.y + circle.radius)
    side = int(np.ceil(max(x1 - x0, y1 - y0)))
    if width == height and side >= 0.98 * width:
        return 0, 0, width  # already cropped: leave every pixel where it is
    return round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side


def _place(image: Image.Image, square: tuple[int, int, int], size: int) -> Image.Image:
    """The square of the source in `size` x `size`, black where it reaches beyond the source."""
    left, top, side = square
    ratio = size / side
    columns = _span(left, image.width, ratio, size)
    rows = _span(top, image.height, ratio, size)
    box = (
        left + columns[0] / ratio,
        top + rows[0] / ratio,
        left + columns[1] / ratio,
        top + rows[1] / ratio,
    )
    seen = _resample(image, box, (columns[1] - columns[0], rows[1] - rows[0]))
    if seen.size == (size, size):
        return seen
    stored = Image.new("RGB", (size, size))
    stored.paste(seen, (columns[0], rows[0]))
    return stored


def _span(start: int, length: int, ratio: float, size: int) -> tuple[int, int]:
    """First and last stored pixel that lie wholly inside the source along one axis."""
    first = int(np.ceil(max(0, -start) * ratio - 1e-9))
    last = int(np.floor(min(size, (length - start) * ratio) + 1e-9))
    return first, last


def _resample(
    image: Image.Image, box: tuple[float, float, float, float], shape: tuple[int, int]
) -> Image.Image:
    """Bicubic with antialiasing of a box (left, top, right, bottom) to (width, height)."""
    left, top, right, bottom = box
    inside = max(0.0, left), max(0.0, top), min(float(image.width), right), min(float(image.height), bottom)
    return image.resize(shape, Image.Resampling.BICUBIC, box=inside, reducing_gap=3.0)


def _shrink(image: Image.Image, size: int) -> Image.Image:
    """The same shape, with the longer side at most `size`."""
    width, height = image.size
    ratio = min(1.0, size / max(width, height))
    if ratio == 1.0:
        return image.copy()  # and not the reader's own
    shape = max(1, round(width * ratio)), max(1, round(height * ratio))
    return _resample(image, (0, 0, width, height), shape)


def _outside(size: tuple[int, int], x: float, y: float, radius: float) -> Image.Image:
    """A mask of what lies outside the circle."""
    width, height = size
    left = (radius + 0.5) ** 2 - (np.arange(height) + 0.5 - y) ** 2
    half = np.where(left < 0, -1, np.sqrt(np.maximum(left, 0)))
    first, last = (
        np.clip(place, -1, width).astype(np.int16)[:, None]
        for place in (np.ceil(x - half - 0.5), np.floor(x + half - 0.5))
    )
    columns = np.arange(width, dtype=np.int16)
    return Image.fromarray((columns < first) | (columns > last))
