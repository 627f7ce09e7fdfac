"""The pixels of a DICOM object -> 8-bit RGB, frame by frame.

In: a parsed dataset. Out: arrays, or `Rejected`. Every claim of the header is checked against the data before
anything is allocated. A frame is decoded as an object of its own that holds nothing but its pixels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import encaps, pixels
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ssl_retina.archive.picture import Picture, Pixels, check_size
from ssl_retina.archive.readers import images, isolated
from ssl_retina.archive.rejection import Rejected

JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
RLE = "1.2.840.10008.1.2.5"
MARKED = "1.2.840.10008.1.2.4."
"""Transfer syntaxes of the JPEG families: each frame ends with the same end-of-image marker."""

PLUGINS = ("pydicom", "pillow", "pylibjpeg", "pyjpegls", "gdcm")
"""Decoders in the order in which they are asked, so that an extra changes no pixel that needs none."""

FRAGILE = ("gdcm",)
"""Decoders that end the process on damaged input."""

CODESTREAM = b"\xff\x4f\xff\x51"
"""How JPEG 2000 begins: start of codestream, sizes."""

Frames = Callable[[int], bytes]
"""The stored bytes of frame 0, 1, ..."""


@dataclass(frozen=True)
class Geometry:
    """The checked numbers of a header."""

    rows: int
    columns: int
    frames: int
    samples: int
    planar: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    syntax: str

    @property
    def native_bytes(self) -> int:
        """Bytes of one frame without compression."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8


def geometry(dataset: pydicom.FileDataset) -> Geometry:
    """The header's numbers, checked by arithmetic alone."""
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    check_size(columns, rows)
    found = Geometry(
        rows=rows,
        columns=columns,
        frames=integer(dataset, "NumberOfFrames", 1),
        samples=integer(dataset, "SamplesPerPixel", 1),
        planar=integer(dataset, "PlanarConfiguration", 0),
        bits_allocated=integer(dataset, "BitsAllocated"),
        bits_stored=integer(dataset, "BitsStored"),
        signed=integer(dataset, "PixelRepresentation", 0) == 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        syntax=_syntax(dataset),
    )
    high_bit = integer(dataset, "HighBit", found.bits_stored - 1)
    if found.bits_allocated not in (8, 16) or not 1 <= found.bits_stored <= found.bits_allocated:
        raise Rejected("bit_depth", f"{found.bits_stored} of {found.bits_allocated}")
    if high_bit != found.bits_stored - 1 or found.samples not in (1, 3) or found.frames < 1:
        raise Rejected("bad_geometry", f"high bit {high_bit}, samples {found.samples}, frames {found.frames}")
    return found


def _syntax(dataset: pydicom.FileDataset) -> str:
    """The transfer syntax; of a file without meta header what its parsing has shown."""
    if "TransferSyntaxUID" in dataset.file_meta or len(dataset.file_meta):
        return _text(dataset.file_meta, "TransferSyntaxUID")
    implicit, little = dataset.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def raw_text(dataset: pydicom.Dataset, name: str) -> str:
    """An attribute as the file writes it: several values stay one text with the backslashes between them."""
    value = dataset.get(name)
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in parts).strip()


def integer(dataset: pydicom.Dataset, name: str, default: int | None = None) -> int:
    """A whole number; raises Rejected (missing_attr) where it is absent and has no default."""
    value = dataset.get(name)
    if value is None or value == "":
        if default is None:
            raise Rejected("missing_attr", name)
        return default
    return int(value)


def _text(dataset: pydicom.Dataset, name: str) -> str:
    value = str(dataset.get(name, "")).strip()
    if not value:
        raise Rejected("missing_attr", name)
    return value


def frames(dataset: pydicom.FileDataset, found: Geometry) -> Frames:
    """Access to the frames' bytes, once their number fits. Raises Rejected: missing_attr, truncated,
    bad_geometry.
    """
    if "PixelData" not in dataset:
        raise Rejected("missing_attr", "PixelData")
    raw = dataset.get_item("PixelData")
    stored = raw.value or b""
    if UID(found.syntax).is_encapsulated:
        offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
        extended = offsets if all(offsets) else None
        cut = list(encaps.generate_frames(stored, number_of_frames=found.frames, extended_offsets=extended))
        if len(cut) != found.frames:
            raise Rejected("bad_geometry", f"{len(cut)} frames for {found.frames}")
        return lambda number: bytes(cut[number])
    size = found.native_bytes
    if raw.length != 0xFFFFFFFF and raw.length > len(stored):
        raise Rejected("truncated", f"{len(stored)} of {raw.length} bytes")
    if not size * found.frames <= len(stored) <= size * found.frames + 1:
        raise Rejected("bad_geometry", f"{len(stored)} bytes for {size * found.frames}")
    return lambda number: stored[number * size : (number + 1) * size]


def decode(dataset: pydicom.FileDataset, found: Geometry, frame: bytes) -> tuple[Pixels, tuple[str, ...]]:
    """One frame as 8-bit RGB, and what was scaled. Raises Rejected."""
    if UID(found.syntax).is_encapsulated:
        _check_frame(frame, found)
        if found.syntax in JPEG and _jpeg_tells_its_colour(frame, found):
            return _checked(images.decode(frame, "JPEG"), found)
    values = _decoded(_alone(dataset, found, frame))
    if values.shape[:2] != (found.rows, found.columns) or values.ndim > 3:
        raise Rejected("bad_geometry", f"decoded to {values.shape} for {found.columns}x{found.rows}")
    if found.photometric == "PALETTE COLOR":
        values = np.asarray(pixels.apply_color_lut(values, dataset))
    return _rgb(values, found)


