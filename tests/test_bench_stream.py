"""`bench stream`: equal views on all sides, processor time of every process, full queues at both ends."""

import json
import multiprocessing
import time
from collections.abc import Generator
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ssl_retina import config
from ssl_retina.archive.pixels.clean import clean
from ssl_retina.bench import pipelines, processes, stages
from ssl_retina.bench import stream as bench
from ssl_retina.cli import app
from ssl_retina.data import native
from ssl_retina.data.loader import open_source
from ssl_retina.data.stream import as_positions
from ssl_retina.errors import InputError, ShardError
from ssl_retina.synthetic.large import draw_large


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    factory.make_shards(path, samples=12, shards=2, size=96)
    return path


def _stream(folder: Path, recipe: str):
    data = config.Data(shards=(folder,), batch_size=4, workers=0, held_out=0.0)
    return open_source(data, bench.RECIPES[recipe], seed=0).stream


@pytest.mark.parametrize("recipe", list(bench.RECIPES))
def test_all_pipelines_give_the_same_views(folder: Path, recipe: str) -> None:
    """As many views of the same sizes; the others' floats are finished, ours wait for the device."""
    batch = _stream(folder, recipe).load(as_positions(0, 4)).batch
    assert batch is not None
    own = list(batch.global_views) + ([] if batch.local_views is None else list(batch.local_views))
    assert own[0].dtype == torch.uint8
    tars = sorted(folder.glob("*.tar"))
    for transform, decoder in ((pipelines.plain(recipe), "pil"), (pipelines.tensors(recipe), None)):
        batches = pipelines.batches(tars, transform, decoder=decoder, batch=4, workers=1)
        (found,) = next(batches)
        batches.close()
        given = [found] if isinstance(found, torch.Tensor) else found
        assert [tuple(view.shape) for view in given] == [tuple(view.shape) for view in own]
        for view in given:
            assert view.dtype == torch.float32
            assert -2.2 < float(view.min()) < 0 < float(view.max()) < 2.7


def _spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    time.sleep(60)


def test_processor_time_and_memory_of_another_process() -> None:
    child = multiprocessing.get_context("fork").Process(target=_spin, args=(0.4,))
    child.start()
    assert child.pid is not None
    try:
        processes.settle([child.pid])
        assert 0.38 < processes.seconds([child.pid]) < 0.7
        assert 1e6 < processes.resident(child.pid) < 1e10
    finally:
        child.kill()
        child.join()


def _busy(seconds: float) -> Generator[int, None, None]:
    for number in range(1000):
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        yield number


def test_seconds_are_those_of_an_image() -> None:
    lane = bench.Lane(_busy(0.02), 5)
    assert lane.workers == []
    assert lane.seconds(12) == pytest.approx(0.02 / 5, rel=0.3)  # three whole batches


def test_a_measure_counts_what_loader_processes_make(folder: Path) -> None:
    """Queues are full before and after: as much is made as is taken, in processes of which ours waits."""
    transform = _Slow(0.02)
    batches = pipelines.batches(sorted(folder.glob("*.tar")), transform, decoder="pil", batch=2, workers=1)
    lane = bench.Lane(batches, 2)
    assert len(lane.workers) == 1
    found = [lane.seconds(count) for count in (2, 4, 10)]
    batches.close()
    assert min(found) > 0.019
    assert max(found) < 0.04


class _Slow:
    """A transform that takes its time of the processor."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, image: Image.Image) -> torch.Tensor:
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass
        return torch.zeros(1)


def test_compiled_code_decodes_while_it_crops(folder: Path) -> None:
    if native.library() is not None:
        found = stages.ours(_stream(folder, "two_views"), as_positions(3, 8))
        assert found["ours_decode"] == 0
        assert found["ours_crop"] > 0


def test_stages_are_parts_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    stream = _stream(folder, "two_views")
    places = as_positions(3, 8)
    begun = time.process_time()
    found = stages.ours(stream, places)
    spent = (time.process_time() - begun) / 8
    assert set(found) == {f"ours_{part}" for part in stages.PARTS["ours"]}
    assert min(found[f"ours_{part}"] for part in ("read", "decode", "crop")) > 0
    assert sum(found.values()) < spent
    slow = stages.plain(stream, _Slow(0.01), places)
    assert slow["plain_transform"] == pytest.approx(0.01, rel=0.2)
    assert 0 < slow["plain_decode"] < 0.01
    device = stages.device(stream, places)
    assert device["device_processor"] > 0
    assert device["device_waited"] > 0


def test_figures_of_one_run(folder: Path) -> None:
    words = ["bench", "stream", "--shards", str(folder), "--rounds", "2", "--images", "64", "--recipe", "mae"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    one = content["recipes"]["mae"]
    assert list(content["recipes"]) == ["mae"]
    assert len(one["ratios"]) == content["rounds"] == 2
    assert min(one["ratios"]) <= one["ratio"] <= max(one["ratios"])
    assert one["ratio"] > 1.2
    assert 0 < one["ratio_with_device"] < one["ratio"]
    assert (
        set(one["images_per_second_and_core"])
        == set(one["resident_bytes_of_a_worker"])
        == {"ours", "plain", "tensors"}
    )
    for way in ("ours", "plain"):
        assert sum(one["stages"][way].values()) == pytest.approx(1)
    assert str(folder) not in done.output


def test_what_cannot_be_measured(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--rounds 0: at least 1"):
        bench.Plan(rounds=0)
    with pytest.raises(InputError, match="--recipe dino: no such recipe; one of: mae, two_views, multi_crop"):
        bench.Plan(recipes=("dino",))
    missing = tmp_path / "nowhere"
    with pytest.raises(ShardError, match="does not exist: make shards with ssl-retina shard"):
        bench.measure([folder, missing], bench.Plan(), lambda _: None)
    done = CliRunner().invoke(app, ["bench", "stream", "--help"])
    assert "Example: ssl-retina bench stream --shards out/hygd" in done.output
    assert done.exit_code == 0


def test_photographs_of_a_given_size_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pixel is made by enlarging: the field fills the side, and the set needs no shards of the user."""
    monkeypatch.setattr("ssl_retina.cli.bench.DRAWN", 6)
    words = [
        "bench",
        "stream",
        "--drawn",
        "640",
        "--recipe",
        "mae",
        "--rounds",
        "1",
        "--images",
        "8",
        "--json",
    ]
    found = CliRunner().invoke(app, words, env={"SSL_RETINA_KEY": str(tmp_path / "key")})
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["recipes"]["mae"]["ratio"] > 0
    draw_large(tmp_path / "drawn", photographs=5, side=640)
    sizes = {
        clean(np.asarray(Image.open(one).convert("RGB")), None, 640).image.size
        for one in (tmp_path / "drawn").iterdir()
        if one.suffix != ".dcm"
    }
    assert sizes == {(640, 640)}


def test_shards_or_drawn_photographs(folder: Path) -> None:
    for words in ([], ["--shards", str(folder), "--drawn", "640"]):
        found = CliRunner().invoke(app, ["bench", "stream", *words])
        assert isinstance(found.exception, InputError)
        assert "--shards FOLDER or on --drawn PX" in str(found.exception)
