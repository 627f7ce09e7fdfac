"""What every file in `methods/` must keep; a new file is tested without a line here."""

import dataclasses
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_retina import config, methods
from ssl_retina.contract import Batch, Clock, ViewSpec, uniform
from ssl_retina.models import encoder
from ssl_retina.models.encoder import Encoder

CLOCK = Clock(step=1, total=10, seed=0)
MODEL = config.Model(name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=0.2)

SMALL = {"prototypes": 257, "hidden": 96, "bottleneck": 24}
"""In place of the papers' 65,536 prototypes, which cost seconds a pass and prove nothing more."""

pytestmark = pytest.mark.parametrize("name", methods.available())


class PlainWeights:
    """`contract.Weights` without an engine: the module's own fp32 parameters are the masters."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().float()

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        masters = dict(student.named_parameters())
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                parameter.lerp_(self(masters[name]), 1 - momentum)


def _file(name: str) -> ModuleType:
    return methods.load(name)


def _config(name: str) -> Any:
    """The method's own values, but for widths of thousands, which would take minutes here."""
    kind = _file(name).Config
    small = {key: value for key, value in SMALL.items() if key in kind.model_fields}
    own = kind.model_validate({"name": name, **small})
    wide = {key: 256 for key, value in own if type(value) is int and value >= 4096}
    return kind.model_validate({"name": name, **small, **wide})


def _method(name: str) -> Any:
    torch.manual_seed(0)
    return _file(name).Method(_config(name), partial(encoder.build, MODEL, checkpointing=False))


def _views(count: int, batch: Tensor, size: int, purpose: str) -> Tensor:
    drawn = [uniform(0, purpose, batch, 3 * size * size, view) for view in range(count)]
    return torch.stack(drawn).view(count, len(batch), 3, size, size) * 4 - 2


def _batch(spec: ViewSpec, start: int, size: int) -> Batch:
    position = torch.arange(start, start + size)
    return Batch(
        global_views=_views(spec.global_views, position, spec.global_size, "global"),
        local_views=_views(spec.local_views, position, spec.local_size, "local")
        if spec.local_views
        else None,
        keys=tuple(map(str, position.tolist())),
        position=position,
        group=position // 2,
        field_of_view=torch.full((spec.global_views, size, 4), float("nan")),
    )


def _spec(name: str) -> ViewSpec:
    spec = _file(name).views(_config(name), MODEL.image_size)
    assert isinstance(spec, ViewSpec)
    return spec


def test_config_is_a_frozen_section_that_knows_its_name(name: str) -> None:
    kind = methods.config_type(name)
    assert kind is not None
    assert issubclass(kind, config.Section)
    assert _config(name).name == name
    with pytest.raises(ValueError, match="name"):
        kind.model_validate({"name": "another"})
    run = config.parse(
        {
            "out": "o",
            "data": {"shards": "s", "batch_size": 8},
            "method": {"name": name},
            "train": {"steps": 1},
        },
        methods.config_type,
    )
    assert config.parse(run.dump(), methods.config_type).dump() == run.dump()


def test_views_ask_for_something(name: str) -> None:
    assert _spec(name).global_views >= 1
    assert _spec(name).global_size == MODEL.image_size


def test_gives_a_finite_fp32_scalar_with_a_gradient(name: str) -> None:
    method = _method(name).train()
    output = method(_batch(_spec(name), 0, 4), CLOCK)
    assert output.loss.shape == ()
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)
    assert all(not value.requires_grad and value.ndim == 0 for value in output.logs.values())
    assert output.features is None or (output.features.ndim == 2 and not output.features.requires_grad)


def test_bf16_autocast_keeps_the_loss_fp32(name: str) -> None:
    method = _method(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(_batch(_spec(name), 0, 4), CLOCK)
    assert output.loss.dtype == torch.float32
    assert bool(output.loss.isfinite())
    assert all(p.dtype == torch.float32 for p in method.parameters())


def test_randomness_comes_from_the_clock_alone(name: str) -> None:
    method, batch = _method(name).train(), _batch(_spec(name), 0, 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = method(batch, CLOCK).loss.detach()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, method(batch, CLOCK).loss)
    assert not torch.equal(first, method(batch, dataclasses.replace(CLOCK, seed=1)).loss)


def test_rank_and_keys_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = _method(name).train(), _batch(_spec(name), 0, 4)
    first = method(batch, CLOCK).loss
    monkeypatch.setenv("RANK", "3")
    assert torch.equal(first, method(dataclasses.replace(batch, keys=("a", "b", "c", "d")), CLOCK).loss)


def test_samples_are_permuted_freely(name: str) -> None:
    """What belongs to a sample travels with it: the order within a batch changes nothing."""
    method, batch = _method(name).train(), _batch(_spec(name), 0, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = Batch(
        batch.global_views[:, order],
        None if batch.local_views is None else batch.local_views[:, order],
        tuple(batch.keys[number] for number in order.tolist()),
        batch.position[order],
        batch.group[order],
        batch.field_of_view[:, order],
    )
    torch.testing.assert_close(method(batch, CLOCK).loss, method(shuffled, CLOCK).loss, rtol=1e-5, atol=1e-6)


def test_after_step_and_export(name: str) -> None:
    method = _method(name).train()
    method.after_step(CLOCK, PlainWeights())
    product = method.exported()
    assert isinstance(product, Encoder), "release/export.py takes `.vit` of it"
    assert product in set(method.modules())
    assert not any("mask_token" in key for key in product.vit.state_dict())


def test_a_few_steps_lower_the_loss(name: str) -> None:
    """Where a teacher's targets change too, the part of the loss that can be learned (`divergence`)."""
    method, batch = _method(name).train(), _batch(_spec(name), 0, 8)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-4)
    losses = []
    for step in range(8):
        clock = dataclasses.replace(CLOCK, step=step)
        output = method(batch, clock)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step(clock, PlainWeights())
        losses.append(output.logs.get("divergence", output.loss).item())
    assert losses[-1] < losses[0]


def test_state_dict_is_all_there_is(name: str) -> None:
    """A fresh method with the state of another gives its loss: nothing lives beside the state dict."""
    method, batch = _method(name).train(), _batch(_spec(name), 0, 4)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01)
    torch.manual_seed(99)
    other = _file(name).Method(_config(name), partial(encoder.build, MODEL, checkpointing=False)).train()
    assert isinstance(other, nn.Module)
    other.load_state_dict(method.state_dict(), strict=True)
    assert torch.equal(method(batch, CLOCK).loss, other(batch, CLOCK).loss)
