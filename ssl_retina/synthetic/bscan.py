"""One OCT B-scan: the layers of the retina in grey, with speckle.

In: a `Shot` of modality `oct` and the seed. Out: uint8 pixels (height, width), without colour.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_retina.synthetic.cameras import Floats
from ssl_retina.synthetic.cohort import Shot

SIZE = (512, 288)
BANDS = ((0.0, 0.16, 0.75), (0.16, 0.36, 0.45), (0.36, 0.48, 0.55), (0.48, 0.72, 0.22), (0.72, 0.82, 0.5))
"""Layers between the inner limit (0) and the pigment epithelium (1): start, end, brightness."""


def draw_bscan(shot: Shot, seed: int) -> NDArray[np.uint8]:
    """The pixels of one B-scan through the fovea: (height, width)."""
    generator = np.random.default_rng([seed, 5, shot.patient.number, int(shot.right)])
    width, height = SIZE
    across = np.linspace(-1, 1, width, dtype=np.float32)
    base = _base(across, shot, generator)
    thickness = 78 - 48 * np.exp(-(across**2) / 0.02) - 8 * across**2
    depth = np.arange(height, dtype=np.float32)[:, None]
    share = (depth - (base - thickness)) / thickness
    light = _layers(share, depth - base)
    speckle = generator.gamma(4.0, 0.25, (height, width)).astype(np.float32)
    scan: NDArray[np.uint8] = np.clip(speckle * (210 * light + 14), 0, 255).astype(np.uint8)
    return scan


def _base(across: Floats, shot: Shot, generator: np.random.Generator) -> Floats:
    """Row of the pigment epithelium in each column; drusen lift it."""
    tilt, bend = generator.normal(0, 10), generator.uniform(5, 20)
    base = 190 + generator.normal(0, 12) + tilt * across - bend * across**2
    if shot.disease == "drusen":
        for centre in generator.uniform(-0.6, 0.6, 7):
            base -= generator.uniform(6, 14) * np.exp(-((across - centre) ** 2) / 0.0015)
    return np.asarray(base, np.float32)


def _layers(share: Floats, below: Floats) -> Floats:
    """Brightness from the depth as a share of the retina, and the rows below the pigment epithelium."""
    light = np.zeros_like(share)
    for start, end, brightness in BANDS:
        light += brightness * ((share >= start) & (share < end))
    light += 1.0 * np.exp(-((below / 3.5) ** 2)) + 0.8 * np.exp(-(((below + 11) / 2.0) ** 2))
    light += 0.5 * np.exp(-np.clip(below, 0, None) / 32) * (below > 3)
    return light
