"""A decoded photograph as the readers hand it over, and the sizes that are accepted at all.

In: width and height as a file's header states them. Out: nothing, or `Rejected` before a pixel is decoded.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.archive.rejection import Rejected

PIXEL_LIMIT = 100_000_000
SMALLEST_SIDE = 32
LARGEST_ASPECT = 12

Pixels = NDArray[np.uint8]
"""(height, width, 3) red, green, blue."""


def as_image(pixels: Pixels | Image.Image) -> Image.Image:
    """(height, width, 3) uint8 pixels in Pillow's layout; what is there already is not copied."""
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its file a picture stands.

    name: tells the pictures of one file apart, such as "frame 3"; empty where the file is one picture.
    volume: None where the picture is no slice of a volume, "" for the only volume of its file, else its name
    in the file. slice, slices: the picture's number in the volume, from 0, and how many there are.
    """

    name: str = ""
    volume: str | None = None
    slice: int | None = None
    slices: int | None = None


WHOLE = Place()


@dataclass(frozen=True)
class Part:
    """One picture of a file that is not decoded yet; `decode` and `in_full` raise Rejected.

    in_full: where `decode` gives fewer pixels than the file holds, decodes them all.
    """

    place: Place
    decode: "Callable[[], Picture]"
    in_full: "Callable[[], Picture] | None" = None


@dataclass(frozen=True)
class Picture:
    """One decoded picture.

    drawn: RGB, upright: (height, width, 3) uint8, a fresh array; or in Pillow's layout where Pillow decoded
        it, with an empty `info`: what else of the file hangs on it does not go along when it is cropped or
        shrunk.
    modality: "fundus", "oct" or "other" where the file itself says so, else None.
    facts: raw values under the allow-listed names patient, eye, device, visit, straight from DICOM; they may
        identify a patient and stay in memory until they are made pseudonyms.
    stored: width and height in the file where it was decoded at a smaller scale, else None.
    notes: what was mended on the way, such as "trailer" or "scaled_16_bit:12-4031"; for the ledger.
    """

    drawn: Pixels | Image.Image
    modality: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stored: tuple[int, int] | None = None

    @functools.cached_property
    def image(self) -> Image.Image:
        """The pixels in Pillow's layout: to find, crop and shrink them without a copy for every step."""
        return as_image(self.drawn)

    @functools.cached_property
    def pixels(self) -> Pixels:
        """(height, width, 3) uint8; a copy of what Pillow decoded, made when it is asked for."""
        return np.asarray(self.drawn)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file, upright."""
        return self.stored or self.image.size


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no retinal photograph has: too_large, aspect, too_small (pixels)."""
    if width * height > PIXEL_LIMIT:
        raise Rejected("too_large", f"{width}x{height}")
    short, long = sorted((width, height))
    if short > 0 and long > LARGEST_ASPECT * short:
        raise Rejected("aspect", f"{width}x{height}")
    if short < SMALLEST_SIDE:
        raise Rejected("too_small", f"{width}x{height}")
