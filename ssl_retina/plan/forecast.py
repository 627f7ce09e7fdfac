"""Work and a device -> what a run would take: memory of each GPU, images/s, hours, energy, cost.

In: a config, the work that `counting` found in it, a device, how many. Out: plain figures. A step takes
the time of its matrices at the rate of the device and that of all else at its memory: both constants below
were fitted to runs on one H200 (`docs/benchmarks.md`, "What check foretells").
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from ssl_retina import dist
from ssl_retina.bench import loops
from ssl_retina.bench import step as bench
from ssl_retina.config import Run
from ssl_retina.contract import Clock
from ssl_retina.plan import counting
from ssl_retina.plan.counting import Work
from ssl_retina.plan.devices import GIB, Device
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group
from ssl_retina.train.settings import BUCKET_ELEMENTS, STAGE_3

TRAFFIC, COMPILED = 20.0, 15.0
"""How often what a forward pass keeps goes through memory in a step, eager and compiled, matrices aside."""

BF16, FP32 = 2, 4
USABLE = 0.92
"""Share of a card that a run may count on: the rest is the context, NCCL's buffers, fragments."""

MEASURED_BLOCKS, MEASURED_IMAGES, MEASURED_STEPS = 2, 8, 3


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. states: weights, masters, moments, gradients where they wait. kept: activations.

    host: bytes that wait in the machine's memory for this GPU (`train.offload`).
    """

    states: float
    kept: float
    host: float = 0.0

    @property
    def whole(self) -> float:
        """At the end of a forward pass, or of a backward pass, whichever needs more."""
        return self.states + self.kept


def memory(run: Run, work: Work, world: int, micro_batch: int) -> Memory:
    """What one of `world` GPUs holds at most, by ZeRO stage (Rajbhandari et al. 2020, section 5)."""
    stage = run.train.zero_stage
    weights = FP32 * work.all / (world if stage == 3 else 1)
    masters = 3 * FP32 * work.trained / world
    gradients = FP32 * work.trained / (world if stage > 1 else 1)
    buckets = BUCKET_ELEMENTS * FP32 * 2
    kept = work.kept * micro_batch + _part(run, work, micro_batch) + _fixed(run, work)
    accumulated = gradients if run.train.accumulate > 1 else 0
    if run.train.encoder_batch is not None:  # summed over the parts before they are reduced
        accumulated = FP32 * work.trained
    on_gpu, host = _placed(run, work, weights=weights, masters=masters)
    return Memory(on_gpu + buckets + accumulated, max(kept, 2 * gradients), host + _waiting(run, work, world))


def _placed(run: Run, work: Work, *, weights: float, masters: float) -> tuple[float, float]:
    """Bytes on the GPU and in the machine's memory: of offloaded weights, those that are in use at a time."""
    if run.train.offload == "none":
        return weights + masters, 0.0
    if run.train.offload == "optimizer":
        return weights, masters
    used = FP32 * min(work.all, STAGE_3["stage3_max_live_parameters"])
    return used, weights + masters


def _waiting(run: Run, work: Work, world: int) -> float:
    """Bytes of the gradients that an offloaded AdamW steps with."""
    return 0.0 if run.train.offload == "none" else FP32 * work.trained / world


def _part(run: Run, work: Work, micro_batch: int) -> float:
    """Bytes of the part of a view that is computed again at a time."""
    return work.within / work.views * min(run.train.encoder_batch or 0, micro_batch)


def _fixed(run: Run, work: Work) -> float:
    """Bytes that a forward pass keeps whatever the batch: at least a copy of all weights in bf16."""
    return max(work.fixed, BF16 * work.all if run.train.precision == "bf16" else 0)


def _largest(run: Run, work: Work, world: int, usable: float) -> int:
    """The most samples of one forward pass for which `memory` stays within `usable` bytes; 0 if none does."""
    empty = memory(run, work, world, 0)
    if empty.whole > usable:
        return 0
    part = _part(run, work, run.data.batch_size)
    return max(int((usable - empty.states - part - _fixed(run, work)) / work.kept), 0)


