"""Cached gradients: a batch encoded in parts has the loss and gradient of the whole, in a part's memory."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_retina import config, methods
from ssl_retina.bench import step as bench
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock
from ssl_retina.errors import ConfigError
from ssl_retina.models import parts
from ssl_retina.plan import counting, forecast
from ssl_retina.train import setup

CLOCK = Clock(step=2, total=10, seed=3)
NAMES = ("simclr", "mocov3", "vicreg", "mae_contrast")
EVERY = pytest.mark.parametrize("name", NAMES)


def run(name: str, **changes: Any) -> Run:
    """Drop path in both blocks."""
    method = {**tiny.METHODS[name], "recipe": "mae"}
    return tiny.run("shards", "out", method=method, model__drop_path=0.5, **changes)  # type: ignore[arg-type]


def batch(samples: int, *, size: int = 32) -> Batch:
    """Two views of drawn pixels; the first three samples are of one patient."""
    given = bench.drawn(methods.load("simclr").views(methods.load("simclr").Config(), size), samples)
    given.group[:3] = 0
    return given


def answered(settings: Run, given: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss, logs and features; and the gradients."""
    method = setup.build_method(settings)[0].train()
    lowered = torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.train.precision == "bf16")
    with lowered:
        output = method(given, CLOCK)
    output.loss.backward()
    told = {"loss": output.loss.detach(), **output.logs, "features": output.features}
    return told, {key: one.grad for key, one in method.named_parameters() if one.grad is not None}


@EVERY
@pytest.mark.parametrize("recomputed", [False, True])
def test_parts_have_the_loss_and_gradient_of_the_whole(name: str, *, recomputed: bool) -> None:
    """Seven samples in parts of three, with drop path, relatives, and blocks computed once more in a part."""
    given = batch(7)
    whole = answered(run(name), given)
    cached = answered(run(name, train__encoder_batch=3, train__activation_checkpointing=recomputed), given)
    for mine, other in zip(whole, cached, strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-5, msg=key)
    right, found = (torch.cat([one.flatten() for one in each[1].values()]) for each in (whole, cached))
    assert float((right - found).norm() / right.norm()) < 1e-5


@EVERY
def test_the_comparison_sees_parts_that_are_cut_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss alone does not."""
    given = batch(7)
    whole = answered(run(name), given)
    again = parts.checkpoint

    def first_only(function: Callable[[slice], Any], stretch: slice, **options: Any) -> Any:
        if stretch.start == 0:
            return again(function, stretch, **options)
        with torch.no_grad():
            return function(stretch)

    monkeypatch.setattr(parts, "checkpoint", first_only)
    cut = answered(run(name, train__encoder_batch=3), given)
    torch.testing.assert_close(cut[0]["loss"], whole[0]["loss"], rtol=1e-4, atol=1e-5)
    key = "encoder.vit.blocks.0.mlp.fc1.weight"
    assert float((cut[1][key] - whole[1][key]).norm() / whole[1][key].norm()) > 0.1


def test_gradients_of_many_parts_are_not_summed_in_bf16() -> None:
    """Cast weights that parts shared would collect their gradients in bf16: here one part a sample."""
    given = batch(32)
    exact = answered(run("simclr"), given)[1]
    key = "encoder.vit.blocks.1.mlp.fc2.weight"

    def error(**changes: Any) -> float:
        found = answered(run("simclr", train__precision="bf16", **changes), given)[1][key]
        return float((found - exact[key]).norm() / exact[key].norm())

    assert error(train__encoder_batch=1) < 1.1 * error()


@EVERY
def test_without_gradient_parts_are_encoded_once(name: str) -> None:
    method: Any = setup.build_method(run(name, train__encoder_batch=2))[0].eval()
    sizes: list[int] = []
    method.encoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    with torch.no_grad():
        method(batch(5), CLOCK)
    assert sizes == [2, 2, 1] * 2


class Peak(TorchDispatchMode):
    """The most bytes that tensors made while it is on hold at one time, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage._cdata in self._known:
            return
        size, address = storage.nbytes(), storage._cdata
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.now -= size
            del self._known[address]

        self._known[address] = weakref.finalize(storage, gone)


def peak(settings: Run, given: Batch) -> int:
    """Bytes beside weights and batch, over forward and backward."""
    method = setup.build_method(settings)[0].train()
    with Peak() as measured:
        method(given, CLOCK).loss.backward()
    return measured.most


@pytest.mark.slow
def test_memory_falls_to_that_of_a_part() -> None:
    """Of 16 samples in parts of 2; and what `check` counts is near what a real step holds.

    Here with three times the gradients: their sums, those of a part, and what a sum is written to.
    """
    given = batch(16, size=64)
    small = {"model__image_size": 64, "model__depth": 1}
    settings = [run("simclr", **small, **more) for more in ({}, {"train__encoder_batch": 2})]
    whole, cached = (peak(one, given) for one in settings)
    assert cached < 0.3 * whole
    for one, real in zip(settings, (whole, cached), strict=True):
        work = counting.count(one)
        kept = work.kept * 16 + forecast._part(one, work, 16)
        assert real == pytest.approx(kept + 3 * 4 * work.trained, rel=0.3)


def test_methods_that_do_not_encode_in_parts_refuse() -> None:
    with pytest.raises(ConfigError, match=r"encoder_batch \(4\) is not for mae: .* set train.accumulate"):
        run("mae", train__encoder_batch=4)
    with pytest.raises(ConfigError, match=r"is not for dinov2: .* leave it out"):
        run("dinov2", train__encoder_batch=4)
    assert {name for name in methods.available() if methods.load(name).Config.encodes_in_parts} == set(NAMES)
    assert config.Train(steps=1).encoder_batch is None
