"""Gradients joined once: laid where the parameters lie, measured as exactly as in fp64, few operations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.train import optim, reduction
from ssl_retina.train.engine import Engine, process_group

pytestmark = pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning")


class Deep(nn.Module):
    """Layers of odd widths, so that groups end in padding; the second one gets no gradient."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(*(nn.Linear(5, 5) for _ in range(layers)))
        self.unused = nn.Linear(7, 3)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        return Output(self.encoder(batch.global_views[0]).square().mean())


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


def batch() -> Batch:
    empty = torch.zeros(4, dtype=torch.int64)
    pixels = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, None, ("k",) * 4, empty, empty, torch.zeros(1, 4, 4))


def backward(folder: Path, stage: int, layers: int = 3) -> tuple[Deep, Engine]:
    deep = Deep(layers)
    run = tiny.run(Path("shards"), folder, train__zero_stage=stage)
    engine = Engine(deep, optim.adamw(deep, deep.encoder, run.optim), run=run, micro_batch=4)
    engine.backward(engine.forward(batch(), Clock(0, 10, 0)).loss)
    return deep, engine


def test_gradients_lie_where_their_parameters_lie(tmp_path: Path) -> None:
    deep, engine = backward(tmp_path, 1)
    plain = Deep(3)
    plain(batch(), Clock(0, 10, 0)).loss.backward()
    wanted = {name: one.grad for name, one in plain.named_parameters()}
    groups = engine._zero.averaged_gradients
    starts = [flat.data_ptr() for flat in engine._zero.bit16_groups_flat]
    for name, parameter in deep.named_parameters():
        number = max((start, at) for at, start in enumerate(starts) if start <= parameter.data_ptr())[1]
        begin = (parameter.data_ptr() - starts[number]) // 4
        found = groups[number].flat_partition[begin : begin + parameter.numel()].view(parameter.shape)
        expected = wanted[name]
        assert torch.equal(found, torch.zeros_like(found) if expected is None else expected), name
        assert parameter.grad is None


@pytest.mark.parametrize("stage", [1, 2])
def test_the_norm_is_that_of_all_gradients(stage: int, tmp_path: Path) -> None:
    _, engine = backward(tmp_path, stage)
    plain = Deep(3)
    plain(batch(), Clock(0, 10, 0)).loss.backward()
    squares = [one.grad.double().square().sum() for one in plain.parameters() if one.grad is not None]
    assert engine.step(0.01)
    assert engine.gradient_norm() == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-6)


def test_a_norm_of_millions_is_exact() -> None:
    """In fp32 alone it would be off by 1e-4."""
    flat = torch.randn(3_000_001, generator=torch.Generator().manual_seed(0))
    assert float(reduction._squares(flat)) == pytest.approx(float(flat.double().square().sum()), rel=1e-7)
    for broken in (float("nan"), float("inf")):
        flat[-1] = broken
        assert not reduction._squares(flat).isfinite()


class Counted(TorchDispatchMode):
    """Counts what is asked of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Tensor:
        self.count += 1
        result: Tensor = function(*args, **(kwargs or {}))
        return result


def test_a_step_asks_as_much_of_the_device_for_many_parameters_as_for_few(tmp_path: Path) -> None:
    """DeepSpeed's own takes a norm of each, converts it, copies it, and views it anew."""
    counts = []
    for layers in (3, 30):
        _, engine = backward(tmp_path, 1, layers)
        with Counted() as counted:
            assert engine.step(0.01)
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_adamw_in_parts_is_adamw_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a part that is not full."""
    monkeypatch.setattr(optim, "PART", 64)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator)
    flats = [nn.Parameter(start.clone()) for _ in range(2)]
    whole, parts = (torch.optim.AdamW([one], lr=0.1, betas=(0.9, 0.95), weight_decay=0.3) for one in flats)
    zero = torch.zeros(1000)
    parts.state[flats[1]] = {"step": torch.tensor(0.0), "exp_avg": zero.clone(), "exp_avg_sq": zero.clone()}
    for _ in range(3):
        for one in flats:
            one.grad = torch.randn(1000, generator=torch.Generator().manual_seed(1))
        whole.step()
        optim.step_in_parts(parts, 0, flats[1])
    assert torch.equal(*flats)
    for key, value in whole.state[flats[0]].items():
        assert torch.equal(parts.state[flats[1]][key], value)
