"""F63 on the real engine, at ZeRO 1 and 3: a spike is skipped once, three roll back, a fourth time stops."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import spike_ranks
import tiny
import torch
from test_laws import assert_bit_equal, ending, lines, tensors

from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source
from ssl_retina.train import checkpoint, schedule
from ssl_retina.train.engine import process_group

pytestmark = pytest.mark.slow
STAGES = pytest.mark.parametrize("stage", [1, 3])
WORLDS = pytest.mark.parametrize("world", ["one", "two"])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case with one rank, in this process."""
    folder = tmp_path_factory.mktemp("one")
    tiny.make_shards(folder / "shards")
    with process_group():
        spike_ranks.everything(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, one: Path) -> Path:
    """Every case with two ranks, of which the last alone has the bad samples."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(one / "shards", folder / "shards")
    tiny.on_ranks("spike_ranks.py", folder)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest, world: str) -> Path:
    found: Path = request.getfixturevalue(world)
    return found


def facts(run_dir: Path) -> dict[str, Any]:
    return checkpoint.load_facts(checkpoint.newest(run_dir))


def noted(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "skipped.jsonl").read_text().splitlines()]


def keys_at(folder: Path, number: int, *, rank: int, world: int) -> list[str]:
    """The samples of batch `number` (from 0) on a rank."""
    source = open_source(tiny.run(folder / "shards", folder).data, ViewSpec("mae", 1, 32), seed=3)
    count = 8 // world
    return list(next(source.batches(number * 8, rank=rank, world=world, micro_batch=count)).keys)


@STAGES
@WORLDS
def test_f63_a_spike_is_skipped_once_and_leaves_nothing(folder: Path, world: str, stage: int) -> None:
    """Weights, moments and AdamW's count stay; the next step is taken; the numbers are written down."""
    run = folder / f"isolated-{stage}"
    found = lines(run)
    assert [line["skipped"] for line in found] == [0] * 6 + [1] * 3 + [2] * 3
    assert [line["spikes"] for line in found] == [line["skipped"] for line in found]
    states = {checkpoint.step_of(one): one for one in checkpoint.folders(run)}
    loaded = {
        step: checkpoint.load_weights(one) | checkpoint.load_moments(one) for step, one in states.items()
    }
    for step in range(1, 13):
        moved = [name for name in loaded[step] if not torch.equal(loaded[step][name], loaded[step - 1][name])]
        assert bool(moved) == (step not in (7, 10)), step
    assert facts(run)["optimizer_steps"] == 10
    assert len(facts(run)["window"]["losses"]) == 4
    assert found[6]["loss"] > 1000
    assert found[9]["loss"] < 10
    assert found[9]["gradient_norm"] > 1000
    count = 2 if world == "two" else 1
    assert [(line["step"], line["spike"]) for line in noted(run)] == [(7, ["loss"]), (10, ["gradient"])]
    for line in noted(run):
        assert line["loss"] == pytest.approx(found[line["step"] - 1]["loss"])
        for rank, entry in enumerate(line["ranks"]):
            number = line["step"] - 1
            assert entry["keys"] == keys_at(folder, number, rank=rank, world=count)
            assert (entry["loss"] > 1000) == (number == 6 and rank == count - 1)


@STAGES
@WORLDS
@pytest.mark.parametrize("case", ["isolated", "together"])
def test_f63_law_4_a_resumed_run_is_the_whole_run(folder: Path, world: str, stage: int, case: str) -> None:
    """Stopped behind a spike, between two that roll back together, and in the very step of the roll-back."""
    whole, resumed = folder / f"{case}-{stage}", folder / f"{case}-{stage}-resumed"
    assert_bit_equal(whole, resumed)
    assert noted(whole) == noted(resumed)
    assert facts(whole)["window"] == facts(resumed)["window"]
    assert facts(whole)["setbacks"] == facts(resumed)["setbacks"]
    assert ending(resumed)["from"] == (7 if case == "isolated" else 13)


