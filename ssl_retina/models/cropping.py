"""Small crops beside large ones: which side they have, and whether an encoder can take them.

In: the large crops' side, or the encoder. Out: pixels, or an error.
"""

from ssl_retina.contract import Encoder
from ssl_retina.errors import ConfigError

STEP = 16


def local_size(image_size: int) -> int:
    """The papers' 96 of 224 pixels, to whole 16 (the nearest, at least one)."""
    return max(round(image_size * 96 / 224 / STEP), 1) * STEP


def check(encoder: Encoder, size: int | None) -> None:
    """Raise ConfigError where small crops of a side, or of the side from `local_size`, do not divide."""
    side = size or local_size(encoder.grid * encoder.patch_size)
    if side % encoder.patch_size:
        near = max(round(side / encoder.patch_size), 1) * encoder.patch_size
        problem = f"{side} px are not whole patches of {encoder.patch_size} px; give {near}"
        raise ConfigError("config", [f"method.local_size: {problem}"])
