"""Changes of light and colour: numbers drawn per sample and view, applied to whole batches on the device.

In: what a recipe allows (`Colours`), draws in [0, 1), float pixels in [0, 1]. Out: the same pixels as
torchvision's functional operations with the same numbers would give. Every sum is exact or has a fixed
order, so that a sample's pixels do not depend on who else is in its batch, bit for bit.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_retina.data import placing

DRAWS = 11
"""Jitter or not, its four strengths, their order, grayscale; blur or not, its sigma; solarise; one spare."""

BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GREY, SIGMA, SOLARISE, SURROUND = range(9)
COLUMNS = 9
"""One view's colours: three factors, hue in turns, which of ORDERS, 1 for grey, sigma in pixels (0: none),
the level from which pixels are inverted (NEVER: none), and 1 where a black surround is to stay black."""

ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
NEVER = 2.0
UNCHANGED = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, NEVER, 1.0)
"""The columns of a view that stays as it is."""
BLACK, FIELD = 4 / 255, 12 / 255
"""A pixel whose brightest channel is below BLACK (a JPEG's surround) is black after the jitter, one above
FIELD is as the jitter made it; between them it fades."""

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
GREY_STEPS = 4096


@dataclass(frozen=True)
class Jitter:
    """Torchvision's ColorJitter: factors in 1 - x .. 1 + x, hue in -x .. x turns of the colour circle."""

    probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True)
class Blur:
    """A Gaussian; sigma as a share of the view's side, so that it hides the same detail at every size."""

    probability: float
    sigma: tuple[float, float]


@dataclass(frozen=True)
class Solarise:
    """Levels from `threshold` (of 1) on are inverted."""

    probability: float
    threshold: float


@dataclass(frozen=True)
class Colours:
    """What may happen to the colours of one view; None or 0 means never."""

    jitter: Jitter | None = None
    grey: float = 0.0
    blur: Blur | None = None
    solarise: Solarise | None = None


def drawn(colours: Colours, draws: Tensor, *, size: int, strength: float, scans: Sequence[bool]) -> Tensor:
    """(batch, COLUMNS) float32 of `draws` (batch, DRAWS); `strength` multiplies what changes colours.

    B-scans (`scans`, one a sample) change in brightness, contrast and sharpness only: they have no colour,
    and inverted layers are another tissue. Nor have they a surround: what is dark in them is noise.
    """
    numbers = draws.double().numpy()
    changes = np.tile(UNCHANGED, (len(numbers), 1))
    if colours.jitter is not None:
        chosen = numbers[:, 0] < colours.jitter.probability
        changes[chosen, :GREY] = _jitter(colours.jitter, numbers[chosen, 1:6], strength)
    share = min(strength, 1.0)
    changes[:, GREY] = numbers[:, 6] < colours.grey * share
    if colours.blur is not None:
        low, high = colours.blur.sigma
        blurred = numbers[:, 7] < colours.blur.probability
        changes[:, SIGMA] = np.where(blurred, size * (low + numbers[:, 8] * (high - low)), 0.0)
    if colours.solarise is not None:
        inverted = numbers[:, 9] < colours.solarise.probability * share
        changes[:, SOLARISE] = np.where(inverted, colours.solarise.threshold, NEVER)
    scan = np.asarray(scans, dtype=bool)
    for column in (SATURATION, HUE, GREY, SOLARISE):
        changes[scan, column] = UNCHANGED[column]
    changes[scan, SURROUND] = 0.0
    return torch.from_numpy(changes.astype(np.float32))


