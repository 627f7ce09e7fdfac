"""Where a view lies in a photograph: crop, turn about the optical axis, flip.

In: a photograph's size and field of view, and numbers drawn for its position. Out: poses, which `cutting`
makes pixels of, and the field of view in them. The crop is that of torchvision's RandomResizedCrop.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

TRIES = 10
FLIP = 2 * TRIES + 2
TURN = FLIP + 1
PLACES = TURN + 1
DRAWS = PLACES + 2 * (TRIES - 1)
"""Numbers drawn for one view: area and shape of each try, the crop's place (2), the flip, the turn, and the
places of later tries, where the first one held too little retina."""

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
    draws = view.draws[number].tolist()  # numpy's own numbers compute at a quarter of the speed of Python's
    axis = (width / 2, height / 2) if field is None else (field[0], field[1])
    angle = 0.0
    if view.turn is not None:
        largest = view.turn.scan if scan else view.turn.photograph
        angle = math.radians(largest * (2 * draws[TURN] - 1))
    flipped = view.flip and draws[FLIP] < 0.5
    if view.crop is None:
        return Pose((0, 0, width, height), angle, axis, flipped)
    share = None
    if view.crop.least_field and field is not None and not scan and min(field[2:]) > 0:
        share = partial(field_share, field, Pose((0, 0, width, height), angle, axis, flipped))
    return Pose(crop_box(draws, width, height, crop=view.crop, share=share), angle, axis, flipped)


def crop_box(
    draws: Sequence[float],
    width: int,
    height: int,
    *,
    crop: Crop,
    share: Callable[[Box], float] | None = None,
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


def _shapes(draws: Sequence[float], width: int, height: int, crop: Crop) -> Iterator[tuple[int, int]]:
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
    corners = [source(where, x, y) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
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


def source(where: Pose, x: float, y: float) -> tuple[float, float]:
    """The point of the image that lies at (x, y) of the turned image."""
    away_x, away_y = x - where.axis[0], y - where.axis[1]
    cosine, sine = math.cos(where.angle), math.sin(where.angle)
    return where.axis[0] + cosine * away_x + sine * away_y, where.axis[1] - sine * away_x + cosine * away_y


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
