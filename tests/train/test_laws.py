"""Laws 3 and 4 for MAE on the real engine: two gloo ranks equal one, a resumed run equals a whole one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import torch
from torch import Tensor

from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source
from ssl_retina.train import checkpoint
from ssl_retina.train.engine import process_group

COSINES = {"positive_similarity"}
"""They cross zero, where a relative difference says nothing."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case with one rank, in this process."""
    folder = tmp_path_factory.mktemp("one")
    tiny.make_shards(folder / "shards")
    with process_group():
        ranks.everything(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, one: Path) -> Path:
    """Every case with two ranks, and the run that one rank left at step 6 continued by two."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(one / "shards", folder / "shards")
    shutil.copytree(one / "half", folder / "from-one")
    tiny.on_ranks("ranks.py", folder, count=2)
    return folder


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory, two: Path) -> Path:
    """The run that two ranks left at step 6 continued by one."""
    folder = tmp_path_factory.mktemp("back")
    shutil.copytree(two / "shards", folder / "shards")
    shutil.copytree(two / "half", folder / "from-two")
    with process_group():
        ranks.train(folder, "from-two")
    return folder


def ending(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads(run_dir.with_name(f"{run_dir.name}.json").read_text()))


def lines(run_dir: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "clock"} for line in found]


def tensors(run_dir: Path) -> dict[str, Tensor]:
    folder = checkpoint.newest(run_dir)
    return checkpoint.load_weights(folder) | checkpoint.load_moments(folder)


def assert_bit_equal(left: Path, right: Path) -> None:
    assert lines(left) == lines(right)
    ours, theirs = tensors(left), tensors(right)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    facts = [checkpoint.load_facts(checkpoint.newest(folder)) for folder in (left, right)]
    for key in ("step", "samples", "optimizer_steps", "skipped", "skipped_in_a_row"):
        assert facts[0][key] == facts[1][key]


def assert_close(left: Path, right: Path, tolerance: float = 2e-5) -> None:
    ours, theirs = tensors(left), tensors(right)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=1e-3, msg=name)
    assert_lines_close(lines(left), lines(right))


def assert_lines_close(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    for mine, other in zip(left, right, strict=True):
        assert {*mine} ^ {*other} <= {"knn_auroc", "knn_auroc_low", "knn_auroc_high"}  # some runs have labels
        for key in mine.keys() & other.keys():
            absolute = 1e-4 if key in COSINES else 1e-6
            assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=absolute), (mine["step"], key)


def test_a_cosine_near_zero_is_compared_absolutely() -> None:
    """Other numbers are not: between worlds a cosine of 2e-3 is off by 1e-6, whatever its size."""
    line = {"step": 1, "loss": 2e-3, "positive_similarity": 2e-3}
    assert_lines_close([line], [{**line, "positive_similarity": 2e-3 + 5e-5}])
    for wrong in ({"positive_similarity": 2e-3 + 2e-4}, {"loss": 2e-3 + 5e-5}):
        with pytest.raises(AssertionError):
            assert_lines_close([line], [{**line, **wrong}])


def test_the_runs_learn_and_log_every_field(one: Path, two: Path) -> None:
    """Without this the comparisons below could compare standstill."""
    for folder in (one, two):
        found = lines(folder / "whole")
        assert [line["step"] for line in found] == list(range(1, tiny.STEPS + 1))
        assert found[-1]["loss"] < 0.9 * found[0]["loss"]
        assert {"held_out_loss", "feature_rank"} <= found[5].keys()
        assert found[-1]["samples"] == tiny.STEPS * 8
        assert all(line["gradient_norm"] > 0 for line in found)


@pytest.mark.parametrize("case", ["whole", "zero2", "accumulated"])
def test_law_3_two_ranks_equal_one(one: Path, two: Path, case: str) -> None:
    """Loss, gradient norm, held-out loss, weights and moments after 12 steps with drop path."""
    assert_close(one / case, two / case)


def test_law_3_two_ranks_equal_one_in_bf16(one: Path, two: Path) -> None:
    """Gradients are reduced in bf16 there, so only nearly."""
    for mine, other in zip(lines(one / "bf16"), lines(two / "bf16"), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=0.02)


@pytest.mark.parametrize("world", ["one", "two"])
def test_accumulation_and_zero_stage_change_nothing(request: pytest.FixtureRequest, world: str) -> None:
    folder: Path = request.getfixturevalue(world)
    assert_close(folder / "whole", folder / "accumulated")
    assert_close(folder / "whole", folder / "zero2", tolerance=1e-6)


@pytest.mark.parametrize("world", ["one", "two"])
def test_law_4_a_stopped_and_resumed_run_is_the_whole_run(request: pytest.FixtureRequest, world: str) -> None:
    """F73: a signal on one rank stops all at one step; weights, moments, counters and lines, bit for bit."""
    folder: Path = request.getfixturevalue(world)
    half = ending(folder / "half")
    assert half["ended"] == "RequeueError"
    assert half["code"] == 75
    assert "SIGUSR1 and saved at step 6 of 12; the same command continues" in half["message"]
    assert checkpoint.newest(folder / "half").name == "step-00000006"
    assert ending(folder / "resumed") == {"ended": "done", "steps": 12, "from": 6}
    assert_bit_equal(folder / "whole", folder / "resumed")


@pytest.mark.parametrize("world", ["one", "two"])
def test_zero_stage_3_is_the_whole_run_bit_for_bit(request: pytest.FixtureRequest, world: str) -> None:
    """Weights, moments, held-out loss and kNN; only the norm is summed in another order. Resumed or not."""
    folder: Path = request.getfixturevalue(world)
    for case in ("zero2", "zero3", "zero3-resumed"):
        ours, whole = tensors(folder / case), tensors(folder / "whole")
        assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []
        for mine, other in zip(lines(folder / case), lines(folder / "whole"), strict=True):
            for key in other:
                assert mine[key] == (
                    pytest.approx(other[key], rel=1e-5) if key == "gradient_norm" else other[key]
                )
    assert ending(folder / "zero3-resumed")["from"] == 6


def test_the_online_knn_is_the_same_at_every_stage_and_in_every_world(one: Path, two: Path) -> None:
    for step in (5, 11):
        scores = [
            [lines(folder / case)[step][f"knn_auroc{end}"] for end in ("", "_low", "_high")]
            for folder in (one, two)
            for case in ("zero2", "zero3")
        ]
        assert scores[0] == scores[1]
        assert scores[2] == scores[3]
        assert scores[0] == pytest.approx(scores[2], abs=1e-6)
        assert 0 <= scores[0][1] <= scores[0][0] <= scores[0][2] <= 1


def test_f88_law_4_at_another_number_of_ranks(one: Path, two: Path, back: Path) -> None:
    assert ending(two / "from-one")["from"] == ending(back / "from-two")["from"] == 6
    assert_close(one / "whole", two / "from-one")
    assert_close(one / "whole", back / "from-two")


@pytest.mark.parametrize("world", ["one", "two"])
def test_f61_f64_a_nan_on_one_rank_skips_the_step_on_all(request: pytest.FixtureRequest, world: str) -> None:
    """Law 12: counted, logged as null, weights untouched and finite; a resume in between changes nothing."""
    folder: Path = request.getfixturevalue(world)
    found = lines(folder / "broken")
    assert [line["step"] for line in found if line["loss"] is None] == [5, 6]
    assert [line["gradient_norm"] for line in found if line["loss"] is None] == [None, None]
    assert [line["skipped"] for line in found] == [0] * 4 + [1] + [2] * 7
    assert lines(folder / "whole")[:4] == found[:4]
    assert checkpoint.load_facts(checkpoint.newest(folder / "broken"))["optimizer_steps"] == 10
    assert all(bool(torch.isfinite(value).all()) for value in tensors(folder / "broken").values())
    assert_bit_equal(folder / "broken", folder / "broken-resumed")
    assert_the_samples_are_named(folder, last=1 if world == "two" else 0)


def assert_the_samples_are_named(folder: Path, last: int) -> None:
    """Those of the rank whose loss was broken, by the global order; after a resume each step once."""
    data = tiny.run(folder / "shards", folder / "broken").data
    source = open_source(data, ViewSpec("mae", 1, 32), seed=3)
    for name in ("broken", "broken-resumed"):
        noted = [json.loads(line) for line in (folder / name / "skipped.jsonl").read_text().splitlines()]
        assert [line["step"] for line in noted] == [5, 6]
        for line in noted:
            assert line["not_finite"] == "loss"
            (only,) = line["ranks"]
            count = 8 // (last + 1)
            batches = source.batches((line["step"] - 1) * 8, rank=last, world=last + 1, micro_batch=count)
            assert only == {"rank": last, "keys": list(next(batches).keys)}


@pytest.mark.parametrize("world", ["one", "two"])
def test_f62_too_many_skipped_steps_stop_the_run(request: pytest.FixtureRequest, world: str) -> None:
    folder: Path = request.getfixturevalue(world)
    end = ending(folder / "hopeless")
    assert end["ended"] == "NumericalError"
    assert end["code"] == 5
    assert "not finite in 3 steps in a row, up to step 9" in end["message"]
    assert checkpoint.newest(folder / "hopeless").name == "step-00000008"
    assert all(bool(torch.isfinite(value).all()) for value in tensors(folder / "hopeless").values())
