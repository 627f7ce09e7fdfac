"""Whether a picture bears a line of letters: names and dates that a device wrote into the pixels.

In: stored pixels. Out: yes or no. Letters are sharp pieces of like height, side by side on one line; nothing
is read. What is too small to be seen here is too small to be read in the shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ssl_retina.archive.picture import Pixels
from ssl_retina.archive.pixels.look import window_sums

WINDOW = 20
"""Half width of the surroundings that ink is compared with."""

CONTRAST = 40
"""Grey levels between ink and its surroundings."""

HEIGHTS = (5, 72)
SMALLEST = 6
"""Pixels of a letter."""

WIDEST = 2.2
"""Width of a letter, or of two that touch, over its height."""

EDGE = 60
"""Grey levels between a letter and the pixels one away from it: speckle and vessels fade out."""

CALM, FLAT = 0.8, 1.0
"""Share of the surroundings that must be darker by EDGE, and spread of the ink over that step: speckle is
neither calm around a grain nor flat on it.
"""

BASELINE, ALIKE, APART = 0.16, 1.7, 1.3
"""Of neighbours on a line: shift of their lower ends, ratio of heights, gap; in heights."""

LETTERS = 4
"""So many in a row are text."""


@dataclass(frozen=True)
class _Piece:
    """Bounding box of connected ink."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


def bears_text(pixels: Pixels) -> bool:
    """Whether (height, width, 3) pixels show LETTERS letters in a row, bright on dark or dark on bright."""
    red, green, blue = np.moveaxis(pixels, 2, 0)
    bright, dark = np.maximum(np.maximum(red, green), blue), 255 - np.minimum(np.minimum(red, green), blue)
    return any(_longest_line(_letters(plane.astype(np.float32))) >= LETTERS for plane in (bright, dark))


def _letters(plane: NDArray[np.float32]) -> list[_Piece]:
    """Pieces of ink that may be letters, from left to right."""
    ink = plane > window_sums(plane, WINDOW) / _window_sizes(plane.shape) + CONTRAST
    labels, number = ndimage.label(ink, np.ones((3, 3)))
    found = []
    sizes = np.bincount(labels.ravel(), minlength=number + 1)
    for name, place in enumerate(ndimage.find_objects(labels, number), 1):
        if sizes[name] < SMALLEST:
            continue
        piece = _Piece(place[0].start, place[0].stop, place[1].start, place[1].stop)
        fits = HEIGHTS[0] <= piece.height <= HEIGHTS[1]
        fits &= piece.right - piece.left <= WIDEST * piece.height
        if fits and _is_sharp(plane, labels, piece, name):
            found.append(piece)
    return sorted(found, key=lambda piece: (piece.left, piece.top))


def _window_sizes(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Pixels of the window around each pixel that lie inside the picture."""
    down, across = (_window_lengths(length) for length in shape)
    return np.asarray(down[:, None] * across[None, :], np.float32)


def _window_lengths(length: int) -> NDArray[np.int64]:
    at = np.arange(length)
    return np.asarray(np.minimum(at + WINDOW, length - 1) - np.maximum(at - WINDOW, 0) + 1)


def _is_sharp(plane: NDArray[np.float32], labels: NDArray[np.int32], piece: _Piece, name: int) -> bool:
    """Whether the piece ends abruptly, and is of one level."""
    top, left = max(0, piece.top - 2), max(0, piece.left - 2)
    box = (slice(top, piece.bottom + 2), slice(left, piece.right + 2))
    own, values = labels[box] == name, plane[box]
    if values.max() - values.min() <= EDGE:
        return False
    touching = _grown(own)
    near = _grown(touching) & ~touching
    if not near.any():
        return False
    ink, around = values[own], values[near]
    low, middle, high = _quantiles(ink, (0.25, 0.5, 0.9))
    step = middle - _quantiles(around, (CALM,))[0]
    return bool(step > EDGE and high - low < FLAT * step)


def _grown(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A shape and the pixels beside, above and below it (scipy's binary dilation, for a few pixels)."""
    grown = shape.copy()
    grown[1:] |= shape[:-1]
    grown[:-1] |= shape[1:]
    grown[:, 1:] |= shape[:, :-1]
    grown[:, :-1] |= shape[:, 1:]
    return grown


def _quantiles(values: NDArray[np.float32], shares: Sequence[float]) -> list[float]:
    """What np.quantile gives, without what it costs for the few pixels of a letter."""
    ordered = np.sort(values).tolist()
    place = [(len(ordered) - 1) * share for share in shares]
    return [
        ordered[int(at)] + (ordered[min(int(at) + 1, len(ordered) - 1)] - ordered[int(at)]) * (at % 1)
        for at in place
    ]


def _longest_line(pieces: list[_Piece]) -> int:
    """The largest number of pieces that follow each other on one line."""
    lengths: list[int] = []
    for at, piece in enumerate(pieces):
        before = [lengths[other] for other in range(max(0, at - 40), at) if _follows(pieces[other], piece)]
        lengths.append(1 + max(before, default=0))
    return max(lengths, default=0)


def _follows(one: _Piece, other: _Piece) -> bool:
    low, high = sorted((one.height, other.height))
    gap = other.left - one.right
    return (
        high <= ALIKE * low
        and abs(one.bottom - other.bottom) <= 1 + BASELINE * low
        and -0.3 * low <= gap <= APART * high
    )
