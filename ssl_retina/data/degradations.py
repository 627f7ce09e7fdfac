"""What a cheap camera does to a picture, one physical step a function, over a batch on any device.

In: float pixels in [0, 1], (batch, 3, side, side), and numbers per sample on the CPU. Out: such pixels.
Places are measured in radii of the field of view: u to the right, v down, the rim at 1. Only sums, products
and roots with a fixed order and whole numbers, so that no pixel depends on the rest of the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina.data import photometry, placing
from ssl_retina.data.placing import column

FACTORS = (1.25, 1.5, 2.0, 2.5)
"""Times fewer pixels: a few, since all samples of one factor are shrunk together."""

SPILL = 0.25
"""Share of the haze that is seen beyond the field stop: reflexes of a lens that is held before the eye."""

DARKEST = 0.1
"""What is left of the light at least."""

WARM = (1.0, 0.85, 0.6)
"""Haze between white and this."""

EDGE = 0.6
"""Share of a ghost's radius over which it fades."""

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
_DEVIATION = ((256**2 - 1) / 3) ** 0.5


def field_mask(images: Tensor, scans: Tensor, levels: tuple[float, float]) -> Tensor:
    """(batch, 1, side, side): 0 in the black surround, 1 in the field; `scans` (1 or 0) have no surround.

    `levels`: of the brightest channel, where the mask leaves 0 and reaches 1.
    """
    inside = images.amax(dim=1, keepdim=True).sub_(levels[0]).div_(levels[1] - levels[0]).clamp_(0, 1)
    return torch.maximum(inside, column(scans, images))


def radii(fields: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """u (batch, 1, 1, side) and v (batch, 1, side, 1) of the pixels' middles.

    An unknown field (NaN) is taken for the circle that touches the view's sides.
    """
    side = images.shape[-1]
    known = torch.where(fields.isfinite().all(dim=1, keepdim=True), fields, torch.full((), side / 2))
    places = torch.arange(side, dtype=torch.float32) + 0.5
    u, v = ((places - known[:, axis, None]) / known[:, axis + 2, None] for axis in (0, 1))
    return placing.sent(u, images.device)[:, None, None, :], placing.sent(v, images.device)[:, None, :, None]


def stop(u: Tensor, v: Tensor, fields: Tensor, narrow: Tensor) -> Tensor:
    """1 within the field, 0 beyond its rim, a pixel between; 1 everywhere where it is not `narrow`."""
    pixels = torch.where(narrow, fields[:, 2:].amin(dim=1), torch.ones(len(fields)))
    rim = ((1 - (u * u + v * v).sqrt()) * column(pixels, u) + 0.5).clamp_(0, 1)
    return torch.maximum(rim, column((~narrow).float(), u))


def softened(images: Tensor, inside: Tensor, sigmas: Tensor, factors: Tensor) -> Tensor:
    """Defocused by a Gaussian, then on a grid of fewer pixels and back.

    The stop of the field lies in the camera: only light of the field is mixed, so that no black comes in at
    the rim. What is seen where `inside` is 0 means nothing.
    """
    light = torch.cat((images * inside, inside), dim=1)
    rows = (sigmas > 0).nonzero().flatten()
    if len(rows):
        there = placing.sent(rows, images.device)
        placing.put(light, rows.tolist(), photometry.blur(light[there], sigmas[rows].tolist()))
    for factor in FACTORS:
        rows = (factors == factor).nonzero().flatten()
        if len(rows):
            there = placing.sent(rows, images.device)
            placing.put(light, rows.tolist(), fewer_pixels(light[there], factor))
    return light[:, :3] / light[:, 3:].clamp(min=1e-3)


def fewer_pixels(images: Tensor, factor: float) -> Tensor:
    """Resized to the side / `factor` and back, bilinearly, each output pixel once out of its inputs."""
    side = images.shape[-1]
    few = max(round(side / factor), 1)
    small = functional.interpolate(images, size=(few, few), mode="bilinear", antialias=True)
    return placing.bilinear(small, side, side)


def light(u: Tensor, v: Tensor, tilt: Tensor, fall: Tensor) -> Tensor:
    """Relative illumination 1 - tilt . (u, v) - fall (u^2 + v^2), at least DARKEST; `tilt` (batch, 2)."""
    slope = u * column(tilt[:, 0], u) + v * column(tilt[:, 1], v)
    return (1 - slope - (u * u + v * v) * column(fall, u)).clamp_(min=DARKEST)


def haze(u: Tensor, v: Tensor, spot: Tensor) -> Tensor:
    """Strength / (1 + d^2)^2 at d widths from a place; `spot` (batch, 4): strength, u, v, width."""
    strength, x, y, width = (column(part, u) for part in spot.unbind(dim=1))
    across, down = (u - x) / width, (v - y) / width
    spread = 1 + (across * across + down * down)
    return strength / (spread * spread)


def ghost(u: Tensor, v: Tensor, spot: Tensor) -> Tensor:
    """A disc of even strength that fades at its EDGE; `spot` (batch, 4): strength, u, v, radius."""
    strength, x, y, radius = (column(part, u) for part in spot.unbind(dim=1))
    across, down = u - x, v - y
    away = (across * across + down * down).sqrt() / radius
    return ((1 - away) / EDGE).clamp_(0, 1) * strength


def veiled(images: Tensor, veil: Tensor, warmth: Tensor) -> Tensor:
    """Images with light of a colour between white and WARM over them: it adds to what is dark, up to 1."""
    colours = [column(1 - warmth * (1 - level), images) for level in WARM]
    return (1 - images).mul_(torch.cat(colours, dim=1)).mul_(veil).add_(images)


def cast(images: Tensor, inside: Tensor, gains: Tensor, offsets: Tensor) -> Tensor:
    """Each channel times its gain, plus its offset where there is a field; `gains`, `offsets` (batch, 3)."""
    gain, offset = (placing.sent(part, images.device)[:, :, None, None] for part in (gains, offsets))
    return (images * gain).add_(inside * offset).clamp_(0, 1)


def noise(images: Tensor, keys: Tensor, shot: Tensor, read: Tensor) -> Tensor:
    """What a sensor adds: mean 0, variance shot * level + read^2 (Foi et al. 2008), independent pixels.

    Each pixel's number is a function of the sample's key and its place. The four bytes of a mixed counter
    are added up: close to a Gaussian, cut at 3.5 sigmas, and exact on every device.
    """
    places = _mixed(torch.arange(images[0].numel(), dtype=torch.int32, device=images.device))
    keyed = placing.sent(keys, images.device).to(torch.int32)[:, None] + places
    bits = _mixed(keyed).view_as(images)
    total = bits & 255
    for byte in (8, 16, 24):
        total += (bits >> byte) & 255
    grain = (total - 510).float().div_(_DEVIATION)
    variance = images * column(shot, images) + column(read * read, images)
    return grain.mul_(variance.sqrt_())


def _mixed(state: Tensor) -> Tensor:
    """A bijection of 32-bit numbers in which every bit hangs on every other: lowbias32 (Wellons 2018).

    Shifts keep the sign in torch, hence the masks; products wrap.
    """
    state = (state ^ ((state >> 16) & 0xFFFF)) * _FIRST
    state = (state ^ ((state >> 15) & 0x1FFFF)) * _SECOND
    return state ^ ((state >> 16) & 0xFFFF)
