"""Simple features of a fundus photograph, and a small k-means: photographs that look alike are one cluster.

In: stored pixels and their field of view; later, features of a whole archive. Out: 12 numbers of colour and
texture; the number of a cluster for each photograph, the same for the same features.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.archive.picture import Pixels, as_image

Table = NDArray[np.float32]
"""(photographs, features)."""

SIDE = 32
NUMBERS = 12
CLUSTERS = 16
ROUNDS = 25
SAMPLE = 20_000
"""Photographs that the centres are found on; all are assigned."""

SLICE = 65_536


def of(pixels: Pixels | Image.Image, field_of_view: tuple[float, ...] | None) -> list[float]:
    """Mean and spread of red, green, blue and of their neighbours' differences, inside the field."""
    image = as_image(pixels)
    width, height = image.size
    small = np.asarray(_means(image), np.float32)
    x, y, across, down = (
        (width / 2, height / 2, width / 2, height / 2) if field_of_view is None else field_of_view
    )
    rows = ((np.arange(SIDE) + 0.5) * height / SIDE - y) / down
    columns = ((np.arange(SIDE) + 0.5) * width / SIDE - x) / across
    inside = rows[:, None] ** 2 + columns[None, :] ** 2 < 0.8
    if not inside[1:, 1:].any():
        return [0.0] * NUMBERS
    seen = small[inside]
    steps = np.abs(np.diff(small, axis=0))[:, 1:] + np.abs(np.diff(small, axis=1))[1:]
    rough = steps[inside[1:, 1:]]
    parts = (seen.mean(axis=0), seen.std(axis=0), rough.mean(axis=0), rough.std(axis=0))
    return [round(float(value), 2) for value in np.concatenate(parts)]


def _means(image: Image.Image) -> Image.Image:
    """SIDE x SIDE means, as a resize by boxes rounds them; of a square by whole pixels, which is faster."""
    factor = image.width // SIDE
    if image.size == (factor * SIDE, factor * SIDE) and factor in (2, 4, 8, 16, 32):
        return image.reduce((factor, 1)).reduce((1, factor))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def clusters(table: Table) -> list[int]:
    """The cluster of each row: k-means (Lloyd 1982) from farthest-first centres, on scaled features.

    0 is the largest cluster; at most CLUSTERS, fewer where rows are equal. No randomness.
    """
    if not len(table):
        return []
    scaled = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-6)
    centres = _centres(scaled[:: max(1, len(scaled) // SAMPLE)])
    nearest = np.concatenate(
        [_nearest(scaled[start : start + SLICE], centres) for start in range(0, len(scaled), SLICE)]
    )
    order = np.argsort(-np.bincount(nearest, minlength=len(centres)), kind="stable")
    ranks: list[int] = np.argsort(order)[nearest].tolist()
    return ranks


def _centres(rows: Table) -> Table:
    """Centres after a fixed number of rounds; the first are each the row farthest from those before it."""
    chosen = [int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    distance = ((rows - rows[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < CLUSTERS and distance.max() > 1e-9:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1))
    centres = rows[chosen].copy()
    for _ in range(ROUNDS):
        nearest = _nearest(rows, centres)
        moved = np.stack([_mean(rows[nearest == k], centres[k]) for k in range(len(centres))])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _mean(rows: Table, otherwise: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows.mean(axis=0) if len(rows) else otherwise


def _nearest(rows: Table, centres: Table) -> NDArray[np.int64]:
    distance = ((rows[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
    nearest: NDArray[np.int64] = distance.argmin(axis=1)
    return nearest
