"""What a model card says about a run, gathered: recipe without paths, data by digest and count, progress.

In: a run's config and folder. Out: plain values.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssl_retina import config, methods, shards
from ssl_retina.contract import Batch, Clock, ViewSpec
from ssl_retina.data import remote
from ssl_retina.errors import ShardError
from ssl_retina.release.card import DataSet

METRICS_NAME = "metrics.jsonl"
COUNTED = ("modality", "device", "eye")


def objective(method: str) -> str:
    """The first paragraph of the method's file, on one line."""
    text = methods.load(method).__doc__
    assert text is not None
    return " ".join(text.split("\n\n", 1)[0].split())


def recipe(run: config.Run) -> dict[str, Any]:
    """The config as the card shows it: no path, no tracking, nothing of the machine."""
    content = run.dump()
    data = {key: content["data"][key] for key in ("batch_size", "where", "held_out")}
    data["exclude"] = "none" if run.data.exclude is None else "yes"
    if run.model.init is not None:  # a path, which the card's own words replace
        content["model"] |= {"init": "see above", "init_reference": None}
    sections = ("seed", "model", "method", "optim", "schedule", "train")
    return {**{name: content[name] for name in sections}, "data": data}


def progress(run_dir: Path, step: int) -> dict[str, Any]:
    """The values last logged up to `step`, each by its name; empty where the run logged nothing yet."""
    path = run_dir / METRICS_NAME
    known: dict[str, Any] = {}
    if not path.is_file():
        return known
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # the line that a killed process was writing
        if isinstance(values, dict) and values.get("step", 0) <= step:
            known.update(values)
    return known


def step_operations(run: config.Run, method: nn.Module) -> float:
    """Floating-point operations of one optimiser step, about.

    Counted by torch on a forward and a backward pass of two samples, so that a teacher or a frozen part,
    which have no backward pass, count for what they cost; what the optimiser does is left out.
    """
    spec = methods.load(run.method_name).views(run.method, run.model.image_size)
    with FlopCounterMode(display=False) as counter:
        clock = Clock(run.method.settled, run.train.steps, run.seed)
        method.eval()(_blank(spec), clock).loss.backward()
    method.zero_grad()
    counted: int = counter.get_total_flops()
    return counted / 2 * run.data.batch_size


def _blank(spec: ViewSpec) -> Batch:
    """Two black samples of the shape that a method asks for."""
    local = (spec.local_views, 2, 3, spec.local_size, spec.local_size)
    position = torch.arange(2)
    return Batch(
        global_views=torch.zeros(spec.global_views, 2, 3, spec.global_size, spec.global_size),
        local_views=torch.zeros(local) if spec.local_views else None,
        keys=("a", "b"),
        position=position,
        group=position,
        field_of_view=torch.full((spec.global_views, 2, 4), float("nan")),
    )


def data_sets(data: config.Data, digests: Sequence[str]) -> tuple[DataSet, ...]:
    """Every shard set of the run by the digest it was trained with; counted where the same set is at hand.

    Of an address that is where its tables still lie in the cache; nobody is asked for them.
    """
    places = [
        place if isinstance(place, Path) else remote.kept(place, digest, data.cache)
        for place, digest in zip(data.shards, digests, strict=True)
    ]
    return tuple(_data_set(folder, digest) for folder, digest in zip(places, digests, strict=True))


def _data_set(folder: Path | None, digest: str) -> DataSet:
    if folder is None:
        return DataSet(digest, None, None, {})
    try:
        index = shards.read_index(folder)
        if index.digest != digest:
            return DataSet(digest, None, None, {})
        table = shards.read_positions(index)
    except ShardError:
        return DataSet(digest, None, None, {})
    counts = {column: _counts(table[column], index.columns[column]) for column in COUNTED}
    return DataSet(digest, len(table), len(np.unique(table["group"])), counts)


def _counts(codes: np.ndarray[Any, Any], names: Sequence[str]) -> Mapping[str, int]:
    """How often each value stands, the most frequent first."""
    found = {
        name: int(count) for name, count in zip(names, np.bincount(codes, minlength=len(names)), strict=True)
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
