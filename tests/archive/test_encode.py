"""Stored bytes come from pixels alone and are the same every time."""

import io

import numpy as np
import pytest
from PIL import Image

from ssl_retina.archive.pixels.encode import Encoding, encode
from ssl_retina.archive.readers import images


def pixels() -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=2).astype(np.uint8)


def test_lossless_is_lossless() -> None:
    suffix, content = encode(pixels(), Encoding(lossless=True))
    assert suffix == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels())


@pytest.mark.parametrize(("chroma", "sampling"), [("420", (2, 2)), ("444", (1, 1))])
def test_jpeg_chroma_and_quality(chroma: str, sampling: tuple[int, int]) -> None:
    suffix, content = encode(pixels(), Encoding(chroma=chroma))
    image = Image.open(io.BytesIO(content))
    assert (suffix, image.format, image.mode) == ("jpg", "JPEG", "RGB")
    assert image.layer[0][1:3] == sampling
    assert len(encode(pixels(), Encoding(quality=60))[1]) < len(content)


def test_default_is_quality_92_and_420() -> None:
    reference = io.BytesIO()
    Image.fromarray(pixels()).save(reference, "JPEG", quality=92, subsampling="4:2:0")
    assert encode(pixels(), Encoding())[1] == reference.getvalue()


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(lossless=True)])
def test_equal_pixels_give_equal_bytes(encoding: Encoding) -> None:
    assert encode(pixels(), encoding) == encode(pixels()[:, ::-1][:, ::-1], encoding)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("encoding", [Encoding(), Encoding(lossless=True)])
def test_no_word_of_the_source_survives(kind: str, encoding: Encoding) -> None:
    """Law 8: comments, EXIF, XMP, PNG text and colour profiles stay behind."""
    secret = b"Meier, Eva 1950-02-03"
    exif = Image.Exif()
    exif[0x010E] = secret.decode()
    stream = io.BytesIO()
    settings: dict[str, object] = {"exif": exif}
    if kind == "JPEG":
        settings |= {"comment": secret, "xmp": secret}
    Image.fromarray(pixels()).save(stream, kind, **settings)
    assert secret in stream.getvalue()
    picture = images.read(stream.getvalue())
    content = encode(picture.pixels, encoding)[1]
    assert b"Meier" not in content
    assert not {"exif", "comment", "xmp", "icc_profile"} & set(Image.open(io.BytesIO(content)).info)
