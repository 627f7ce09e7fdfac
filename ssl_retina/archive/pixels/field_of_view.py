"""Finds the illuminated circle of a fundus photograph, whole or cut by the sensor, on a thumbnail.

In: a thumbnail of brightness. Out: a circle and how sure it is, or None. Steps: threshold against the black
border, collect the outline, fit circles through triples of it and keep the one most of the outline agrees
with, then move it to where brightness falls into black along rays.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]

LIFTS = (0.1, 0.3)
"""Thresholds tried, as shares of the way from black to bright."""

SURE = 0.9
"""Support at which no further threshold is tried."""

TRIPLES, FEW = 256, 128
"""Circles tried, and how many at once: what is measured of them stays in the processor's cache."""

RAYS = 240
STEEP = math.exp(0.35)
"""Ratio of brightness across the rim."""

RIDGE = 1e-6
"""Added to the normal equations of a fit, which are singular where all points lie on one side."""

OFFSET = 4.0
"""Added to brightness before its logarithm: steps below it are noise."""


@dataclass(frozen=True)
class Circle:
    """A circle in pixels (pixel i covers i to i + 1).

    visible: share of the outline that lies inside the image; support: share of that which is really seen.
    """

    x: float
    y: float
    radius: float
    visible: float
    support: float


def find(brightness: NDArray[np.uint8]) -> Circle | None:
    """The circle of light in (height, width) brightness, or None where no outline is seen."""
    smooth = _median(_median(brightness).T).T
    black, bright = quantiles(smooth, (0.002, 0.9))
    best: Circle | None = None
    for lift in LIFTS:
        threshold = black + max(lift * (bright - black), 3.0)
        outline = _outline(smooth > min(255, int(threshold)))
        if len(outline) < 24:
            continue
        coarse = _most_agreed(outline, max(smooth.shape))
        if coarse is None:
            continue
        circle = _settle(smooth, coarse, black)
        if circle is None or not _dark_around(smooth, circle, black):
            continue
        if best is None or circle.support > best.support + 0.02:
            best = circle
        if best.support >= SURE:
            break
    return best


def quantiles(values: NDArray[np.uint8], shares: Sequence[float]) -> list[float]:
    """What np.quantile gives for 8-bit (n,) or (height, width) values, from their counts: no sorting."""
    counts = Image.fromarray(np.atleast_2d(values)).histogram()
    reached = list(itertools.accumulate(counts))
    found = []
    for share in shares:
        place = (values.size - 1) * share
        lower, upper = (bisect.bisect_right(reached, rank) for rank in (int(place), math.ceil(place)))
        found.append(lower + (upper - lower) * (place % 1))
    return found


