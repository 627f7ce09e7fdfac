"""Photometry: torchvision's numbers, black that stays black, and pixels that do not hang on their batch."""

import dataclasses
import itertools
import json
import math
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from ssl_retina import config, shard_index
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import photometry, recipes, views
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.photometry import (
    BRIGHTNESS,
    CONTRAST,
    GREY,
    HUE,
    ORDER,
    SATURATION,
    SIGMA,
    SOLARISE,
    SURROUND,
)
from ssl_retina.data.recipes import Recipe

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


def test_black_stays_black_and_contrast_is_the_fields_own() -> None:
    """A surround of zeros and of a camera's noise; the field as if there were no surround."""
    field = images(24, 30)
    before = torch.zeros(24, 3, 50, 50)
    before[:, :, 10:40, 8:42] = field
    noisy = before.clone()
    noisy[:, :, :8] = torch.randint(0, 4, (24, 3, 8, 50), generator=torch.Generator().manual_seed(1)) / 255
    table = drawn(400, "mocov3_paper")
    table = table[(table[:, SIGMA] == 0) | (table[:, HUE] > 0)][:24].clone()
    table[:, SIGMA], table[:, SOLARISE] = 0, photometry.NEVER
    after, after_noise = recoloured(before, table), recoloured(noisy, table)
    outside = torch.ones(50, 50, dtype=torch.bool)
    outside[10:40, 8:42] = False
    assert (after[:, :, outside] == 0).all()
    assert (after_noise[:, :, :8] == 0).all()
    inside = after[:, :, 10:40, 8:42]
    assert (inside - recoloured(field, table)).abs().max() < TOLERANCE
    assert (inside - after_noise[:, :, 10:40, 8:42]).abs().max() < 1e-5  # nor does its noise count
    assert (table[:, CONTRAST] < 0.9).any()
    assert (inside - field).abs().mean() > 0.03


def test_a_scan_has_no_surround() -> None:
    """The noise above the retina changes with the rest, as torchvision changes it."""
    dark = torch.randint(0, 14, (1, 3, 30, 30), generator=torch.Generator().manual_seed(1)).float() / 255
    dark[:, :, 15:] += 0.5
    after = recoloured(dark, changes(1, CONTRAST=0.7, SURROUND=0))
    assert (after[0] - reference.adjust_contrast(dark[0], 0.7)).abs().max() < TOLERANCE
    table = views.colours(ViewSpec("contrast", 1, 24), 0, torch.arange(4), scans=[True, False, True, False])
    assert table is not None
    assert table[0, :, SURROUND].tolist() == [0, 1, 0, 1]


def test_a_blur_darkens_the_rim_and_leaves_the_rest_of_the_surround_black() -> None:
    before = torch.zeros(1, 3, 40, 40)
    before[:, :, :, 20:] = 0.8
    after = recoloured(before, changes(1, SIGMA=1.0))
    assert (after[..., :17] == 0).all()
    assert (after[..., 18:20] > 0).all()
    assert after[..., 23:] == pytest.approx(0.8, abs=1e-6)


def test_draws_have_the_stated_frequencies_and_ranges() -> None:
    count = 6000
    table = drawn(count, "mocov3_paper", view=1)
    jittered = (table[:, :HUE] != 1).any(dim=1)
    for found, expected in (
        (jittered, 0.8),
        (table[:, GREY] == 1, 0.2),
        (table[:, SIGMA] > 0, 0.1),
        (table[:, SOLARISE] <= 1, 0.2),
    ):
        share = found.double().mean().item()
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    for column, low, high in (
        (BRIGHTNESS, 0.6, 1.4),
        (CONTRAST, 0.6, 1.4),
        (SATURATION, 0.8, 1.2),
        (HUE, -0.1, 0.1),
    ):
        values = table[jittered, column].double()
        assert low <= values.min() < low + 0.002 * 2
        assert high - 0.002 * 2 < values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(values))
    orders = torch.bincount(table[jittered, ORDER].long(), minlength=24).double()
    assert len(orders) == 24
    assert ((orders - orders.mean()) ** 2 / orders.mean()).sum() < 55  # chi-square, 23 degrees: p = 0.0002
    sigmas = table[table[:, SIGMA] > 0, SIGMA]
    assert 0.1 <= sigmas.min() < sigmas.max() <= 2.0
    assert (drawn(count, "mocov3", view=0)[:, SIGMA] > 0).all()
    assert not torch.equal(drawn(count, view=0), drawn(count, view=1))


