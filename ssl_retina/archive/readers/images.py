"""JPEG, PNG, TIFF, BMP, PPM and GIF bytes -> 8-bit RGB pixels, by explicit rules for every kind of pixel.

In: a file's bytes. Out: `Picture`, or `Rejected`. Pillow decodes; its process-wide switches (truncated
files, size limit) are pinned meanwhile, so that no other package's setting changes what we accept.
"""

import contextlib
import functools
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from ssl_retina.archive.picture import WHOLE, Part, Picture, Pixels, Place, check_size
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import EVERYTHING, Selection

MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    (b"P2", "PPM"),
    (b"P3", "PPM"),
    (b"P5", "PPM"),
    (b"P6", "PPM"),
    (b"GIF8", "GIF"),
)
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise on hostile headers (measured by flipping bytes); never MemoryError."""

PAGED = ("TIFF", "GIF", "PNG")
PAGE_LIMIT = 256
"""A file of more pages is refused: those of a GIF hang on each other, the time grows with the square."""

PREVIEWS = ("Large Thumbnail", "Undefined")
BITS_PER_SAMPLE = 258
TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
PIN = threading.Lock()


def kind(content: bytes) -> str | None:
    """Pillow's name of the format that the first bytes tell, None for none of ours."""
    return next((kind for magic, kind in MAGIC if content.startswith(magic)), None)


def parts(content: bytes, selection: Selection = EVERYTHING) -> Sequence[Part]:
    """The pages of a file: one, or several where `selection.pages` takes them.

    Raises Rejected: not_an_image; pages where there are several and they are refused, or too many. What a
    part raises says `decode`.
    """
    found = kind(content)
    if found is None:
        raise Rejected("not_an_image", f"{len(content)} bytes")
    pages = 1 if selection.pages == "refuse" else _count(content, found)
    if pages == 1:
        in_full = functools.partial(decode, content, found)
        if found != "JPEG" or not selection.enough:
            return (Part(WHOLE, in_full),)
        return (Part(WHOLE, functools.partial(in_full, enough=selection.enough), in_full),)
    taken = 1 if selection.pages == "first" else pages
    return [
        Part(
            Place(f"page {page}"),
            functools.partial(decode, content, found, page) if page < taken else not_selected,
        )
        for page in range(pages)
    ]


def _count(content: bytes, kind: str) -> int:
    """How many pages there are; a JPEG has one, whatever previews lie behind it."""
    if kind not in PAGED:
        return 1
    with _pinned():
        try:
            pages = getattr(Image.open(io.BytesIO(content), formats=(kind,)), "n_frames", 1)
        except MALFORMED as error:
            raise Rejected("truncated" if _cut(content, kind, error) else "malformed") from None
    if pages > PAGE_LIMIT:
        raise Rejected("pages", str(pages))
    return int(pages)


def not_selected() -> Picture:
    """What becomes of a page or slice that the user did not ask for."""
    raise Rejected("not_selected")


def read(content: bytes) -> Picture:
    """Decode a file of one picture. Raises Rejected as `parts` and `decode`."""
    return parts(content)[0].decode()


def decode(content: bytes, kind: str, page: int | None = None, enough: int = 0) -> Picture:
    """Decode bytes of a stated Pillow format; without a page the file must have just one.

    enough: `Selection.enough`, for JPEG.
    Raises Rejected: truncated, malformed, too_large, aspect, too_small, pages, float, bit_depth, colour.
    """
    with _pinned():
        try:
            image: Image.Image = Image.open(io.BytesIO(content), formats=(kind,))
            check_size(*image.size)
            notes = _trailer(content, kind) + (_pages(image) if page is None else ())
            if page is not None:
                image.seek(page)
                check_size(*image.size)
            deep = _deep_colour(image, content)
            stored = _draft(image, enough) if enough else None
            image.load()
            upright, turned = _upright(image)
            if stored and upright.size != image.size:
                stored = stored[::-1]
            drawn, scaled = _rgb(upright)
        except MALFORMED as error:
            raise Rejected("truncated" if _cut(content, kind, error) else "malformed") from None
    if deep:
        scaled = _high_byte(np.asarray(drawn))
    return Picture(drawn, notes=notes + turned + scaled, stored=stored)


def _draft(image: Image.Image, enough: int) -> tuple[int, int] | None:
    """Have a JPEG decoded at the smallest scale that keeps both sides so long; its own size, if so."""
    size = image.size
    image.draft(None, (enough, enough))
    return None if image.size == size else size


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
    """Strict about truncation, and no limit but ours, whatever anybody set in this process."""
    with PIN:
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote the file; what matters is raised
                yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def _cut(content: bytes, kind: str, error: BaseException) -> bool:
    """Whether a decoder's complaint is that bytes are missing."""
    complaint = str(error).lower()
    if any(word in complaint for word in ("truncated", "reached eof", "not enough", "unexpected end")):
        return True
    return not _complete(content, kind)


