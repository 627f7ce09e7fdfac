"""DICOM photographs and OCT volumes -> one part a frame, and a few raw facts (patient, eye, device, visit).

In: a file's bytes. Out: parts, or `Rejected`. Nothing but the allow-listed attributes is looked at; nothing
is written, and no file that a DICOMDIR names is followed. The pixels are `dicom_pixels`'s.
"""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import pydicom
from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError

from ssl_retina.archive.picture import Part, Picture, Place
from ssl_retina.archive.readers import dicom_pixels, images
from ssl_retina.archive.readers.dicom_pixels import integer, raw_text
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import EVERYTHING, Selection

ROOT = "1.2.840.10008.5.1.4.1.1."
CLASSES: Mapping[str, tuple[str, str]] = {
    f"{ROOT}77.1.5.1": ("OP", "fundus"),  # Ophthalmic Photography 8 Bit
    f"{ROOT}77.1.5.2": ("OP", "fundus"),  # Ophthalmic Photography 16 Bit
    f"{ROOT}77.1.5.4": ("OPT", "oct"),  # Ophthalmic Tomography
    f"{ROOT}77.1.5.5": ("OP", "fundus"),  # Wide Field Ophthalmic Photography Stereographic Projection
    f"{ROOT}77.1.5.6": ("OP", "fundus"),  # Wide Field Ophthalmic Photography 3D Coordinates
    f"{ROOT}77.1.5.7": ("OPTENF", "other"),  # Ophthalmic OCT En Face
}
"""SOP classes that are read, with the Modality they must carry and what they hold."""

ON_REQUEST: Mapping[str, str] = {
    f"{ROOT}77.1.4": "vl",  # VL Photographic
    f"{ROOT}7": "sc",  # Secondary Capture
    f"{ROOT}7.2": "sc",  # Multi-frame Grayscale Byte Secondary Capture
    f"{ROOT}7.3": "sc",  # Multi-frame Grayscale Word Secondary Capture
    f"{ROOT}7.4": "sc",  # Multi-frame True Color Secondary Capture
}
"""SOP classes that may hold anything: read where `Selection.also` names them, judged by their pixels."""

DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = b"1.2.840.10008.1.2.1.99"
SUFFIXES = (".dcm", ".dicom")
FRAME_LIMIT = 4096
MALFORMED = (*images.MALFORMED, InvalidDicomError, BytesLengthException)


def recognised(content: bytes, suffix: str = "") -> bool:
    """Whether the bytes are a DICOM file: the mark after the preamble, or the suffix of a file without it."""
    return _marked(content) or (suffix in SUFFIXES and images.kind(content) is None)


def _marked(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def read(content: bytes) -> Picture:
    """Decode the first frame. Raises Rejected as `parts` and its parts."""
    return parts(content)[0].decode()


def parts(content: bytes, selection: Selection = EVERYTHING) -> Sequence[Part]:
    """The frames of an ophthalmic object; those of a tomography are the slices of one volume.

    Raises Rejected: dicomdir, not_dicom, sop_class, missing_attr, too_large, aspect, too_small, burned_in,
    bad_geometry, bit_depth, malformed; its parts too: truncated, colour, no_decoder:<transfer syntax>,
    not_selected.
    """
    if DEFLATED in content[:4096]:
        raise Rejected("no_decoder:1.2.840.10008.1.2.1.99", "deflated files can hide any size")
    with _reading():
        dataset = _dataset(content)
        holds = _holds(dataset, selection)
        if raw_text(dataset, "BurnedInAnnotation").upper() not in ("", "NO"):
            raise Rejected("burned_in")
        geometry = dicom_pixels.geometry(dataset)
        if geometry.frames > FRAME_LIMIT:
            raise Rejected("too_large", f"{geometry.frames} frames")
        frames = dicom_pixels.frames(dataset, geometry)
        places = _places(dataset, holds, geometry.frames)
        taken = selection.slices(geometry.frames) if holds == "oct" else range(geometry.frames)
        facts = _facts(dataset)

    def decode(number: int) -> Picture:
        with _reading():
            eye = _eye(dataset, number)
            pixels, notes = dicom_pixels.decode(dataset, geometry, frames(number))
            return Picture(pixels, holds, facts | ({"eye": eye} if eye else {}), notes)

    return [
        Part(place, functools.partial(decode, number) if place.slice in taken else images.not_selected)
        if place.slice is not None
        else Part(place, functools.partial(decode, number))
        for number, place in enumerate(places)
    ]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What pydicom raises becomes a reason; what it warns about is not shown, since it quotes the file."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            yield
        except EOFError:
            raise Rejected("truncated") from None
        except MALFORMED as error:
            raise Rejected("malformed", type(error).__name__) from None


def _dataset(content: bytes) -> pydicom.FileDataset:
    """Parse a file; one without the mark must show by its tags that it is DICOM (F21, F22)."""
    if not _marked(content):
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True)
            known = "SOPClassUID" in dataset or "MediaStorageSOPClassUID" in dataset.file_meta
        except MALFORMED:
            known = False
        if not known:
            raise Rejected("not_dicom")
        return dataset
    dataset = pydicom.dcmread(BytesIO(content))
    if not len(dataset):
        raise EOFError  # pydicom gives nothing at all where the pixels end too early
    return dataset


