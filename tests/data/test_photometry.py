"""Photometry: torchvision's numbers, black that stays black, and pixels that do not hang on their batch."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from ssl_retina.contract import ViewSpec
from ssl_retina.data import photometry, views
from ssl_retina.data.photometry import BRIGHTNESS, CONTRAST, GREY, HUE, ORDER, SATURATION, SIGMA, SOLARISE

COUNT = 6
TOLERANCE = 2e-4
"""A twentieth of a grey level; the mean of the contrast is rounded to 1 / 4096 before it is taken."""


def images(count: int = COUNT, side: int = 23, seed: int = 0) -> Tensor:
    """Uint8 levels as floats, none of them near black, grey, red, white and equal channels among them."""
    levels = torch.randint(16, 256, (count, 3, side, side + 4), generator=torch.Generator().manual_seed(seed))
    levels[:, :, 0] = 80
    levels[:, 1:, 1] = 20
    levels[:, :, 2] = 255
    levels[:, :2, 3] = 200
    return levels.float() / 255


def changes(count: int = COUNT, **columns: object) -> Tensor:
    """(count, COLUMNS) of views that stay as they are, but for these columns."""
    table = torch.tensor(photometry.UNCHANGED).repeat(count, 1)
    for name, value in columns.items():
        table[:, getattr(photometry, name)] = torch.as_tensor(value, dtype=torch.float32)
    return table


def recoloured(pixels: Tensor, table: Tensor) -> Tensor:
    return photometry.recolour(pixels.clone(), table)


OPERATIONS = {
    BRIGHTNESS: reference.adjust_brightness,
    CONTRAST: reference.adjust_contrast,
    SATURATION: reference.adjust_saturation,
    HUE: reference.adjust_hue,
}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (BRIGHTNESS, [0.0, 0.3, 0.9, 1.0, 1.4, 3.0]),
        (CONTRAST, [0.3, 0.6, 0.9, 1.0, 1.4, 3.0]),
        (SATURATION, [0.0, 0.3, 0.9, 1.0, 1.4, 3.0]),
        (HUE, [-0.5, -0.1, -0.004, 0.0, 0.02, 0.4]),
    ],
)
def test_one_change_is_torchvisions(column: int, values: list[float]) -> None:
    before = images()
    table = changes()
    table[:, column] = torch.tensor(values)
    after = recoloured(before, table)
    for number, value in enumerate(values):
        expected = OPERATIONS[column](before[number], value)
        assert (after[number] - expected).abs().max() < TOLERANCE
        assert value in (0.0, 1.0) or (after[number] - before[number]).abs().max() > 0.01


def test_four_changes_come_in_each_samples_own_order() -> None:
    before = images(len(photometry.ORDERS))
    numbers = {BRIGHTNESS: 1.5, CONTRAST: 0.6, SATURATION: 1.6, HUE: 0.2}
    table = changes(len(before), BRIGHTNESS=1.5, CONTRAST=0.6, SATURATION=1.6, HUE=0.2)
    table[:, ORDER] = torch.arange(len(before))
    after = recoloured(before, table)
    seen = set()
    for number, order in enumerate(itertools.permutations(numbers)):
        expected = before[number]
        for column in order:
            expected = OPERATIONS[column](expected, numbers[column])
        assert (after[number] - expected).abs().max() < TOLERANCE
        seen.add(order)
    assert len(seen) == 24
    assert (recoloured(before[:1].repeat(24, 1, 1, 1), table).std(dim=0) > 0.01).any()


def test_grey_and_solarise_are_torchvisions() -> None:
    before = images()
    grey = recoloured(before, changes(GREY=[1, 0, 1, 0, 1, 0]))
    inverted = recoloured(before, changes(SOLARISE=[0.5, photometry.NEVER, 0.9, 0.0, 0.2, photometry.NEVER]))
    for number in range(COUNT):
        expected = reference.rgb_to_grayscale(before[number], 3) if number % 2 == 0 else before[number]
        assert (grey[number] - expected).abs().max() < 1e-6
        level = (0.5, None, 0.9, 0.0, 0.2, None)[number]
        expected = before[number] if level is None else reference.solarize(before[number], level)
        assert torch.equal(inverted[number], expected)


def test_blur_is_torchvisions_whatever_the_neighbours_sigma() -> None:
    before = images()
    sigmas = [0.05, 0.3, 0.34, 1.0, 2.0, 0.0]
    after = recoloured(before, changes(SIGMA=sigmas))
    for number, sigma in enumerate(sigmas[:-1]):
        taps = 2 * math.ceil(3 * sigma) + 1
        expected = reference.gaussian_blur(before[number], [taps, taps], [sigma, sigma])
        assert (after[number] - expected).abs().max() < 2e-6
    assert torch.equal(after[-1], before[-1])


def drawn(count: int, recipe: str = "contrast", view: int = 0, **options: object) -> Tensor:
    """Changes as the stream draws them, for photographs."""
    spec = ViewSpec(recipe, 2, 224, **options)
    table = views.colours(spec, 3, torch.arange(count), scans=[False] * count)
    assert table is not None
    return table[view]


@pytest.mark.parametrize("side", [7, 24, 31])
def test_pixels_do_not_hang_on_the_batch(side: int) -> None:
    """Bit for bit: eight at once, four twice, one by one, in another order, on one thread and on two."""
    before, table = images(8, side), drawn(400)
    table = table[table[:, SIGMA] > 0][:8]
    table[0, HUE], table[1, GREY], table[2, SOLARISE], table[3] = 0.0, 1, 0.5, changes(1)[0]
    whole = recoloured(before, table)
    for parts in (2, 8):
        pieces = zip(before.chunk(parts), table.chunk(parts), strict=True)
        assert torch.equal(whole, torch.cat([recoloured(one, other) for one, other in pieces]))
    order = torch.tensor([5, 0, 7, 2, 3, 6, 1, 4])
    assert torch.equal(whole[order], recoloured(before[order], table[order]))
