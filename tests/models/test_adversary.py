"""The head that guesses the camera: its gradient against the formula, what it leaves alone, every method."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina import config, methods
from ssl_retina.contract import UNKNOWN, Batch, Clock, Output, uniform
from ssl_retina.models import adversary
from ssl_retina.sections import Adversary
from ssl_retina.train import setup

SMALL: dict[str, dict[str, Any]] = {
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 4},
    "mae_contrast": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 4},
    "ijepa": {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 4},
    **{name: {"prototypes": 20, "hidden": 16, "local_views": 2} for name in ("dino", "ibot", "dinov2")},
}
DEVICES = torch.tensor([0, 2, UNKNOWN, 1, 0, UNKNOWN])
CLOCK = Clock(3, 10, 0)


def built(name: str, weight: float) -> tuple[nn.Module, Batch]:
    """A method of one block, with or without a head, and a batch of six."""
    values = {
        "out": "o",
        "data": {"shards": ["s"], "batch_size": 6},
        "model": {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        "method": {"name": name, **SMALL.get(name, {})},
        "adversary": {"weight": weight, "hidden": 7, "devices": 5},
        "train": {"steps": 10, "precision": "fp32"},
    }
    method, spec = setup.build_method(config.parse(values, methods.config_type))
    position = torch.arange(6)

    def drawn(count: int, size: int) -> Tensor:
        images = [uniform(1, f"{size}", position, 3 * size * size, view) for view in range(count)]
        return torch.stack(images).view(count, 6, 3, size, size)

    local = drawn(spec.local_views, spec.local_size) if spec.local_views else None
    large = drawn(spec.global_views, spec.global_size)
    fields = torch.full((len(large), 6, 4), float("nan"))
    return method, Batch(large, local, ("k",) * 6, position, position, fields, device=DEVICES)


def gradients(method: nn.Module, output: Output) -> dict[str, Tensor]:
    method.zero_grad()
    output.loss.backward()
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in method.named_parameters()
    }


def test_the_ramp_is_the_papers() -> None:
    assert adversary.ramp(0.0) == 0.0
    assert adversary.ramp(0.1) == pytest.approx(0.4621, abs=1e-4)
    assert adversary.ramp(1.0) == pytest.approx(0.9999, abs=1e-4)


@pytest.mark.parametrize("name", ["mae", "simclr"])
def test_the_gradient_is_that_of_the_formula(name: str) -> None:
    """Encoder: the method's less factor times the guess's; head: the guess's own, over all samples."""
    plain, batch = built(name, 0.0)
    expected = gradients(plain, plain(batch, CLOCK))
    method, _ = built(name, 0.8)
    pooled: list[Tensor] = []
    encoder: Any = method.encoder
    encoder.register_forward_hook(lambda _, __, tokens: pooled.append(encoder.pool(tokens)))
    found = gradients(method, method(batch, CLOCK))
    torch.manual_seed(0)
    pooled.clear()
    method(batch, CLOCK)
    rows = torch.cat(pooled)
    head: Any = method.adversary
    views = len(rows) // 6
    losses = [
        functional.cross_entropy(head.layers(row[None]), DEVICES[number % 6][None])
        for number, row in enumerate(rows)
        if DEVICES[number % 6] != UNKNOWN
    ]
    assert len(losses) == 4 * views
    method.zero_grad()
    (sum(losses) / len(rows)).backward()  # type: ignore[union-attr]
    factor = 0.8 * adversary.ramp(0.3)
    rounding = 1e-4 * max(float(one.abs().max()) for one in expected.values())
    for key, parameter in method.named_parameters():
        guess = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = guess if key.startswith("adversary.") else expected[key] - factor * guess
        assert (found[key] - wanted).abs().max() <= rounding, key
    name = "encoder.vit.blocks.0.attn.qkv.weight"
    assert (found[name] - expected[name]).abs().max() > 10 * rounding


@pytest.mark.parametrize("name", methods.available())
def test_every_method_takes_it_and_keeps_its_loss(name: str) -> None:
    plain, batch = built(name, 0.0)
    method, _ = built(name, 1.0)
    own = {key: one for key, one in method.state_dict().items() if not key.startswith("adversary.")}
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(one, plain.state_dict()[key]) for key, one in own.items())
    first, second = plain(batch, CLOCK), method(batch, CLOCK)
    assert torch.equal(first.loss, second.loss)
    assert set(second.logs) - set(first.logs) == {"device_accuracy", "device_loss"}
    assert second.logs["device_loss"] > 0
    found = gradients(method, second)
    assert found["adversary.layers.0.weight"].abs().max() > 0
    exported: Any = method.exported()  # type: ignore[operator]
    assert not [key for key in exported.state_dict() if "adversary" in key]


def test_unknown_devices_carry_no_loss() -> None:
    method, batch = built("mae", 1.0)
    for device in (None, torch.full((6,), UNKNOWN)):
        output = method(dataclasses.replace(batch, device=device), CLOCK)
        found = gradients(method, output)
        assert output.logs["device_loss"] == output.logs["device_accuracy"] == 0
        assert all(not one.any() for key, one in found.items() if key.startswith("adversary."))


def test_accuracy_is_that_of_the_known() -> None:
    method, batch = built("mae", 1.0)
    head: Any = method.adversary
    with torch.no_grad():
        head.layers[2].weight.zero_()
        head.layers[2].bias.copy_(torch.tensor([1.0, 0, 0, 0, 0]))
    assert method(batch, CLOCK).logs["device_accuracy"] == 0.5  # two of the four known are device 0


def test_an_evaluation_does_not_see_it() -> None:
    method, batch = built("simclr", 1.0)
    output = method.eval()(batch, CLOCK)
    assert "device_accuracy" not in output.logs
    assert set(method.train()(batch, CLOCK).logs) > set(output.logs)


def test_off_is_off() -> None:
    method, _ = built("mae", 0.0)
    assert not hasattr(method, "adversary")
    assert Adversary().weight == 0
