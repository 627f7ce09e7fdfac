"""Turned crops: the pixels of a slow, fine turn, black beyond the image, and what must never be turned."""

import json
import math
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_retina import config, shard_index
from ssl_retina.contract import ViewSpec
from ssl_retina.data import cutting, geometry, recipes, views
from ssl_retina.data.geometry import Pose, Turn, View
from ssl_retina.data.images import opened
from ssl_retina.data.loader import open_source

SIDE = 120


def smooth(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture with detail of a few pixels, without a symmetry."""
    y, x = np.mgrid[:height, :width] + 0.5
    waves = [
        128 + 60 * np.sin(x / 5 + y / 9) + 50 * np.cos(y / 4 - x / 30),
        128 + 90 * np.sin(x * y / 400),
        0.5 * x + y,
    ]
    return Image.fromarray(np.clip(np.stack(waves, axis=2), 0, 255).astype(np.uint8))


def noise_ratio(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """PSNR in dB of the inner part."""
    apart = (one.astype(float) - other.astype(float))[3:-3, 3:-3]
    return float(10 * np.log10(255**2 / max((apart**2).mean(), 1e-9)))


def cut(image: Image.Image, pose: Pose, size: int) -> NDArray[np.uint8]:
    """The view as a new array."""
    out = np.full((size, size, 3), 77, dtype=np.uint8)
    cutting.cut(np.array(image), pose, out)
    return out


MIDDLE = (SIDE / 2, SIDE / 2)


def energy(view: NDArray[np.uint8]) -> float:
    """The mean square of the Laplacian: how much fine detail there is."""
    grey = view.astype(float).mean(axis=2)
    middle = 4 * grey[1:-1, 1:-1]
    laplacian = middle - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.square(laplacian).mean())


@pytest.mark.parametrize("size", [16, 48, 120, 200])
@pytest.mark.parametrize("box", [(10, 25, 95, 110), (0, 0, SIDE, SIDE), (40, 5, 80, 115), (3, 50, 117, 61)])
def test_no_turn_is_pillows_crop(size: int, box: geometry.Box) -> None:
    """Pixels and detail of what MAE and RETFound read: cut out, then resized; waves and noise."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for image in (smooth(), Image.fromarray(noise)):
        expected = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))
        found = cut(image, Pose(box, 0.0, MIDDLE, flipped=False), size)
        assert noise_ratio(found, expected) > 50
        assert 0.98 < energy(found) / energy(expected) < 1.02
        flipped = cut(image, Pose(box, 0.0, MIDDLE, flipped=True), size)
        assert np.array_equal(flipped[:, ::-1], found)


def test_a_slight_turn_is_nearly_no_turn() -> None:
    image, box = smooth(), (10, 25, 95, 110)
    still = cut(image, Pose(box, 0.0, MIDDLE, flipped=False), 48)
    assert noise_ratio(cut(image, Pose(box, 1e-9, MIDDLE, flipped=False), 48), still) > 45


def _pose(*box: int, angle: float = 0.0) -> Pose:
    return Pose((box[0], box[1], box[2], box[3]), angle, MIDDLE, flipped=False)


def test_a_photograph_is_decoded_as_small_as_its_most_enlarged_view_allows() -> None:
    """The narrower side of every box stays MARGIN times its view's size; powers of two, and 1/8 at least."""
    large, small = _pose(0, 0, 960, 800), _pose(10, 20, 210, 340)
    for margin_times, expected in ((8, 8), (7.9, 4), (4, 4), (3.9, 2), (2, 2), (1.9, 1), (0.3, 1), (50, 8)):
        assert cutting.share([large], [int(800 / (cutting.MARGIN * margin_times))]) == expected
    assert cutting.share([large, small], [32, 32]) == 4
    assert cutting.share([large, small], [32, 120]) == 1
    assert cutting.share([small, large], [32, 300]) == 1


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (1021, 767), (333, 97)])
@pytest.mark.parametrize("share", [2, 4, 8])
def test_a_box_moves_to_whole_pixels_of_the_smaller_image(width: int, height: int, share: int) -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        wide, tall = random.integers(1, width + 1), random.integers(1, height + 1)
        left, top = random.integers(0, width - wide + 1), random.integers(0, height - tall + 1)
        box = (int(left), int(top), int(left + wide), int(top + tall))
        pose = Pose(box, 0.3, (width / 2, height / 3), flipped=True)
        moved = cutting.shrunk(pose, share, width=width, height=height)
        assert 0 <= moved.box[0] < moved.box[2] <= width // share
        assert 0 <= moved.box[1] < moved.box[3] <= height // share
        if wide >= 2 * share and tall >= 2 * share:
            for before, after in zip(box, moved.box, strict=True):
                assert abs(before / share - after) < 1  # half a pixel, or the last that is not whole
        assert moved.axis == (width / 2 / share, height / 3 / share)
        assert (moved.angle, moved.flipped) == (0.3, True)
        assert cutting.shrunk(pose, 1, width=width, height=height) == pose


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_view_of_a_smaller_decoding_is_nearly_that_of_all_pixels(angle: float) -> None:
    """A JPEG of 400 x 300; the crop lies where it lay, with its detail."""
    content = factory.encoded(np.asarray(smooth().resize((400, 300), Image.Resampling.BICUBIC)))
    encoded = opened(content, "jpg")
    whole = encoded.pixels()[0]
    half, share = encoded.pixels(2)
    assert share == 2
    pose = Pose((40, 30, 340, 270), angle, (180.0, 140.0), flipped=True)
    one, other = np.empty((60, 60, 3), np.uint8), np.empty((60, 60, 3), np.uint8)
    cutting.cut(whole, pose, one)
    cutting.cut(half, cutting.shrunk(pose, 2, width=400, height=300), other)
    assert noise_ratio(one, other) > 40
    assert 0.9 < energy(other) / energy(one) < 1.05


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_rot90s(quarters: int) -> None:
    """The box of the turned image is the turned box of the image, whatever its shape."""
    image = smooth()
    box = (10, 25, 95, 85)
    turned = Image.fromarray(np.rot90(np.asarray(image), -quarters))  # clockwise
    expected = np.asarray(turned.resize((48, 48), Image.Resampling.BICUBIC, box=box))
    found = cut(image, Pose(box, quarters * math.pi / 2, MIDDLE, flipped=False), 48)
    assert noise_ratio(found, expected) > 45