@STAGES
@WORLDS
def test_f63_three_spikes_roll_back(folder: Path, world: str, stage: int) -> None:
    """Weights of step 4 (8 is too near to the spikes 9 to 11), batches from 13 on, half the rate, 12 steps
    of the schedule in the end."""
    run = folder / f"together-{stage}"
    found = lines(run)
    assert [line["step"] for line in found] == [*range(1, 12), *range(13, 22)]
    assert found[11] == {
        "step": 13, "samples": 13 * 8, "skipped": 3, "spikes": 3, "rollbacks": 1, "lost": 9,
        "rolled_back_to": 4, "rate_factor": 0.5,
    }  # fmt: skip
    config = tiny.run(folder / "shards", run)
    for line in found[:11]:
        assert line["learning_rate"] == schedule.learning_rate(config, line["step"] - 1)
    for line in found[12:]:
        assert line["learning_rate"] == 0.5 * schedule.learning_rate(config, line["step"] - 10)
    assert ending(run) == {"ended": "done", "steps": 21, "from": 0}
    assert facts(run)["optimizer_steps"] == 12
    assert facts(run)["setbacks"]["anchors"] == [13, 20]
    assert [checkpoint.step_of(one) for one in checkpoint.folders(run)] == [21, 20, 16, 13]


@STAGES
@WORLDS
def test_f63_the_fourth_time_stops_the_run(folder: Path, world: str, stage: int) -> None:
    """Exit code 5, what was saved among spikes is set aside, the good checkpoint is there and is the newest;
    the same command stops again, and goes on where it is told to."""
    run = folder / f"endless-{stage}"
    for name in (run.name, f"{run.name}-again"):
        end = ending(folder / name)
        assert (end["ended"], end["code"]) == ("NumericalError", 5)
        assert "3 spikes within 4 steps (24, 25, 26) after 3 roll-backs" in end["message"]
        assert "the last good checkpoint is step-00000023; saved too near" in end["message"]
        assert checkpoint.newest(folder / name).name == "step-00000023"
        assert [line["rolled_back_to"] for line in lines(folder / name) if "rolled_back_to" in line] == [
            4, 13, 18,
        ]  # fmt: skip
    assert (run / "checkpoints" / "step-00000024.bad-spikes").is_dir()
    start, good = run / "checkpoints" / "step-00000023", checkpoint.load_facts(checkpoint.newest(run))
    assert good["setbacks"]["rate_factor"] == 0.125
    assert good["optimizer_steps"] == 4
    assert checkpoint.load_weights(start).keys()
    refused = ending(folder / f"{run.name}-changed")
    assert refused["code"] == 4
    assert "train.spikes.enabled: True -> False" in refused["message"]
    assert "--change continues" in refused["message"]


@STAGES
@WORLDS
def test_f63_without_spikes_nothing_changes(folder: Path, world: str, stage: int) -> None:
    """Judged or not, the same bits; only the window is empty where nothing is judged."""
    assert_bit_equal(folder / f"judged-{stage}", folder / f"off-{stage}")
    assert facts(folder / f"off-{stage}")["window"] == {"losses": [], "norms": []}
    assert not (folder / f"judged-{stage}" / "skipped.jsonl").exists()


@STAGES
def test_f63_f64_law_3_two_ranks_equal_one(one: Path, two: Path, stage: int) -> None:
    """The bad samples lie on one rank of two: the same steps are skipped, rolled back to, and taken."""
    for case in ("isolated", "together"):
        name = f"{case}-{stage}"
        ours, theirs = tensors(one / name), tensors(two / name)
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], atol=2e-5, rtol=1e-3, msg=key)
        for mine, other in zip(lines(one / name), lines(two / name), strict=True):
            for key in mine.keys() - {"gradient_norm"}:  # a spike's own is steeper where samples are fewer
                assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), (mine["step"], key)
        assert facts(one / name)["setbacks"] == facts(two / name)["setbacks"]


@WORLDS
def test_f63_stages_offload_and_parts_of_a_batch_go_back_alike(folder: Path, world: str) -> None:
    whole = tensors(folder / "together-1")
    for name in ("together-3", "together-1-offloaded", "together-3-offloaded"):
        other = tensors(folder / name)
        assert [key for key in whole if not torch.equal(whole[key], other[key])] == [], name
    parts = tensors(folder / "together-1-accumulated")
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], atol=2e-5, rtol=1e-3, msg=key)