def test_strength_multiplies_the_colours_and_zero_leaves_them() -> None:
    for recipe in ("contrast", "mocov3", "mocov3_paper"):
        none = drawn(500, recipe, colour=0.0)
        assert torch.equal(none[:, :SIGMA], changes(500)[:, :SIGMA] + 0 * none[:, :1] + _order_of(none))
        assert (none[:, SOLARISE] == photometry.NEVER).all()
        assert (none[:, SIGMA] > 0).any()  # sharpness is no colour
    whole, half, much = (drawn(500, colour=factor) for factor in (1.0, 0.5, 4.0))
    for column in (BRIGHTNESS, CONTRAST, SATURATION):
        assert torch.allclose(half[:, column] - 1, (whole[:, column] - 1) / 2, atol=1e-6)
    assert torch.allclose(half[:, HUE], whole[:, HUE] / 2, atol=1e-6)
    assert much[:, :HUE].min() >= 0
    assert much[:, HUE].abs().max() <= 0.5


def _order_of(table: Tensor) -> Tensor:
    """(count, SIGMA) zeros but for the order, which is drawn also where it changes nothing."""
    order = torch.zeros(len(table), SIGMA)
    order[:, ORDER] = table[:, ORDER]
    return order


# Through the stream and `finish`: as training sees it


LOCAL = Recipe(
    recipes.RETINA_CROP,
    local_crop=recipes.PAPER_CROP,
    turn=recipes.RETINA_TURN,
    colours=recipes.RECIPES["mocov3_paper"].colours,
)
SPEC = ViewSpec("local", global_views=2, global_size=24, local_views=2, local_size=16)
MOCO = ViewSpec("mocov3", global_views=2, global_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=37, shards=2, size=48, patients=37)
    return path


def opened(folder: Path, spec: ViewSpec, **options: object) -> Source:
    values = {"workers": 0, "held_out": 0.0, "seed": 3, **options}
    seed = values.pop("seed")
    return open_source(config.Data(shards=(folder,), batch_size=8, **values), spec, seed=seed)


