"""How good a fundus photograph is: a score of four components, each from 0 to 1, and a class.

In: stored pixels and their field of view. Out: `Quality`. Rules of grey levels, no network: they rank
photographs of one camera, and tell a blurred, dark or half hidden one; they know no disease and no eye.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_retina.archive.picture import Pixels, as_image
from ssl_retina.archive.pixels.look import inner_window_sums

Floats = NDArray[np.float32]

SIDE = 256
"""Pixels across the field at which a photograph is judged, where it has so many."""

INSIDE = 0.9
DARK, BRIGHT = 40, 235
"""Grey levels of the brightest channel and of green beyond which nothing is seen."""

FINE, COARSE = 2, 8
"""Half widths of the windows whose mean is taken away: vessels and their edges; disc and vessels."""

SHARPEST = (0.055, 0.37)
DETAILED = (0.015, 0.09)
"""What is worth 0 and 1, on a logarithmic scale: fine detail over the root of brightness, coarse over it."""

OFFSET = 10.0
GOOD, USABLE = 0.5, 0.25
CLASSES = ("reject", "usable", "good")
"""From worst to best."""


@dataclass(frozen=True)
class Quality:
    """sharpness: fine detail; exposure: share neither dark nor burnt out; contrast: coarse detail; coverage:
    share of the circle that shows anything. The score is the product of sharpness, exposure and coverage,
    lessened where contrast is below a half.
    """

    score: float
    sharpness: float
    exposure: float
    contrast: float
    coverage: float

    @property
    def grade(self) -> str:
        """One of CLASSES."""
        if self.score >= GOOD:
            return "good"
        return "usable" if self.score >= USABLE else "reject"

    def facts(self) -> dict[str, Any]:
        """The object of the sample's JSON: every component rounded to three digits, and the class."""
        return {name: round(value, 3) for name, value in vars(self).items()} | {"class": self.grade}


def assess(pixels: Pixels | Image.Image, field_of_view: tuple[float, ...] | None) -> Quality:
    """Judge stored (height, width, 3) pixels of a fundus photograph."""
    image = as_image(pixels)
    factor = max(1, round(max(image.size) / SIDE))
    red, green, blue = (np.asarray(one) for one in image.reduce(factor).split())
    brightest = np.maximum(np.maximum(red, green), blue)
    inside = _inside(brightest, None if field_of_view is None else tuple(v / factor for v in field_of_view))
    disc = green.size if field_of_view is None else np.pi * (INSIDE * field_of_view[2] / factor) ** 2
    seen = int(np.count_nonzero(inside))
    if not seen:
        return Quality(0.0, 0.0, 0.0, 0.0, 0.0)
    plane, judged = green.astype(np.float32), inside.astype(np.float32)
    level = float(np.vdot(plane, judged)) / seen + OFFSET
    fine, coarse = (_detail(plane, judged, half) for half in (FINE, COARSE))
    sharpness = _share(fine / math.sqrt(level), SHARPEST)
    contrast = _share(coarse / level, DETAILED)
    dark, burnt, shown = (
        int(np.count_nonzero(inside & which))
        for which in (brightest < DARK, green > BRIGHT, brightest >= DARK // 2)
    )
    exposure = 1 - dark / seen - burnt / seen
    coverage = min(1.0, shown / disc)
    score = sharpness * max(exposure, 0.0) * coverage * min(1.0, 2 * contrast)
    return Quality(score, sharpness, max(exposure, 0.0), contrast, coverage)


def _inside(brightest: NDArray[np.uint8], circle: tuple[float, ...] | None) -> NDArray[np.bool_]:
    """What is judged: the circle without its rim, or everything that is not black."""
    if circle is None:
        return np.asarray(brightest > 0)
    rows = (np.arange(brightest.shape[0]) + 0.5 - circle[1])[:, None] ** 2
    columns = (np.arange(brightest.shape[1]) + 0.5 - circle[0])[None, :] ** 2
    inside: NDArray[np.bool_] = rows + columns < (INSIDE * circle[2]) ** 2
    return inside


def _detail(green: Floats, inside: Floats, half: int) -> float:
    """Root mean square of what differs from the mean of a window, inside; windows never reach the rim."""
    if min(green.shape) <= 2 * half:
        return 0.0
    middle = (slice(half, -half), slice(half, -half))
    judged = inside[middle]
    apart = green[middle] - inner_window_sums(green, half) / (2 * half + 1) ** 2
    apart *= judged
    seen = float(judged.sum())
    return math.sqrt(float(np.vdot(apart, apart)) / seen) if seen else 0.0


def _share(value: float, limits: tuple[float, float]) -> float:
    """Where a value lies between two limits on a logarithmic scale, cut to 0 and 1."""
    low, high = (math.log(limit) for limit in limits)
    return min(1.0, max(0.0, (math.log(max(value, 1e-6)) - low) / (high - low)))