def _jitter(jitter: Jitter, numbers: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """(chosen, 5): three factors, hue, order."""
    ranges = np.array((jitter.brightness, jitter.contrast, jitter.saturation)) * strength
    low, high = np.maximum(1 - ranges, 0.0), 1 + ranges
    factors = low + numbers[:, :3] * (high - low)
    hue = min(jitter.hue * strength, 0.5) * (2 * numbers[:, 3:4] - 1)
    return np.concatenate((factors, hue, np.floor(numbers[:, 4:5] * len(ORDERS))), axis=1)


def recolour(images: Tensor, changes: Tensor) -> Tensor:
    """Change images (batch, 3, height, width), float32 in [0, 1], in place; `changes` (batch, COLUMNS).

    `changes` stay on the CPU, where it is known what happens to whom: the device is never waited for.
    """
    assert changes.device.type == "cpu"
    for part in placing.parts(len(images), images.device):
        _recolour(images[part], changes[part])
    return images


def _recolour(images: Tensor, changes: Tensor) -> None:
    jittered = (changes[:, :HUE] != 1).any(dim=1) | (changes[:, HUE] != 0)
    for chosen, change in (
        (jittered, _jittered),
        (changes[:, GREY] == 1, _greyed),
        (changes[:, SIGMA] > 0, _blurred),
        (changes[:, SOLARISE] <= 1, _solarised),
    ):
        rows = chosen.nonzero().flatten()
        if len(rows):
            there = placing.sent(rows, images.device)
            placing.put(images, rows.tolist(), change(images[there], changes[rows]))


def _jittered(images: Tensor, changes: Tensor) -> Tensor:
    """The four changes, each sample's in its own order; the black surround of a photograph stays black."""
    inside = images.amax(dim=1, keepdim=True).sub_(BLACK).div_(FIELD - BLACK)
    inside = torch.maximum(inside.clamp_(0, 1), placing.column(1 - changes[:, SURROUND], images))
    field = (inside == 1).float()
    orders = torch.tensor([ORDERS[order] for order in changes[:, ORDER].int().tolist()])  # (batch, 4)
    for kinds in orders.unbind(dim=1):
        images = _blended(images, changes, kinds, field=field)
        rows = (kinds == HUE).nonzero().flatten()
        if len(rows):
            turned = shift_hue(
                images[placing.sent(rows, images.device)], placing.column(changes[rows, HUE], images)
            )
            placing.put(images, rows.tolist(), turned)
    return images.mul_(inside)


def _blended(images: Tensor, changes: Tensor, kinds: Tensor, *, field: Tensor) -> Tensor:
    """Brightness, contrast or saturation of each sample, as `kinds` says: all three blend with some grey.

    The grey of the contrast is the mean of the field: with the black surround in it, less contrast would
    darken a photograph, and the more so the more of the surround a crop holds.
    """
    factor = torch.ones(len(kinds))
    with_mean, with_own = torch.zeros(len(kinds)), torch.zeros(len(kinds))
    for kind, share in ((BRIGHTNESS, None), (CONTRAST, with_mean), (SATURATION, with_own)):
        chosen = kinds == kind
        factor[chosen] = changes[chosen, kind]
        if share is not None:
            share[chosen] = 1 - changes[chosen, kind]
    grey = luminance(images)
    other = mean_level(grey, field) * placing.column(with_mean, images) + grey * placing.column(
        with_own, images
    )
    return (images * placing.column(factor, images)).add_(other).clamp_(0, 1)


def _greyed(images: Tensor, changes: Tensor) -> Tensor:
    del changes
    return luminance(images).repeat(1, 3, 1, 1)


def _blurred(images: Tensor, changes: Tensor) -> Tensor:
    return blur(images, changes[:, SIGMA].tolist())


def _solarised(images: Tensor, changes: Tensor) -> Tensor:
    return torch.where(images >= placing.column(changes[:, SOLARISE], images), 1 - images, images)


def luminance(images: Tensor) -> Tensor:
    """(batch, 1, height, width) of ITU-R 601-2, as torchvision weighs it."""
    red, green, blue = images.chunk(3, dim=1)
    return (red * GREY_WEIGHTS[0]).add_(green * GREY_WEIGHTS[1]).add_(blue * GREY_WEIGHTS[2])


def mean_level(grey: Tensor, field: Tensor) -> Tensor:
    """The mean level (batch, 1, 1, 1) where `field` is 1; both (batch, 1, height, width), 0 without any.

    Levels are rounded to steps of 1 / GREY_STEPS: sums of whole steps are exact in any order (a row of 4096
    in float32, then float64), so that the mean does not hang on how a device cuts the batch.
    """
    steps = (grey * field).mul_(GREY_STEPS).round_().sum(dim=3).double().sum(dim=2)
    pixels = field.sum(dim=3).double().sum(dim=2).clamp_(min=1)
    return (steps / (GREY_STEPS * pixels)).float().view(-1, 1, 1, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by `turns` (batch, 1, 1, 1) of the colour circle: through HSV, as torchvision does."""
    red, green, blue = images.chunk(3, dim=1)
    top, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = top - low
    divisor = chroma + (chroma == 0)
    reds = (green - blue).div_(divisor)
    greens = (blue - red).div_(divisor).add_(2)
    blues = (red - green).div_(divisor).add_(4)
    hue = torch.where(top == red, reds, torch.where(top == green, greens, blues))  # in sixths of the circle
    hue = (hue + 6 * turns).remainder_(6)
    shares = (hue - 3).abs_() - 1, 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_()
    return torch.cat(shares, dim=1).clamp_(0, 1).mul_(chroma).add_(low)


def blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """A Gaussian of each sample's sigma in pixels, cut at three sigmas, the border reflected."""
    kernels = [_kernel(sigma) for sigma in sigmas]
    radius = min(max(len(kernel) for kernel in kernels), *images.shape[2:]) - 1
    table = torch.tensor([(kernel + [0.0] * radius)[: radius + 1] for kernel in kernels])
    weights = placing.sent(table, images.device)[:, :, None, None, None].unbind(dim=1)
    for dim in (2, 3):
        padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        padded, size = placing.reflected(images, padding), images.shape[dim]
        images = padded.narrow(dim, radius, size) * weights[0]
        for away in range(1, radius + 1):
            pair = padded.narrow(dim, radius - away, size) + padded.narrow(dim, radius + away, size)
            images.add_(pair.mul_(weights[away]))
    return images


def _kernel(sigma: float) -> list[float]:
    """The middle weight and those to one side; with the other side they sum to 1.

    From `math.exp`, whose result does not hang on how many are asked for at once.
    """
    side = [math.exp(-0.5 * (away / sigma) ** 2) for away in range(math.ceil(3 * sigma) + 1)]
    total = 2 * sum(side) - 1
    return [weight / total for weight in side]
