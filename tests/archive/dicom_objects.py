"""DICOM objects that the tests write: an ophthalmic photograph whose every attribute can be changed."""

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian

OP8 = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
OP16 = "1.2.840.10008.5.1.4.1.1.77.1.5.2"
OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
HEIGHT, WIDTH = 40, 48


def colours() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 5, columns * 4, np.full_like(rows, 90)], axis=2).astype(np.uint8)


def dataset(sop_class: str = OP8, syntax: str = ExplicitVRLittleEndian, **changes: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    meta.TransferSyntaxUID = UID(syntax)
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = sop_class, "1.2.3.4"
    made.PatientName, made.PatientID = "Meier^Eva", "4711"
    made.StudyDate, made.ManufacturerModelName, made.ImageLaterality = "20190203", "Kamera X", "R"
    made.Rows, made.Columns, made.SamplesPerPixel = HEIGHT, WIDTH, 3
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PhotometricInterpretation, made.PlanarConfiguration = "RGB", 0
    made.PixelData = colours().tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def grey(values: np.ndarray, bits: int, **changes: object) -> FileDataset:
    allocated = 16 if bits > 8 else 8
    settings: dict[str, object] = {
        "SamplesPerPixel": 1,
        "PlanarConfiguration": None,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelData": values.astype(np.uint16 if allocated == 16 else np.uint8).tobytes(),
    }
    return dataset(OP16 if bits > 8 else OP8, **(settings | changes))


def encapsulated(
    frame: bytes, syntax: str, photometric: str = "YBR_FULL_422", **changes: object
) -> FileDataset:
    made = dataset(
        syntax=syntax, PhotometricInterpretation=photometric, PixelData=encapsulate([frame]), **changes
    )
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


def jpeg(**settings: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(colours()).save(stream, "JPEG", quality=95, subsampling=0, **settings)
    return stream.getvalue()


def file(made: FileDataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made)
    return stream.getvalue()


def volume(slices: int, **changes: object) -> FileDataset:
    """An Ophthalmic Tomography of so many B-scans: bright bands at another height in each."""
    settings: dict[str, object] = {
        "Modality": "OPT",
        "NumberOfFrames": slices,
        "PixelData": b"".join(b_scan(number).tobytes() for number in range(slices)),
    }
    made = grey(b_scan(0), 8, **(settings | changes))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(OPT)
    return made


def b_scan(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8: noise with a bright band."""
    values = np.random.default_rng(number).integers(0, 40, (HEIGHT, WIDTH))
    values[10 + number % 20 : 16 + number % 20] += 180
    return values.astype(np.uint8)
