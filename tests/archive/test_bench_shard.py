"""`bench shard`: the figures are of the same files in one run, add up, and name what cannot be measured."""

import json
import time
from pathlib import Path

import pytest
from photographs import save
from typer.testing import CliRunner

from ssl_retina.bench import shard as bench
from ssl_retina.cli import app
from ssl_retina.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten drawn photographs, and two files that are none."""
    for number in range(10):
        save(tmp_path / "photos" / f"{number}.png", number, size=200)
    (tmp_path / "photos" / "labels.csv").write_text("file,patient\n")
    (tmp_path / "photos" / "page.jpg").write_text("<html>")
    return tmp_path / "photos"


def test_figures_of_one_run_that_add_up(folder: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "shard", str(folder), "--files", "9", "--rounds", "2", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    (one,) = content["folders"]
    assert one["files"] == 9
    assert 0 < one["megabytes"] < 10
    assert len(one["ratios"]) == content["rounds"] == 2
    assert min(one["ratios"]) <= one["ratio_to_bare"] <= max(one["ratios"])
    assert set(one["parts"]) == set(bench.PARTS)
    total = sum(one["parts"].values()) + one["rest"]
    assert total == pytest.approx(one["seconds_an_image"]["shard"])
    assert one["images_per_second_and_core"] * total == pytest.approx(1)
    assert str(folder.parent) not in done.output


def test_a_slower_part_is_seen_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.Plan(files=4, rounds=1)
    before = bench.measure(folder, plan, lambda _: None)
    encode = bench.encode

    def slow(*words: object) -> object:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return encode(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "encode", slow)
    monkeypatch.setattr(bench.worker, "encode", slow)
    after = bench.measure(folder, plan, lambda _: None)
    assert after["parts"]["encode"] > before["parts"]["encode"] + 0.04
    assert after["parts"]["decode"] < before["parts"]["decode"] + 0.04
    assert after["ratio_to_bare"] > before["ratio_to_bare"]


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="holds no JPEG"):
        bench.measure(tmp_path, bench.Plan(), lambda _: None)
    with pytest.raises(InputError, match="--rounds 0"):
        bench.Plan(rounds=0)
