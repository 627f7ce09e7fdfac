"""The loss of a JPEG file of a given quality, over a batch on any device: no file, no bytes, only its pixels.

In: float pixels in [0, 1]. Out: what a decoder would show of them (ITU-T T.81 with the tables of its annex K,
as scaled by the Independent JPEG Group; 4:2:0). Transforms are sums of whole numbers below 2^53, exact in
any order, so that a sample's pixels do not depend on who else is in its batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina.data import placing

SCALE = 1 << 16
"""Cosines are whole numbers of 1 / SCALE."""

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)

Table = tuple[tuple[int, ...], ...]


def compressed(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Images (batch, 3, height, width) after a JPEG file of each sample's quality (1 to 100)."""
    height, width = images.shape[2:]
    red, green, blue = images.mul(255).round_().unbind(dim=1)
    luma = (red * 0.299 + green * 0.587 + blue * 0.114).round_()
    blues = (blue * 0.5 - red * 0.168736 - green * 0.331264).round_()
    reds = (red * 0.5 - green * 0.418688 - blue * 0.081312).round_()
    planes = torch.stack((luma.sub_(128), blues, reds), dim=1)
    planes = placing.repeated(planes, (0, -width % 16, 0, -height % 16))
    luma = _quantised(planes[:, :1], qualities, LUMINANCE).add_(128)
    # both planes of colour at half the size, one behind the other, and back
    few = functional.avg_pool2d(planes[:, 1:], 2).round_()
    colours = _quantised(few, qualities, CHROMINANCE)
    blues, reds = placing.bilinear(colours, luma.shape[2], luma.shape[3]).chunk(2, dim=1)
    channels = (
        luma + reds * 1.402,
        luma - blues * 0.344136 - reds * 0.714136,
        luma + blues * 1.772,
    )
    return torch.cat(channels, dim=1)[:, :, :height, :width].round().clamp_(0, 255).div_(255)


def _quantised(planes: Tensor, qualities: Sequence[int], table: Table) -> Tensor:
    """Planes (batch, planes, height, width) of whole levels around 0, their 8 x 8 transforms rounded."""
    batch, count, height, width = planes.shape
    blocks = planes.reshape(batch, count, height // 8, 8, width // 8, 8).transpose(3, 4)
    blocks = blocks.to(torch.float64).reshape(batch, -1, 64)
    waves = placing.sent(_waves(), planes.device)
    steps = placing.sent(_steps(table, qualities), planes.device)[:, None]
    kept = (blocks @ waves.T).div_(steps).round_().mul_(steps)
    levels = (kept @ waves).round_().clamp_(-128, 127).float()
    levels = levels.view(batch, count, height // 8, width // 8, 8, 8).transpose(3, 4)
    return levels.reshape(batch, count, height, width)


def _waves() -> Tensor:
    """(64, 64): for each frequency the 64 levels of its wave in an orthonormal transform, in 1 / SCALE."""
    rows = []
    for frequency in range(8):
        height = math.sqrt((1 if frequency == 0 else 2) / 8)
        rows.append([height * math.cos((2 * place + 1) * frequency * math.pi / 16) for place in range(8)])
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).mul_(SCALE).round_().div_(SCALE)


def _steps(table: Table, qualities: Sequence[int]) -> Tensor:
    """(batch, 64) float64: the divisors at each quality."""
    quality = torch.tensor(qualities, dtype=torch.int64)[:, None]
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = (torch.tensor(table).flatten() * scale + 50) // 100
    return steps.clamp_(1, 255).to(torch.float64)
