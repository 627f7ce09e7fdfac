"""Decoding and cropping in one compiled call, where `crop.c` was built: optional speed, the same bits.

In: an encoded JPEG and the poses of its views. Out: the pixels in their places, or the word that they are not
there, whatever the reason: then the caller takes `images` and `cutting`, which also judge a damaged file.
"""

import ctypes
import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from ssl_retina.data import cutting, geometry
from ssl_retina.data.cutting import Piece
from ssl_retina.data.geometry import Pose
from ssl_retina.data.images import Decodable, Encoded, Pixels, opened

SWITCH = "SSL_RETINA_NATIVE"
"""Set to 0, this environment variable switches the compiled code off."""

LIBRARY = "crop.so"
CALLS = (
    ((144, 144, 208, 208),),
    ((176, 160, 264, 248),),
    ((145, 161, 203, 241),),
    ((151, 175, 170, 199),),
    ((0, 0, 264, 248), (48, 32, 112, 144)),
)
"""Views of the calls that are tried, in pixels of a picture of 264 x 248 of them, 16.5 x 15.5 blocks.

A view alone, far right and far down, has columns and rows beside it left out; it begins and ends with a
block, where a decoder that lacks the neighbour smooths the colour in another way, or a row or column of
pixels after or before one.
"""
_VIEW = struct.Struct("8q")
"""`struct view` of filter.h."""


def cut(encoded: Decodable, share: int, places: Sequence[Pose], out: Sequence[Pixels]) -> bool:
    """Decode at 1 / share and write each view into `out`, as `cutting.cut` would; False if that failed."""
    if not isinstance(encoded, Encoded) or not encoded.direct or library() is None:
        return False
    width, height = -(-encoded.width // share), -(-encoded.height // share)
    pieces = [
        cutting.piece(where, one, width=width, height=height) for where, one in zip(places, out, strict=True)
    ]
    seen = [piece for piece in pieces if piece is not None]
    if not resample(encoded, share, seen):
        return False
    for where, piece, one in zip(places, pieces, out, strict=True):
        cutting.turn(where, piece, one)
    return True


def resample(encoded: Encoded, share: int, pieces: Sequence[Piece]) -> bool:
    """Decode at 1 / share and resample each piece, without the interpreter's lock; False if that failed."""
    found = library()
    return found is not None and _draw(found, encoded, share, pieces)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it was not built, cannot run here, is switched off, or its bits differ.

    Other releases of libjpeg-turbo or torch could round in another way. A run that resumes on a machine
    without the code must not notice, so it is used only where it draws test images as the wheels do.
    """
    path = Path(__file__).with_name(LIBRARY)
    if os.environ.get(SWITCH) == "0" or not path.exists():
        return None
    try:
        found = ctypes.CDLL(str(path))
        found.retina_draw_1.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            *(ctypes.c_int64,) * 3,
            ctypes.c_char_p,
            ctypes.c_int64,
        ]
    except (OSError, AttributeError):  # libjpeg is not on this machine; built from an older source
        return None
    return found if found.retina_usable() and _agrees(found) else None


def _draw(found: ctypes.CDLL, encoded: Encoded, share: int, pieces: Sequence[Piece]) -> bool:
    packed = b"".join(_packed(piece) for piece in pieces)
    content, size = encoded.content, (encoded.width, encoded.height)
    return bool(found.retina_draw_1(content, len(content), *size, share, packed, len(pieces)))


def _packed(piece: Piece) -> bytes:
    memory: dict[str, Any] = piece.out.__array_interface__
    assert memory["strides"] is None  # what numpy says of an array without gaps
    height, width, _ = piece.out.shape
    return _VIEW.pack(*piece.box, width, height, piece.mirrored, memory["data"][0])


def _agrees(found: ctypes.CDLL) -> bool:
    """Whether crops of noise are the wheels' own, bit by bit, in every colour space and at every share."""
    rough = np.random.default_rng(0).integers(0, 256, (31, 33, 3), dtype=np.uint8)
    noise = rough.repeat(8, axis=0).repeat(8, axis=1)
    for colours in ("420", "422", "444", "Gray"):
        drawn, space = (noise[..., :1].copy(), "Gray") if colours == "Gray" else (noise, "RGB")
        content = simplejpeg.encode_jpeg(drawn, quality=85, colorspace=space, colorsubsampling=colours)
        encoded = opened(content, "jpg")
        for share in (1, 2, 4, 8):
            pixels = encoded.pixels(share)[0]
            if not all(_agrees_on(found, encoded, share, pixels, boxes) for boxes in CALLS):
                return False
    return True


def _agrees_on(
    found: ctypes.CDLL, encoded: Encoded, share: int, pixels: Pixels, boxes: Sequence[geometry.Box]
) -> bool:
    height, width = pixels.shape[:2]
    ours: list[Piece] = []
    theirs: list[Piece] = []
    for at, box in enumerate(boxes):
        left, top, right, bottom = (side // share for side in box)
        inside = (left, top, min(right, width), min(bottom, height))
        for pieces in (ours, theirs):
            pieces.append(Piece(inside, at == 1, np.empty((61, 64, 3), np.uint8)))
    for piece in theirs:
        cutting.resample(pixels, piece)
    drawn = _draw(found, encoded, share, ours)
    return drawn and all(np.array_equal(a.out, b.out) for a, b in zip(ours, theirs, strict=True))
