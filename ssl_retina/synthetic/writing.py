"""Writes one image as its camera's software would, names and dates of the patient included.

In: a `Shot` and its pixels. Out: the bytes of a JPEG, a PNG (8 or 16 bit) or a DICOM photograph. All
patients are invented; the names are there so that the archive step can be seen to remove them.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage, generate_uid

from ssl_retina.synthetic.cameras import CAMERAS
from ssl_retina.synthetic.cohort import Shot

ARTIST, DESCRIPTION, DATE = 0x013B, 0x010E, 0x0132


def encode(shot: Shot, pixels: NDArray[np.uint8]) -> bytes:
    """The file's bytes, of the kind that `shot.file` ends with; equal for equal pixels."""
    suffix = shot.file.rpartition(".")[2].lower()
    if suffix == "dcm":
        return _dicom(shot, pixels)
    if suffix == "png":
        return _png(shot, pixels)
    return _jpeg(shot, pixels)


def _whole_name(shot: Shot) -> str:
    return f"{shot.patient.surname}^{shot.patient.forename}"


def _jpeg(shot: Shot, pixels: NDArray[np.uint8]) -> bytes:
    exif = Image.Exif()
    exif[DESCRIPTION] = f"{_whole_name(shot)} {shot.patient.record}"
    exif[DATE] = f"{shot.patient.visits[shot.visit]:%Y:%m:%d} 09:30:00"
    comment = f"born {shot.patient.born:%d.%m.%Y}".encode()
    stream = io.BytesIO()
    quality = CAMERAS[shot.camera].quality
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, exif=exif, comment=comment)
    return stream.getvalue()


def _png(shot: Shot, pixels: NDArray[np.uint8]) -> bytes:
    text = PngInfo()
    text.add_text("Patient", f"{_whole_name(shot)} {shot.patient.record}")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=text, compress_level=1)
    return stream.getvalue()


def encode_sixteen_bit(pixels: NDArray[np.uint8]) -> bytes:
    """A red-free photograph: the green channel as a 16-bit grey PNG that uses 12 of its bits."""
    levels = pixels[..., 1].astype(np.uint16) * 16
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def _dicom(shot: Shot, pixels: NDArray[np.uint8]) -> bytes:
    """An uncompressed Ophthalmic Photography 8 Bit object with the patient's name in its tags."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = OphthalmicPhotography8BitImageStorage
    for level in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(dataset, level, generate_uid(entropy_srcs=[level, shot.file]))
    _describe(dataset, shot)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _describe(dataset: Dataset, shot: Shot) -> None:
    patient = shot.patient
    dataset.PatientName = _whole_name(shot)
    dataset.PatientID = patient.record
    dataset.PatientBirthDate = f"{patient.born:%Y%m%d}"
    dataset.PatientSex = "O"
    dataset.StudyDate = f"{patient.visits[shot.visit]:%Y%m%d}"
    dataset.InstitutionName = "Invented Eye Hospital"
    dataset.Modality = "OP"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Manufacturer = "Invented Optics"
    dataset.ManufacturerModelName = CAMERAS[shot.camera].device
    dataset.ImageLaterality = "R" if shot.right else "L"
    dataset.BurnedInAnnotation = "NO"
    dataset.NumberOfFrames = 1
    dataset.InstanceNumber = 1
