"""What a training step costs: this trainer beside a plain PyTorch loop around the same method.

In: a config; its sizes, method and precision. Out: images/s of both, their ratio, the model's FLOPs, their
share of what matrices reach on this device, and memory; all of one run, in turns, on drawn pixels that lie on
the device already: data is `bench stream`'s matter.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_retina import dist
from ssl_retina.bench.plans import require_positive
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, Method, ViewSpec
from ssl_retina.train import optim, setup
from ssl_retina.train.engine import Engine

WARM_UP = 3
GIB = 2**30
MATRIX = {"cuda": 8192, "cpu": 1024}
"""Side of the product whose rate is the ceiling."""


@dataclass(frozen=True)
class Plan:
    """batch: samples of a step on this one process. steps: so many in a turn. rounds: turns of each way."""

    batch: int
    steps: int = 10
    rounds: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "batch", "steps", "rounds")


class Trainer(Protocol):
    """One way of taking a step."""

    def step(self, clock: Clock) -> None:
        """Forward, backward and update on the batch."""
        ...


def measure(run: Run, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Measure one config; the process group is open (`train.engine.process_group`)."""
    with setup.deterministic():
        batch = drawn(setup.build_method(run)[1], plan.batch)
        counted = flops(run, batch) / plan.batch
        before = _start_memory()
        ways: dict[str, Trainer] = {"ours": Ours(run, batch)}
        _seconds(ways["ours"], run, WARM_UP)
        memory = _memory(before)
        ways["plain"] = Plain(run, batch)
        _seconds(ways["plain"], run, WARM_UP)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(plan.rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                taken[name].append(_seconds(ways[name], run, plan.steps) / plan.steps)
            advance(1)
    return _told(run, plan, taken, counted) | {"memory_gib": memory}


def _told(run: Run, plan: Plan, taken: dict[str, list[float]], flops: float) -> dict[str, Any]:
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    ratios = [plain / ours for ours, plain in zip(taken["ours"], taken["plain"], strict=True)]
    rate = plan.batch / median["ours"]
    ceiling = matrix_rate(run.train.precision)
    return {
        "method": run.method_name,
        "model": run.model.name,
        "image_size": run.model.image_size,
        "precision": run.train.precision,
        "zero_stage": run.train.zero_stage,
        "compile": run.train.compile,
        "batch": plan.batch,
        "images_per_second": rate,
        "plain_images_per_second": plan.batch / median["plain"],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "gflop_an_image": flops / 1e9,
        "matrix_tflop_per_second": ceiling / 1e12,
        "share_of_matrix_rate": rate * flops / ceiling,
    }


def drawn(spec: ViewSpec, count: int) -> Batch:
    """A batch of normal noise, as `data.views.finish` would leave one of photographs."""
    device = dist.device()
    generator = torch.Generator().manual_seed(0)

    def pixels(views: int, size: int) -> Tensor:
        return torch.randn((views, count, 3, size, size), generator=generator).to(device)

    return Batch(
        global_views=pixels(spec.global_views, spec.global_size),
        local_views=pixels(spec.local_views, spec.local_size) if spec.local_views else None,
        keys=tuple(f"drawn-{number}" for number in range(count)),
        position=torch.arange(count, device=device),
        group=torch.arange(count, device=device),
        field_of_view=torch.full((spec.global_views, count, 4), float("nan"), device=device),
    )


class Ours:
    """The trainer's own engine."""

    def __init__(self, run: Run, batch: Batch) -> None:
        self.method, _ = setup.build_method(run)
        self._batch, self._rate = batch, run.optim.learning_rate
        optimizer = _adamw(self.method, run)
        self._engine = Engine(self.method, optimizer, run=run, micro_batch=len(batch.keys))

    def step(self, clock: Clock) -> None:
        """As `train.loop` does."""
        output = self._engine.forward(self._batch, clock)
        self._engine.backward(output.loss)
        if self._engine.step(self._rate):
            cast(Method, self.method).after_step(clock, self._engine.weights)


class Plain:
    """PyTorch's own loop: autocast, backward, clip, AdamW."""

    def __init__(self, run: Run, batch: Batch) -> None:
        method, _ = setup.build_method(run)
        self.method, self._batch = method.to(dist.device()), batch
        self._optimizer = _adamw(self.method, run)
        self._clip, self._lowered = run.optim.clip_norm, run.train.precision == "bf16"

    def step(self, clock: Clock) -> None:
        """As PyTorch's documents do."""
        with torch.autocast(dist.device().type, dtype=torch.bfloat16, enabled=self._lowered):
            output = self.method(self._batch, clock)
        output.loss.backward()
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        cast(Method, self.method).after_step(clock, _Weights())


class _Weights:
    """`contract.Weights` where the parameters are the masters."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        return parameter

    @torch.no_grad()
    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        own: list[Tensor] = list(teacher.parameters())
        if own:  # a teacher without a head
            torch._foreach_lerp_(own, list(student.parameters()), 1 - momentum)


def _adamw(method: nn.Module, run: Run) -> torch.optim.AdamW:
    return optim.adamw(method, cast(nn.Module, method.encoder), run.optim)


def _seconds(trainer: Trainer, run: Run, steps: int) -> float:
    """Of the clock: what a GPU computes is waited for, and no other process's rest counts."""
    _wait()
    begin = time.perf_counter()
    for number in range(steps):
        trainer.step(Clock(number, run.train.steps, run.seed))
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if dist.device().type == "cuda":
        torch.cuda.synchronize()


def flops(run: Run, batch: Batch) -> float:
    """FLOPs of one step by torch's counter (a multiplication and an addition are 2): matrices, attention.

    Without compilation, which the counter does not see through, and without recomputation, which is no work
    of the model's.
    """
    plainest = {"compile": False, "activation_checkpointing": False, "encoder_batch": None}
    counted = run.model_copy(update={"train": run.train.model_copy(update=plainest)})
    trainer = Plain(counted, batch)
    with FlopCounterMode(display=False) as counter:
        trainer.step(Clock(0, run.train.steps, run.seed))
    return float(counter.get_total_flops())


def matrix_rate(precision: str) -> float:
    """FLOP/s of a large product of random matrices in this precision: what a model can at most reach."""
    device = dist.device()
    side = MATRIX[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn((side, side), device=device).to(kind) for _ in range(2))
    taken = []
    for _ in range(3 + 10):
        _wait()
        begin = time.perf_counter()
        torch.matmul(left, right)
        _wait()
        taken.append(time.perf_counter() - begin)
    return 2 * side**3 / statistics.median(taken[3:])


def _start_memory() -> int:
    """Bytes that are taken on the GPU already: by configs before this one."""
    if dist.device().type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def _memory(before: int) -> float | None:
    """The most that was taken on the GPU since, in GiB; a processor's memory is not told apart by config."""
    if dist.device().type != "cuda":
        return None
    return (torch.cuda.max_memory_allocated() - before) / GIB
