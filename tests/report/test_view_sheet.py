"""The sheet of views shows what training gets: those pixels, and in words what was drawn."""

import json
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_retina import config, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data import cameras, photometry, views
from ssl_retina.data.images import Undecodable
from ssl_retina.data.loader import Source, open_source
from ssl_retina.report import view_sheet
from ssl_retina.report.view_sheet import CELL, GAP, LINE
from ssl_retina.report.view_words import camera_in_words, changes_in_words, recipe_in_words

SAMPLES, SIZE = 30, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 samples of 15 patients on two cameras; every eighth is a B-scan."""
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=SAMPLES, shards=2, size=64, patients=15)
    return path


def opened(folder: Path, spec: ViewSpec, **data: object) -> Source:
    values = {"held_out": 0.3, **data}
    return open_source(config.Data(shards=(folder,), batch_size=8, workers=0, **values), spec, seed=3)


def cells(picture: Image.Image, rows: int, heading: int) -> list[list[NDArray[np.uint8]]]:
    """The squares of each row, the stored photograph first, by the sheet's own measures."""
    top, found = GAP + LINE * heading + GAP, []
    for row in range(rows):
        y = top + row * (2 * LINE + CELL + GAP) + LINE
        lefts = range(GAP, picture.width - GAP, CELL + GAP)
        found.append([np.asarray(picture.crop((x, y, x + CELL, y + CELL))) for x in lefts])
    return found


