"""Drawn damage lowers the score and the right component; the filter rejects, and spares what is rare."""

import json
from pathlib import Path

import factory
import numpy as np
import pytest
from photographs import shard, write_table
from PIL import Image, ImageFilter
from test_near import eye

from ssl_retina import pseudonyms, shards
from ssl_retina.archive.filters import Balance, Filters
from ssl_retina.archive.pixels import features, quality
from ssl_retina.archive.pixels.clean import clean
from ssl_retina.errors import InputError


def judged(image: Image.Image) -> quality.Quality:
    cleaned = clean(np.asarray(image), "fundus", 512)
    return quality.assess(cleaned.pixels, cleaned.field_of_view)


def blurred(radius: float) -> Image.Image:
    return eye(1).filter(ImageFilter.GaussianBlur(radius))


def lit(factor: float) -> Image.Image:
    return eye(1).point(lambda level: min(255, level * factor))


def half() -> Image.Image:
    pixels = np.array(eye(1))
    pixels[150:] = pixels[150:] // 16
    return Image.fromarray(pixels)


def test_more_blur_is_less_sharp() -> None:
    scores = [judged(blurred(radius)) for radius in (0, 1, 2, 4)]
    assert [one.sharpness for one in scores] == sorted((one.sharpness for one in scores), reverse=True)
    assert [one.score for one in scores] == sorted((one.score for one in scores), reverse=True)
    assert scores[-1].sharpness < 0.7 * scores[0].sharpness


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_dark_and_burnt_out_are_badly_exposed(factor: float) -> None:
    assert judged(lit(factor)).exposure < 0.5 * judged(eye(1)).exposure
    assert judged(lit(factor)).score < 0.5 * judged(eye(1)).score


def test_a_half_that_shows_nothing_is_not_covered() -> None:
    assert judged(half()).coverage < 0.75
    assert judged(eye(1)).coverage > 0.95


def test_flat_light_has_no_contrast() -> None:
    flat = Image.blend(eye(1), Image.new("RGB", eye(1).size, (90, 60, 40)), 0.8)
    assert judged(flat).contrast < 0.7 * judged(eye(1)).contrast


def test_classes_follow_the_score() -> None:
    grades = [quality.Quality(score, 1, 1, 1, 1).grade for score in (0.1, 0.3, 0.9)]
    assert grades == list(quality.CLASSES)


def _archive(tmp_path: Path) -> Path:
    source = tmp_path / "archive"
    source.mkdir()
    for number in range(6):
        eye(number).save(source / f"good{number}.png")
    for name in ("common", "rare"):
        lit(0.15 if name == "rare" else 0.16).save(source / f"{name}.png")
    rows = [[f"good{number}.png", "Camera A"] for number in range(6)]
    rows += [["common.png", "Camera A"], ["rare.png", "Camera B"]]
    write_table(tmp_path / "table.csv", ["file", "device"], rows)
    return source


def test_the_filter_rejects_and_spares_the_rare(tmp_path: Path) -> None:
    source, table = _archive(tmp_path), tmp_path / "table.csv"
    assert shard(tmp_path, source, "all", table=table, filters=Filters()).written == 8
    chosen = Filters(min_quality="usable", balance=Balance.DEVICE, rare="device=Camera B")
    totals = shard(tmp_path, source, table=table, filters=chosen)
    assert (totals.written, dict(totals.reasons)) == (7, {"quality": 1})
    assert (totals.remarks["rare"], totals.remarks["rare_spared"]) == (1, 1)
    index = shards.read_index(tmp_path / "out")
    assert set(index.columns["quality"]) == {"good", "reject"}
    weights = shards.read_positions(index)["weight"].tolist()
    assert sorted(weights) == pytest.approx([7 / 12] * 6 + [3.5])
    lines = [json.loads(line) for line in (tmp_path / "out" / shards.LEDGER_NAME).read_text().splitlines()]
    refused = [line["key"] for line in lines if line["reason"] == "quality"]
    assert refused == [pseudonyms.image(factory.KEY, "common.png")]


def test_clusters_are_written_and_balanced(tmp_path: Path) -> None:
    chosen = Filters(balance=Balance.CLUSTER, rare="clusters=0.2")
    totals = shard(tmp_path, _archive(tmp_path), filters=chosen)
    assert totals.remarks["rare"] == 1
    index = shards.read_index(tmp_path / "out")
    table = shards.read_positions(index)
    sums = np.bincount(table["cluster"], weights=table["weight"])
    assert len(sums) > 1
    assert np.allclose(sums, sums[0])


def test_k_means_parts_what_is_apart_and_is_deterministic() -> None:
    random = np.random.default_rng(0)
    table = np.concatenate([random.normal(0, 0.01, (30, 12)), random.normal(5, 0.01, (5, 12))]).astype(
        np.float32
    )
    found = features.clusters(table)
    assert set(found[:30]).isdisjoint(found[30:])
    assert found == features.clusters(table)
    assert features.clusters(np.ones((4, 12), np.float32)) == [0] * 4
    assert features.clusters(np.zeros((0, 12), np.float32)) == []


@pytest.mark.parametrize("rare", ["device", "device=", "clusters=2", "camera=A", "clusters=x"])
def test_a_rare_stratum_that_says_nothing_is_refused(rare: str) -> None:
    with pytest.raises(InputError, match="--rare"):
        Filters(rare=rare)
