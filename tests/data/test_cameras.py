"""Cheap cameras: pixels that do not hang on the batch, stated chances, the field that they show, B-scans."""

import dataclasses
import json
import math
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_retina import config, shard_index
from ssl_retina.contract import ViewSpec, uniform
from ssl_retina.data import cameras, placing, recipes, views
from ssl_retina.data.cameras import Camera, Chance
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.recipes import Recipe

SURE = {"probability": 1.0}
NEVER = Chance(0.0, 0.0, 0.0)
NOTHING = Camera(
    probability=1.0, defocus=NEVER, coarse=0.0, tilt=NEVER, fall=NEVER, haze=NEVER, ghost=NEVER, cast=0.0,
    offset=NEVER, shot=NEVER, quality=NEVER, narrow=NEVER,
)  # fmt: skip
EVERYTHING = Camera(
    **{
        field.name: dataclasses.replace(value, **SURE) if isinstance(value, Chance) else value
        for field in dataclasses.fields(Camera)
        if (value := getattr(Camera(), field.name)) is not None
    }
    | {"probability": 1.0, "coarse": 1.0, "cast": 1.0}
)


def drawn(camera: Camera, count: int, side: int = 48, scans: bool = False) -> Tensor:
    draws = uniform(3, "camera", torch.arange(count), cameras.DRAWS, 0)
    return cameras.drawn(camera, draws, size=side, scans=[scans] * count)


def eyes(count: int, side: int = 48) -> tuple[Tensor, Tensor]:
    """Noisy discs of several places and sizes on black, and their fields."""
    draws = torch.rand(count, 3, generator=torch.Generator().manual_seed(2))
    fields = torch.cat(
        (draws[:, :2] * side * 0.6 + side * 0.2, (draws[:, 2:] * 0.4 + 0.4).expand(-1, 2) * side), 1
    )
    places = torch.arange(side) + 0.5
    away = (
        (places - fields[:, 0, None, None]) ** 2 + (places[:, None] - fields[:, 1, None, None]) ** 2
    ).sqrt()
    pixels = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return pixels * (away < fields[:, 2, None, None])[:, None], fields


def taken(pixels: Tensor, changes: Tensor, fields: Tensor) -> Tensor:
    shown = cameras.narrowed(fields, changes, size=pixels.shape[-1])
    return cameras.degrade(pixels.clone(), changes, shown)


