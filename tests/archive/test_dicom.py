"""DICOM objects with every fault -> pixels or a reason (faults.md F21-F34, F39)."""

import io
import os
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_objects import HEIGHT, OPT, WIDTH, colours, dataset, encapsulated, file, grey, jpeg
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from ssl_retina.archive import readers
from ssl_retina.archive.readers import dicom, dicom_pixels, isolated
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import Selection


def read(made: FileDataset) -> readers.Picture:
    return dicom.read(file(made))


def reason(made: FileDataset | bytes) -> str:
    with pytest.raises(Rejected) as caught:
        dicom.read(made if isinstance(made, bytes) else file(made))
    assert "Meier" not in str(caught.value)
    return caught.value.reason


def test_a_photograph_and_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes(file(dataset()))
    picture = readers.read(path)
    assert np.array_equal(picture.pixels, colours())
    assert picture.modality == "fundus"
    assert picture.facts == {"patient": "4711", "eye": "R", "device": "Kamera X", "visit": "20190203"}
    assert picture.notes == ()


def test_facts_that_are_missing_are_left_out_and_the_eye_has_three_places() -> None:
    bare = dataset(ImageLaterality=None, PatientID="", ManufacturerModelName=None, StudyDate=None)
    assert read(bare).facts == {}
    assert read(dataset(ImageLaterality="", Laterality="L")).facts["eye"] == "L"
    region = pydicom.Dataset()
    region.FrameLaterality = "L"
    assert read(dataset(ImageLaterality=None, AnatomicRegionSequence=[region])).facts["eye"] == "L"


@pytest.mark.parametrize("value", ["YES", "Y", "TRUE", "UNKNOWN"])
def test_anything_but_no_says_that_text_is_burned_in(value: str) -> None:
    assert reason(dataset(BurnedInAnnotation=value)) == "burned_in"


@pytest.mark.parametrize("value", ["NO", ""])
def test_no_burned_in_text_is_taken(value: str) -> None:
    assert read(dataset(BurnedInAnnotation=value)).modality == "fundus"


def test_an_id_with_a_backslash_is_the_text_that_was_written() -> None:
    assert read(dataset(PatientID="DOE\\JOHN")).facts["patient"] == "DOE\\JOHN"


@pytest.mark.parametrize("start", [132, "no meta header"])
def test_f21_without_its_mark_a_file_is_dicom_by_suffix_and_tags(tmp_path: Path, start: object) -> None:
    content = file(dataset())
    begin = start if isinstance(start, int) else content.index(b"\x08\x00\x16\x00UI")
    path = tmp_path / "a.dcm"
    path.write_bytes(content[begin:])
    assert np.array_equal(readers.read(path).pixels, colours())
    other = tmp_path / "a.bin"
    other.write_bytes(content[begin:])
    with pytest.raises(Rejected, match="not_an_image"):
        readers.read(other)


@pytest.mark.parametrize("content", [b"", bytes(5000), b"<html>", np.random.default_rng(3).bytes(9000)])
def test_f22_a_suffix_alone_is_no_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(Rejected, match="not_dicom"):
        readers.read(path)


def test_f22_random_bytes_behind_the_mark() -> None:
    noise = np.random.default_rng(0).bytes(4000)
    assert reason(bytes(128) + b"DICM" + noise) in ("malformed", "sop_class", "truncated", "missing_attr")


@pytest.mark.parametrize("share", [0.6, 0.9, 0.999])
def test_f23_native_pixels_cut(share: float) -> None:
    content = file(dataset())
    assert reason(content[: int(len(content) * share)]) == "truncated"


@pytest.mark.parametrize("share", [0.7, 0.9, 0.99])
def test_f23_encapsulated_pixels_cut(share: float) -> None:
    content = file(encapsulated(jpeg(), JPEGBaseline8Bit))
    assert reason(content[: int(len(content) * share)]) == "truncated"


