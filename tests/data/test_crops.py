"""Crops that hold retina: the overlap by counting, the tries by a slow reference, what stays as it was."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_retina.contract import ViewSpec
from ssl_retina.data import geometry, views
from ssl_retina.data.geometry import PLACES, TRIES, Box, Crop, Pose, View

BEFORE = 2 * TRIES + 4
"""Numbers of a view before there were crops that look for retina."""


def counted(field: list[float], where: Pose, fine: int = 400) -> float:
    """The share of a turned box in an ellipse: points of the box, turned back into the image one by one."""
    left, top, right, bottom = where.box
    steps = (np.arange(fine) + 0.5) / fine
    x, y = np.meshgrid(left + steps * (right - left), top + steps * (bottom - top))
    back = (x - where.axis[0] + 1j * (y - where.axis[1])) * np.exp(-1j * where.angle)
    x, y = back.real + where.axis[0], back.imag + where.axis[1]
    return float((((x - field[0]) / field[2]) ** 2 + ((y - field[1]) / field[3]) ** 2 <= 1).mean())


@pytest.mark.parametrize("degrees", [0, 7, -30, 135])
@pytest.mark.parametrize(
    "field", [[50.0, 40.0, 38.0, 38.0], [45.0, 60.0, 44.0, 20.0], [90.0, -5.0, 30.0, 50.0]]
)
def test_the_overlap_is_what_is_counted(field: list[float], degrees: float) -> None:
    boxes = [
        (0, 0, 100, 100),
        (10, 30, 45, 60),
        (70, 60, 100, 100),
        (0, 0, 9, 9),
        (40, 30, 60, 50),
        (50, 5, 95, 90),
    ]
    found = []
    for box in boxes:
        where = Pose(box, math.radians(degrees), (52.0, 47.0), flipped=False)
        found.append(geometry.field_share(field, where, box))
        assert found[-1] == pytest.approx(counted(field, where), abs=4e-3)
    assert min(found) < 0.19
    assert max(found) > 0.2


def test_an_edge_through_the_middle_and_a_corner_on_the_rim() -> None:
    for box, share in (
        ((50, 0, 100, 100), math.pi / 4),
        ((50, 50, 100, 100), math.pi / 4),
        ((0, 0, 50, 50), math.pi / 4),
    ):
        where = Pose(box, 0.0, (50.0, 50.0), flipped=False)
        assert geometry.field_share([50, 50, 50, 50], where, box) == pytest.approx(share, abs=1e-12)


def slow_box(draws: np.ndarray, width: int, height: int, crop: Crop, field: list[float], angle: float) -> Box:
    """The rule in words: of the tries that fit, the first that holds enough, else the one that holds most."""
    tried = []
    for number in range(TRIES):
        area = width * height * (crop.scale[0] + draws[2 * number] * (crop.scale[1] - crop.scale[0]))
        ratio = (3 / 4) * (16 / 9) ** draws[2 * number + 1]
        wide, tall = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if wide > width or tall > height:
            continue
        x, y = draws[2 * TRIES : 2 * TRIES + 2] if not tried else draws[PLACES + 2 * len(tried) - 2 :][:2]
        left, top = int(x * (width - wide + 1)), int(y * (height - tall + 1))
        box = (left, top, left + wide, top + tall)
        tried.append((counted(field, Pose(box, angle, (field[0], field[1]), flipped=False), 60), box))
    enough = [box for share, box in tried if share >= crop.least_field]
    return enough[0] if enough else max(tried)[1]


def test_crops_hold_retina() -> None:
    """A frame of 3 to 2: boxes by the slow rule, whose counting is coarse, hence the few that differ."""
    crop, field, count = Crop((0.08, 1.0), least_field=0.7), [150.0, 100.0, 98.0, 98.0], 150
    draws = torch.rand(count, geometry.DRAWS, generator=torch.Generator().manual_seed(1)).double().numpy()
    plain = View(Crop((0.08, 1.0)), True, geometry.Turn(30, 5), 32, draws)
    held = View(crop, True, plain.turn, 32, draws)
    differ, shares, before = 0, [], []
    for number in range(count):
        options = {"width": 300, "height": 200, "field": field, "scan": False}
        pose, old = (geometry.pose(view, number, **options) for view in (held, plain))
        shares.append(geometry.field_share(field, pose, pose.box))
        before.append(geometry.field_share(field, old, old.box))
        differ += pose.box != slow_box(draws[number], 300, 200, crop, field, pose.angle)
        assert (pose.angle, pose.flipped) == (old.angle, old.flipped)
        assert pose.box == old.box or before[-1] < 0.7
        scan = geometry.pose(held, number, **{**options, "scan": True})
        assert scan.box == geometry.pose(plain, number, **{**options, "scan": True}).box
    assert differ <= 3
    assert np.mean(np.array(before) < 0.7) > 0.2
    assert np.mean(np.array(shares) < 0.7) < 0.02
    impossible = View(Crop((0.5, 0.6), least_field=0.99), False, None, 32, draws)
    for number in range(20):
        box = geometry.pose(impossible, number, **options).box
        assert box == slow_box(draws[number], 300, 200, impossible.crop, field, 0.0)


@pytest.mark.parametrize("recipe", ["mae", "contrast", "mocov3_paper"])
def test_views_without_a_field_and_the_papers_are_as_before(recipe: str) -> None:
    """The numbers of each view begin as they did, and a crop takes no other."""
    spec = ViewSpec(recipe, 1, 32)
    (view,), _ = views.plan(spec, 7, torch.arange(60))
    assert view.crop is not None
    assert (view.crop.least_field > 0) == (recipe == "contrast")
    blind = View(view.crop, view.flip, view.turn, 32, view.draws.copy())
    blind.draws[:, BEFORE:] = np.nan
    field = None if view.crop.least_field else [20.0, 20.0, 5.0, 5.0]
    for number in range(60):
        options = {"width": 90, "height": 64, "field": field, "scan": False}
        pose = geometry.pose(view, number, **options)
        assert pose == geometry.pose(blind, number, **options)
        low, high = math.log(3 / 4), math.log(4 / 3)
        first = view.draws[number]
        area = 90 * 64 * (view.crop.scale[0] + first[0] * (1 - view.crop.scale[0]))
        wide = round(math.sqrt(area * math.exp(low + first[1] * (high - low))))
        tall = round(math.sqrt(area / math.exp(low + first[1] * (high - low))))
        if wide <= 90 and tall <= 64:
            left, top = int(first[20] * (91 - wide)), int(first[21] * (65 - tall))
            assert pose.box == (left, top, left + wide, top + tall)


@pytest.mark.parametrize("recipe", ["contrast", "mocov3", "mae_retina", "primary_care"])
def test_the_retinas_recipes_show_retina(recipe: str) -> None:
    """Lit pixels of a frame of 3 to 2, whatever the turn."""
    y, x = np.mgrid[:80, :120] + 0.5
    disc = (x - 60) ** 2 + (y - 40) ** 2 <= 36**2
    image = Image.fromarray(np.repeat((255 * disc).astype(np.uint8)[..., None], 3, axis=2))
    (view,), _ = views.plan(ViewSpec(recipe, 1, 48, crop_scale=(0.1, 0.5)), 2, torch.arange(100))
    out = np.empty((3, 48, 48), np.uint8)
    shares = []
    for number in range(100):
        views.draw(image, view, number, out=out, field=[60, 40, 36, 36])
        shares.append((out[0] > 127).mean())
    assert min(shares) > views.LEAST_FIELD - 0.02
