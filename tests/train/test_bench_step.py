"""`bench step`: both ways do the same work, and the figures follow from what was measured."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from typer.testing import CliRunner

from ssl_retina.bench import step as bench
from ssl_retina.cli import app
from ssl_retina.contract import Clock
from ssl_retina.errors import InputError
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group


@pytest.mark.parametrize("name", sorted(tiny.METHODS))
def test_both_ways_take_the_same_steps(name: str, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, tmp_path / "run", method=dict(tiny.METHODS[name]))
    with process_group(), setup.deterministic():
        batch = bench.drawn(setup.build_method(run)[1], 5)
        ways = bench.Ours(run, batch), bench.Plain(run, batch)
        fresh = {key: tensor.clone() for key, tensor in ways[1].method.state_dict().items()}
        for way in ways:
            for number in range(3):
                way.step(Clock(number, run.train.steps, run.seed))
        ours, plain = (way.method.state_dict() for way in ways)
    assert any(not torch.equal(plain[key], fresh[key]) for key in fresh)
    for key, tensor in plain.items():
        torch.testing.assert_close(ours[key].cpu(), tensor.cpu(), rtol=1e-4, atol=1e-5, msg=key)


def test_figures(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny.values(tmp_path, tmp_path / "run")))
    words = ["bench", "step", str(config), "--batch", "4", "--steps", "1", "--rounds", "2", "--json"]
    done = CliRunner().invoke(app, [*words, "method.mask_ratio=0.5", "model.drop_path=0"])
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["steps"]
    assert one["method"] == "mae"
    assert one["batch"] == 4
    assert len(one["ratios"]) == 2
    assert min(one["ratios"]) <= one["ratio"] <= max(one["ratios"])
    share = one["images_per_second"] * one["gflop_an_image"] / one["matrix_tflop_per_second"] / 1000
    assert one["share_of_matrix_rate"] == pytest.approx(share)
    assert not (tmp_path / "run").exists()


def test_flops_are_those_of_the_layers(tmp_path: Path) -> None:
    """MAE, by hand: linear layers and attention of 8 kept of 16 patches, times 3 for the backward pass."""
    run = tiny.run(tmp_path, tmp_path / "run", method__mask_ratio=0.5)
    with process_group(), setup.deterministic():
        found = bench.flops(run, bench.drawn(setup.build_method(run)[1], 2)) / 2

    def blocks(tokens: int, width: int, depth: int) -> int:
        linear = 12 * width * width * tokens  # qkv 3, projection 1, perceptron 8
        return depth * 2 * (linear + 2 * tokens * tokens * width)

    forward = blocks(9, 192, 2) + blocks(17, 32, 1)
    embedding = 2 * 16 * 192 * 192 + 2 * 9 * 192 * 32 + 2 * 8 * 32 * 192
    assert found == pytest.approx(3 * (forward + embedding), rel=0.05)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(InputError, match="--rounds 0"):
        bench.Plan(4, rounds=0)
