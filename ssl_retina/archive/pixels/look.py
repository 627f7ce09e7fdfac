"""How a fundus photograph looks, apart from its size, light and compression: to find it again as a copy.

In: stored pixels and their field of view. Out: a look, 64 x 64 values of local contrast in the green channel
on the grid of the field of view, and its hash of 256 bits. A look never leaves the work folder.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.archive.picture import Pixels, as_image

Look = NDArray[np.int8]
"""(64, 64) local contrast in 1/16 of a local standard deviation; UNSEEN outside the field of view."""

SIDE = 64
BYTES = SIDE * SIDE
UNSEEN = -128
STEPS = 16.0
INSIDE = 0.92
"""Share of the radius that is looked at: the rim moves with the found circle and with the light."""

WIDE, NARROW = 6, 4
"""Half widths of the two windows whose mean is taken away: without the second, two blurred photographs with
the same shadow look like copies (measured: 0.84 between two patients, 0.64 with it)."""

FAINTEST = 1.0
"""Grey levels added to a local standard deviation, so that noise is not taken for structure."""

SMALLEST = 128
"""Pixels across a field of view that is compared: at 64 px, drawn eyes of two patients looked alike."""

FEWEST = 800
"""A look with fewer seen values tells nothing."""

BITS = 256
LOWEST, HIGHEST = 5, 26
"""Frequencies of the hash: coarser ones are the light, finer ones do not survive a compression."""


def look(pixels: Pixels | Image.Image, field_of_view: tuple[float, ...] | None) -> Look | None:
    """The look of stored (height, width, 3) pixels; None where too little is seen, or nothing stands out."""
    image = as_image(pixels)
    across = max(image.size) if field_of_view is None else 2 * field_of_view[2]
    if across < SMALLEST:
        return None
    values, inside = _sampled(image, field_of_view)
    if inside.sum() < FEWEST:
        return None
    centred, count = _without_mean(values, inside, WIDE)
    spread = np.sqrt(window_sums(centred * centred, WIDE) / count)
    even, _ = _without_mean(centred / (spread + np.float32(FAINTEST)), inside, NARROW)
    if even.std() == 0:
        return None
    steps = np.clip(np.rint(even * STEPS), -127, 127)
    return np.where(inside > 0, steps, UNSEEN).astype(np.int8)


def similarity(first: Look, second: Look) -> float:
    """Correlation of two looks where both are seen, -1 to 1 (normalised cross-correlation, Lewis 1995)."""
    both = (first != UNSEEN) & (second != UNSEEN)
    if both.sum() < FEWEST:
        return 0.0
    one, other = first[both].astype(np.float32), second[both].astype(np.float32)
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def mirrored(one: Look) -> Look:
    """The look of the same photograph, mirrored left to right."""
    return np.ascontiguousarray(one[:, ::-1])


def perceptual_hash(one: Look) -> bytes:
    """Signs of 256 middle frequencies of a look's cosine transform, in 32 bytes.

    The DCT hash of Zauner 2010 ("Implementation and benchmarking of perceptual image hash functions"), on
    local contrast instead of grey levels.
    """
    basis = _cosines()
    spectrum = basis @ np.where(one == UNSEEN, 0, one).astype(np.float64) @ basis.T
    rows, columns = _frequencies()
    return np.packbits(spectrum[rows, columns] > 0).tobytes()


def mirror_bits() -> NDArray[np.uint8]:
    """(32,) bits that turn round in the hash of the mirrored photograph: those of odd column frequencies."""
    return np.packbits(_frequencies()[1] % 2 == 1)


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """(HIGHEST, SIDE) rows of the type II cosine transform."""
    frequency, place = np.arange(HIGHEST)[:, None], np.arange(SIDE)[None, :]
    waves: NDArray[np.float64] = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))
    return waves


@functools.cache
def _frequencies() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column frequencies of the BITS lowest waves from LOWEST on, in a fixed order."""
    rows, columns = np.divmod(np.arange(HIGHEST**2), HIGHEST)
    square = rows**2 + columns**2
    order = np.lexsort((rows, square))
    order = order[square[order] >= LOWEST**2][:BITS]
    return rows[order], columns[order]


def _sampled(
    image: Image.Image, field_of_view: tuple[float, ...] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Green on the grid of the field of view (or of the square), and 1 where it is seen; (64, 64) each."""
    width, height = image.size
    side = max(height, width) / 2
    x, y, radius = (width / 2, height / 2, side) if field_of_view is None else field_of_view[:3]
    step = 2 * radius / SIDE
    factor = max(1, int(step))
    green = image.getchannel(1).reduce(factor)
    left, top = (x - radius) / factor, (y - radius) / factor
    matrix = (step / factor, 0, left, 0, step / factor, top)
    moved = green.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    values = np.asarray(moved, np.float32)
    inside: NDArray[np.bool_] = _lit(values)
    if field_of_view is not None:
        offset = (np.arange(SIDE) + 0.5) * (2 / SIDE) - 1
        inside &= np.asarray(offset[:, None] ** 2 + offset[None, :] ** 2 < INSIDE**2)
    return values, inside.astype(np.float32)


def _lit(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What lies between the first and the last rows and columns that are not all black, less one each."""
    rows, columns = (np.flatnonzero(values.any(axis=axis)) for axis in (1, 0))
    lit = np.zeros(values.shape, bool)
    if len(rows) > 2 and len(columns) > 2:
        lit[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]] = True
    return lit


def _without_mean(
    values: NDArray[np.float32], inside: NDArray[np.float32], half: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values less the mean of what is seen in a square window around them, 0 where nothing is seen.

    The second: how many values are seen in the window, at least 1.
    """
    total, count = window_sums(np.stack([values * inside, inside]), half)
    count = np.maximum(count, 1)
    return (values - total / count) * inside, count


def window_sums(values: NDArray[np.float32], half: int) -> NDArray[np.float32]:
    """Sums over square windows of 2 half + 1 values of (..., height, width); 0 lies beyond the edges."""
    *others, height, width = values.shape
    padded = np.zeros((*others, height + 2 * half, width + 2 * half), np.float32)
    padded[..., half : half + height, half : half + width] = values
    return inner_window_sums(padded, half)


def inner_window_sums(values: NDArray[np.float32], half: int) -> NDArray[np.float32]:
    """The same for windows that lie inside: (..., height - 2 half, width - 2 half)."""
    values = np.ascontiguousarray(values)
    *others, height, width = values.shape
    length = 2 * half + 1
    flat = _run_sums(_run_sums(values.ravel(), length, width), length, 1)  # some run over an end: left out
    shape = (*others, height - length + 1, width - length + 1)
    return np.ndarray(shape, np.float32, np.ascontiguousarray(flat), strides=values.strides)


def _run_sums(values: NDArray[np.float32], length: int, step: int) -> NDArray[np.float32]:
    """Sums of `length` values that lie `step` apart, by doubling: of runs of 1, 2, 4, ... that add up."""
    count = len(values) - (length - 1) * step
    total, taken, run, width = values[:count], step, values, 1  # lengths are odd
    while 2 * width <= length:
        run = run[: -width * step] + run[width * step :]
        width *= 2
        if length & width:
            total = total + run[taken : taken + count]
            taken += width * step
    return total
