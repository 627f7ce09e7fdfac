"""Which patches a sample shows and which it hides: noise comes in, two lists of patch numbers go out.

The noise is drawn by position (`contract.uniform`), so a mask depends on the sample and not on the rank.
"""

from typing import NamedTuple

from torch import Tensor


class Mask(NamedTuple):
    """Patch numbers, each row ascending: `keep` (batch, visible) and `hidden` (batch, hidden), int64."""

    keep: Tensor
    hidden: Tensor


def hidden_count(patches: int, ratio: float) -> int:
    """How many of `patches` a ratio hides: rounded, since 10 * (1 - 0.9) is less than 1 in floats."""
    return round(patches * ratio)


def random_mask(noise: Tensor, ratio: float) -> Mask:
    """Hide the patches with the largest noise: uniform without replacement (He et al. 2022, section 3).

    `noise` (batch, patches). Every sample hides the same number, so that a batch stays rectangular and the
    mean over samples equals the mean over hidden patches.
    """
    visible = noise.shape[1] - hidden_count(noise.shape[1], ratio)
    order = noise.argsort(dim=1, stable=True)
    return Mask(order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values)
