"""Which patches a sample shows and which it hides: noise comes in, two lists of patch numbers go out.

The noise is drawn by position (`contract.uniform`), so a mask depends on the sample and not on the rank.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LINES = 16
"""Lines on which the field is measured in each patch."""


class Mask(NamedTuple):
    """Patch numbers, each row ascending: `keep` (batch, visible) and `hidden` (batch, hidden), int64."""

    keep: Tensor
    hidden: Tensor


def hidden_count(patches: int, ratio: float) -> int:
    """How many of `patches` a ratio hides: rounded, since 10 * (1 - 0.9) is less than 1 in floats."""
    return round(patches * ratio)


class FieldMask(NamedTuple):
    """A mask, and which of its hidden patches are to be predicted: `counted` (batch, hidden), bool.

    confined: (batch,) bool, whether nothing outside of the field is kept.
    """

    keep: Tensor
    hidden: Tensor
    counted: Tensor
    confined: Tensor


def field_mask(noise: Tensor, ratio: float, *, inside: Tensor) -> FieldMask:
    """As `random_mask`, but what is kept and what is predicted lies in the field: `inside` (batch, patches).

    Every sample still keeps as many patches as without a field, so that batches stay rectangular and cost
    the same: of the retina a smaller share than `ratio` is hidden then (of a whole photograph, whose field
    is 0.785 of its square, 68 % for 75). Where less than half of that share would be, which at 75 % is a
    view with less than 40 % retina, the mask is the random one, and only its hidden retina is predicted. A
    function of each sample alone; with everything inside it is `random_mask`.
    """
    visible = noise.shape[1] - hidden_count(noise.shape[1], ratio)
    confined = inside.sum(dim=1) * (1 - ratio / 2) >= visible
    last = (~inside & confined[:, None]).to(noise.dtype)  # noise is below 1: all of these come after the rest
    keep, hidden = random_mask(noise + last, ratio)
    return FieldMask(keep, hidden, inside.gather(1, hidden), confined)


def random_mask(noise: Tensor, ratio: float) -> Mask:
    """Hide the patches with the largest noise: uniform without replacement (He et al. 2022, section 3).

    `noise` (batch, patches). Every sample hides the same number, so that a batch stays rectangular and the
    mean over samples equals the mean over hidden patches.
    """
    visible = noise.shape[1] - hidden_count(noise.shape[1], ratio)
    order = noise.argsort(dim=1, stable=True)
    return Mask(order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values)


def patch_field(field: Tensor, grid: int, size: int) -> Tensor:
    """How much of each patch lies in the field of view: (batch, grid * grid) in [0, 1], row by row.

    field: (batch, 4), one view's `Batch.field_of_view`; where it is unknown (NaN), all is field. size: the
        view's side in pixels. Exact along LINES lines a patch, within 0.04 of a patch.

    Exact for circles, turned and flipped ones too, and for ellipses that lie along the view. Of a turned
    ellipse `field` tells the reach across and down only, which holds more than it: of radii 1 and 0.9,
    turned by 30 degrees, the area is 0.4 % too large. Nor does it tell where a frame cuts the circle (8 % of
    it in IDRiD).
    """
    step = size / grid
    lines = (torch.arange(grid * LINES, device=field.device) + 0.5) * (step / LINES)
    lefts = torch.arange(grid, device=field.device) * step
    centre_x, centre_y, radius_x, radius_y = (part[:, None] for part in field.unbind(dim=1))
    height = (lines - centre_y) / radius_y  # (batch, lines)
    half = (radius_x * (1 - height * height).clamp(min=0).sqrt())[:, :, None]
    start = torch.maximum(centre_x[:, :, None] - half, lefts)  # (batch, lines, grid)
    end = torch.minimum(centre_x[:, :, None] + half, lefts + step)
    inside = (end - start).clamp(min=0) / step
    share = inside.view(len(field), grid, LINES, grid).mean(dim=2).flatten(1)
    return torch.where(field.isnan().any(dim=1, keepdim=True), torch.ones_like(share), share)
