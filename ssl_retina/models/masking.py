"""Which patches a sample shows and which it hides: noise comes in, two lists of patch numbers go out.

The noise is drawn by position (`contract.uniform`), so a mask depends on the sample and not on the rank.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_retina.models import rows

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


def asked(noise: Tensor, share: float, *, counted: Tensor | None = None) -> Tensor:
    """Which of the hidden patches are predicted: their places among them, ascending, (batch, asked) int64.

    noise, counted: (batch, hidden). Uniform without replacement, at least one, every sample the same number;
    `counted` ones, if given, before others.
    """
    if counted is not None:
        noise = noise + (~counted).to(noise.dtype)  # noise is below 1
    order = noise.argsort(dim=1, stable=True)
    return order[:, : max(round(noise.shape[1] * share), 1)].sort(dim=1).values


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


BLOCKS = 16
"""So many together nearly always cover what a mask hides; what is missing is hidden from the top left."""
BLOCK_DRAWS = 2 + 4 * BLOCKS
LEAST_BLOCK = 4
WIDEST = math.log(1 / 0.3)
"""Of a block's aspect: 0.3 to 1 / 0.3 (Bao et al. 2022, BEiT, algorithm 1)."""


class BlockMask(NamedTuple):
    """Blocks hidden in one of two views of each sample; views behind each other where the batch is 2 * batch.

    where: (2 * batch, patches) bool. second: (batch,) bool, whether it is the second view's. at: (batch,
        most) int64, the hidden patches, block by block, filled up with others. real: (batch, most) bool,
        those that are hidden.
    """

    where: Tensor
    second: Tensor
    at: Tensor
    real: Tensor

    def take(self, patches: Tensor) -> Tensor:
        """(batch, most, width) at `at`, of both views' tokens (2 * batch, patches, width)."""
        first, second = patches[: len(self.at)], patches[len(self.at) :]
        return rows.take(torch.where(self.second[:, None, None], second, first), self.at)


def block_mask(draws: Tensor, grid: int, ratio: tuple[float, float]) -> BlockMask:
    """Hide rectangles in one view of each sample, a share of patches that is uniform in `ratio`.

    Of BEiT's blocks (Bao et al. 2022, algorithm 1) as iBOT and DINOv2 use them, with two changes for fixed
    shapes: one of the two views is masked, where each is with chance 1/2 there, and the last block is cut to
    the exact share. draws: (batch, BLOCK_DRAWS) in [0, 1).
    """
    patches = grid * grid
    low, high = ratio
    second, share = draws[:, 0] >= 0.5, low + (high - low) * draws[:, 1]
    most = hidden_count(patches, high)
    count = (share * patches).round().long().clamp(1, most)
    covered = _blocks(draws[:, 2:].reshape(len(draws), 4, BLOCKS).unbind(dim=1), count, grid)
    number = torch.arange(patches, device=draws.device)
    first = torch.where(covered.any(dim=1), covered.int().argmax(dim=1), BLOCKS)  # (batch, patches)
    at = (first * patches + number).argsort(dim=1)[:, :most]
    real = torch.arange(most, device=draws.device) < count[:, None]
    hidden = torch.zeros(len(draws), patches, dtype=torch.bool, device=draws.device).scatter(1, at, real)
    where = torch.cat((hidden & ~second[:, None], hidden & second[:, None]))
    return BlockMask(where, second, at, real)


def _blocks(draws: tuple[Tensor, ...], count: Tensor, grid: int) -> Tensor:
    """(batch, BLOCKS, patches) bool: which patches each block covers; at most `count` (batch,) of them."""
    area, aspect, down, right = draws  # each (batch, BLOCKS)
    least = count.clamp(max=LEAST_BLOCK)[:, None]
    area = least + (count[:, None] - least) * area
    stretch = ((2 * aspect - 1) * WIDEST / 2).exp()
    line = torch.arange(grid, device=count.device)

    def inside(side: Tensor, place: Tensor) -> Tensor:
        length = side.round().clamp(1, grid)
        start = (place * (grid - length + 1)).floor()
        return (line >= start[..., None]) & (line < (start + length)[..., None])  # (batch, BLOCKS, grid)

    size = area.sqrt()
    return (inside(size * stretch, down)[..., :, None] & inside(size / stretch, right)[..., None, :]).flatten(
        2
    )
