"""`bench step`: all ways do the same work, and the figures follow from what was measured."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ssl_retina.bench import examples, loops
from ssl_retina.bench import step as bench
from ssl_retina.cli import app
from ssl_retina.cli import bench as cli
from ssl_retina.contract import Clock
from ssl_retina.errors import InputError
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group


@pytest.mark.parametrize("name", sorted(tiny.METHODS))
def test_all_ways_take_the_same_steps(name: str, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, tmp_path / "run", method=dict(tiny.METHODS[name]))
    with process_group(), setup.deterministic():
        batch = bench.drawn(setup.build_method(run)[1], 5)
        ways = loops.Ours(run, batch), loops.Plain(run, batch), loops.distributed(run, batch)
        fresh = {key: tensor.clone() for key, tensor in ways[1].method.state_dict().items()}
        for way in ways:
            for number in range(3):
                way.step(Clock(number, run.train.steps, run.seed))
        ours, plain, ddp = (way.method.state_dict() for way in ways)
    assert any(not torch.equal(plain[key], fresh[key]) for key in fresh)
    for key, tensor in plain.items():
        torch.testing.assert_close(ours[key].cpu(), tensor.cpu(), rtol=1e-4, atol=1e-5, msg=key)
        torch.testing.assert_close(ddp[key].cpu(), tensor.cpu(), rtol=1e-4, atol=1e-5, msg=key)


WORK = {"mae": (0.8, 1.0), "simclr": (0.95, 1.05), "mocov3": (0.95, 1.05)}
"""Our FLOPs by lightly's: MAE here embeds visible patches alone, and its last block answers for hidden ones
alone; what else differs are similarities of small batches."""


@pytest.mark.parametrize("name", sorted(WORK))
def test_lightlys_example_learns_with_as_much_work(name: str, tmp_path: Path) -> None:
    changes = {"data__batch_size": 6, "optim__learning_rate": 1e-3}
    run = tiny.run(tmp_path, tmp_path / "run", method=dict(tiny.METHODS[name]), **changes)
    with process_group(), setup.deterministic():
        batch = bench.drawn(setup.build_method(run)[1], 6)
        other = examples.example(run, batch)
        assert other is not None
        with FlopCounterMode(display=False) as counter:
            other.step(Clock(0, 10, 0))
        assert torch.are_deterministic_algorithms_enabled()
        low, high = WORK[name]
        assert low < bench.flops(run, batch) / counter.get_total_flops() < high
        first = float(other.total_loss)
        for number in range(1, 6):
            before = float(other.total_loss)
            other.step(Clock(number, 10, 0))
        assert 0 < float(other.total_loss) - before < first


def test_a_method_without_an_example_is_held_against_two(tmp_path: Path) -> None:
    run = tiny.run(tmp_path, tmp_path / "run", method=dict(tiny.METHODS["vicreg"]))
    with process_group():
        assert list(bench.beside(run, bench.drawn(setup.build_method(run)[1], 5))) == ["plain", "ddp"]


def test_figures(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny.values(tmp_path, tmp_path / "run")))
    words = ["bench", "step", str(config), "--batch", "4", "--steps", "1", "--rounds", "2", "--json"]
    done = CliRunner().invoke(app, [*words, "method.mask_ratio=0.5", "model.drop_path=0"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (one,) = told["configs"]
    assert (told["steps"], told["rounds"]) == (1, 2)
    assert (one["method"], one["batch"]) == ("mae", 4)
    assert list(one["beside"]) == ["plain", "ddp", "lightly"]
    for other in one["beside"].values():
        assert len(other["ratios"]) == 2
        assert other["lowest"] == min(other["ratios"]) <= other["ratio"] <= other["highest"]
    share = one["images_per_second"] * one["gflop_an_image"] / one["matrix_tflop_per_second"] / 1000
    assert one["share_of_matrix_rate"] == pytest.approx(share)
    assert not (tmp_path / "run").exists()


def test_each_way_is_the_first_of_a_round_in_its_turn(tmp_path: Path) -> None:
    """And a ratio is that of one round: what disturbs a round disturbs both."""
    asked: list[str] = []

    class Way:
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, clock: Clock) -> None:
            asked.append(self.name)

    run = tiny.run(tmp_path, tmp_path / "run")
    ways = {name: Way(name) for name in ("ours", "plain", "ddp")}
    bench._taken(ways, run, bench.Plan(1, 3), lambda _: None)  # type: ignore[arg-type]
    assert asked == ["ours", "plain", "ddp", "plain", "ddp", "ours", "ddp", "ours", "plain"]
    told = bench._beside({"ours": [1.0, 4.0, 1.0], "plain": [2.0, 4.0, 1.5]}, "plain", 8)
    assert told["ratios"] == [2.0, 1.0, 1.5]
    assert told["ratio"] == 1.5


def test_what_is_measured_where_no_config_is_named() -> None:
    """Small and larger ones; a value of the command line is the last word."""
    small, large = cli._runs([], "cpu", None)[0], cli._runs([], "cpu", None)[3]
    assert (small.method_name, small.data.batch_size) == ("mae", 16)
    assert (large.model.name, large.data.batch_size) == ("vit_small_patch16_224", 8)
    assert {run.data.batch_size for run in cli._runs([], "cpu", 4)} == {4}
    assert cli._runs(["data.batch_size=6"], "cuda", None)[0].data.batch_size == 6


def test_flops_are_those_of_the_layers(tmp_path: Path) -> None:
    """MAE, by hand: linear layers and attention of 8 kept of 16 patches, times 3 for the backward pass."""
    run = tiny.run(tmp_path, tmp_path / "run", method__mask_ratio=0.5)
    with process_group(), setup.deterministic():
        found = bench.flops(run, bench.drawn(setup.build_method(run)[1], 2)) / 2

    def blocks(tokens: int, width: int, depth: int) -> int:
        linear = 12 * width * width * tokens  # qkv 3, projection 1, perceptron 8
        return depth * 2 * (linear + 2 * tokens * tokens * width)

    unasked = 2 * (
        9 * 32 * 32 * 9 + 2 * 9 * 17 * 32
    )  # 9 visible tokens are keys and values to the last block
    forward = blocks(9, 192, 2) + blocks(17, 32, 1) - unasked
    embedding = 2 * 8 * 192 * 192 + 2 * 9 * 192 * 32 + 2 * 8 * 32 * 192
    assert found == pytest.approx(3 * (forward + embedding), rel=0.05)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(InputError, match="--rounds 0"):
        bench.Plan(rounds=0)
