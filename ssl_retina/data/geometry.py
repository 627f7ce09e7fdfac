"""Where a view lies in a photograph, and its pixels: crop, turn about the optical axis, flip.

In: a decoded image and numbers drawn for its position. Out: uint8 pixels, and the field of view in them.
The crop is that of torchvision's RandomResizedCrop, resampled by PIL's antialiased bicubic filter in one
call, as MAE and RETFound do. A turned crop is brought near the view's scale by the same filter first and
turned there, at a few ten thousand pixels in place of the whole photograph's: a quarter of the cost.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TRIES = 10
FLIP = 2 * TRIES + 2
TURN = FLIP + 1
PLACES = TURN + 1
DRAWS = PLACES + 2 * (TRIES - 1)
"""Numbers drawn for one view: area and shape of each try, the crop's place (2), the flip, the turn, and the
places of later tries, where the first one held too little retina."""

FINER = 1.5
"""A crop is turned, bilinearly, at this many times the view's scale.

Against turning at three times the stored size, 96 and 224 px: PSNR 52 and 53 dB, 0.97 and 0.95 of the energy
of the Laplacian (bicubically at the view's own scale: 50 and 51 dB, 0.89 and 0.95, and slower).
"""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the stored image."""

Point = tuple[float, float]

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """A random crop: its share of the image's area and its width over height (drawn log-uniformly).

    least_field: the share of the crop that must lie in the field of view, where that is known: by rejection
        among the tries. 0 asks for nothing, and the crop is the papers'.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    least_field: float = 0.0


@dataclass(frozen=True)
class Turn:
    """The largest turn in degrees, either way: of a photograph of the fundus, and of an OCT B-scan."""

    photograph: float
    scan: float


@dataclass(frozen=True)
class View:
    """One view of every sample of a batch; `draws` (batch, DRAWS) in [0, 1); no crop is the whole image."""

    crop: Crop | None
    flip: bool
    turn: Turn | None
    size: int
    draws: Reals


@dataclass(frozen=True)
class Pose:
    """How a view lies: the box is cut from the image turned by `angle` (radians, clockwise) about `axis`."""

    box: Box
    angle: float
    axis: tuple[float, float]
    flipped: bool


def pose(
    view: View, number: int, *, width: int, height: int, field: Sequence[float] | None, scan: bool
) -> Pose:
    """Sample `number`'s pose. Its axis is the middle of the field of view, or of the image without one."""
    draws = view.draws[number]
    axis = (width / 2, height / 2) if field is None else (field[0], field[1])
    angle = 0.0
    if view.turn is not None:
        largest = view.turn.scan if scan else view.turn.photograph
        angle = math.radians(largest * (2 * draws[TURN] - 1))
    whole = Pose((0, 0, width, height), angle, axis, flipped=bool(view.flip and draws[FLIP] < 0.5))
    if view.crop is None:
        return whole
    share = None
    if view.crop.least_field and field is not None and not scan and min(field[2:]) > 0:
        share = partial(field_share, field, whole)
    return replace(whole, box=crop_box(draws, width, height, crop=view.crop, share=share))


def crop_box(
    draws: Reals, width: int, height: int, *, crop: Crop, share: Callable[[Box], float] | None = None
) -> Box:
    """Where to crop: ten tries for a box of the drawn area and shape, else the largest allowed in the centre.

    Without `share` the distribution of torchvision's `RandomResizedCrop.get_params`. With it (how much of a
    box is retina) a box below `crop.least_field` is drawn again, and if all are, the best one is taken.
    """
    best, most = None, -1.0
    for place, (wide, tall) in enumerate(_shapes(draws, width, height, crop)):
        at = 2 * TRIES if place == 0 else PLACES + 2 * (place - 1)
        left, top = int(draws[at] * (width - wide + 1)), int(draws[at + 1] * (height - tall + 1))
        box = (left, top, left + wide, top + tall)
        found = 1.0 if share is None else share(box)
        if found >= crop.least_field:
            return box
        if found > most:
            best, most = box, found
    return _central_box(width, height, crop.ratio) if best is None else best


def _shapes(draws: Reals, width: int, height: int, crop: Crop) -> Iterator[tuple[int, int]]:
    """Width and height of the tries that fit into the image."""
    low, high = (math.log(bound) for bound in crop.ratio)
    for turn in range(TRIES):
        area = width * height * (crop.scale[0] + draws[2 * turn] * (crop.scale[1] - crop.scale[0]))
        ratio = math.exp(low + draws[2 * turn + 1] * (high - low))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            yield wide, tall


def field_share(field: Sequence[float], where: Pose, box: Box) -> float:
    """The share of the turned `box` that lies in the ellipse (centre x, y, radius x, y), exactly.

    The box's corners in the image, measured in the ellipse's radii, are a polygon beside the unit disc.
    """
    left, top, right, bottom = box
    corners = [_source(where, x, y) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
    scaled = [((x - field[0]) / field[2], (y - field[1]) / field[3]) for x, y in corners]
    edges = zip(scaled, [*scaled[1:], scaled[0]], strict=True)
    overlap = sum(_swept(start, end) for start, end in edges) * field[2] * field[3]
    return min(max(overlap / ((right - left) * (bottom - top)), 0.0), 1.0)


def _swept(start: Point, end: Point) -> float:
    """Signed area of the unit disc's part of the triangle of its centre and an edge (Green's theorem).

    Where the edge is inside the disc it is a triangle, before and after that a sector.
    """
    step = end[0] - start[0], end[1] - start[1]
    length = step[0] ** 2 + step[1] ** 2
    along = -(start[0] * step[0] + start[1] * step[1]) / length
    spread = along**2 - (start[0] ** 2 + start[1] ** 2 - 1) / length
    if spread <= 0:
        return _angle(start, end) / 2
    shares = (min(max(along + sign * math.sqrt(spread), 0.0), 1.0) for sign in (-1, 1))
    enter, leave = ((start[0] + share * step[0], start[1] + share * step[1]) for share in shares)
    triangle = enter[0] * leave[1] - enter[1] * leave[0]
    return (_angle(start, enter) + triangle + _angle(leave, end)) / 2


def _angle(start: Point, end: Point) -> float:
    """From one direction to another, in radians."""
    return math.atan2(start[0] * end[1] - start[1] * end[0], start[0] * end[0] + start[1] * end[1])


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    wide, tall = width, height
    if width / height < ratio[0]:
        tall = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def cut(image: Image.Image, where: Pose, size: int) -> NDArray[np.uint8]:
    """The view (size, size, 3): black where the turned box reaches beyond the image."""
    shape = (size, size)
    if where.angle == 0:
        pixels = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box=where.box))
    else:
        pixels = np.asarray(_turned(image, where, size))
    return pixels[:, ::-1] if where.flipped else pixels


