"""The pixels of a view: cut out, resampled, turned.

In: a decoded image and a `geometry.Pose`. Out: uint8 pixels. A crop is resampled by PIL's antialiased bicubic
filter as torch has it for uint8 (PSNR 79 dB to PIL's own), as MAE and RETFound do. A turned crop is brought
near the view's scale by the same filter first and turned there, at a few ten thousand pixels in place of the
whole photograph's: a quarter of the cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssl_retina.data.geometry import Box, Pose, source
from ssl_retina.data.images import Pixels

FINER = 1.5
"""A crop is turned, bilinearly, at this many times the view's scale.

Against turning at three times the stored size in floats, 96 and 224 px of HYGD: PSNR 54 and 54 dB (51 and 51
where PIL turns, which cuts off fractions of a level), 1.02 and 1.14 of the energy of the Laplacian: of that
little, at 224 px, a part is the rounding to levels.
"""

MARGIN = 1.5
"""A photograph is decoded smaller only while every crop stays this many times as large as its view.

Half the size against all of it, 224 px from 43 photographs of IDRiD at 1024 px: PSNR 53 dB (52 in the worst
twentieth), 0.91 of the energy of the Laplacian; at 1.25: 52 (51) dB and 0.88, at 1.0: 52 (47) dB and 1.38,
aliased. PIL's bilinear filter has 0.6 to 0.7.
"""


def share(poses: Sequence[Pose], sizes: Sequence[int]) -> int:
    """At which 1, 1/2, 1/4 or 1/8 of its size a photograph may be decoded for all of its views.

    The smallest that leaves each box at least MARGIN times its view's `sizes`, across and down.
    """
    room = min(
        min(pose.box[2] - pose.box[0], pose.box[3] - pose.box[1]) / size
        for pose, size in zip(poses, sizes, strict=True)
    )
    return next((one for one in (8, 4, 2) if room >= MARGIN * one), 1)


def shrunk(where: Pose, share: int, *, width: int, height: int) -> Pose:
    """The pose in an image that was decoded at 1 / share: its box moves to that image's whole pixels.

    At most half a pixel of the decoded image; its last row and column, if they hold less than a whole
    pixel, are left out. `width` and `height` are the stored ones.
    """
    if share == 1:
        return where
    left, right = _snapped(where.box[0], where.box[2], share, width)
    top, bottom = _snapped(where.box[1], where.box[3], share, height)
    axis = (where.axis[0] / share, where.axis[1] / share)
    return replace(where, box=(left, top, right, bottom), axis=axis)


def _snapped(start: int, stop: int, share: int, length: int) -> tuple[int, int]:
    last = min(round(stop / share), length // share)
    return min(round(start / share), last - 1), last


@dataclass(frozen=True)
class Piece:
    """A box of a decoded image and its place: `out` (height, width, 3), of any size; mirrored if so said."""

    box: Box
    mirrored: bool
    out: Pixels


def cut(pixels: Pixels, where: Pose, out: Pixels) -> None:
    """Write the view into `out` (size, size, 3): black where the turned box reaches beyond the image."""
    cutting = piece(where, out, width=pixels.shape[1], height=pixels.shape[0])
    if cutting is not None:
        resample(pixels, cutting)
    turn(where, cutting, out)


def piece(where: Pose, out: Pixels, *, width: int, height: int) -> Piece | None:
    """What is to be resampled of a decoded image of that size; None where the view shows nothing of it.

    For a crop that is not turned, the view itself. Else what `turn` turns: the region at near the view's
    scale. The box's scale across and down belongs to the turned axes; along the image's own axes the same
    ellipse of smoothing has the two of `scale`, exact at every multiple of 90 degrees.
    """
    if where.angle == 0:
        return Piece(where.box, where.flipped, out)
    region = _region(where, (width, height))
    if region is None:
        return None
    across, down = _steps(where, len(out))
    cosine, sine = math.cos(where.angle), math.sin(where.angle)
    scale = (
        math.hypot(across * cosine, down * sine) / FINER,
        math.hypot(across * sine, down * cosine) / FINER,
    )
    wide, tall = region[2] - region[0], region[3] - region[1]
    near = np.empty((max(round(tall / scale[1]), 1), max(round(wide / scale[0]), 1), 3), np.uint8)
    return Piece(region, mirrored=False, out=near)


def resample(pixels: Pixels, piece: Piece) -> None:
    """Pillow's antialiased bicubic filter from the piece's box into its place.

    What `functional.interpolate` calls, but without a new array. torch would copy a cut-out before it filters
    it; copied here, row by row, it takes three quarters of the time.
    """
    left, top, right, bottom = piece.box
    given, out = _planes(np.ascontiguousarray(pixels[top:bottom, left:right])), _planes(piece.out)
    resize = torch._C._nn._upsample_bicubic2d_aa
    resize(given, out.shape[2:], False, None, None, out=out)  # type: ignore[call-arg]
    if piece.mirrored:
        out.copy_(out.flip(3))


def turn(where: Pose, piece: Piece | None, out: Pixels) -> None:
    """Finish a view whose piece is resampled: turn it. Nothing is left to do where its angle is 0."""
    if where.angle == 0:
        return
    if piece is None:
        out[:] = 0
        return
    size = len(out)
    region, wide, tall = piece.box, piece.box[2] - piece.box[0], piece.box[3] - piece.box[1]
    cosine, sine = math.cos(where.angle), math.sin(where.angle)
    across, down = _steps(where, size)
    start = source(where, where.box[0], where.box[1])
    x = (across * cosine, down * sine, start[0] - region[0])
    y = (-across * sine, down * cosine, start[1] - region[1])
    grid = torch.stack((_plane(x, size, wide), _plane(y, size, tall)), dim=2)[None]
    near = _planes(piece.out).float()
    turned = functional.grid_sample(near, grid, mode="bilinear", align_corners=False).round_()
    _planes(out).copy_(turned.flip(3) if where.flipped else turned)


def _steps(where: Pose, size: int) -> tuple[float, float]:
    """Pixels of the image that a step across and one down a view move by."""
    left, top, right, bottom = where.box
    return (right - left) / size, (bottom - top) / size


def shrink(pixels: Pixels, out: Pixels) -> None:
    """Write the whole image into `out` (size, size, 3) with Pillow's own filter, as timm's transforms do."""
    image = Image.fromarray(pixels).resize((out.shape[1], out.shape[0]), Image.Resampling.BICUBIC)
    out[:] = np.asarray(image)


def _planes(pixels: Pixels) -> Tensor:
    """The same memory as (1, 3, height, width). numpy turns axes in a third of torch's time."""
    return torch.from_numpy(pixels[None].transpose(0, 3, 1, 2))


def _plane(linear: tuple[float, float, float], size: int, length: int) -> Tensor:
    """Where each pixel (size, size) of a view lies along one axis of the region: from -1 to 1 over `length`.

    `linear`: what a step across and one down move it by, and where the view's corner lies.
    """
    middle = (torch.arange(size, dtype=torch.float64) + 0.5) * (2 / length)
    across, down, start = linear
    return (down * middle[:, None] + (across * middle + (2 * start / length - 1))).float()


def _region(where: Pose, image: tuple[int, int]) -> Box | None:
    """Whole pixels of the image that hold the turned box; None where there are none."""
    left, top, right, bottom = where.box
    corners = [source(where, x, y) for x in (left, right) for y in (top, bottom)]
    bounds = []
    for axis in (0, 1):
        along = [corner[axis] for corner in corners]
        low, high = math.floor(min(along)), math.ceil(max(along))
        bounds.append((max(low, 0), min(high, image[axis])))
    (left, right), (top, bottom) = bounds
    return (left, top, right, bottom) if left < right and top < bottom else None
