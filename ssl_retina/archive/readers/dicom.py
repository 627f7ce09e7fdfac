"""Single-frame DICOM photographs and B-scans -> 8-bit RGB pixels and a few raw facts (patient, eye, device).

In: a file's bytes. Out: `Picture`, or `Rejected`. Every claim of the header is checked against the data
before anything is allocated. Nothing but the allow-listed attributes is looked at; nothing is written.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config, encaps, pixels
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

from ssl_retina.archive.picture import Picture, Pixels, check_size
from ssl_retina.archive.readers import images
from ssl_retina.archive.rejection import Rejected

CLASSES: Mapping[str, tuple[str, str]] = {
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": ("OP", "fundus"),  # Ophthalmic Photography 8 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": ("OP", "fundus"),  # Ophthalmic Photography 16 Bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.4": ("OPT", "oct"),  # Ophthalmic Tomography
}
"""SOP classes that are read, with the Modality they must carry and what they hold."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
MARKED = "1.2.840.10008.1.2.4."
"""Transfer syntaxes of the JPEG families: each frame ends with the same end-of-image marker."""

MALFORMED = (*images.MALFORMED, InvalidDicomError, BytesLengthException)


@dataclass(frozen=True)
class _Geometry:
    """The checked numbers of a header."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    syntax: str

    @property
    def native_bytes(self) -> int:
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8


def recognised(content: bytes) -> bool:
    """Whether the bytes are a DICOM file: the mark after the preamble."""
    return content[128:132] == b"DICM"


def read(content: bytes) -> Picture:
    """Decode an Ophthalmic Photography or Ophthalmic Tomography object of one frame.

    Raises Rejected: sop_class, missing_attr, pages, too_large, aspect, too_small, burned_in, truncated,
    bad_geometry, bit_depth, colour, no_decoder:<transfer syntax>, malformed.
    """
    if DEFLATED in content[:4096]:
        raise Rejected("no_decoder:1.2.840.10008.1.2.1.99", "deflated files can hide any size")
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the file
        try:
            dataset = pydicom.dcmread(BytesIO(content))
            if not len(dataset):
                raise EOFError  # pydicom gives nothing at all where the pixels end too early
            modality = _modality(dataset)
            geometry = _geometry(dataset)
            decoded, notes = _decode(dataset, geometry)
            return Picture(decoded, modality, _facts(dataset), notes)
        except EOFError:
            raise Rejected("truncated") from None
        except MALFORMED as error:
            raise Rejected("malformed", type(error).__name__) from None


def _modality(dataset: pydicom.Dataset) -> str:
    """What the SOP class holds; a Modality that contradicts it is refused."""
    uid = str(dataset.get("SOPClassUID", ""))
    if uid not in CLASSES:
        raise Rejected(
            "sop_class", uid if re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,50}", uid) else "unknown"
        )
    stated, modality = CLASSES[uid]
    if str(dataset.get("Modality", stated)) not in (stated, ""):
        raise Rejected("sop_class", "the Modality contradicts the SOP class")
    return modality


def _geometry(dataset: pydicom.Dataset) -> _Geometry:
    """The header's numbers, checked by arithmetic alone."""
    if _raw(dataset, "BurnedInAnnotation").upper() not in ("", "NO"):
        raise Rejected("burned_in")
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if _integer(dataset, "NumberOfFrames", 1) != 1:
        raise Rejected("pages", str(_integer(dataset, "NumberOfFrames", 1)))
    check_size(columns, rows)
    geometry = _Geometry(
        rows=rows,
        columns=columns,
        samples=_integer(dataset, "SamplesPerPixel", 1),
        bits_allocated=_integer(dataset, "BitsAllocated"),
        bits_stored=_integer(dataset, "BitsStored"),
        signed=_integer(dataset, "PixelRepresentation", 0) == 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        syntax=_text(dataset.file_meta, "TransferSyntaxUID"),
    )
    high_bit = _integer(dataset, "HighBit", geometry.bits_stored - 1)
    if geometry.bits_allocated not in (8, 16) or not 1 <= geometry.bits_stored <= geometry.bits_allocated:
        raise Rejected("bit_depth", f"{geometry.bits_stored} of {geometry.bits_allocated}")
    if high_bit != geometry.bits_stored - 1 or geometry.samples not in (1, 3):
        raise Rejected("bad_geometry", f"high bit {high_bit}, samples {geometry.samples}")
    return geometry


def _raw(dataset: pydicom.Dataset, name: str) -> str:
    """An attribute as the file writes it: several values stay one text with the backslashes between them."""
    value = dataset.get(name)
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in parts).strip()


def _integer(dataset: pydicom.Dataset, name: str, default: int | None = None) -> int:
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