def _turned(image: Image.Image, where: Pose, size: int) -> Image.Image:
    """Scaled first, then turned.

    The box's scale across and down belongs to the turned axes; along the image's own axes the same ellipse
    of smoothing has the two of `scale`, exact at every multiple of 90 degrees.
    """
    left, top, right, bottom = where.box
    cosine, sine = math.cos(where.angle), math.sin(where.angle)
    across, down = (right - left) / size, (bottom - top) / size
    scale = (
        math.hypot(across * cosine, down * sine) / FINER,
        math.hypot(across * sine, down * cosine) / FINER,
    )
    region = _region(where, image.size)
    if region is None:
        return Image.new("RGB", (size, size))
    wide, tall = region[2] - region[0], region[3] - region[1]
    shape = max(round(wide / scale[0]), 1), max(round(tall / scale[1]), 1)
    near = image.resize(shape, Image.Resampling.BICUBIC, box=region)
    start = _source(where, left, top)
    x = (across * cosine, down * sine, start[0] - region[0])
    y = (-across * sine, down * cosine, start[1] - region[1])
    data = [part * shape[0] / wide for part in x] + [part * shape[1] / tall for part in y]
    return near.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)


def _source(where: Pose, x: float, y: float) -> tuple[float, float]:
    """The point of the image that lies at (x, y) of the turned image."""
    away_x, away_y = x - where.axis[0], y - where.axis[1]
    cosine, sine = math.cos(where.angle), math.sin(where.angle)
    return where.axis[0] + cosine * away_x + sine * away_y, where.axis[1] - sine * away_x + cosine * away_y


def _region(where: Pose, image: tuple[int, int]) -> Box | None:
    """Whole pixels of the image that hold the turned box; None where there are none."""
    left, top, right, bottom = where.box
    corners = [_source(where, x, y) for x in (left, right) for y in (top, bottom)]
    bounds = []
    for axis in (0, 1):
        along = [corner[axis] for corner in corners]
        low, high = math.floor(min(along)), math.ceil(max(along))
        bounds.append((max(low, 0), min(high, image[axis])))
    (left, right), (top, bottom) = bounds
    return (left, top, right, bottom) if left < right and top < bottom else None


def follow(field: Sequence[float] | None, where: Pose, size: int) -> NDArray[np.float32]:
    """The ellipse (centre x, y, radius x, y; pixel i covers i to i + 1) in the view; NaN if unknown.

    A turn is about its centre, which stays; a turned ellipse is given by how far it reaches across and down.
    """
    if field is None:
        return np.full(4, np.nan, dtype=np.float32)
    centre_x, centre_y, radius_x, radius_y = field
    if where.angle != 0:
        cosine, sine = math.cos(where.angle), math.sin(where.angle)
        radius_x, radius_y = (
            math.hypot(radius_x * cosine, radius_y * sine),
            math.hypot(radius_x * sine, radius_y * cosine),
        )
    left, top, right, bottom = where.box
    across, down = size / (right - left), size / (bottom - top)
    x, y = (centre_x - left) * across, (centre_y - top) * down
    return np.array((size - x if where.flipped else x, y, radius_x * across, radius_y * down), np.float32)