@pytest.mark.parametrize("quarters", [1, 3])
def test_the_filter_turns_with_the_box(quarters: int) -> None:
    """Noise in a box three times as tall as wide: each direction is smoothed as much as it is shrunk."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    box = (40, 5, 80, 115)
    turned = Image.fromarray(np.rot90(noise, -quarters))
    expected = np.asarray(turned.resize((16, 16), Image.Resampling.BICUBIC, box=box))
    pose = Pose(box, quarters * math.pi / 2, MIDDLE, flipped=False)
    assert noise_ratio(cut(Image.fromarray(noise), pose, 16), expected) > 31


@pytest.mark.parametrize("size", [32, 64, 150])
def test_a_turned_crop_is_that_of_a_fine_turn_of_the_whole(size: int) -> None:
    image, axis, fine = smooth(), (50.0, 70.0), 6
    box = (20, 15, 100, 105)
    large = image.resize((fine * SIDE, fine * SIDE), Image.Resampling.BICUBIC)
    for degrees in (-30, 7, 30):
        turned = large.rotate(-degrees, Image.Resampling.BICUBIC, center=(fine * axis[0], fine * axis[1]))
        expected = turned.resize((size, size), Image.Resampling.BICUBIC, box=tuple(fine * one for one in box))
        pose = Pose(box, math.radians(degrees), axis, flipped=False)
        assert noise_ratio(cut(image, pose, size), np.asarray(expected)) > 44
        flipped = cut(image, Pose(box, pose.angle, axis, flipped=True), size)
        assert np.array_equal(flipped[:, ::-1], cut(image, pose, size))


def test_beyond_the_image_is_black() -> None:
    """A white picture, turned by 45 degrees: the four corners are cut off, and nothing else."""
    white = Image.new("RGB", (100, 100), (255, 255, 255))
    found = cut(white, Pose((0, 0, 100, 100), math.pi / 4, (50, 50), flipped=False), 100)
    y, x = np.mgrid[:100, :100] + 0.5
    inside = np.abs(x - 50) + np.abs(y - 50)
    assert (found[inside > 50 * math.sqrt(2) + 1] == 0).all()
    assert (found[inside < 50 * math.sqrt(2) - 1] == 255).all()
    away = cut(white, Pose((0, 0, 20, 20), math.pi, (150, 150), flipped=False), 32)
    assert not away.any()


def _view(count: int, *, turn: Turn | None, flip: bool = False, size: int = 64) -> View:
    draws = torch.rand(count, geometry.DRAWS, generator=torch.Generator().manual_seed(4)).double().numpy()
    return View(geometry.Crop((0.5, 1.0)), flip, turn, size, draws)


def test_the_axis_is_the_middle_of_the_field_and_the_field_follows() -> None:
    """A spot beside the middle of the field keeps its distance from it and moves by the angle."""
    axis, away, size = (70.0, 52.0), 20.0, 96
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    spot = np.exp(-((x - axis[0] - away) ** 2 + (y - axis[1]) ** 2) / 8)
    image = Image.fromarray(np.repeat((255 * spot).astype(np.uint8)[..., None], 3, axis=2))
    view = _view(40, turn=Turn(photograph=60, scan=0), flip=True, size=size)
    angles = set()
    for number in range(40):
        field = [*axis, 40.0, 40.0]
        pose = geometry.pose(view, number, width=SIDE, height=SIDE, field=field, scan=False)
        seen = cut(image, pose, size)[..., 0].astype(float)
        centre = geometry.follow(field, pose, size)[:2]
        across, down = ((pose.box[2] - pose.box[0]) / size, (pose.box[3] - pose.box[1]) / size)
        rows, columns = np.mgrid[:size, :size] + 0.5
        if seen[[0, -1]].any() or seen[:, [0, -1]].any() or not seen.any():
            continue  # the spot touches the edge of this crop
        moved = (
            ((columns * seen).sum() / seen.sum() - centre[0]) * across * (-1 if pose.flipped else 1),
            ((rows * seen).sum() / seen.sum() - centre[1]) * down,
        )
        assert moved[0] == pytest.approx(away * math.cos(pose.angle), abs=0.3)
        assert moved[1] == pytest.approx(away * math.sin(pose.angle), abs=0.3)
        angles.add(round(math.degrees(pose.angle)))
    assert len(angles) > 10
    assert max(angles) > 40
    assert min(angles) < -40


def test_a_turned_ellipse_is_given_by_its_reach() -> None:
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    ellipse = ((x - 60) / 45) ** 2 + ((y - 60) / 20) ** 2 <= 1
    image = Image.fromarray(np.repeat((255 * ellipse).astype(np.uint8)[..., None], 3, axis=2))
    pose = Pose((0, 0, SIDE, SIDE), math.radians(30), MIDDLE, flipped=False)
    seen = cut(image, pose, SIDE)[..., 0] > 127
    _, _, across, down = geometry.follow([60, 60, 45, 20], pose, SIDE)
    assert across == pytest.approx(_reach(seen, 0), abs=1)
    assert down == pytest.approx(_reach(seen, 1), abs=1)


def _reach(seen: NDArray[np.bool_], axis: int) -> float:
    places = np.flatnonzero(seen.any(axis=axis))
    return float(places.max() - places.min() + 1) / 2


def test_half_the_views_are_flipped_and_turns_are_uniform() -> None:
    (view,), _ = views.plan(ViewSpec("contrast", 1, 32), 5, torch.arange(4000))
    poses = [geometry.pose(view, n, width=64, height=64, field=None, scan=False) for n in range(4000)]
    assert abs(np.mean([pose.flipped for pose in poses]) - 0.5) < 4 * 0.5 / math.sqrt(4000)
    degrees = np.sort([math.degrees(pose.angle) for pose in poses])
    expected = np.linspace(-recipes.RETINA_TURN.photograph, recipes.RETINA_TURN.photograph, 4000)
    assert np.abs(degrees - expected).max() < 2  # Kolmogorov: 1.95 / sqrt(4000) of 60 degrees
    assert {pose.axis for pose in poses} == {(32.0, 32.0)}


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures that brighten from top to bottom: every other one an OCT B-scan."""
    folder = tmp_path_factory.mktemp("ramps")
    levels = np.linspace(60, 220, 64).astype(np.uint8)
    ramp = np.repeat(np.repeat(levels[:, None, None], 96, axis=1), 3, axis=2)
    parts = []
    for number in range(20):
        name = f"{'oct' if number % 2 else 'eye'}{number}"
        record = {"modality": "oct" if number % 2 else "fundus"}
        parts += [
            (f"{name}.png", factory.encoded(ramp, "png")),
            (f"{name}.json", json.dumps(record).encode()),
        ]
    factory.write_tar(folder / "ramps-000000.tar", parts)
    shard_index.write(folder, {})
    return folder