def _check_frame(frame: bytes, found: Geometry) -> None:
    """Whether a compressed frame is whole and as large as the header says, as far as its own header tells."""
    if found.syntax == RLE and len(frame) > 2 * found.native_bytes + 1024:
        raise Rejected("bad_geometry", f"{len(frame)} bytes of RLE for {found.native_bytes}")
    if not found.syntax.startswith(MARKED):
        return
    if not frame.rstrip(b"\0").endswith(images.JPEG_END):
        raise Rejected("truncated", "no end-of-image marker")
    size = _coded_size(frame)
    if size is not None and size != (found.columns, found.rows):
        raise Rejected("bad_geometry", f"a frame of {size[0]}x{size[1]} for {found.columns}x{found.rows}")


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height as a JPEG or JPEG 2000 stream states them; None where it does not."""
    codestream = frame.find(CODESTREAM, 0, 4096)
    if codestream >= 0:
        numbers = np.frombuffer(frame, ">u4", 4, codestream + 8) if len(frame) > codestream + 24 else None
        return None if numbers is None else (int(numbers[0] - numbers[2]), int(numbers[1] - numbers[3]))
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        kind, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) or kind == 0xF7:
            return (
                int.from_bytes(frame[at + 7 : at + 9], "big"),
                int.from_bytes(frame[at + 5 : at + 7], "big"),
            )
        at += 2 + length
    return None


def _jpeg_tells_its_colour(frame: bytes, found: Geometry) -> bool:
    """Whether the decoder will take the stream's colours as the header means them."""
    marked = b"JFIF\0" in frame[:64] or b"Adobe" in frame[:2048]
    return found.photometric.startswith("YBR") or (found.photometric == "RGB" and marked)


def _checked(picture: Picture, found: Geometry) -> tuple[Pixels, tuple[str, ...]]:
    if picture.pixels.shape[:2] != (found.rows, found.columns):
        height, width = picture.pixels.shape[:2]
        raise Rejected("bad_geometry", f"a frame of {width}x{height} for {found.columns}x{found.rows}")
    return picture.pixels, picture.notes


def _alone(dataset: pydicom.FileDataset, found: Geometry, frame: bytes) -> pydicom.Dataset:
    """A dataset of one frame and what its decoding needs, and nothing else of the file."""
    alone = pydicom.Dataset()
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = UID(found.syntax)
    alone.Rows, alone.Columns, alone.SamplesPerPixel = found.rows, found.columns, found.samples
    alone.BitsAllocated, alone.BitsStored, alone.HighBit = (
        found.bits_allocated,
        found.bits_stored,
        found.bits_stored - 1,
    )
    alone.PixelRepresentation, alone.PhotometricInterpretation = int(found.signed), found.photometric
    if found.samples > 1:
        alone.PlanarConfiguration = found.planar
    packed = UID(found.syntax).is_encapsulated
    stated = dataset["PixelData"].VR
    kind = "OB" if packed else stated if stated in ("OB", "OW") else "OW"
    alone.add_new("PixelData", kind, encaps.encapsulate([frame]) if packed else frame)
    alone["PixelData"].is_undefined_length = packed
    return alone


def _decoded(alone: pydicom.Dataset) -> NDArray[np.integer]:
    """The values by the first decoder that can. Raises Rejected (no_decoder) where none is installed."""
    syntax = str(alone.file_meta.TransferSyntaxUID)
    try:
        available = pixels.get_decoder(syntax).available_plugins
    except NotImplementedError:
        available = ()
    native = not UID(syntax).is_encapsulated and UID(syntax).is_transfer_syntax
    chosen = [name for name in PLUGINS if name in available]
    if not chosen and not native:
        known = re.fullmatch(r"[0-9.]{1,64}", syntax)
        raise Rejected(f"no_decoder:{syntax if known else 'unknown'}")
    for name in chosen[:-1]:
        try:
            return _by(alone, name)
        except images.MALFORMED:
            continue
    return _by(alone, chosen[-1] if chosen else "")


def _by(alone: pydicom.Dataset, plugin: str) -> NDArray[np.integer]:
    """The values by one decoder."""
    if plugin in FRAGILE:
        return isolated.helper().call(_decoded_here, alone, plugin)
    return _decoded_here(alone, plugin)


def _decoded_here(alone: pydicom.Dataset, plugin: str) -> NDArray[np.integer]:
    return np.asarray(pixels.pixel_array(alone, raw=False, decoding_plugin=plugin))


def _rgb(values: NDArray[np.integer], found: Geometry) -> tuple[Pixels, tuple[str, ...]]:
    """Scale to 8 bits, turn MONOCHROME1 round, and repeat grey three times."""
    low, high = _range(values, found)
    plain = (low, high) == (0, 255)
    scaled = values.astype(np.uint8) if plain else images.scale(values, low, high)
    if found.photometric == "MONOCHROME1":
        scaled = 255 - scaled
    if scaled.ndim == 2:
        scaled = np.repeat(scaled[..., None], 3, axis=2)
    if scaled.shape[2] != 3:
        raise Rejected("colour", found.photometric[:16])
    return np.array(scaled), () if plain else (f"scaled_16_bit:{low}-{high}",)


def _range(values: NDArray[np.integer], found: Geometry) -> tuple[int, int]:
    """What becomes 0 and 255: all of BitsStored where it is used, else robust quantiles."""
    top = int(np.iinfo(values.dtype).max) if found.photometric == "PALETTE COLOR" else 0
    top = top or (1 << found.bits_stored) - 1
    if not found.signed and (top == 255 or int(values.max()) > top // 4):
        return 0, top
    return images.robust_range(values)