def test_f24_f25_rows_that_lie() -> None:
    assert reason(dataset(Rows=HEIGHT + 1)) == "bad_geometry"
    assert reason(dataset(Rows=HEIGHT // 2 + 15)) == "bad_geometry"
    assert reason(encapsulated(jpeg(), JPEGBaseline8Bit, Rows=HEIGHT + 1)) == "bad_geometry"


def test_f26_sizes_are_refused_by_arithmetic() -> None:
    assert reason(dataset(NumberOfFrames=100_000)) == "too_large"
    assert reason(dataset(NumberOfFrames=3)) == "bad_geometry"
    assert reason(dataset(Rows=65535, Columns=65535)) == "too_large"
    assert reason(dataset(Rows=8)) == "too_small"


def test_f27_deflated_files_are_not_inflated() -> None:
    made = dataset(syntax="1.2.840.10008.1.2.1.99", PixelData=bytes(WIDTH * HEIGHT * 3))
    assert reason(made) == "no_decoder:1.2.840.10008.1.2.1.99"


def test_f28_a_truncated_frame() -> None:
    frame = jpeg()
    assert reason(encapsulated(frame[: len(frame) * 2 // 3], JPEGBaseline8Bit)) == "truncated"
    headless = frame[: len(frame) * 9 // 10] + b"\xff\xd9"
    made = encapsulated(headless, JPEGBaseline8Bit)
    assert read(made).pixels.shape == (HEIGHT, WIDTH, 3)  # a marker put back hides the cut: not detectable


def test_f29_a_frame_of_another_size() -> None:
    assert reason(encapsulated(jpeg(), JPEGBaseline8Bit, Columns=WIDTH * 2)) == "bad_geometry"


@pytest.mark.parametrize(
    "name", ["Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"]
)
def test_f31_missing_attribute(name: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(dataset(**{name: None}))
    assert (caught.value.reason, caught.value.detail) == ("missing_attr", name)


def test_f31_no_pixels() -> None:
    assert reason(dataset(PixelData=None)) == "missing_attr"


@pytest.mark.parametrize("number", [57, 70, 80, 102])
def test_f31_no_decoder_names_the_transfer_syntax(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_pixels, "PLUGINS", ("pydicom", "pillow"))  # as without the extra
    syntax = f"1.2.840.10008.1.2.4.{number}"
    assert reason(encapsulated(b"\xff\xd8\xff\xd9", syntax)) == f"no_decoder:{syntax}"


def _recoded(made: FileDataset, folder: Path, syntax: str) -> bytes:
    """The object in another transfer syntax, written by gdcm."""
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm is not installed (extra dicom)")
    path = str(folder / "recoded.dcm")
    Path(path).write_bytes(file(made))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(path)
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(path)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return Path(path).read_bytes()


def test_a_decoder_that_ends_its_process_is_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    """gdcm calls abort() on damaged streams: the file is lost, not the worker."""
    helper = isolated.Isolated()
    with pytest.raises(Rejected, match="malformed: the decoder was lost"):
        helper.call(os.abort)
    assert helper.call(os.getpid) != os.getpid()
    monkeypatch.setattr(isolated, "SECONDS", 0.2)
    with pytest.raises(Rejected, match="malformed: the decoder was lost"):
        helper.call(time.sleep, 60)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_lossless_jpeg_by_the_extra(tmp_path: Path, syntax: str) -> None:
    content = _recoded(dataset(), tmp_path, syntax)
    assert np.array_equal(dicom.read(content).pixels, colours())
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 4095 // (HEIGHT * WIDTH - 1)
    deep = dicom.read(_recoded(grey(values, 12), tmp_path, syntax))
    assert np.abs(deep.pixels[..., 0].astype(int) - values / 4095 * 255).max() <= 1
    for cut in (0.6, 0.95):
        assert reason(content[: int(len(content) * cut)]) in ("truncated", "malformed")


def test_f32_monochrome1_is_inverted() -> None:
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256
    plain = read(grey(values, 8)).pixels
    assert np.array_equal(plain[..., 0], values)
    assert np.array_equal(read(grey(values, 8, PhotometricInterpretation="MONOCHROME1")).pixels, 255 - plain)


def test_f32_planar_configuration_1() -> None:
    planes = np.moveaxis(colours(), 2, 0).tobytes()
    assert np.array_equal(read(dataset(PlanarConfiguration=1, PixelData=planes)).pixels, colours())


def test_f32_ybr_full_422_native() -> None:
    """Two neighbours share their colour: Y0 Y1 Cb Cr."""
    flat = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    flat[:, : WIDTH // 2], flat[:, WIDTH // 2 :] = (200, 60, 30), (20, 140, 90)
    ybr = np.asarray(Image.fromarray(flat).convert("YCbCr"))
    packed = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=2)
    picture = read(dataset(PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes()))
    assert np.abs(picture.pixels.astype(int) - flat).max() <= 3


def test_f32_monochrome1_of_sixteen_bits() -> None:
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 4095 // (HEIGHT * WIDTH - 1)
    picture = read(grey(values, 12, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(picture.pixels[..., 0] - (255 - values / 4095 * 255)).max() <= 1


def test_f29_a_compressed_frame_that_claims_another_size_is_not_decoded() -> None:
    stream = io.BytesIO()
    Image.new("L", (4000, 3000)).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    made = encapsulated(stream.getvalue(), JPEG2000Lossless, "RGB")
    assert reason(made) == "bad_geometry"


def test_f32_ybr_full_native() -> None:
    ybr = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    picture = read(dataset(PhotometricInterpretation="YBR_FULL", PixelData=ybr.tobytes()))
    assert np.abs(picture.pixels.astype(int) - colours()).max() <= 3


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
def test_f32_jpeg_frames_follow_the_stream(photometric: str) -> None:
    picture = read(encapsulated(jpeg(), JPEGBaseline8Bit, photometric))
    assert np.abs(picture.pixels.astype(int) - colours()).mean() < 3


def test_f32_palette() -> None:
    indices = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4).astype(np.uint8)
    changes: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    tables = {"Red": [0, 10, 20, 255], "Green": [0, 100, 7, 255], "Blue": [9, 8, 7, 255]}
    for colour, table in tables.items():
        changes[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        changes[f"{colour}PaletteColorLookupTableData"] = np.array([v * 257 for v in table], "<u2").tobytes()
    picture = read(grey(indices, 8, **changes))
    expected = np.stack([np.array(tables[colour])[indices] for colour in ("Red", "Green", "Blue")], axis=2)
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1


def test_lossless_encapsulations() -> None:
    rle = dataset()
    rle.compress(RLELossless)
    assert np.array_equal(read(rle).pixels, colours())
    stream = io.BytesIO()
    Image.fromarray(colours()).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=0)
    assert np.array_equal(read(encapsulated(stream.getvalue(), JPEG2000Lossless, "RGB")).pixels, colours())


def test_f28_a_truncated_jpeg_2000_frame() -> None:
    stream = io.BytesIO()
    Image.fromarray(colours()).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=0)
    cut = stream.getvalue()[: len(stream.getvalue()) * 2 // 3]
    assert reason(encapsulated(cut, JPEG2000Lossless, "RGB")) == "truncated"


def test_f32_a_jpeg_of_red_green_and_blue_that_does_not_say_so() -> None:
    """Without a marker a decoder takes three components for luma and chroma: the header must win."""
    stream = io.BytesIO()
    Image.fromarray(colours()).save(stream, "JPEG", quality=95, keep_rgb=True, subsampling=0)
    frame = stream.getvalue()
    marker = frame.index(b"\xff\xee")
    frame = frame[:marker] + frame[marker + 2 + int.from_bytes(frame[marker + 2 : marker + 4], "big") :]
    anonymous = bytearray(frame)
    scan = frame.index(b"\xff\xda") + 5
    for number, name in enumerate((b"R\x11", b"G\x11", b"B\x11")):
        anonymous[frame.index(name)] = anonymous[scan + 2 * number] = number + 1
    picture = read(encapsulated(bytes(anonymous), JPEGBaseline8Bit, "RGB"))
    assert np.abs(picture.pixels.astype(int) - colours()).mean() < 3


def test_sixteen_bits_are_scaled_by_bits_stored() -> None:
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 4095 // (HEIGHT * WIDTH - 1)
    picture = read(grey(values, 12))
    assert np.abs(picture.pixels[..., 0].astype(int) - values / 4095 * 255).max() <= 1
    assert picture.notes == ("scaled_16_bit:0-4095",)


def test_sixteen_bits_that_hold_ten_are_scaled_by_quantiles_and_unused_bits_do_not_count() -> None:
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 1023 // (HEIGHT * WIDTH - 1)
    picture = read(grey(values, 16))
    assert picture.pixels.max() == 255
    assert 120 < picture.pixels.mean() < 135
    overlay = (values & 0x0FFF) | 0x8000
    assert np.array_equal(read(grey(overlay, 12)).pixels, read(grey(values, 12)).pixels)


def test_f33_other_sop_classes() -> None:
    for uid in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.104.1"):
        with pytest.raises(Rejected) as caught:
            read(dataset(uid))
        assert (caught.value.reason, caught.value.detail) == ("sop_class", uid)
    assert reason(dataset("9.9.9")) == "sop_class"
    assert reason(dataset(OPT, Modality="OP")) == "sop_class"


@pytest.mark.parametrize("number", [5, 6])
def test_wide_field_photographs_are_read(number: int) -> None:
    assert read(dataset(f"1.2.840.10008.5.1.4.1.1.77.1.5.{number}", Modality="OP")).modality == "fundus"
    assert read(dataset("1.2.840.10008.5.1.4.1.1.77.1.5.7", Modality="OPTENF")).modality == "other"


@pytest.mark.parametrize(("uid", "kind"), [("77.1.4", "vl"), ("7", "sc"), ("7.4", "sc")])
def test_f33_photographs_and_captures_of_anything_are_read_only_when_asked_for(uid: str, kind: str) -> None:
    content = file(dataset(f"1.2.840.10008.5.1.4.1.1.{uid}", Modality="OT"))
    for also in ((), tuple({"vl", "sc"} - {kind})):
        with pytest.raises(Rejected, match="sop_class"):
            dicom.parts(content, Selection(also=also))
    picture = dicom.parts(content, Selection(also=(kind,)))[0].decode()
    assert picture.modality is None  # its pixels must say what it is
    assert np.array_equal(picture.pixels, colours())


def test_f35_a_dicomdir_is_a_reason_of_its_own_and_names_no_file() -> None:
    record = pydicom.Dataset()
    with pydicom.config.disable_value_validation():
        record.ReferencedFileID = ["..", "..", "Meier"]
    directory = dataset("1.2.840.10008.1.3.10", DirectoryRecordSequence=[record])
    for name in ("PixelData", "Rows", "Columns", "SOPClassUID"):
        delattr(directory, name)
    with pydicom.config.disable_value_validation():
        content = file(directory)
    assert reason(content) == "dicomdir"


def test_f30_sequences_nested_five_thousand_deep() -> None:
    content = file(dataset(PixelData=None, Rows=None))
    opened = bytes.fromhex("08001511") + b"SQ\0\0\xff\xff\xff\xff" + bytes.fromhex("feff00e0ffffffff")
    assert reason(content + opened * 5000) in ("malformed", "truncated")


def test_f34_what_stands_in_the_preamble_is_never_looked_at() -> None:
    content = b"MZ" + bytes(range(126)) + file(dataset())[128:]
    assert np.array_equal(dicom.read(content).pixels, colours())


def test_f39_burned_in_text() -> None:
    assert reason(dataset(BurnedInAnnotation="YES")) == "burned_in"


def test_a_b_scan_is_oct() -> None:
    assert read(dataset(OPT, Modality="OPT")).modality == "oct"


def test_values_out_of_order_neither_warn_nor_leak(caplog: pytest.LogCaptureFixture) -> None:
    content = file(dataset()).replace(b"20190203", b"Meier, E")
    assert "visit" not in dicom.read(content).facts
    assert "Meier" not in caplog.text


def test_damage_gives_pixels_or_a_rejection_and_nothing_else() -> None:
    """Anything else that is raised fails the test; both outcomes are really met."""
    chance = np.random.default_rng(1)
    shapes: set[tuple[int, ...]] = set()
    reasons: set[str] = set()
    for content in (
        file(dataset()),
        file(encapsulated(jpeg(), JPEGBaseline8Bit)),
        file(grey(np.zeros((HEIGHT, WIDTH)), 12)),
    ):
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(int(chance.choice([1, 3, 10]))):
                damaged[int(chance.integers(132, min(len(content), 1000)))] = int(chance.integers(256))
            try:
                pixels = dicom.read(bytes(damaged)).pixels
            except Rejected as refusal:
                reasons.add(refusal.reason)
            else:
                assert pixels.dtype == np.uint8
                shapes.add(pixels.shape)
    assert (HEIGHT, WIDTH, 3) in shapes
    assert all(len(shape) == 3 and shape[2] == 3 for shape in shapes)
    assert {"malformed", "missing_attr", "bad_geometry"} <= reasons


def test_derived_dicom_files(real_data: Path) -> None:
    folder = real_data / "dicom"
    photograph = readers.read(folder / "IDRiD_100_jpeg.dcm")
    assert photograph.pixels.shape == (2848, 4288, 3)
    original = readers.read(real_data / "originals" / "IDRiD_100.jpg").pixels
    assert np.abs(photograph.pixels[::8, ::8].astype(int) - original[::8, ::8]).mean() < 2
    scan = readers.read(folder / "fda_minimized.dcm")
    assert (scan.modality, scan.facts["eye"]) == ("oct", "L")
    with pytest.raises(Rejected, match="sop_class"):
        readers.read(folder / "fda_minimized_fundus.dcm")
