"""The pictures of a cheap camera, out of those of a good one: what is drawn for a view, and in which order.

In: what a recipe allows (`Camera`), draws in [0, 1), float pixels in [0, 1]. Out: the pixels that a handheld
camera of a general practice might have given (`degradations`), and the field of view that it shows. A
sample's pixels depend on its own numbers alone, bit for bit, whoever else is in its batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_retina.data import degradations, jpeg, placing
from ssl_retina.data.photometry import BLACK, FIELD

SIGMA, COARSE, TILT, FALL, HAZE, GHOST = 0, 1, 2, 4, 5, 10
GAIN, OFFSET, SHOT, READ, KEY, QUALITY, NARROW, SCAN = 14, 17, 20, 21, 22, 23, 24, 25
COLUMNS = 26
"""One view's camera: sigma of the defocus in pixels, times fewer pixels, tilt of the light (x, y) and its
fall towards the rim, haze (strength, centre x, y, width, warmth), ghost (strength, centre x, y, radius),
gain and offset of red, green and blue, two numbers of the noise and its key, JPEG quality (0: none), the
radius that is left of the field, and 1 for a B-scan. Places and widths are in radii of the field."""

DRAWS = 36
"""Numbers drawn for one view, in the order in which `drawn` takes them."""

KEYS = 1 << 24

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Chance:
    """How often something happens to a view, and the range of how much, drawn evenly."""

    probability: float
    low: float
    high: float


@dataclass(frozen=True)
class Camera:
    """What a cheap camera may do to a view; levels are of 1, as stored (not linear in light).

    probability: that a view is one of such a camera; each other chance is within it.
    defocus: sigma as a share of the view's side. An eye of D dioptres out of focus behind a pupil of p mm
        smears a point over a disc of p * D mrad, whose standard deviation along an axis is a quarter of
        that: 0.004 to 0.01 of a field of 45 degrees are 3 to 8 dioptres at 4 mm.
    coarse: times fewer pixels across and down, one of degradations.FACTORS. 640 x 480 video of a field of
        480 px is 2 times fewer than a view of 224 px shows of a quarter of it.
    tilt, fall: how much darker one side is than the middle, and the rim. Of table-top cameras (HYGD, IDRiD:
        106 and 102 photographs, a plane and a paraboloid through the brightness in radii) the median tilt is
        0.43 and 0.16, the fall 0.14 and 0.48; this comes on top.
    haze_*: light scattered or reflected by cornea and lens, brightest near the rim: its strength, its width
        and how far from the middle it is, in radii of the field.
    ghost_*: a small reflex of the lamp in the optics; the furthest that it lies from the middle.
    cast: per-channel gains of red, green and blue. The logarithms of the mean colours of HYGD and IDRiD
        differ by 0.23, 0.31 and -0.55, and vary within HYGD with a standard deviation of 0.15, 0.06, 0.14.
    offset: stray light in each channel, over the field.
    shot, read: the noise's variance is shot * level + read ** 2 (Foi et al., IEEE TIP 2008): at a level of
        0.5 its sigma is 4 to 11 of 255 levels.
    quality: of the JPEG file, as sent by messengers and kept by old devices.
    narrow: radius of the field, as a share of the good camera's. Of 45 degrees 0.55 is 25 degrees (a
        panoptic ophthalmoscope's), 0.9 is 40.
    """

    probability: float = 0.8
    defocus: Chance = Chance(0.5, 0.004, 0.01)
    coarse: float = 0.3
    tilt: Chance = Chance(0.5, 0.1, 0.4)
    fall: Chance = Chance(0.5, 0.1, 0.4)
    haze: Chance = Chance(0.3, 0.15, 0.5)
    haze_place: float = 0.95
    haze_width: tuple[float, float] = (0.25, 0.6)
    ghost: Chance = Chance(0.15, 0.2, 0.7)
    ghost_place: float = 0.8
    ghost_radius: tuple[float, float] = (0.03, 0.12)
    cast: float = 0.5
    gains: tuple[tuple[float, float], ...] = ((0.8, 1.2), (0.8, 1.2), (0.6, 1.5))
    offset: Chance = Chance(0.3, 0.0, 0.06)
    shot: Chance = Chance(0.5, 0.0005, 0.003)
    read: tuple[float, float] = (0.003, 0.015)
    quality: Chance = Chance(0.5, 30.0, 80.0)
    narrow: Chance = Chance(0.25, 0.6, 0.9)


UNCHANGED = (0.0, 1.0, *(0.0,) * 6, 1.0, *(0.0,) * 4, 1.0, *(1.0,) * 3, *(0.0,) * 7, 1.0, 0.0)
"""The columns of a view of the good camera."""


def drawn(camera: Camera, draws: Tensor, *, size: int, scans: Sequence[bool]) -> Tensor:
    """(batch, COLUMNS) float32 of `draws` (batch, DRAWS).

    A B-scan (`scans`, one a sample) has no lamp, no colour and no round field: it gets defocus, fewer
    pixels and noise.
    """
    changes = np.tile(UNCHANGED, (len(draws), 1))
    each = iter(draws.double().numpy().T)
    cheap, scan = next(each) < camera.probability, np.asarray(scans, dtype=bool)
    _optics(camera, each, changes, size)
    _light(camera, each, changes)
    _sensor(camera, each, changes)
    for column in range(COLUMNS):
        lost = ~cheap if column in (SIGMA, COARSE, SHOT, READ, KEY) else ~cheap | scan
        changes[lost, column] = UNCHANGED[column]
    changes[:, SCAN] = scan
    return torch.from_numpy(changes.astype(np.float32))


def _amount(chance: Chance, each: Iterator[Numbers], otherwise: float = 0.0) -> Numbers:
    """The drawn amount where it happens: two numbers a sample."""
    happens = next(each) < chance.probability
    return np.where(happens, _between((chance.low, chance.high), each), otherwise)


def _between(bounds: tuple[float, float], each: Iterator[Numbers]) -> Numbers:
    return bounds[0] + next(each) * (bounds[1] - bounds[0])


def _direction(each: Iterator[Numbers]) -> Numbers:
    """(batch, 2) on the unit circle; by `math`, whose result does not hang on how many are asked for."""
    turns = [2 * math.pi * share for share in next(each).tolist()]
    return np.array([(math.cos(turn), math.sin(turn)) for turn in turns]).reshape(-1, 2)


def _optics(camera: Camera, each: Iterator[Numbers], changes: Numbers, size: int) -> None:
    changes[:, SIGMA] = size * _amount(camera.defocus, each)
    happens, factors = next(each) < camera.coarse, np.array(degradations.FACTORS)
    which = (next(each) * len(factors)).astype(int)
    changes[:, COARSE] = np.where(happens, factors[which], 1.0)
    changes[:, NARROW] = _amount(camera.narrow, each, 1.0)


def _light(camera: Camera, each: Iterator[Numbers], changes: Numbers) -> None:
    changes[:, TILT : TILT + 2] = _amount(camera.tilt, each)[:, None] * _direction(each)
    changes[:, FALL] = _amount(camera.fall, each)
    changes[:, HAZE] = _amount(camera.haze, each)
    changes[:, HAZE + 1 : HAZE + 3] = camera.haze_place * _direction(each)
    changes[:, HAZE + 3] = _between(camera.haze_width, each)
    changes[:, HAZE + 4] = next(each)
    changes[:, GHOST] = _amount(camera.ghost, each)
    changes[:, GHOST + 1 : GHOST + 3] = np.sqrt(next(each))[:, None] * camera.ghost_place * _direction(each)
    changes[:, GHOST + 3] = _between(camera.ghost_radius, each)
    for first, last in ((HAZE, GHOST), (GHOST, GAIN)):
        changes[changes[:, first] == 0, first:last] = UNCHANGED[first:last]


def _sensor(camera: Camera, each: Iterator[Numbers], changes: Numbers) -> None:
    happens = next(each) < camera.cast
    for channel, bounds in enumerate(camera.gains):
        changes[:, GAIN + channel] = np.where(happens, _between(bounds, each), 1.0)
    happens = next(each) < camera.offset.probability
    for channel in range(3):
        stray = _between((camera.offset.low, camera.offset.high), each)
        changes[:, OFFSET + channel] = np.where(happens, stray, 0.0)
    changes[:, SHOT] = _amount(camera.shot, each)
    noisy = changes[:, SHOT] > 0
    changes[:, READ] = np.where(noisy, _between(camera.read, each), 0.0)
    changes[:, KEY] = np.where(noisy, np.floor(next(each) * KEYS), 0.0)
    changes[:, QUALITY] = np.round(_amount(camera.quality, each))


def narrowed(fields: Tensor, changes: Tensor, *, size: int) -> Tensor:
    """The field (batch, 4) that a camera with a smaller one shows in a view of `size` pixels.

    A circle (in radii) of the drawn share, inside the old field, as near to the middle of the view as
    that allows: a handheld camera is aimed anywhere. An unknown field stays unknown and as it is.
    """
    centre, radius, share = fields[:, :2], fields[:, 2:], changes[:, NARROW, None]
    away = (size / 2 - centre) / radius
    length = (away * away).sum(dim=1, keepdim=True).sqrt()
    moved = (1 - share) / torch.maximum(length, 1 - share).clamp(min=1e-6)
    return torch.cat((centre + moved * away * radius, share * radius), dim=1)


def degrade(images: Tensor, changes: Tensor, fields: Tensor) -> Tensor:
    """Change images (batch, 3, side, side), float32 in [0, 1], in place.

    changes: (batch, COLUMNS). fields: (batch, 4), as `narrowed` gives them. Both stay on the CPU, where it
    is known what happens to whom: the device is never waited for.
    """
    assert changes.device.type == fields.device.type == "cpu"
    untouched = torch.tensor(UNCHANGED)[:SCAN]
    rows = (changes[:, :SCAN] != untouched).any(dim=1).nonzero().flatten()
    for some in [rows[part] for part in placing.parts(len(rows), images.device)]:
        there = placing.sent(some, images.device)
        numbers = _Numbers(changes[some], placing.sent(changes[some], images.device))
        placing.put(images, some.tolist(), _photograph(images[there], numbers, fields[some]))
    return images


@dataclass(frozen=True)
class _Numbers:
    """What is drawn for some samples (batch, COLUMNS): to decide by, on the CPU, and beside the images."""

    host: Tensor
    there: Tensor


@dataclass(frozen=True)
class _Scene:
    """Where the pixels of some samples lie: in the field (batch, 1, side, side), and in its radii."""

    inside: Tensor
    u: Tensor
    v: Tensor

    def at(self, rows: Tensor) -> "_Scene":
        return _Scene(self.inside[rows], self.u[rows], self.v[rows])


def _photograph(images: Tensor, numbers: _Numbers, fields: Tensor) -> Tensor:
    """From the eye to the file: optics, light, reflexes, sensor, file; may change images in place.

    What is black around the field stays black, but for the share of the haze that passes the stop, and for
    the JPEG, which rings within its blocks.
    """
    changes, there = numbers.host, numbers.there
    inside = degradations.field_mask(images, there[:, SCAN], (BLACK, FIELD))
    u, v = degradations.radii(fields, images)
    narrow = (changes[:, NARROW] < 1) & fields.isfinite().all(dim=1)
    scene = _Scene(inside * degradations.stop(u, v, fields, narrow), u, v)
    soft = (changes[:, SIGMA] > 0) | (changes[:, COARSE] > 1)
    _step(images, numbers, scene, chosen=soft, change=_softened)
    lit = degradations.light(u, v, there[:, TILT : TILT + 2], there[:, FALL])
    images.mul_(lit.mul_(scene.inside))
    _step(images, numbers, scene, chosen=changes[:, HAZE] > 0, change=_hazy)
    _step(images, numbers, scene, chosen=changes[:, GHOST] > 0, change=_ghostly)
    images = degradations.cast(images, scene.inside, there[:, GAIN : GAIN + 3], there[:, OFFSET : OFFSET + 3])
    _step(images, numbers, scene, chosen=changes[:, SHOT] > 0, change=_noisy)
    _step(images, numbers, scene, chosen=changes[:, QUALITY] > 0, change=_filed)
    return images


def _step(
    images: Tensor,
    numbers: _Numbers,
    scene: _Scene,
    *,
    chosen: Tensor,
    change: Callable[[Tensor, _Numbers, _Scene], Tensor],
) -> None:
    """Change the chosen samples in place."""
    rows = chosen.nonzero().flatten()
    if len(rows):
        there = placing.sent(rows, images.device)
        some = _Numbers(numbers.host[rows], numbers.there[there])
        placing.put(images, rows.tolist(), change(images[there], some, scene.at(there)))


def _softened(images: Tensor, numbers: _Numbers, scene: _Scene) -> Tensor:
    return degradations.softened(images, scene.inside, numbers.host[:, SIGMA], numbers.host[:, COARSE])


def _hazy(images: Tensor, numbers: _Numbers, scene: _Scene) -> Tensor:
    haze = degradations.haze(scene.u, scene.v, numbers.there[:, HAZE : HAZE + 4])
    veil = haze.mul_(scene.inside.clamp(min=degradations.SPILL))
    return degradations.veiled(images, veil, numbers.there[:, HAZE + 4])


def _ghostly(images: Tensor, numbers: _Numbers, scene: _Scene) -> Tensor:
    ghost = degradations.ghost(scene.u, scene.v, numbers.there[:, GHOST : GHOST + 4])
    return degradations.veiled(images, ghost.mul_(scene.inside), torch.zeros(len(images)))


def _noisy(images: Tensor, numbers: _Numbers, scene: _Scene) -> Tensor:
    key, shot, read = (numbers.there[:, one] for one in (KEY, SHOT, READ))
    return degradations.noise(images, key, shot, read).mul_(scene.inside).add_(images).clamp_(0, 1)


def _filed(images: Tensor, numbers: _Numbers, scene: _Scene) -> Tensor:
    del scene
    return jpeg.compressed(images, numbers.host[:, QUALITY].int().tolist())
