"""What `check` foretells: kept bytes and memory by hand, figures from their parts."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ssl_retina import config, methods
from ssl_retina.bench import step as bench
from ssl_retina.cli import app
from ssl_retina.config import Run
from ssl_retina.errors import InputError
from ssl_retina.plan import counting, devices, forecast
from ssl_retina.plan.counting import Work
from ssl_retina.train import setup

TINY = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2}
MAE = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4}


def run_of(method: dict[str, object], **train: object) -> Run:
    return config.parse(
        {
            "out": "OUT",
            "data": {"shards": ["SHARDS"], "batch_size": 64},
            "model": TINY,
            "method": method,
            "train": {"steps": 100, "precision": "fp32", **train},
        },
        methods.config_type,
    )


def test_kept_bytes_are_those_that_autograd_keeps() -> None:
    """The same hooks on a real forward pass of six images."""
    run, kept = run_of(MAE), {}
    work = counting.count(run)
    method, spec = setup.build_method(run)
    own = {one.untyped_storage().data_ptr() for one in method.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method.train()(bench.drawn(spec, 6), counting.Clock(1, 100, 0))
    total = sum(storage.nbytes() for storage in kept.values())
    assert 6 * work.kept + work.fixed == pytest.approx(total, rel=0.02)


def test_recomputation_keeps_less_and_takes_longer() -> None:
    plain, recomputed = (counting.count(run_of(MAE, activation_checkpointing=one)) for one in (False, True))
    assert recomputed.kept < 0.7 * plain.kept
    assert recomputed.flops == pytest.approx(plain.flops)
    assert (plain.again, recomputed.again) == (0, pytest.approx(plain.flops / 3))


def test_recomputation_takes_time_and_is_no_work_of_the_model() -> None:
    run, device = run_of(MAE), devices.device("h200")
    work = Work(flops=3e12, kept=1.0, fixed=0.0, trained=1, all=1)
    plain, recomputed = (
        forecast.tell(run, replace(work, again=again), device, world=1, price=None) for again in (0.0, 1e12)
    )
    assert plain["gflop_an_image"] == recomputed["gflop_an_image"] == 3000
    assert plain["hours"] == pytest.approx(recomputed["hours"] * 3 / 4)
    assert recomputed["share_of_matrix_rate"] == pytest.approx(3 / 4)


@pytest.mark.parametrize(("stage", "bytes_each"), [(1, 4 + 12 / 8), (2, 4 + 12 / 8), (3, 4 / 8 + 12 / 8)])
def test_memory_by_stage(stage: int, bytes_each: float) -> None:
    """A billion parameters on 8: weights and masters with moments, as the ZeRO paper counts them."""
    work = Work(flops=1.0, kept=1e6, fixed=0.0, trained=10**9, all=10**9)
    held = forecast.memory(run_of(MAE, zero_stage=stage), work, 8, 10_000)
    buckets = 2 * 100e6
    assert held.states == pytest.approx(bytes_each * 1e9 + buckets)
    assert held.kept == 1e10


def test_figures_follow_from_their_parts() -> None:
    run = run_of(MAE)
    work = Work(flops=2e9, kept=1e6, fixed=0.0, trained=10**6, all=10**6)
    told = forecast.tell(run, work, devices.device("H200"), world=4, price=3.0)
    assert told["device_hours"] == pytest.approx(6400 / told["images_per_second_of_a_device"] / 3600)
    assert told["hours"] == pytest.approx(told["device_hours"] / 4)
    assert told["cost"] == pytest.approx(told["device_hours"] * 3)
    assert told["energy_kwh_at_most"] == pytest.approx(told["device_hours"] * 0.7)
    assert told["fits"]


@pytest.mark.parametrize(
    ("stage", "offload", "on_gpu", "host"),
    [
        (1, "optimizer", 4e9, (12 + 4) * 1e9 / 8),
        (3, "optimizer", 4e9 / 8, (12 + 4) * 1e9 / 8),
        (3, "parameters", 4 * 2e8, (4 + 12 + 4) * 1e9 / 8),
    ],
)
def test_memory_of_what_is_offloaded(stage: int, offload: str, on_gpu: float, host: float) -> None:
    """Masters and moments (12 bytes a parameter) and their gradients; of weights, those in use stay."""
    work = Work(flops=1.0, kept=1e6, fixed=0.0, trained=10**9, all=10**9)
    held = forecast.memory(run_of(MAE, zero_stage=stage, offload=offload), work, 8, 10)
    assert held.states - 2 * 4 * 25e6 == pytest.approx(on_gpu)
    assert held.host == pytest.approx(host)
    assert forecast.memory(run_of(MAE, zero_stage=stage), work, 8, 10).host == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fixed", [0.0, 50e9])
def test_what_fits_leaves_a_margin_of_the_card(precision: str, fixed: float) -> None:
    """As many samples as the figure says fit, one more does not; a bf16 copy of the weights is in both."""
    card = replace(devices.device("h200"), memory=300e9)
    work = Work(flops=1e9, kept=1e8, fixed=fixed, trained=10**10, all=2 * 10**10)
    run = run_of(MAE, precision=precision)

    def told(samples: int) -> dict[str, Any]:
        data = run.data.model_copy(update={"batch_size": 4 * samples})
        return forecast.tell(run.model_copy(update={"data": data}), work, card, world=4, price=None)

    most = told(1)["largest_samples_per_forward"]
    assert most > 1
    assert told(most)["fits"]
    assert told(most)["memory_gib"] <= 0.92 * told(most)["device_memory_gib"]
    assert not told(most + 1)["fits"]


def test_nothing_fits_where_gradients_alone_do_not() -> None:
    work = Work(flops=1e9, kept=1e6, fixed=0.0, trained=12 * 10**9, all=12 * 10**9)
    told = forecast.tell(run_of(MAE), work, devices.device("h200"), world=64, price=None)
    assert not told["fits"]
    assert told["largest_samples_per_forward"] == 0


def test_fp32_has_a_stated_rate_of_its_own() -> None:
    """TF32 is never switched on: an H200's plain cores do 67 TFLOP/s, not half of 989."""
    work = Work(flops=1e12, kept=1.0, fixed=0.0, trained=1, all=1)
    lowered, plain = (run_of(MAE, precision=one) for one in ("bf16", "fp32"))
    for name, stated in {"h200": (989, 67), "a100": (312, 19.5), "l4": (121, 30.3)}.items():
        told = [
            forecast.tell(run, work, devices.device(name), world=1, price=None) for run in (lowered, plain)
        ]
        rates = [one["images_per_second_of_a_device"] for one in told]
        assert rates == pytest.approx([0.73 * one for one in stated])
        assert [one["share_of_matrix_rate"] for one in told] == pytest.approx([1, 1])


