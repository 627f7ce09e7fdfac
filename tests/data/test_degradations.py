"""Each step of a cheap camera against its formula, pixel by pixel; JPEG against Pillow and the transform."""

import io
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_retina.data import degradations, jpeg

SIDE = 33


def pictures(count: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1


def smooth(side: int = 96) -> NDArray[np.uint8]:
    """Vessels and a gradient of colour, as dull as a retina."""
    y, x = np.mgrid[:side, :side] / side
    line = 40 * np.exp(-(((y - 0.5 - 0.2 * np.sin(6 * x)) / 0.02) ** 2))
    return np.stack([150 + 60 * x - line, 80 + 40 * y - line, 40 + 20 * x * y - line / 2], axis=2).astype(
        np.uint8
    )


def places(fields: Tensor, pixels: Tensor) -> list[tuple[int, int, int, float, float]]:
    """Each pixel of each sample, with its place in radii by the definition of a field."""
    side = pixels.shape[-1]
    return [
        (n, row, column, (column + 0.5 - x) / across, (row + 0.5 - y) / down)
        for n, (x, y, across, down) in enumerate(fields.tolist())
        for row in range(side)
        for column in range(side)
    ]


FIELDS = torch.tensor([[16.0, 17.0, 12.0, 12.0], [5.0, 30.0, 20.0, 14.0], [16.5, 16.5, 16.5, 16.5]])


def test_places_are_radii_and_an_unknown_field_is_the_views_circle() -> None:
    before = pictures()
    fields = FIELDS.clone()
    fields[2] = float("nan")
    u, v = degradations.radii(fields, before)
    for n, row, column, across, down in places(FIELDS, before):
        assert u[n, 0, 0, column].item() == pytest.approx(across, abs=1e-5)
        assert v[n, 0, row, 0].item() == pytest.approx(down, abs=1e-5)


def test_light_haze_and_ghost_are_their_formulas() -> None:
    before = pictures()
    u, v = degradations.radii(FIELDS, before)
    tilt, fall = torch.tensor([[0.2, -0.3], [0.5, 0.1], [0.0, 0.9]]), torch.tensor([0.4, 0.0, 0.3])
    spot = torch.tensor([[0.5, 0.9, 0.2, 0.4], [0.3, -0.5, 0.5, 0.6], [0.8, 0.0, 0.0, 0.3]])
    light = degradations.light(u, v, tilt, fall)
    haze, ghost = degradations.haze(u, v, spot), degradations.ghost(u, v, spot)
    for n, row, column, x, y in places(FIELDS, before):
        level = 1 - (tilt[n, 0] * x + tilt[n, 1] * y).item() - fall[n].item() * math.hypot(x, y) ** 2
        assert light[n, 0, row, column].item() == pytest.approx(max(level, degradations.DARKEST), abs=1e-5)
        strength, at_x, at_y, width = spot[n].tolist()
        away = math.hypot(x - at_x, y - at_y) / width
        assert haze[n, 0, row, column].item() == pytest.approx(strength / (1 + away**2) ** 2, abs=1e-5)
        rim = min(max((1 - away) / degradations.EDGE, 0.0), 1.0)
        assert ghost[n, 0, row, column].item() == pytest.approx(strength * rim, abs=1e-5)


def test_veil_and_cast_are_their_formulas() -> None:
    before, veil, inside = pictures(), pictures(seed=1)[:, :1], pictures(seed=2)[:, 1:2]
    warmth = torch.tensor([0.0, 1.0, 0.5])
    seen = degradations.veiled(before, veil, warmth)
    gains, offsets = torch.tensor([[1.2, 0.8, 1.5]] * 3), torch.tensor([[0.05, 0.0, 0.02]] * 3)
    tinted = degradations.cast(before, inside, gains, offsets)
    for n in range(3):
        for channel, warm in enumerate(degradations.WARM):
            colour = (1 - warmth[n]) + warmth[n] * warm
            expected = 1 - (1 - before[n, channel]) * (1 - colour * veil[n, 0])
            assert torch.allclose(seen[n, channel], expected, atol=1e-6)
            expected = before[n, channel] * gains[n, channel] + offsets[n, channel] * inside[n, 0]
            assert torch.allclose(tinted[n, channel], expected.clamp(0, 1), atol=1e-6)


def test_the_stop_is_the_share_of_each_pixel_within_the_rim() -> None:
    fields, before = FIELDS[:1], pictures(1)
    u, v = degradations.radii(fields, before)
    rim = degradations.stop(u, v, fields, torch.tensor([True]))[0, 0]
    fine = (np.arange(SIDE * 20) + 0.5) / 20
    inside = np.hypot(fine[None] - 16, fine[:, None] - 17) <= 12
    counted = inside.reshape(SIDE, 20, SIDE, 20).mean(axis=(1, 3))
    assert np.abs(rim.numpy() - counted).max() < 0.1
    assert (degradations.stop(u, v, fields, torch.tensor([False])) == 1).all()


def test_softening_mixes_only_light_of_the_field() -> None:
    """A weighted mean by the Gaussian over the pixels of the field, whatever lies beyond it."""
    before = pictures(1, 21)
    inside = (torch.arange(21) < 12).float().expand(1, 1, 21, 21)
    sigma = 1.3
    found = degradations.softened(before, inside, torch.tensor([sigma]), torch.tensor([1.0]))
    other = degradations.softened(
        torch.where(inside > 0, before, 0.9), inside, torch.tensor([sigma]), torch.tensor([1.0])
    )
    assert torch.equal(found, other)
    for row, column in ((10, 11), (8, 5), (10, 10)):
        total, weight = torch.zeros(3), 0.0
        for y in range(row - 4, row + 5):
            for x in range(column - 4, column + 5):
                share = (
                    math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
                    * inside[0, 0, y, x].item()
                )
                total, weight = total + share * before[0, :, y, x], weight + share
        assert (found[0, :, row, column] - total / weight).abs().max() < 1e-5
    flat = degradations.softened(
        torch.full((1, 3, 21, 21), 0.6), inside, torch.tensor([2.0]), torch.tensor([2.5])
    )
    assert (flat[..., :12] - 0.6).abs().max() < 1e-6  # no dark rim


@pytest.mark.parametrize("factor", degradations.FACTORS)
def test_fewer_pixels_are_pillows_bilinear_there_and_back(factor: float) -> None:
    before = pictures(2, 40)
    few = round(40 / factor)
    found = degradations.fewer_pixels(before, factor)
    for n in range(2):
        for channel in range(3):
            level = Image.fromarray(before[n, channel].numpy())
            small = level.resize((few, few), Image.Resampling.BILINEAR)
            back = np.asarray(small.resize((40, 40), Image.Resampling.BILINEAR))
            assert np.abs(found[n, channel].numpy() - back).max() < 1e-4
    assert (found - before).abs().mean() > 0.02
    whole = degradations.softened(
        before, torch.ones(2, 1, 40, 40), torch.zeros(2), torch.tensor([factor, 1.0])
    )
    assert torch.allclose(whole[0], found[0], atol=1e-6)
    assert torch.equal(whole[1], before[1])


def mixed(state: int) -> int:
    """Wellons' lowbias32 on unsigned numbers."""
    state = (state ^ state >> 16) * 0x7FEB352D % 2**32
    state = (state ^ state >> 15) * 0x846CA68B % 2**32
    return state ^ state >> 16


def test_noise_is_a_function_of_key_and_place() -> None:
    levels = torch.full((2, 3, 8, 8), 0.25)
    keys = torch.tensor([5.0, 16_777_215.0])
    found = degradations.noise(levels, keys, torch.tensor([0.004, 0.0]), torch.tensor([0.01, 0.02]))
    for n, variance in enumerate((0.001 + 0.0001, 0.0004)):
        for place in range(3 * 64):
            bits = mixed((mixed(place) + int(keys[n])) % 2**32)
            total = sum(bits >> 8 * byte & 255 for byte in range(4)) - 510
            expected = total / math.sqrt(4 * (256**2 - 1) / 12) * math.sqrt(variance)
            assert found[n].flatten()[place].item() == pytest.approx(expected, abs=1e-6)


def test_noise_has_the_stated_variance_and_no_pattern() -> None:
    levels = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 3, 200, 200)
    keys = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = degradations.noise(levels, keys, torch.full((4,), 0.003), torch.full((4,), 0.01)).double()
    for n, level in enumerate((0, 1 / 3, 2 / 3, 1)):
        variance = 0.003 * level + 0.0001
        assert abs(found[n].mean()) < 5 * math.sqrt(variance / 120_000)
        assert found[n].var() == pytest.approx(variance, rel=0.02)
        unit = found[n] / math.sqrt(variance)
        assert (unit.abs() > 2).double().mean() == pytest.approx(0.0455, abs=0.006)
        for other in (unit.roll(1, 2), unit.roll(1, 1), unit.roll(1, 0), found[n - 1] / found[n - 1].std()):
            assert abs((unit * other).mean()) < 5 / math.sqrt(120_000)