@pytest.mark.parametrize(("recipe", "count"), [("mae", 1), ("contrast", 2), ("mocov3", 2)])
def test_the_pictures_are_the_trainers_own_views(
    folder: Path, tmp_path: Path, recipe: str, count: int
) -> None:
    """Each of a row's views is, to the last pixel, the view of one sample in that epoch's batches."""
    spec = ViewSpec(recipe, count, SIZE)
    source = opened(folder, spec)
    view_sheet.write(source, tmp_path / "views.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]
    picture = Image.open(tmp_path / "views.png")
    heading = 1 + len(recipe_in_words(spec))
    rows = cells(picture, 8, heading)
    assert {len(row) for row in rows} == {7}
    shown = []
    for epoch in range(6 // count):
        start = epoch * source.samples
        batch = next(source.batches(start, rank=0, world=1, micro_batch=source.samples))
        done = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
        for number in range(count):
            levels = done.global_views[number].clamp(0, 1).mul(255)
            for at, row in enumerate(rows):
                seen = torch.from_numpy(row[1 + epoch * count + number][::4, ::4].copy()).permute(2, 0, 1)
                apart = (levels - seen).abs().amax(dim=(1, 2, 3))
                assert apart.min() < 0.6  # rounding, after a normalisation and back
                shown.append((at, batch.keys[int(apart.argmin())]))
    assert len(set(shown)) == 8  # a row is one sample, in every epoch and view


def test_rows_are_different_patients_of_both_modalities(folder: Path) -> None:
    source = opened(folder, ViewSpec("contrast", 2, SIZE))
    places = view_sheet._spread(source)
    table = shards.read_positions(source.indexes[0])[source.stream.order.every_row()[places]]
    assert len(places) == 8
    words = [source.indexes[0].columns["modality"][code] for code in table["modality"]]
    every = {source.indexes[0].columns["modality"][code] for code in table["modality"]}
    assert every == {"fundus", "oct"}
    for word in every:
        groups = table["group"][np.array(words) == word].tolist()
        assert len(set(groups)) == len(groups)
    assert words.count("fundus") >= 4
    assert len(set(table["device"].tolist())) == 2
    only = opened(folder, ViewSpec("contrast", 2, SIZE), where="modality == oct", held_out=0.0)
    assert len(view_sheet._spread(only)) == len({row % 15 for row in range(7, SAMPLES, 8)})


def test_several_sets_are_shown(folder: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    factory.make_shards(second, samples=9, shards=1, size=40, patients=9, seed=5)
    record = json.loads((second / "index.json").read_text())
    assert record["ssl_retina"]["columns"]["modality"]
    both = open_source(
        config.Data(shards=(second, folder), batch_size=8, workers=0, held_out=0.0),
        ViewSpec("mae", 1, SIZE),
        seed=3,
    )
    rows = both.stream.order.every_row()[view_sheet._spread(both)]
    assert (rows < 9).any()
    assert (rows >= 9).any()


def test_places_in_the_order_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an epoch is looked through in parts."""
    source = opened(folder, ViewSpec("mae", 1, SIZE))
    whole = view_sheet._positions(source.stream, [0, 5, source.samples - 1], 2)
    monkeypatch.setattr(view_sheet, "CHUNK", 7)
    assert np.array_equal(view_sheet._positions(source.stream, [0, 5, source.samples - 1], 2), whole)
    for place, position in zip([0, 5, source.samples - 1], whole.tolist(), strict=True):
        assert 2 * source.samples <= position < 3 * source.samples
        batch = next(source.batches(position, rank=0, world=1, micro_batch=1))
        photograph = source.stream.sets.photograph(int(source.stream.order.every_row()[place]))
        assert batch.keys == (photograph.key,)


def test_the_field_of_view_is_drawn_into_the_stored_photograph(folder: Path, tmp_path: Path) -> None:
    source = opened(folder, ViewSpec("mae", 1, SIZE))
    view_sheet.write(source, tmp_path / "views.png", "a title")
    rows = cells(Image.open(tmp_path / "views.png"), 8, 1 + len(recipe_in_words(ViewSpec("mae", 1, SIZE))))
    rims = [(row[0] == view_sheet.RIM).all(axis=2) for row in rows]
    drawn = [rim for rim in rims if rim.any()]
    assert 4 <= len(drawn) < 8  # photographs, not B-scans
    for rim in drawn:
        y, x = np.nonzero(rim)
        away = np.hypot(x - CELL / 2 + 0.5, y - CELL / 2 + 0.5)
        assert abs(away - 0.48 * CELL).max() < 2


def test_the_recipe_in_words() -> None:
    place, jitter, scans, legend = recipe_in_words(ViewSpec("contrast", 2, 224, colour=0.5))
    assert place == (
        "recipe contrast: 2 of 224 px a photograph; 25 % to 100 % of the area, stretched (width to height "
        "3/4 to 4/3), at least 70 % of it retina, half of them flipped left to right, turned by up to 30 "
        "degrees (B-scans 5)"
    )
    assert jitter == (
        "every view: 80 %: brightness 0.8-1.2, contrast 0.85-1.15, saturation 0.9-1.1, hue +-1.8 degrees; "
        "grey 2.5 %; blur 50 %: sigma 0.11-1.1 px"
    )
    assert "OCT" in scans
    assert "sigma, px" in legend
    two = recipe_in_words(ViewSpec("mocov3_paper", 2, 224))
    assert two[1].startswith("view 0: ")
    assert two[2].startswith("view 1 and on: ")
    assert two[2].endswith("solarised 20 %: from level 0.5")
    none = recipe_in_words(ViewSpec("contrast", 2, 224, colour=0.0))
    assert none[1] == "every view: blur 50 %: sigma 0.11-1.1 px"
    assert recipe_in_words(ViewSpec("plain", 1, 64)) == [
        "recipe plain: 1 of 64 px a photograph; the whole image",
        "every view: colours as they are",
    ]
    *_, first, second, scans, legend = recipe_in_words(ViewSpec("primary_care", 2, 224))
    assert first == "view 0: the photograph's own camera"
    assert second.startswith(
        "view 1 and on: 80 % a cheap camera's, of these defocus 50 % 0.9-2.2 px, haze 30 %,"
    )
    assert "JPEG 50 % quality 30-80, smaller field 25 % radius 0.6-0.9" in second
    assert scans == "OCT B-scans: defocus, fewer pixels and noise only"
    assert legend.startswith("of a cheap camera: f:")
    assert "20 % to 30 % of the area" in recipe_in_words(ViewSpec("mae", 1, 64, crop_scale=(0.2, 0.3)))[0]


def test_changes_in_words() -> None:
    assert changes_in_words(torch.tensor(photometry.UNCHANGED)) == ""
    everything = torch.tensor([1.25, 0.75, 1.5, -0.01, 7.0, 1.0, 0.52, 0.5, 1.0])
    assert changes_in_words(everything) == "b1.25  c0.75  s1.50  h-4  grey  blur 0.5  inv"


def test_a_camera_in_words() -> None:
    row = torch.tensor(cameras.UNCHANGED)
    assert camera_in_words(row) == ""
    for column, number in (
        (cameras.SIGMA, 1.24),
        (cameras.COARSE, 1.5),
        (cameras.TILT, -0.3),
        (cameras.FALL, 0.2),
        (cameras.HAZE, 0.4),
        (cameras.GHOST, 0.4),
        (cameras.GAIN + 2, 1.3),
        (cameras.READ, 0.02),
        (cameras.SHOT, 0.001),
        (cameras.QUALITY, 45),
        (cameras.NARROW, 0.7),
    ):
        row[column] = number
    assert camera_in_words(row) == "f1.2  p1.5  t0.3  d0.2  haze  ghost  cast  n8  q45  r0.70"


def test_every_recipe_has_its_rows(folder: Path, tmp_path: Path) -> None:
    """A photograph and a B-scan under each name; the views are those of that recipe's own stream."""
    source = opened(folder, ViewSpec("contrast", 2, SIZE, crop_scale=(0.5, 1.0)))
    view_sheet.write_every(source, tmp_path / "every.png", "a title")
    stream = source.stream
    places = view_sheet._one_of_each(stream, view_sheet._spread(source))
    rows = stream.order.row_of(np.array(places)).tolist()
    assert {stream.sets.photograph(row).modality for row in rows} == {"fundus", "oct"}
    picture = Image.open(tmp_path / "every.png")
    step = LINE + CELL + 2 * LINE + GAP  # below a view: its colours, then its camera
    assert picture.height == GAP + 2 * LINE + GAP + 2 * len(views.RECIPES) * step
    for at, recipe in enumerate(views.RECIPES):
        own = opened(folder, ViewSpec(recipe, 2, SIZE))
        for number, place in enumerate(places):
            position = view_sheet._positions(own.stream, [place], 0)
            batch = own.stream.load(position).batch
            assert batch is not None
            done = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
            y = GAP + 2 * LINE + GAP + (2 * at + number) * step + LINE
            x = GAP + 2 * (CELL + GAP)  # view 1 of epoch 0
            seen = np.asarray(picture.crop((x, y, x + CELL, y + CELL)))[::4, ::4]
            levels = done.global_views[1, 0].clamp(0, 1).mul(255).permute(1, 2, 0).numpy()
            assert np.abs(levels - seen).max() < 0.6


def test_a_photograph_that_does_not_decode_has_no_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(folder, ViewSpec("mae", 1, SIZE))
    places = view_sheet._spread(source)
    sound = source.stream.sets.photograph

    def photograph(row: int) -> object:
        if row == source.stream.order.every_row()[places[2]]:
            raise Undecodable("key", "reason")
        return sound(row)

    monkeypatch.setattr(source.stream.sets, "photograph", photograph)
    rows = list(islice(view_sheet._rows(source.stream, places), 20))
    assert len(rows) == len(places) - 1
