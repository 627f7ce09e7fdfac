"""What a training step costs: this trainer beside loops that others would write.

In: a config; its sizes, method and precision. Out: images/s of each and their ratios to ours, the model's
FLOPs, their share of what matrices reach on this device, and memory; all of one run, in turns, on drawn
pixels that lie on the device already: data is `bench stream`'s matter.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssl_retina import dist
from ssl_retina.bench.examples import example
from ssl_retina.bench.loops import Ours, Plain, Trainer, distributed
from ssl_retina.bench.plans import require_positive
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, ViewSpec
from ssl_retina.train import setup

WARM_UP = 2
GIB = 2**30
MATRIX = {"cuda": 8192, "cpu": 1024}
"""Side of the product whose rate is the ceiling."""

OURS = "ours"


@dataclass(frozen=True)
class Plan:
    """steps: so many in a turn. rounds: turns of each way. The batch is the config's, all on this process."""

    steps: int = 10
    rounds: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "steps", "rounds")


def measure(run: Run, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Measure one config; the process group is open (`train.engine.process_group`)."""
    with setup.deterministic():
        batch = drawn(setup.build_method(run)[1], run.data.batch_size)
        counted = flops(run, batch) / run.data.batch_size
        before = _start_memory()
        ours = Ours(run, batch)
        _seconds(ours, run, WARM_UP)
        memory = _memory(before)
        others = beside(run, batch)
        for other in others.values():
            _seconds(other, run, WARM_UP)
        taken = _taken({OURS: ours, **others}, run, plan, advance)
    return _told(run, taken, counted) | {"memory_gib": memory}


def beside(run: Run, batch: Batch) -> dict[str, Trainer]:
    """What ours is held against: "plain" and "ddp" around the same method; "lightly" where it has one."""
    found: dict[str, Trainer] = {"plain": Plain(run, batch), "ddp": distributed(run, batch)}
    lightly = example(run, batch)
    return found if lightly is None else {**found, "lightly": lightly}


def _taken(
    ways: dict[str, Trainer], run: Run, plan: Plan, advance: Callable[[int], None]
) -> dict[str, list[float]]:
    """Seconds of a step in every round; each way is the first of a round in its turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(plan.rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            taken[name].append(_seconds(ways[name], run, plan.steps) / plan.steps)
        advance(1)
    return taken


def _told(run: Run, taken: dict[str, list[float]], flops: float) -> dict[str, Any]:
    batch = run.data.batch_size
    rate = batch / statistics.median(taken[OURS])
    ceiling = matrix_rate(run.train.precision)
    return {
        "method": run.method_name,
        "model": run.model.name,
        "depth": run.model.depth,
        "image_size": run.model.image_size,
        "precision": run.train.precision,
        "zero_stage": run.train.zero_stage,
        "compile": run.train.compile,
        "batch": batch,
        "images_per_second": rate,
        "beside": {name: _beside(taken, name, batch) for name in taken if name != OURS},
        "gflop_an_image": flops / 1e9,
        "matrix_tflop_per_second": ceiling / 1e12,
        "share_of_matrix_rate": rate * flops / ceiling,
    }


def _beside(taken: dict[str, list[float]], name: str, batch: int) -> dict[str, Any]:
    """ratio: how many times as fast ours is, the median of the rounds' `ratios`."""
    ratios = [other / ours for ours, other in zip(taken[OURS], taken[name], strict=True)]
    return {
        "images_per_second": batch / statistics.median(taken[name]),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "ratios": ratios,
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