def signal_to_noise(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / ((one - other) ** 2).mean()))


@pytest.mark.parametrize("quality", [10, 30, 50, 80, 95])
@pytest.mark.parametrize("side", [96, 41])
def test_jpeg_is_pillows(quality: int, side: int) -> None:
    """Within 45 dB of the file of that quality, ten dB nearer than the file is to the picture."""
    picture = smooth()[:side, :side]
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = np.asarray(Image.open(stream)).astype(float)
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    ours = 255 * jpeg.compressed(pixels, [quality])[0].permute(1, 2, 0).double().numpy()
    assert signal_to_noise(ours, theirs) > 45
    if quality < 50:
        assert signal_to_noise(ours, theirs) > signal_to_noise(theirs, picture.astype(float)) + 8


def test_one_block_is_the_transform_by_its_formula() -> None:
    levels = np.random.default_rng(0).integers(-128, 128, (8, 8)).astype(float)
    plane = torch.from_numpy(levels).float()[None, None]
    found = jpeg._quantised(plane, [40], jpeg.LUMINANCE)[0, 0].numpy()
    wave = [[math.cos((2 * x + 1) * u * math.pi / 16) for x in range(8)] for u in range(8)]
    height = [math.sqrt(0.125)] + [0.5] * 7
    kept = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            total = sum(levels[y, x] * wave[u][y] * wave[v][x] for y in range(8) for x in range(8))
            step = (jpeg.LUMINANCE[u][v] * 125 + 50) // 100
            kept[u, v] = step * round(height[u] * height[v] * total / step)
    for y in range(8):
        for x in range(8):
            back = sum(
                height[u] * height[v] * kept[u, v] * wave[u][y] * wave[v][x]
                for u in range(8)
                for v in range(8)
            )
            assert found[y, x] == pytest.approx(min(max(back, -128), 127), abs=0.51)