def test_this_machine_is_tried_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(forecast.bench, "matrix_rate", lambda precision: 7e9)
    monkeypatch.setattr(forecast, "_timed", lambda run: 1.0)
    monkeypatch.setattr(
        forecast, "images_per_second", lambda run, work, own: rates.append(own.matrix("fp32")) or 1.0
    )
    forecast.here(run_of(MAE))
    assert rates == [7e9]


def test_an_unknown_device_is_told_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"--device h20: not known.*one of: a100, "):
        devices.device("h20")


def test_check_needs_no_shards_to_foretell(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "data: {batch_size: 64}\n"
        "model: {name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, depth: 2}\n"
        "method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 4}\n"
        "train: {steps: 10, precision: fp32}\n"
    )
    words = ["check", str(path), "--device", "h200", "--devices", "2", "--price", "2.5", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["forecast"]["devices"] == 2
    assert told["forecast"]["cost"] > 0
    assert told["this_machine"]["foretold_over_measured"] > 0
    refused = CliRunner().invoke(app, ["check", str(path), "--device", "h200", "--devices", "3"])
    assert isinstance(refused.exception, InputError)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--devices", "2"], "--devices is about a forecast.*--device NAME"),
        (["--price", "2.5"], "--price is about a forecast.*--device NAME"),
        (["--device", "h200", "--processes", "2"], "--processes 2 counts ranks here.*--devices 2"),
    ],
)
def test_words_that_would_be_overlooked_are_refused(words: list[str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text("method: {name: mae}\n")
    refused = CliRunner().invoke(app, ["check", str(path), *words])
    assert isinstance(refused.exception, InputError)
    assert re.search(why, str(refused.exception))