def _holds(dataset: pydicom.FileDataset, selection: Selection) -> str | None:
    """What the SOP class holds, None for what may be anything; a Modality that contradicts it is refused."""
    uid = str(dataset.get("SOPClassUID", ""))
    if DICOMDIR in (uid, str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))):
        raise Rejected("dicomdir")
    if uid in ON_REQUEST and ON_REQUEST[uid] in selection.also:
        return None
    if uid not in CLASSES:
        known = re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,50}", uid)
        raise Rejected("sop_class", uid if known else "unknown")
    stated, holds = CLASSES[uid]
    if str(dataset.get("Modality", stated)) not in (stated, ""):
        raise Rejected("sop_class", "the Modality contradicts the SOP class")
    return holds


def _places(dataset: pydicom.Dataset, holds: str | None, frames: int) -> list[Place]:
    """Where each frame stands: its number, and in a tomography its place in the volume."""
    names = [""] if frames == 1 else [f"frame {number}" for number in range(frames)]
    if holds != "oct":
        return [Place(name) for name in names]
    return [
        Place(name, volume="", slice=at, slices=frames)
        for name, at in zip(names, _stack_positions(dataset, frames), strict=True)
    ]


def _stack_positions(dataset: pydicom.Dataset, frames: int) -> list[int]:
    """The slices' places from 0 by In-Stack Position Number, where all frames have one; else as stored."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    stored = list(range(frames))
    if len(groups) != frames:
        return stored
    contents = [(group.get("FrameContentSequence") or [pydicom.Dataset()])[0] for group in groups]
    stated = [integer(one, "InStackPositionNumber", 0) - 1 for one in contents]
    return stated if sorted(stated) == stored else stored


def _facts(dataset: pydicom.Dataset) -> dict[str, str]:
    """Raw allow-listed values: patient, device, visit (a date: only its order may leave memory)."""
    date = str(dataset.get("StudyDate", "") or dataset.get("AcquisitionDateTime", ""))[:8]
    found = {
        "patient": raw_text(dataset, "PatientID"),
        "device": raw_text(dataset, "ManufacturerModelName"),
        "visit": date if re.fullmatch(r"\d{8}", date) else "",
    }
    return {name: value for name, value in found.items() if value}


def _eye(dataset: pydicom.Dataset, frame: int) -> str:
    """ImageLaterality, else Laterality, else FrameLaterality of the region, of this frame, of all frames."""
    for name in ("ImageLaterality", "Laterality"):
        if value := raw_text(dataset, name):
            return value
    if value := raw_text(_first(dataset, "AnatomicRegionSequence"), "FrameLaterality"):
        return value
    each = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in (*each, _first(dataset, "SharedFunctionalGroupsSequence")):
        if value := raw_text(_first(group, "FrameAnatomySequence"), "FrameLaterality"):
            return value
    return ""


def _first(dataset: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """The first item of a sequence, an empty one where there is none."""
    items = dataset.get(name) or [pydicom.Dataset()]
    return items[0]
