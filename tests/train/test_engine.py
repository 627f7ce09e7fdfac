"""One process on the real engine: skipped steps, the explicit clip, a state that loads before any step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stages
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.errors import CheckpointError
from ssl_retina.train import optim
from ssl_retina.train.engine import MOMENTS, Engine, State, process_group

LINEAR = functional.linear

# pytest takes back, for each test, what `process_group` says about calls of DeepSpeed's that torch renames
pytestmark = pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning")


class Toy(nn.Module):
    """A regression whose loss gets a number added that a test chooses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
        self.head = nn.Linear(5, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.added = 0.0
        self.untouched = False  # the encoder gets no gradient

    def forward(self, batch: Batch, clock: Clock) -> Output:
        pixels = batch.global_views[0]
        encoded = self.encoder(pixels)
        encoded = encoded.detach() if self.untouched else encoded
        self.seen.add_(self.training)
        loss = (self.head(encoded).float() - 2).pow(2).mean()
        return Output(loss + self.added)


def batch(step: int) -> Batch:
    pixels = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(step))
    empty = torch.zeros(4, dtype=torch.int64)
    return Batch(pixels, None, ("k",) * 4, empty, empty, torch.zeros(1, 4, 4))


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


def start(run: Run) -> tuple[Toy, Engine]:
    toy = Toy()
    with stages.biting():
        return toy, Engine(toy, optim.adamw(toy, toy.encoder, run.optim), run=run, micro_batch=4)


def at(run: Run, stage: int) -> Run:
    return run.model_copy(update={"train": run.train.model_copy(update={"zero_stage": stage})})


def step(engine: Engine, number: int, rate: float = 0.01, decay: float | None = None) -> tuple[Tensor, bool]:
    output = engine.forward(batch(number), Clock(number, 10, 0))
    engine.backward(output.loss)
    return output.loss.detach(), engine.step(rate, decay)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny.run(Path("shards"), tmp_path, optim__weight_decay=0.1)


def same(one: Any, other: Any) -> bool:
    return one.steps == other.steps and all(
        left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        for left, right in ((one.weights, other.weights), (one.moments, other.moments))
    )


EVERY_STAGE = pytest.mark.parametrize("stage", [1, 2, 3])


@EVERY_STAGE
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_engine_is_adamw(run: Run, stage: int, precision: str) -> None:
    """Weights after five steps are those of plain torch, and the state is AdamW's own; decay rises."""
    train = run.train.model_copy(update={"zero_stage": stage, "precision": precision})
    run = run.model_copy(update={"train": train})
    toy, engine = start(run)
    plain = Toy()
    reference = optim.adamw(plain, plain.encoder, run.optim)
    for number in range(5):
        for group in reference.param_groups:
            group["lr"] = 0.01 * group["scale"]
            group["weight_decay"] = (1.0 + number) if group["weight_decay"] else 0.0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = plain(batch(number), Clock(number, 10, 0)).loss
        loss.backward()
        ours, applied = step(engine, number, decay=1.0 + number)
        assert applied
        assert torch.equal(ours, loss.detach())
        reference.step()
        reference.zero_grad()
    state = engine.state()
    tolerance = 1e-6 if precision == "fp32" else 2e-3  # bf16: gradients are reduced in bf16
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(state.weights[name], parameter.detach(), atol=tolerance, rtol=tolerance)
        assert state.weights[name].dtype == torch.float32
    assert state.steps == 5
    names = dict(plain.named_parameters())
    assert set(state.moments) == {f"{moment}/{name}" for moment in MOMENTS for name in names}


@EVERY_STAGE
def test_a_state_continues_bit_for_bit_also_before_the_first_step(run: Run, stage: int) -> None:
    """Saved at 0, 1 and 3 steps and loaded into a fresh engine, five steps end in the same bits."""
    run = at(run, stage)
    _, engine = start(run)
    states = [engine.state()]
    for number in range(5):
        step(engine, number)
        states.append(engine.state())
    for saved in (0, 1, 3):
        _, other = start(run)
        step(other, 17)
        other.load(states[saved])
        assert same(other.state(), states[saved])
        for number in range(saved, 5):
            step(other, number)
        assert same(other.state(), states[5]), saved


@EVERY_STAGE
def test_a_loss_that_is_not_finite_changes_nothing(run: Run, stage: int) -> None:
    """Inf with a finite gradient counts too: DeepSpeed alone would have stepped. Buffers stay as well."""
    toy, engine = start(at(run, stage))
    step(engine, 0)
    before = engine.state()
    toy.added = float("inf")
    loss, applied = step(engine, 1)
    assert not applied
    assert not torch.isfinite(loss)
    assert same(engine.state(), before)
    toy.added = 0.0
    assert step(engine, 2)[1]
    assert engine.state().steps == 2


@EVERY_STAGE
@pytest.mark.parametrize("offload", ["none", "optimizer"])
def test_a_parameter_without_gradient_is_given_none(run: Run, stage: int, offload: str) -> None:
    """DeepSpeed's stage 3 alone would apply the gradient of the step before, and so would offloaded steps."""
    placed = at(run, stage)
    train = placed.train.model_copy(update={"offload": offload})
    toy, engine = start(placed.model_copy(update={"train": train}))
    step(engine, 0)
    before = engine.state().moments["exp_avg/encoder.0.weight"]
    toy.untouched = True
    assert step(engine, 1)[1]
    torch.testing.assert_close(engine.state().moments["exp_avg/encoder.0.weight"], 0.9 * before)


def test_another_methods_state_is_refused_by_name(run: Run) -> None:
    for stage in (1, 3):
        _, engine = start(at(run, stage))
        state = engine.state()
        weights = {**state.weights, "head.weight": torch.zeros(2, 5), "gone": torch.zeros(1)}
        with pytest.raises(CheckpointError, match=r"2 tensors .*\n  gone: \(1,\) -> None\n  head.weight: "):
            engine.load(State(weights, state.moments, 0))


@EVERY_STAGE
@pytest.mark.parametrize("clip", [None, 0.001])
def test_f76_gradients_are_clipped_only_when_asked(run: Run, clip: float | None, stage: int) -> None:
    """DeepSpeed's own default is 1.0: with plain SGD-like first moments the difference is visible."""
    chosen = run.optim.model_copy(update={"clip_norm": clip})
    _, engine = start(at(run.model_copy(update={"optim": chosen}), stage))
    step(engine, 0)
    assert engine.gradient_norm() > 1.5  # before clipping
    first = {k: v for k, v in engine.state().moments.items() if k.startswith("exp_avg/")}
    norm = float(torch.cat([value.flatten() for value in first.values()]).norm()) / (1 - 0.9)
    expected = engine.gradient_norm() if clip is None else clip
    assert norm == pytest.approx(expected, rel=1e-3)


@EVERY_STAGE
def test_evaluation_leaves_no_trace(run: Run, stage: int) -> None:
    toy, engine = start(at(run, stage))
    with engine.evaluation() as method:
        assert not toy.training
        assert not method(batch(0), Clock(0, 1, 0)).loss.requires_grad
    assert toy.training
    assert int(toy.seen) == 0
    assert functional.linear is LINEAR, "DeepSpeed replaced it for the whole process"
