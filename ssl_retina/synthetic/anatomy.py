"""One eye's anatomy: optic disc, fovea, branching vessels and the texture of the choroid.

In: a generator that belongs to the eye, so that every visit shows the same eye. Out: an `Eye` in retina
coordinates: the fovea is the origin, x grows towards the nose, y downwards, the unit is 22.5 degrees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]
UNIT_DEGREES = 22.5


@dataclass(frozen=True)
class Stroke:
    """A line of `points` (n, 2) whose half width runs from `start` to `end`."""

    points: Points
    start: float
    end: float


@dataclass(frozen=True)
class Eye:
    """What stays the same from visit to visit. `pigment` (3, 1, 1) multiplies the reflected light."""

    disc: tuple[float, float]
    disc_radius: float
    tilt: float
    cup: float
    vessels: tuple[Stroke, ...]
    texture: NDArray[np.float32]
    pigment: NDArray[np.float32]


def draw_eye(generator: np.random.Generator, pigment: NDArray[np.float32]) -> Eye:
    """A healthy eye; `cup` is the healthy ratio of cup to disc."""
    disc = (float(generator.normal(0.66, 0.03)), float(generator.normal(-0.07, 0.03)))
    radius = float(generator.uniform(0.125, 0.16))
    return Eye(
        disc=disc,
        disc_radius=radius,
        tilt=float(generator.uniform(0.85, 1.0)),
        cup=float(generator.uniform(0.2, 0.45)),
        vessels=tuple(_tree(np.asarray(disc), radius, generator)),
        texture=_texture(generator),
        pigment=pigment * generator.normal(1, 0.01, (3, 1, 1)).astype(np.float32),
    )


def _tree(disc: Points, radius: float, generator: np.random.Generator) -> list[Stroke]:
    """Arteries and veins of the four arcades, and small vessels that leave the disc straight."""
    strokes: list[Stroke] = []
    for side in (-1.0, 1.0):
        for width in (0.012, 0.017):
            strokes += _arcade(disc, side, width=width, generator=generator)
            heading = side * generator.uniform(0.5, 1.1)
            start = disc + radius * generator.uniform(-0.3, 0.3, 2)
            strokes += _branch(start, heading, size=(width * 0.8, 1.0), depth=2, generator=generator)
    for _ in range(3):
        heading = generator.uniform(0, 2 * np.pi)
        strokes += _branch(disc, heading, size=(0.005, 0.35), depth=1, generator=generator)
    return strokes


def _arcade(disc: Points, side: float, *, width: float, generator: np.random.Generator) -> list[Stroke]:
    """A vessel that leaves the disc up or down (`side`) and bends around the macula to the temple."""
    height = side * generator.uniform(0.62, 0.95)
    control = np.array([disc[0] - generator.uniform(0.2, 0.4), height * 1.25])
    end = np.array([generator.uniform(-1.25, -0.95), height * generator.uniform(0.35, 0.9)])
    share = np.linspace(0, 1, 26)[:, None]
    curve = (1 - share) ** 2 * disc + 2 * share * (1 - share) * control + share**2 * end
    curve += _wobble(26, generator) * share
    strokes = [Stroke(curve, width, width * 0.35)]
    for place in generator.choice(np.arange(4, 23), 6, replace=False):
        along = curve[place] - curve[place - 1]
        outward = generator.choice([-1.0, 1.0]) * generator.uniform(0.4, 0.9)
        heading = float(np.arctan2(along[1], along[0]) + outward)
        thin = width * (1 - 0.6 * place / 26) * generator.uniform(0.4, 0.65)
        size = (thin, generator.uniform(0.3, 0.6))
        strokes += _branch(curve[place], heading, size=size, depth=2, generator=generator)
    return strokes


def _wobble(count: int, generator: np.random.Generator) -> Points:
    steps = np.cumsum(generator.normal(0, 0.012, (count, 2)), axis=0)
    smooth: Points = (steps + np.roll(steps, 1, 0) + np.roll(steps, -1, 0)) / 3
    smooth[[0, -1]] = steps[[0, -1]]
    return smooth


def _branch(
    start: Points, heading: float, *, size: tuple[float, float], depth: int, generator: np.random.Generator
) -> list[Stroke]:
    """A vessel of `size` (half width, length) that wanders, forks `depth` times and spares the fovea."""
    width, length = size
    count = max(int(length / 0.05), 3)
    points = [start]
    for turn in generator.normal(0, 0.13, count):
        heading += turn
        step = points[-1] + 0.05 * np.array([np.cos(heading), np.sin(heading)])
        if np.hypot(*step) < 0.17:
            break
        points.append(step)
    if len(points) < 3:
        return []
    strokes = [Stroke(np.stack(points), width, width * 0.45)]
    if depth > 0:
        for side in (-1.0, 1.0):
            fork = points[int(generator.integers(1, len(points)))]
            turned = heading + side * generator.uniform(0.35, 0.8)
            smaller = (width * 0.6, length * 0.6)
            strokes += _branch(fork, turned, size=smaller, depth=depth - 1, generator=generator)
    return strokes


def _texture(generator: np.random.Generator) -> NDArray[np.float32]:
    """Choroid and nerve fibres (96, 96): smooth noise of several scales over [-1.6, 1.6] in x and y."""
    total = np.zeros((96, 96), np.float32)
    for cells, strength in ((5, 0.30), (14, 0.22), (40, 0.35)):
        coarse = generator.standard_normal((cells, cells)).astype(np.float32)
        total += strength * np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    return total