def test_every_number_is_taken_once() -> None:
    """The draws are as many as are used, and each one changes something."""
    draws = torch.rand(1, cameras.DRAWS, generator=torch.Generator().manual_seed(0))
    with pytest.raises(StopIteration):
        cameras.drawn(EVERYTHING, draws[:, :-1], size=48, scans=[False])
    wide = dataclasses.replace(EVERYTHING, probability=0.5, coarse=0.5, cast=0.5, **{
        name: dataclasses.replace(getattr(EVERYTHING, name), probability=0.5)
        for name in ("defocus", "tilt", "fall", "haze", "ghost", "offset", "shot", "quality", "narrow")
    })  # fmt: skip
    low, silent = draws * 0.3, []
    first = cameras.drawn(wide, low, size=48, scans=[False])
    for number in range(cameras.DRAWS):
        other = low.clone()
        other[:, number] += 0.65
        if torch.equal(cameras.drawn(wide, other, size=48, scans=[False]), first):
            silent.append(number)
    assert silent == []


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("camera", [Camera(), EVERYTHING], ids=["some", "everything"])
@pytest.mark.parametrize("side", [48, 37])
def test_pixels_do_not_hang_on_the_batch(camera: Camera, side: int, device: str) -> None:
    """Bit for bit: 11 at once (in two parts), in odd parts, one by one, in another order, on one thread."""
    count = placing.ON_CPU + 3
    pixels, fields = eyes(count, side)
    pixels = pixels.to(device)
    fields[4] = float("nan")
    changes = drawn(camera, count, side)
    changes[7:9] = drawn(camera, 2, side, scans=True)
    whole = taken(pixels, changes, fields)
    for parts in (2, 3, 5, count):
        pieces = zip(pixels.chunk(parts), changes.chunk(parts), fields.chunk(parts), strict=True)
        assert torch.equal(whole, torch.cat([taken(*piece) for piece in pieces]))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    assert torch.equal(whole[order], taken(pixels[order], changes[order], fields[order]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(whole, taken(pixels, changes, fields))
    finally:
        torch.set_num_threads(threads)
    assert (whole - pixels).abs().mean() > 0.01


def test_draws_do_not_hang_on_the_batch() -> None:
    positions = torch.arange(41)
    spec = ViewSpec("primary_care", 2, 48)
    whole = views.cheap_cameras(spec, 5, positions, scans=[False] * 41)
    assert whole is not None
    for start, end in ((0, 1), (1, 8), (8, 41)):
        part = views.cheap_cameras(spec, 5, positions[start:end], scans=[False] * (end - start))
        assert part is not None
        assert torch.equal(part, whole[:, start:end])


def test_a_big_batch_is_changed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sound = [], cameras._photograph

    def noted(images: Tensor, numbers: cameras._Numbers, fields: Tensor) -> Tensor:
        sizes.append(len(images))
        return sound(images, numbers, fields)

    monkeypatch.setattr(cameras, "_photograph", noted)
    pixels, fields = eyes(100, 16)
    taken(pixels, drawn(EVERYTHING, 100, 16), fields)
    assert max(sizes) == placing.ON_CPU
    assert sum(sizes) == 100


def test_the_photographs_own_camera_leaves_every_bit() -> None:
    pixels, fields = eyes(6)
    for camera in (NOTHING, Camera(probability=0.0)):
        changes = drawn(camera, 6)
        assert torch.equal(
            changes[:, : cameras.SCAN], torch.tensor(cameras.UNCHANGED)[: cameras.SCAN].expand(6, -1)
        )
        assert torch.equal(taken(pixels, changes, fields), pixels)


def test_chances_and_ranges_are_the_stated_ones() -> None:
    count, camera = 8000, Camera()
    table = drawn(camera, count, 224).double()
    alone = camera.probability
    for column, chance, still, factor in (
        (cameras.SIGMA, camera.defocus, 0, 224),
        (cameras.FALL, camera.fall, 0, 1),
        (cameras.HAZE, camera.haze, 0, 1),
        (cameras.GHOST, camera.ghost, 0, 1),
        (cameras.OFFSET, camera.offset, 0, 1),
        (cameras.SHOT, camera.shot, 0, 1),
        (cameras.QUALITY, camera.quality, 0, 1),
        (cameras.NARROW, camera.narrow, 1, 1),
    ):
        values = table[table[:, column] != still, column] / factor
        expected = alone * chance.probability
        assert abs(len(values) / count - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
        wide = chance.high - chance.low
        assert chance.low - 1e-6 <= values.min() < chance.low + 0.03 * wide
        assert chance.high - 0.03 * wide < values.max() <= chance.high + 1e-6
        assert abs(values.mean() - chance.low - wide / 2) < 5 * wide / math.sqrt(12 * len(values))
    tilt = table[:, cameras.TILT : cameras.TILT + 2].norm(dim=1)
    assert tilt[tilt > 0].min() >= camera.tilt.low - 1e-6
    assert tilt.max() <= camera.tilt.high + 1e-6
    for channel, (low, high) in enumerate(camera.gains):
        gains = table[:, cameras.GAIN + channel]
        assert low <= gains.min() < low + 0.01
        assert high - 0.01 < gains.max() <= high + 1e-6
    factors, counts = table[:, cameras.COARSE].unique(return_counts=True)
    assert factors.tolist() == [1.0, 1.25, 1.5, 2.0, 2.5]
    assert (counts[1:] / count - alone * camera.coarse / 4).abs().max() < 0.015
    assert len(table[:, cameras.KEY].unique()) > 0.98 * alone * camera.shot.probability * count


def test_a_scan_gets_defocus_pixels_and_noise() -> None:
    table = drawn(EVERYTHING, 50, scans=True)
    still = torch.tensor(cameras.UNCHANGED)
    changed = {column for column in range(cameras.SCAN) if (table[:, column] != still[column]).any()}
    assert changed == {cameras.SIGMA, cameras.COARSE, cameras.SHOT, cameras.READ, cameras.KEY}
    dark = torch.full((50, 3, 24, 24), 3 / 255)  # the dark of a scan is no surround
    done = taken(dark, table, torch.full((50, 4), float("nan")))
    assert done.std(dim=(1, 2, 3)).min() > 0.001


def test_black_stays_black_but_for_haze_and_file() -> None:
    pixels, fields = eyes(40)
    outside = (pixels.amax(dim=1, keepdim=True) == 0).expand_as(pixels)
    dry = dataclasses.replace(EVERYTHING, haze=NEVER, quality=NEVER)
    changes = drawn(dry, 40)
    done = taken(pixels, changes, fields)
    assert (done[outside] == 0).all()
    assert (done[~outside] > 0).float().mean() > 0.3
    hazy = taken(pixels, drawn(dataclasses.replace(NOTHING, haze=EVERYTHING.haze), 40), fields)
    assert hazy[outside].max() > 0.03
    assert (hazy >= pixels - 1e-6).all()


def test_a_small_field_lies_in_the_old_one_and_is_what_is_lit() -> None:
    side, count = 64, 60
    _, fields = eyes(count, side)
    pixels = torch.full((count, 3, side, side), 0.5)
    changes = drawn(dataclasses.replace(NOTHING, narrow=EVERYTHING.narrow), count, side)
    shown = cameras.narrowed(fields, changes, size=side)
    assert torch.allclose(shown[:, 2:] / fields[:, 2:], changes[:, cameras.NARROW, None].expand(-1, 2))
    away = (shown[:, :2] - fields[:, :2]).norm(dim=1) + shown[:, 2]
    assert (away <= fields[:, 2] + 1e-3).all()
    middle = torch.tensor([side / 2, side / 2])
    assert ((shown[:, :2] - middle).norm(dim=1) <= (fields[:, :2] - middle).norm(dim=1) + 1e-3).all()
    done = taken(pixels, changes, fields)
    places = torch.arange(side) + 0.5
    for one, (x, y, radius, _) in zip(done, shown.tolist(), strict=True):
        inside = (places - x) ** 2 + (places[:, None] - y) ** 2 <= radius**2
        assert ((one[0] > 0.25) != inside).float().mean() < 0.004
    unknown = torch.full((count, 4), float("nan"))
    assert cameras.narrowed(unknown, changes, size=side).isnan().all()
    assert torch.equal(taken(pixels, changes, unknown), pixels)


# Through the stream and `finish`: as training sees it


LOCAL = Recipe(
    recipes.RETINA_CROP, local_crop=recipes.PAPER_CROP, turn=recipes.RETINA_TURN, cameras=(None, EVERYTHING)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=37, shards=2, size=48, patients=37)
    return path


def opened(folder: Path, spec: ViewSpec) -> Source:
    data = config.Data(shards=(folder,), batch_size=8, workers=0, held_out=0.0)
    return open_source(data, spec, seed=3)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("recipe", ["primary_care", "mae_primary_care", "local"])
def test_ranks_see_the_same_pixels_and_fields(
    folder: Path, recipe: str, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "RECIPES", {**recipes.RECIPES, "local": LOCAL})
    local = {"local_views": 2, "local_size": 16} if recipe == "local" else {}
    spec = ViewSpec(recipe, 2, 40, **local)
    whole = [
        views.finish(batch, device=torch.device("cpu"))
        for batch in islice(opened(folder, spec).batches(32, rank=0, world=1, micro_batch=8), 2)
    ]
    for rank in range(world):
        parts = opened(folder, spec).batches(32, rank=rank, world=world, micro_batch=8 // world)
        some = slice(rank * 8 // world, (rank + 1) * 8 // world)
        for one, other in zip(whole, parts, strict=False):
            done = views.finish(other, device=torch.device("cpu"))
            assert done.keys == one.keys[some]
            for name in ("global_views", "local_views", "field_of_view", "local_field_of_view"):
                found, expected = getattr(done, name), getattr(one, name)
                assert (found is None) == (expected is None) == (not local and name.startswith("local"))
                if found is not None:
                    assert torch.equal(found.nan_to_num(-1), expected[:, some].nan_to_num(-1))
    assert whole[0].cameras is None


def test_the_first_view_stays_good_and_the_second_does_not(folder: Path) -> None:
    batch = next(opened(folder, ViewSpec("primary_care", 2, 40)).batches(0, rank=0, world=1, micro_batch=37))
    assert batch.cameras is not None
    clean = views.finish(dataclasses.replace(batch, cameras=None), device=torch.device("cpu"))
    done = views.finish(batch, device=torch.device("cpu"))
    assert torch.equal(done.global_views[0], clean.global_views[0])
    apart = (done.global_views[1] - clean.global_views[1]).abs().amax(dim=(1, 2, 3)) > 0.01
    assert 0.5 < apart.float().mean() < 0.97
    contrast = next(opened(folder, ViewSpec("contrast", 2, 40)).batches(0, rank=0, world=1, micro_batch=37))
    assert torch.equal(contrast.global_views, batch.global_views)


@pytest.mark.parametrize("recipe", ["mae", "local"])
def test_each_view_has_its_field(
    folder: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lit pixels of global and local views, turned, flipped, cropped and behind a smaller stop."""
    narrow = (dataclasses.replace(NOTHING, narrow=EVERYTHING.narrow),)
    monkeypatch.setattr(
        recipes,
        "RECIPES",
        {"mae": recipes.RECIPES["mae"], "local": dataclasses.replace(LOCAL, cameras=narrow)},
    )
    y, x = np.mgrid[:96, :96] + 0.5
    disc = np.repeat((200 * ((x - 50) ** 2 + (y - 45) ** 2 <= 40**2)).astype(np.uint8)[..., None], 3, axis=2)
    record = {"modality": "fundus", "field_of_view": [50, 45, 40, 40]}
    parts = [
        (f"eye{number}.{kind}", content)
        for number in range(12)
        for kind, content in (("png", factory.encoded(disc, "png")), ("json", json.dumps(record).encode()))
    ]
    factory.write_tar(tmp_path / "discs-000000.tar", parts)
    shard_index.write(tmp_path, {})
    local = {"local_views": 2, "local_size": 48} if recipe == "local" else {}
    batch = next(
        opened(tmp_path, ViewSpec(recipe, 1, 64, **local)).batches(0, rank=0, world=1, micro_batch=12)
    )
    done = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
    pairs = [(done.global_views, done.field_of_view)]
    if local:
        assert done.local_views is not None
        assert done.local_field_of_view is not None
        pairs.append((done.local_views, done.local_field_of_view))
        assert batch.cameras is not None
        assert batch.local_field_of_view is not None
        before = torch.cat((batch.field_of_view, batch.local_field_of_view))[..., 2]
        share = torch.cat((done.field_of_view, done.local_field_of_view))[..., 2] / before
        assert torch.allclose(share, batch.cameras[..., cameras.NARROW])
        assert len(share.unique()) == 36
    for pixels, fields in pairs:
        assert fields.shape == (*pixels.shape[:2], 4)
        places = torch.arange(pixels.shape[-1]) + 0.5
        for view, field in zip(pixels.flatten(0, 1), fields.flatten(0, 1).tolist(), strict=True):
            across = ((places - field[0]) / field[2])[None] ** 2
            inside = across + ((places - field[1]) / field[3])[:, None] ** 2 <= 1
            assert ((view[0] > 0.4) != inside).float().mean() < 0.02