def _complete(content: bytes, kind: str) -> bool:
    """Whether a file reaches its own end, as far as its kind tells."""
    if kind == "JPEG":
        return content.rstrip(b"\0").endswith(JPEG_END)
    if kind == "PNG":
        return PNG_END in content
    return kind != "TIFF" or _tiff_complete(content)


def _tiff_complete(content: bytes) -> bool:
    """Whether the first directory of a TIFF and all the strips or tiles it points to lie inside the file."""
    order = "<" if content[:2] == b"II" else ">"
    if len(content) < 8 or content[2:4] in (b"+\0", b"\0+"):
        return len(content) >= 16
    start = struct.unpack_from(order + "I", content, 4)[0] + 2
    if start > len(content):
        return False
    end = start + 12 * struct.unpack_from(order + "H", content, start - 2)[0]
    if end > len(content):
        return False
    entries = [struct.unpack_from(order + "HHII", content, at) for at in range(start, end, 12)]
    single = {tag: value for tag, _, count, value in entries if count == 1}
    places = max(single.get(STRIP_OFFSETS, 0), single.get(TILE_OFFSETS, 0))
    sizes = max(single.get(STRIP_BYTES, 0), single.get(TILE_BYTES, 0))
    widths = [(count * TIFF_BYTES.get(kind, 1), value) for _, kind, count, value in entries]
    needed = max([places + sizes, *(value + width for width, value in widths if width > 4)])
    return bool(needed <= len(content))


def _pages(image: Image.Image) -> tuple[str, ...]:
    """Refuse several pages; a JPEG's embedded previews are not pages."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1:
        return ()
    entries = getattr(image, "mpinfo", {}).get(0xB002, ())
    kinds = [entry["Attribute"]["MPType"] for entry in entries[1:]]
    if kinds and all(kind.startswith(PREVIEWS) for kind in kinds):
        return (f"previews:{len(kinds)}",)
    raise Rejected("pages", str(frames))


def _trailer(content: bytes, kind: str) -> tuple[str, ...]:
    """Note a PNG whose pixels are whole but whose last chunk is missing (F02)."""
    return ("trailer",) if kind == "PNG" and PNG_END not in content else ()


def _deep_colour(image: Image.Image, content: bytes) -> bool:
    """Whether 16-bit samples were stored in colour: Pillow gives their high byte. Refuses float."""
    if image.mode == "F":
        raise Rejected("float")
    if image.format == "PNG":
        return content[24] == 16 and not image.mode.startswith("I")
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
    return len(bits) > 1 and max(bits) > 8


def _high_byte(pixels: Pixels) -> tuple[str, ...]:
    """Note that 16-bit colour was cut to its high byte; refuse where too little is left of it."""
    if pixels.max() < 64:
        raise Rejected("bit_depth", "16-bit colour that uses less than 14 bits")
    return ("high_byte_of_16_bit",)


def _upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Apply the EXIF orientation; a broken EXIF block is noted and turns nothing."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image, ()  # no copy
        return ImageOps.exif_transpose(image), ()
    except MALFORMED:
        return image, ("exif_unreadable",)


def _rgb(image: Image.Image) -> tuple[Pixels | Image.Image, tuple[str, ...]]:
    """RGB from any mode, in Pillow's layout where Pillow has it so, and what was done to it.

    Transparent parts lie over black.
    """
    if image.mode.startswith("I"):
        return _grey(np.asarray(image))
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = np.asarray(image.convert("RGBA"))
        return over_black(rgba), ()
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise Rejected("colour", image.mode)
    decoded = image if image.mode == "RGB" else image.convert("RGB")
    decoded.info = {}
    return decoded, ()


def over_black(rgba: NDArray[np.uint8]) -> Pixels:
    """(height, width, 4) with straight alpha -> (height, width, 3) over black."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)


def _grey(values: NDArray[np.integer]) -> tuple[Pixels, tuple[str, ...]]:
    """Integers of more than 8 bits -> grey RGB, between the 0.1 and 99.9 % quantiles."""
    low, high = robust_range(values)
    note = f"scaled_16_bit:{low}-{high}"
    return np.repeat(scale(values, low, high)[..., None], 3, axis=2), (note,)


def robust_range(values: NDArray[np.integer]) -> tuple[int, int]:
    """The 0.1 and 99.9 % quantiles, as integers that are in the image."""
    sample = values[:: max(1, values.shape[0] // 1024), :: max(1, values.shape[1] // 1024)]
    low, high = np.quantile(sample, (0.001, 0.999), method="nearest")
    return int(low), int(high)


def scale(values: NDArray[np.integer], low: int, high: int) -> NDArray[np.uint8]:
    """Map low..high linearly to 0..255, rounded; what lies outside is clipped."""
    span = max(high - low, 1)
    scaled: NDArray[np.float32] = (values.astype(np.float32) - low) * np.float32(255 / span)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
