"""OCT files as the makers' software writes them -> B-scans with their place, and the pictures beside them.

In: bytes that begin with a maker's mark, or a maker's suffix. Out: parts, or `Rejected`: vendor_parse with
the exception's type alone. The formats are read by a few numbers each, straight from the bytes and without
a library: those that exist bring GPL-licensed binaries (OCT-Converter through imageio-ffmpeg), read every
name of the header, trust every size, and take the fraction of an E2E value backwards. What the numbers mean:
https://bitbucket.org/uocte/uocte/wiki, eyepy and OCT-Converter (MIT).
"""

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_retina.archive.picture import Part, Picture, Pixels, Place
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection

SLICE_LIMIT = 4096
UNVERIFIED = "eye_unverified"
VENDOR_ERRORS = (struct.error, ValueError, IndexError, KeyError, OverflowError, TypeError)


class Slice(NamedTuple):
    """One picture of a file: its place, and how its pixels are decoded."""

    place: Place
    modality: str
    pixels: Callable[[], Pixels]


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """What goes wrong inside becomes vendor_parse; a message may quote a name, so only its type is told."""
    try:
        yield
    except EOFError:
        raise Rejected("truncated") from None
    except VENDOR_ERRORS as error:
        raise Rejected("vendor_parse", type(error).__name__) from None


def parts(
    slices: Sequence[Slice], facts: dict[str, str], notes: tuple[str, ...], selection: Selection
) -> Sequence[Part]:
    """The pictures of a file as parts; of a volume only those that are taken."""
    if not slices:
        raise Rejected("vendor_parse", "no picture")
    if len(slices) > SLICE_LIMIT:
        raise Rejected("too_large", f"{len(slices)} pictures")

    def decode(one: Slice) -> Callable[[], Picture]:
        def run() -> Picture:
            taken = one.place.slice is None or one.place.slices is None
            if not taken and one.place.slice not in selection.slices(one.place.slices or 0):
                raise Rejected("not_selected")
            with parsing():
                return Picture(one.pixels(), one.modality, facts, notes)

        return run

    return [Part(one.place, decode(one)) for one in slices]


def block(content: bytes, start: int, size: int) -> bytes:
    """Bytes that must be there. Raises EOFError."""
    if start < 0 or size < 0 or start + size > len(content):
        raise EOFError
    return content[start : start + size]


def text(content: bytes, start: int, size: int) -> str:
    """A text that ends with a zero byte; bytes that are no UTF-8 stay what they are, as surrogates."""
    raw = block(content, start, size).split(b"\0", 1)[0]
    return raw.decode("utf-8", "surrogateescape").strip()


def grey(values: NDArray[np.uint8]) -> Pixels:
    """(height, width) -> RGB."""
    return np.repeat(values[..., None], 3, axis=2)