@pytest.mark.parametrize("recipe", ["mae", "contrast", "mocov3", "mocov3_paper"])
def test_a_scan_is_never_upside_down_and_hardly_turned(ramps: Path, recipe: str) -> None:
    """The direction in which the stream's pictures brighten, measured in its views."""
    data = config.Data(shards=(ramps,), batch_size=20, workers=0, held_out=0.0)
    source = open_source(data, ViewSpec(recipe, 2, 32, crop_scale=(0.3, 0.5)), seed=1)
    tilts: dict[str, list[float]] = {"oct": [], "eye": []}
    for batch in islice(source.batches(0, rank=0, world=1, micro_batch=20), 12):
        for view in batch.global_views:
            for key, picture in zip(batch.keys, view, strict=True):
                tilts[key[:3]].append(_tilt(picture[0].double().numpy()))
    most = {modality: max(abs(tilt) for tilt in found) for modality, found in tilts.items()}
    turns = recipes.RECIPES[recipe].turn
    assert most["oct"] < 7  # 5 degrees, in a box of at most 4 to 3
    assert most["eye"] < 60
    assert turns is None or most["eye"] > 20


def _tilt(picture: NDArray[np.float64]) -> float:
    """Degrees between downwards and where a picture brightens: a plane through what is not black."""
    rows, columns = np.nonzero(picture > 50)
    plane = np.stack((columns, rows, np.ones(len(rows))), axis=1)
    across, down, _ = np.linalg.lstsq(plane, picture[rows, columns], rcond=None)[0]
    return math.degrees(math.atan2(across, down))