def finished(batches: list[Batch]) -> list[Tensor]:
    """Global views, local views and fields of neighbouring batches, joined."""
    done = [views.finish(batch, device=torch.device("cpu")) for batch in batches]
    assert all(batch.colours is None for batch in done)
    parts = [torch.cat([batch.global_views for batch in done], 1)]
    if done[0].local_views is not None:
        parts.append(torch.cat([batch.local_views for batch in done], 1))
    return [*parts, torch.cat([batch.field_of_view for batch in done], 1).nan_to_num(-1)]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("spec", "world", "workers"),
    [(SPEC, 2, 0), (SPEC, 4, 0), (MOCO, 2, 0), (MOCO, 8, 0), (MOCO, 1, 2), (MOCO, 2, 1)],
)
def test_ranks_and_workers_see_the_same_pixels(
    folder: Path, spec: ViewSpec, world: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, over the end of an epoch of 37: a batch of 8 at once, and in parts."""
    if spec is SPEC:  # worker processes would not know it
        monkeypatch.setattr(recipes, "RECIPES", {"local": LOCAL})
    steps, start = 4, 16
    whole = list(islice(opened(folder, spec).batches(start, rank=0, world=1, micro_batch=8), steps))
    assert whole[0].colours is not None
    source = opened(folder, spec, workers=workers)
    parts = [
        list(islice(source.batches(start, rank=rank, world=world, micro_batch=8 // world), steps))
        for rank in range(world)
    ]
    for step in range(steps):
        assert_equal(finished([whole[step]]), finished([parts[rank][step] for rank in range(world)]))
    later = next(opened(folder, spec).batches(start + 16, rank=0, world=1, micro_batch=8))
    assert_equal(finished([whole[2]]), finished([later]))  # resumed
    other = next(opened(folder, spec, seed=4).batches(start, rank=0, world=1, micro_batch=8))
    assert not torch.equal(whole[0].colours, other.colours)


def test_held_out_views_and_colours_are_those_of_every_run(folder: Path) -> None:
    found = [
        list(
            opened(folder, ViewSpec("contrast", 2, 24), seed=seed, held_out=0.4).held_out(
                rank=0, world=1, batch=5, limit=10
            )
        )
        for seed in (3, 4)
    ]
    assert len(found[0]) == 2
    assert_equal(finished(found[0]), finished(found[1]))


def test_finish_changes_what_was_drawn_and_nothing_else(folder: Path) -> None:
    source = opened(folder, ViewSpec("mocov3_paper", 2, 96))
    batch = next(source.batches(0, rank=0, world=1, micro_batch=37))
    assert batch.colours is not None
    assert batch.colours.shape == (2, 37, photometry.COLUMNS)
    plain = views.finish(dataclasses.replace(batch, colours=None), device=torch.device("cpu"))
    done = views.finish(batch, device=torch.device("cpu"))
    same = (done.global_views - plain.global_views).abs().amax(dim=(2, 3, 4)) < 1e-5
    sigma = batch.colours[..., SIGMA]
    untouched = torch.tensor(photometry.UNCHANGED)
    columns = [column for column in range(photometry.COLUMNS) if column not in (ORDER, SIGMA)]
    still = (batch.colours[..., columns] == untouched[columns]).all(dim=-1)
    assert same[still & (sigma == 0)].all()
    assert not same[still & (sigma > 0.3)].any()  # a smaller one has no second weight
    assert not same[~still].any()
    for found in (still & (sigma == 0), still & (sigma > 0.3), ~still):
        assert found.any()


def test_local_views_have_the_colours_that_follow_the_global_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "RECIPES", {"local": LOCAL})
    batch = next(opened(folder, SPEC).batches(0, rank=0, world=1, micro_batch=11))
    assert batch.colours is not None
    assert batch.local_views is not None
    assert len(batch.colours) == 4
    done = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
    assert done.local_views is not None
    for number, pixels in enumerate(batch.local_views):
        expected = photometry.recolour(pixels.float() / 255, batch.colours[2 + number])
        assert torch.equal(done.local_views[number], expected)


def test_recipes_without_colours_draw_none(folder: Path) -> None:
    for recipe in ("mae", "plain"):
        source = opened(folder, ViewSpec(recipe, 1, 24))
        assert next(source.batches(0, rank=0, world=1, micro_batch=4)).colours is None


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Even pictures of one colour, every other one called an OCT B-scan (in false colours)."""
    folder = tmp_path_factory.mktemp("coloured")
    picture = np.full((48, 48, 3), (110, 66, 44), np.uint8)
    picture[::2] = (140, 84, 56)
    parts = []
    for number in range(16):
        record = {"modality": "oct" if number % 2 else "fundus"}
        parts.append((f"{'oct' if number % 2 else 'eye'}{number}.png", factory.encoded(picture, "png")))
        parts.append((f"{'oct' if number % 2 else 'eye'}{number}.json", json.dumps(record).encode()))
    factory.write_tar(folder / "coloured-000000.tar", parts)
    shard_index.write(folder, {})
    return folder


@pytest.mark.parametrize("recipe", ["contrast", "mocov3", "mocov3_paper"])
def test_a_scan_keeps_its_colour(coloured: Path, recipe: str) -> None:
    """Brightness, contrast and blur leave the hue of every pixel; a photograph's is shifted."""
    source = opened(coloured, ViewSpec(recipe, 2, 24))
    hues: dict[str, list[float]] = {"oct": [], "eye": []}
    for batch in islice(source.batches(0, rank=0, world=1, micro_batch=16), 12):
        done = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
        for view in done.global_views:
            for key, pixels in zip(batch.keys, view, strict=True):
                hues[key[:3]].append(_hue(pixels[:, 10:14, 10:14].mean(dim=(1, 2))))
    expected = _hue(torch.tensor([125.0, 75, 50]))
    assert max(abs(hue - expected) for hue in hues["oct"]) < 1.0
    assert max(abs(hue - expected) for hue in hues["eye"]) > 3.0


def _hue(colour: Tensor) -> float:
    """Degrees on the colour circle, by its definition with cosine and sine; -180 for grey."""
    red, green, blue = colour.tolist()
    if max(red, green, blue) - min(red, green, blue) < 1e-3:
        return -180.0
    return math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue))
