"""What a sample costs: our stream beside a plain pipeline and torchvision's tensors, on the same shards.

In: shard sets. Out: for each recipe images/s and core, ratios, where the time goes, memory of a worker.
Seconds are of the processor, over the trainer's process and its loader's: waiting is not counted. Every round
measures all pipelines, one after the other, and a measure begins and ends with full queues.

The views have the same number and sizes everywhere, but not the same end: ours are uint8 and leave colours
and normalisation to the device (`views.finish`), the others' are float32 and done. What `finish` costs is
measured apart, on the device that is there, and `ratio_with_device` counts its processor time as ours.
"""

import contextlib
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ssl_retina import config
from ssl_retina.bench import pipelines, processes, stages
from ssl_retina.bench.plans import require_positive
from ssl_retina.bench.stages import Seconds
from ssl_retina.contract import ViewSpec
from ssl_retina.data import native
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.stream import as_positions
from ssl_retina.errors import InputError

RECIPES: Mapping[str, ViewSpec] = MappingProxyType(
    {
        "mae": ViewSpec("mae", 1, 224),
        "two_views": ViewSpec("mocov3_paper", 2, 224),
        "multi_crop": ViewSpec("dino_paper", 2, 224, 8, 96),
    }
)
OURS, PLAIN, TENSORS = "ours", "plain", "tensors"
FEW = 32
"""Images of a round for the stages of the plain pipeline and for the device."""

Batches = Generator[Any, None, None]

MORE_OF_OURS = 4
"""Times as many images for our stream: a fifth or a tenth of the time is to be measured as well."""


@dataclass(frozen=True)
class Plan:
    """images: of each round and pipeline, in whole batches. workers: loader processes of each pipeline."""

    rounds: int = 5
    images: int = 128
    batch: int = 64
    workers: int = 1
    recipes: tuple[str, ...] = tuple(RECIPES)

    def __post_init__(self) -> None:
        require_positive(self, "rounds", "images", "batch", "workers")
        unknown = [name for name in self.recipes if name not in RECIPES]
        if unknown:
            raise InputError(f"--recipe {unknown[0]}: no such recipe; one of: {', '.join(RECIPES)}")


class Lane:
    """One pipeline with its loader processes, waiting with full queues between measures."""

    def __init__(self, batches: Batches, batch: int) -> None:
        before = {child.pid for child in multiprocessing.active_children()}
        self._batches, self._batch = batches, batch
        next(batches)
        own = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
        self.workers = [number for number in own if number is not None]
        processes.settle(self.workers)

    def seconds(self, images: int) -> float:
        """Processor time of an image, over `images` of them."""
        count = -(-images // self._batch)
        here, there = time.process_time(), processes.seconds(self.workers)
        for batch in itertools.islice(self._batches, count):
            del batch
        spent = time.process_time() - here
        processes.settle(self.workers)
        return (spent + processes.seconds(self.workers) - there) / (count * self._batch)

    def resident(self) -> int:
        """Bytes that a loader process holds."""
        return round(statistics.median(processes.resident(number) for number in self.workers))


def measure(folders: Sequence[Path], plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Measure all recipes. Raises what `open_source` raises; ShardError where a set is not there."""
    data = config.Data(shards=tuple(folders), batch_size=plan.batch, workers=plan.workers, held_out=0.0)
    sources = {name: open_source(data, RECIPES[name], seed=0) for name in plan.recipes}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: _recipe(name, source, plan, advance) for name, source in sources.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "workers": plan.workers,
        "batch": plan.batch,
        "rounds": plan.rounds,
        "native": native.library() is not None,
        "recipes": found,
    }


def _recipe(name: str, source: Source, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    rounds: list[Seconds] = []
    with contextlib.ExitStack() as stack:
        lanes = {}
        for way, batches in _ways(name, source, plan).items():
            stack.callback(batches.close)
            lanes[way] = Lane(batches, plan.batch)
        for number in range(plan.rounds):
            positions = as_positions(number * plan.images, plan.images)
            rounds.append(_round(lanes, number, plan))
            rounds[-1] |= stages.ours(source.stream, positions)
            rounds[-1] |= stages.plain(source.stream, pipelines.plain(name), positions[:FEW])
            rounds[-1] |= stages.device(source.stream, positions[:FEW])
            advance(1)
        memory = {way: lane.resident() for way, lane in lanes.items()}
    return _told(rounds, memory)


def _ways(name: str, source: Source, plan: Plan) -> dict[str, Batches]:
    tars = [index.folder / shard.url for index in source.indexes for shard in index.shards]

    def others(transform: pipelines.Transform, decoder: str | None) -> Batches:
        return pipelines.batches(tars, transform, decoder=decoder, batch=plan.batch, workers=plan.workers)

    return {
        OURS: (one for one in source.batches(0, rank=0, world=1, micro_batch=plan.batch)),
        PLAIN: others(pipelines.plain(name), "pil"),
        TENSORS: others(pipelines.tensors(name), None),
    }


def _round(lanes: Mapping[str, Lane], number: int, plan: Plan) -> Seconds:
    """Seconds an image of every pipeline; who comes first changes from round to round."""
    order = sorted(lanes)
    turned = order[number % len(order) :] + order[: number % len(order)]
    images = {way: plan.images * (MORE_OF_OURS if way == OURS else 1) for way in turned}
    return {way: lanes[way].seconds(images[way]) for way in turned}


def _told(rounds: Sequence[Seconds], memory: Mapping[str, int]) -> dict[str, Any]:
    """Medians over the rounds; of the ratios also the least and the most."""
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    ratios = [one[PLAIN] / one[OURS] for one in rounds]
    whole = [one[PLAIN] / (one[OURS] + one["device_processor"]) for one in rounds]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "ratio_to_tensors": statistics.median(one[TENSORS] / one[OURS] for one in rounds),
        "ratio_with_device": statistics.median(whole),
        "images_per_second_and_core": {way: 1 / median[way] for way in (OURS, PLAIN, TENSORS)},
        "stages": {way: _shares(median, way, parts) for way, parts in stages.PARTS.items()},
        "device": {part: median[f"device_{part}"] for part in ("processor", "waited")},
        "resident_bytes_of_a_worker": dict(memory),
    }


def _shares(median: Seconds, way: str, parts: Sequence[str]) -> dict[str, float]:
    """Each stage's share of the pipeline's time; handing over is what its parts leave of it."""
    shares = {part: median[f"{way}_{part}"] / median[way] for part in parts}
    return shares | {"hand_over": 1 - sum(shares.values())}