def _decode(dataset: pydicom.Dataset, geometry: _Geometry) -> tuple[Pixels, tuple[str, ...]]:
    """8-bit RGB, and what was scaled."""
    if "PixelData" not in dataset:
        raise Rejected("missing_attr", "PixelData")
    raw = dataset.get_item("PixelData")
    stored = raw.value or b""
    if pydicom.uid.UID(geometry.syntax).is_encapsulated:
        frame = _frame(stored, geometry)
        if geometry.syntax in JPEG and _jpeg_tells_its_colour(frame, geometry):
            return _checked(images.decode(frame, "JPEG"), geometry)
    elif raw.length != 0xFFFFFFFF and raw.length > len(stored):
        raise Rejected("truncated", f"{len(stored)} of {raw.length} bytes")
    elif not geometry.native_bytes <= len(stored) <= geometry.native_bytes + 1:
        raise Rejected("bad_geometry", f"{len(stored)} bytes for {geometry.native_bytes}")
    _require_decoder(geometry.syntax)
    values = np.asarray(pixels.pixel_array(dataset, raw=False))
    return _rgb(_expanded(values, dataset, geometry), geometry)


def _frame(stored: bytes, geometry: _Geometry) -> bytes:
    """The one frame of encapsulated pixel data, complete to its end marker."""
    frames = list(encaps.generate_frames(stored, number_of_frames=1))
    if len(frames) != 1:
        raise Rejected("bad_geometry", f"{len(frames)} frames for 1")
    frame = bytes(frames[0])
    if geometry.syntax.startswith(MARKED) and not frame.rstrip(b"\0").endswith(images.JPEG_END):
        raise Rejected("truncated", "no end-of-image marker")
    return frame


def _jpeg_tells_its_colour(frame: bytes, geometry: _Geometry) -> bool:
    """Whether the decoder will take the stream's colours as the header means them."""
    marked = b"JFIF\0" in frame[:64] or b"Adobe" in frame[:2048]
    return geometry.photometric.startswith("YBR") or (geometry.photometric == "RGB" and marked)


def _checked(picture: Picture, geometry: _Geometry) -> tuple[Pixels, tuple[str, ...]]:
    if picture.pixels.shape[:2] != (geometry.rows, geometry.columns):
        height, width = picture.pixels.shape[:2]
        raise Rejected("bad_geometry", f"a frame of {width}x{height} for {geometry.columns}x{geometry.rows}")
    return picture.pixels, picture.notes


def _require_decoder(syntax: str) -> None:
    try:
        available = bool(pixels.get_decoder(syntax).is_available)
    except NotImplementedError:
        available = False
    if not available:
        known = re.fullmatch(r"[0-9.]{1,64}", syntax)
        raise Rejected(f"no_decoder:{syntax if known else 'unknown'}")


def _expanded(
    values: NDArray[np.integer], dataset: pydicom.Dataset, geometry: _Geometry
) -> NDArray[np.integer]:
    """(rows, columns) or (rows, columns, 3) with the palette applied, as large as stated."""
    if values.shape[:2] != (geometry.rows, geometry.columns) or values.ndim > 3:
        raise Rejected("bad_geometry", f"decoded to {values.shape} for {geometry.columns}x{geometry.rows}")
    if geometry.photometric == "PALETTE COLOR":
        return np.asarray(pixels.apply_color_lut(values, dataset))
    return values


def _rgb(values: NDArray[np.integer], geometry: _Geometry) -> tuple[Pixels, tuple[str, ...]]:
    """Scale to 8 bits, turn MONOCHROME1 round, and repeat grey three times."""
    low, high = _range(values, geometry)
    plain = (low, high) == (0, 255)
    scaled = values.astype(np.uint8) if plain else images.scale(values, low, high)
    if geometry.photometric == "MONOCHROME1":
        scaled = 255 - scaled
    if scaled.ndim == 2:
        scaled = np.repeat(scaled[..., None], 3, axis=2)
    if scaled.shape[2] != 3:
        raise Rejected("colour", geometry.photometric[:16])
    return np.array(scaled), () if plain else (f"scaled_16_bit:{low}-{high}",)


def _range(values: NDArray[np.integer], geometry: _Geometry) -> tuple[int, int]:
    """What becomes 0 and 255: all of BitsStored where it is used, else robust quantiles."""
    top = int(np.iinfo(values.dtype).max) if geometry.photometric == "PALETTE COLOR" else 0
    top = top or (1 << geometry.bits_stored) - 1
    if not geometry.signed and (top == 255 or int(values.max()) > top // 4):
        return 0, top
    return images.robust_range(values)


def _facts(dataset: pydicom.Dataset) -> dict[str, str]:
    """Raw allow-listed values: patient, eye, device, visit (a date: only its order may leave memory)."""
    date = str(dataset.get("StudyDate", "") or dataset.get("AcquisitionDateTime", ""))[:8]
    found = {
        "patient": _raw(dataset, "PatientID"),
        "eye": _eye(dataset),
        "device": _raw(dataset, "ManufacturerModelName"),
        "visit": date if re.fullmatch(r"\d{8}", date) else "",
    }
    return {name: value for name, value in found.items() if value}


def _eye(dataset: pydicom.Dataset) -> str:
    """ImageLaterality, else Laterality, else FrameLaterality of the anatomic region."""
    for name in ("ImageLaterality", "Laterality"):
        if value := _raw(dataset, name):
            return value
    regions = dataset.get("AnatomicRegionSequence") or [pydicom.Dataset()]
    return _raw(regions[0], "FrameLaterality")