def _median(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The median of each value and its two neighbours in the column; takes away noise and thin letters."""
    before, here, after = values[:-2], values[1:-1], values[2:]
    middle = np.maximum(np.minimum(before, here), np.minimum(np.maximum(before, here), after))
    return np.concatenate([values[:1], middle, values[-1:]])


def _outline(lit: NDArray[np.bool_]) -> Floats:
    """(n, 2) x, y where each row and column first enters and last leaves the light, inside the image."""
    return np.concatenate([np.asarray(points) for points in _crossings(lit)])


def _crossings(lit: NDArray[np.bool_]) -> Iterator[Floats]:
    for plane, flip in ((lit, False), (np.ascontiguousarray(lit.T), True)):
        lines, length = np.arange(plane.shape[0]), plane.shape[1]
        first = plane.argmax(axis=1)
        last = length - plane[:, ::-1].argmax(axis=1)
        any_lit = plane[lines, first]
        for position in (first, last):
            inside = any_lit & (position > 1) & (position < length - 1)
            points = np.stack([position[inside].astype(np.float64), lines[inside] + 0.5], axis=1)
            yield points[:, ::-1] if flip else points


def _most_agreed(points: Floats, longest: int) -> tuple[float, float, float] | None:
    """The circle through three outline points that most outline points lie on."""
    centre = points.mean(axis=0)
    order = np.argsort(np.arctan2(points[:, 1] - centre[1], points[:, 0] - centre[0]), kind="stable")
    points = points[order]
    count = len(points)
    k = np.arange(TRIPLES)
    first = k * 7919 % count
    second = (first + count // 5 + k * 104729 % max(count // 4, 1)) % count
    third = (second + count // 5 + k * 1299709 % max(count // 4, 1)) % count
    x, y, radius = _through(points[first], points[second], points[third])
    plausible = np.isfinite(radius) & (radius > 0.15 * longest) & (radius < 1.2 * longest)
    if not plausible.any():
        return None
    x, y, radius = x[plausible], y[plausible], radius[plausible]
    winner = int(_votes(points, (x, y, radius), max(1.5, 0.008 * longest)).argmax())
    return float(x[winner]), float(y[winner]), float(radius[winner])


def _votes(points: Floats, circles: tuple[Floats, Floats, Floats], tolerance: float) -> NDArray[np.int64]:
    """How many points lie within a tolerance of each circle: squared distances, by one matrix product.

    Single precision: a point is misjudged by less than 0.0001 pixels of a thumbnail.
    """
    middle_x, middle_y = points.mean(axis=0)
    across, down = points[:, 0] - middle_x, points[:, 1] - middle_y
    x, y, radius = circles[0] - middle_x, circles[1] - middle_y, circles[2]
    low, high = np.maximum(radius - tolerance, 0) ** 2, (radius + tolerance) ** 2
    one = np.ones_like(x), np.ones_like(across)
    circle = np.stack([-2 * x, -2 * y, one[0], x**2 + y**2 - (low + high) / 2], axis=1).astype(np.float32)
    point = np.stack([across, down, across**2 + down**2, one[1]]).astype(np.float32)
    widths = ((high - low) / 2).astype(np.float32)[:, None]
    count = np.empty(len(x), np.int64)
    for few in (slice(at, at + FEW) for at in range(0, len(x), FEW)):
        apart = circle[few] @ point
        near = np.abs(apart, out=apart) < widths[few]
        np.bitwise_count(np.packbits(near, axis=1)).sum(axis=1, out=count[few], dtype=np.int64)
    return count


def _through(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """Centre and radius of the circles through triples of points; not finite where they lie on a line."""
    with np.errstate(divide="ignore", invalid="ignore"):
        twice = 2 * ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
        square_b = ((b - a) ** 2).sum(axis=1)
        square_c = ((c - a) ** 2).sum(axis=1)
        x = ((c[:, 1] - a[:, 1]) * square_b - (b[:, 1] - a[:, 1]) * square_c) / twice
        y = ((b[:, 0] - a[:, 0]) * square_c - (c[:, 0] - a[:, 0]) * square_b) / twice
        return a[:, 0] + x, a[:, 1] + y, np.hypot(x, y)


def _settle(values: NDArray[np.uint8], circle: tuple[float, float, float], black: float) -> Circle | None:
    """Move a coarse circle to the fall into black along its rays; None where that is not seen."""
    x, y, radius = circle
    visible = agreeing = 0
    for reach in (0.08, 0.04, 0.025):
        points, seen, visible = _falls(values, (x, y, radius), black, reach)
        if seen < 12 or visible < 0.05 * RAYS:
            return None
        x, y, radius, agreeing = _robust_fit(points, (x, y, radius))
    return Circle(x, y, radius, visible / RAYS, agreeing / visible)


def _dark_around(values: NDArray[np.uint8], circle: Circle, black: float) -> bool:
    """Whether most of what lies outside the circle is far darker than the inside; a white page is not."""
    rows = (np.arange(0, values.shape[0], 2) + 0.5 - circle.y)[:, None]
    columns = (np.arange(0, values.shape[1], 2) + 0.5 - circle.x)[None, :]
    distance, values = rows**2 + columns**2, values[::2, ::2]
    outside = values[distance > (1.04 * circle.radius) ** 2]
    inside = values[distance < (0.96 * circle.radius) ** 2]
    if len(inside) < 16:
        return False
    if len(outside) < 16:
        return True
    (around,), (within,) = quantiles(outside, (0.5,)), quantiles(inside, (0.5,))
    return bool(around - black < 0.3 * (within - black) + 1)


def _falls(
    values: NDArray[np.uint8], circle: tuple[float, float, float], black: float, reach: float
) -> tuple[Floats, int, int]:
    """(2, n) x, y of the steepest fall in the logarithm of brightness; how many rays have one, and could."""
    x, y, radius = circle
    height, width = values.shape
    step = 0.5
    half = max(reach * radius, 3.0)
    radii = radius + np.arange(-half, half + step, step)
    across, down = _directions()
    sample_x, sample_y = across[:, None] * radii, down[:, None] * radii
    sample_x += x
    sample_y += y
    inside = sample_x > 0
    inside &= sample_x < width
    inside &= sample_y > 0
    inside &= sample_y < height
    level = _bilinear(values, sample_x, sample_y)
    level -= black
    np.maximum(level, 0, out=level)
    level += OFFSET
    gap = 3
    fall = level[:, : -2 * gap] / level[:, 2 * gap :]
    fall *= inside[:, 2 * gap :]
    steepest = fall.argmax(axis=1)
    visible = inside[:, np.searchsorted(radii, radius) + gap]
    seen = visible & (fall[np.arange(RAYS), steepest] > STEEP)
    at = radii[steepest[seen] + gap]
    points = np.stack([x + across[seen] * at, y + down[seen] * at])
    return points, int(np.count_nonzero(seen)), int(np.count_nonzero(visible))


@functools.cache
def _directions() -> tuple[Floats, Floats]:
    """Cosine and sine of each ray."""
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    return np.cos(angles), np.sin(angles)


def _bilinear(values: NDArray[np.uint8], x: Floats, y: Floats) -> Floats:
    """Values between pixel centres, the edge pixel's value beyond the image; x and y are used up."""
    height, width = values.shape
    for place, length in ((x, width), (y, height)):
        place -= 0.5
        np.clip(place, 0, length - 1.001, out=place)
    left, at = x.astype(np.int64), y.astype(np.int64)
    x -= left
    y -= at
    at *= width
    at += left
    flat = values.ravel()
    upper, lower = _between(flat, at, x), _between(flat[width:], at, x)
    lower -= upper
    lower *= y
    upper += lower
    return upper


def _between(values: NDArray[np.uint8], at: NDArray[np.int64], share: Floats) -> Floats:
    """Between each value and the next."""
    one, other = values.take(at).astype(np.float64), values[1:].take(at).astype(np.float64)
    other -= one
    other *= share
    one += other
    return one


def _robust_fit(points: Floats, circle: tuple[float, float, float]) -> tuple[float, float, float, int]:
    """Geometric least squares on the points near the circle; the last number is how many those are."""
    x, y, radius = circle
    normal, near = np.empty((3, points.shape[1])), np.empty(0)
    for tolerance in (4.0, 2.5, 1.5, 1.5):
        across, down = points[0] - x, points[1] - y
        distance = np.hypot(across, down)
        residual = distance - radius
        near = np.abs(residual - _middle(residual)) < tolerance
        normal[0], normal[1], normal[2] = across / distance, down / distance, 1
        normal *= near
        move = _solved((normal @ normal.T).tolist(), (normal @ residual).tolist())
        x, y, radius = x + move[0], y + move[1], radius + move[2]
    return x, y, radius, int(np.count_nonzero(near))


def _solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> tuple[float, float, float]:
    """Solve a symmetric system of three, with a little added to its diagonal, by Cholesky's factors."""
    (a, b, c), (_, d, e), (_, _, f) = matrix
    one = math.sqrt(a + RIDGE)
    low, third = b / one, c / one
    two = math.sqrt(d + RIDGE - low * low)
    middle = (e - third * low) / two
    three = math.sqrt(f + RIDGE - third * third - middle * middle)
    u = right[0] / one
    v = (right[1] - low * u) / two
    w = (right[2] - third * u - middle * v) / three / three
    v = (v - middle * w) / two
    return (u - low * v - third * w) / one, v, w


def _middle(values: Floats) -> float:
    """The median, without what np.median costs for a few values."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)