def images_per_second(run: Run, work: Work, device: Device) -> float:
    """Of one device that waits for no data: matrices first, then traffic."""
    traffic = COMPILED if run.train.compile else TRAFFIC
    flops = work.flops + work.again
    return 1 / (
        flops / device.matrix(run.train.precision) + traffic * (work.kept + work.within) / device.bandwidth
    )


def tell(run: Run, work: Work, device: Device, *, world: int, price: float | None) -> dict[str, Any]:
    """Everything about a run on `world` such devices, as plain values. `price`: of one of them an hour."""
    micro_batch = run.data.batch_size // (world * run.train.accumulate)
    held, usable = memory(run, work, world, micro_batch), USABLE * device.memory
    rate = images_per_second(run, work, device)
    images = run.train.steps * run.data.batch_size
    hours = images / rate / 3600
    return {
        "device": device.name,
        "devices": world,
        "gflop_an_image": work.flops / 1e9,
        "memory_gib": held.whole / GIB,
        "memory_of_states_gib": held.states / GIB,
        "memory_of_activations_gib": held.kept / GIB,
        "host_memory_gib": held.host / GIB,
        "device_memory_gib": device.memory / GIB,
        "fits": held.whole <= usable,
        "largest_samples_per_forward": _largest(run, work, world, usable),
        "images_per_second_of_a_device": rate,
        "share_of_matrix_rate": rate * work.flops / device.matrix(run.train.precision),
        "steps": run.train.steps,
        "hours": hours / world,
        "device_hours": hours,
        "energy_kwh_at_most": None if device.watts is None else hours * device.watts / 1000,
        "cost": None if price is None else hours * price,
    }


def here(run: Run) -> dict[str, Any]:
    """How far off the same arithmetic is on this machine: a step of the config's first blocks, timed.

    Its matrices' and its memory's rates are measured first; two blocks and eight images, in fp32 on a
    processor (few have bf16 matrices), so that a laptop answers within seconds.
    """
    small = _shortened(run)
    work = counting.count(small)
    with process_group():
        matrix = bench.matrix_rate(small.train.precision)
        own = Device(dist.device().type, 0, matrix, matrix, _bandwidth(), None)
        taken = _timed(small)
    foretold = images_per_second(small, work, own)
    measured = MEASURED_IMAGES / taken
    return {
        "device": own.name,
        "blocks": small.model.depth,
        "images": MEASURED_IMAGES,
        "precision": small.train.precision,
        "foretold_images_per_second": foretold,
        "measured_images_per_second": measured,
        "foretold_over_measured": foretold / measured,
    }


def _shortened(run: Run) -> Run:
    fewer = {"depth": min(run.model.depth or MEASURED_BLOCKS, MEASURED_BLOCKS)}
    precision = "fp32" if dist.device().type == "cpu" else run.train.precision
    alone = {
        "accumulate": 1,
        "compile": False,
        "zero_stage": 1,
        "precision": precision,
        "encoder_batch": None,
        "offload": "none",
    }
    return run.model_copy(
        update={
            "model": run.model.model_copy(update=fewer),
            "train": run.train.model_copy(update=alone),
            "data": run.data.model_copy(update={"batch_size": MEASURED_IMAGES}),
        }
    )


def _timed(run: Run) -> float:
    """Seconds of a step, the median of a few after the first."""
    with setup.deterministic():
        batch = bench.drawn(setup.build_method(run)[1], MEASURED_IMAGES)
        trainer = loops.Plain(run, batch)
        seconds = []
        for number in range(MEASURED_STEPS + 1):
            begin = time.perf_counter()
            trainer.step(Clock(number, run.train.steps, run.seed))
            if batch.position.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def _bandwidth() -> float:
    """Bytes/s of this device's memory: a copy reads and writes."""
    source = torch.zeros(2**26, dtype=torch.float32, device=dist.device())
    target, seconds = torch.empty_like(source), []
    for _ in range(5):
        begin = time.perf_counter()
        target.copy_(source)
        if source.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * source.numel() * source.element_size() / statistics.median(seconds)
