"""One fine-tuning: a start, labelled photographs and a recipe -> a trained classifier and what it says.

Everything random hangs on the seed by position (order, crops, drop path), so the same seed gives the same
weights with any number of loader processes. The labels of no other photograph are ever here.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist
from ssl_retina.contract import Batch, Clock, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.loader import Source
from ssl_retina.data.selection import Selection
from ssl_retina.errors import NumericalError, ShardError
from ssl_retina.metrics import Floats, Integers
from ssl_retina.models.classifier import Classifier
from ssl_retina.models.pretrained import Pretrained
from ssl_retina.probe.features import Photographs
from ssl_retina.probe.recipe import Recipe
from ssl_retina.probe.splits import cross_fitting, fold_count
from ssl_retina.shards import Index
from ssl_retina.train import optim
from ssl_retina.train.schedule import share_of_peak

INNER_FOLDS, FEWEST_INNER_FOLDS = 5, 2
Advance = Callable[[int], None]
"""Told how many photographs were trained on since the last call."""


@dataclass(frozen=True)
class Labelled:
    """The training part: rows of the shards, keys, classes and groups of patients (photographs,)."""

    rows: Integers
    keys: tuple[str, ...]
    classes: Integers
    groups: Integers

    def part(self, places: Integers) -> "Labelled":
        """The photographs at these places."""
        keys = tuple(self.keys[int(place)] for place in places)
        return Labelled(self.rows[places], keys, self.classes[places], self.groups[places])


@dataclass(frozen=True)
class Bench:
    """What every fine-tuning of one command shares. `workers`: loader processes; they change no number."""

    index: Index
    recipe: Recipe
    classes: int
    workers: int

    def batch(self, photographs: int) -> int:
        """Samples of a step: no more than there are photographs."""
        return min(self.recipe.batch_size, photographs)

    def steps(self, photographs: int, epochs: float) -> int:
        """Optimiser steps of so many epochs."""
        return math.ceil(epochs * photographs / self.batch(photographs))


@dataclass(frozen=True)
class Tuned:
    """A trained classifier in evaluation mode, and after which epoch its weights were taken."""

    model: Classifier
    epoch: int


def tune(
    start: Pretrained, labelled: Labelled, bench: Bench, *, seed: int, pretrained: bool, advance: Advance
) -> Tuned:
    """Train `start` on these photographs.

    `pretrained`: its weights were learned, which gives them layer-wise decay. Raises NumericalError where
    the loss is not finite.
    """
    recipe, device = bench.recipe, dist.device()
    part, asked = _inner(labelled, recipe, seed=seed)
    model = Classifier(copy.deepcopy(start.module), classes=bench.classes, drop_path=recipe.drop_path).to(
        device
    )
    run = _Run(start, part, bench, seed=seed)
    adamw = optim.adamw(model, model.encoder, recipe.optim(batch=run.batch, pretrained=pretrained))
    peaks = [group["lr"] for group in adamw.param_groups]
    best: tuple[float, int, dict[str, Tensor]] = (math.inf, recipe.epochs, {})
    for epoch, batches in enumerate(run.epochs(), start=1):
        for step, batch in batches:
            share = share_of_peak(step, total=run.total, warmup=run.warmup, final=0.0)
            for group, peak in zip(adamw.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            _step(model.train(), adamw, run, step=step, batch=batch)
            advance(len(batch.keys))
        run.check()
        if asked is None:
            continue
        loss = _log_loss(model, start, asked, bench)
        if loss < best[0]:
            best = (loss, epoch, copy.deepcopy(model.state_dict()))
    if asked is not None:
        model.load_state_dict(best[2])
    return Tuned(model.eval().requires_grad_(False), best[1])


def _inner(labelled: Labelled, recipe: Recipe, *, seed: int) -> tuple[Labelled, Labelled | None]:
    """What is learned from, and the patients that choose the epoch where the recipe wants that."""
    if recipe.epoch_choice == "last":
        return labelled, None
    folds = min(INNER_FOLDS, fold_count(labelled.classes, labelled.groups))
    fold = cross_fitting(labelled.classes, labelled.groups, seed=seed, folds=folds)[0]
    return labelled.part(fold.train), labelled.part(fold.test)


def too_few_to_choose(labelled: Labelled, recipe: Recipe) -> bool:
    """Whether the recipe wants an inner fold that so few patients of a class cannot give."""
    return (
        recipe.epoch_choice == "inner" and fold_count(labelled.classes, labelled.groups) < FEWEST_INNER_FOLDS
    )


def learned(labelled: Labelled, recipe: Recipe, *, seed: int) -> int:
    """How many photographs a fine-tuning really learns from."""
    return len(_inner(labelled, recipe, seed=seed)[0].rows)


class _Run:
    """The batches of one fine-tuning, and whether they and the loss are sound."""

    def __init__(self, start: Pretrained, labelled: Labelled, bench: Bench, *, seed: int) -> None:
        self.start, self.bench, self.seed = start, bench, seed
        photographs = len(labelled.rows)
        self.batch = bench.batch(photographs)
        self.total = bench.steps(photographs, bench.recipe.epochs)
        self.warmup = bench.steps(photographs, bench.recipe.warmup_epochs)
        self.weights = _class_weights(labelled.classes, bench)
        self.worst = torch.zeros((), device=dist.device())
        self._class_of = dict(zip(labelled.keys, labelled.classes.tolist(), strict=True))
        size, scale = start.data.image_size, bench.recipe.crop_scale
        spec = ViewSpec("mae", global_views=1, global_size=size, crop_scale=scale)
        rows = np.sort(labelled.rows).astype(np.uint32)
        chosen = Selection(rows, np.empty(0, np.uint32))
        self._source = Source([bench.index], chosen, spec, seed=seed, workers=bench.workers)

    def epochs(self) -> Iterator[Iterator[tuple[int, Batch]]]:
        """For each epoch its numbered batches; the loader's processes end with the last one."""
        stream = self._source.batches(0, rank=0, world=1, micro_batch=self.batch)
        assert isinstance(stream, Generator)
        with contextlib.closing(stream) as batches:
            done = 0
            for epoch in range(1, self.bench.recipe.epochs + 1):
                until = self.bench.steps(len(self._class_of), epoch)
                yield zip(range(done, until), batches, strict=False)
                done = until

    def check(self) -> None:
        """Raise where the loss was not finite, or a labelled photograph did not decode."""
        if not bool(torch.isfinite(self.worst)):
            raise NumericalError(
                "the loss of a fine-tuning is not finite: lower --learning-rate, or look at the weights that "
                "it starts from"
            )
        if self._source.replaced:
            raise ShardError(
                "labelled photographs of the training part do not decode: ssl-retina inspect names them; "
                "leave them out with --exclude FILE, or shard again"
            )

    def targets(self, batch: Batch, device: torch.device) -> Tensor:
        """The classes (batch,) of a batch."""
        return torch.tensor([self._class_of[key] for key in batch.keys], device=device)


def _class_weights(classes: Integers, bench: Bench) -> Tensor | None:
    """(classes,) float32 that give every class the same weight in all, or None; 0 for an absent one."""
    if bench.recipe.class_weights == "none":
        return None
    counts = np.bincount(classes, minlength=bench.classes)
    present = counts > 0
    weights = np.where(present, len(classes) / (present.sum() * np.maximum(counts, 1)), 0.0)
    return torch.tensor(weights, dtype=torch.float32, device=dist.device())


def _step(model: Classifier, adamw: torch.optim.AdamW, run: _Run, *, step: int, batch: Batch) -> None:
    """One step of AdamW. The loss is looked at once an epoch: a look waits for the device."""
    device, data = dist.device(), run.start.data
    ready = views.finish(batch, device=device, mean=data.mean, std=data.std)
    clock = Clock(step, run.total, run.seed)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        said = model(ready.global_views[0], clock, ready.position)
    smoothing = run.bench.recipe.label_smoothing
    loss = functional.cross_entropy(
        said, run.targets(batch, device), weight=run.weights, label_smoothing=smoothing
    )
    torch.autograd.backward(loss)
    adamw.step()
    adamw.zero_grad()
    run.worst = torch.maximum(run.worst, loss.detach().abs())


def logits(model: Classifier, start: Pretrained, rows: Integers, bench: Bench) -> NDArray[np.float32]:
    """(photographs, classes) of the whole images of these rows, in fp32: what plain timm gives of them."""
    device, data = dist.device(), start.data
    parts = [np.empty((0, bench.classes), np.float32)]
    photographs = Photographs(bench.index, rows, _silent)
    for batch in photographs.batches("", data.image_size) if len(rows) else ():
        ready = views.finish(batch, device=device, mean=data.mean, std=data.std)
        with torch.inference_mode():
            parts.append(model.vit(ready.global_views[0]).float().cpu().numpy())
    return np.concatenate(parts)


def _silent(name: str, done: int) -> None:
    """Evaluation is a small part of the time: it is not counted."""


def shares(logits: NDArray[np.float32]) -> Floats:
    """Softmax (photographs, classes) in float64."""
    exact = logits.astype(np.float64)
    raised = np.exp(exact - exact.max(axis=1, keepdims=True))
    normalised: Floats = raised / raised.sum(axis=1, keepdims=True)
    return normalised


def _log_loss(model: Classifier, start: Pretrained, asked: Labelled, bench: Bench) -> float:
    """Mean log loss of the patients that choose the epoch."""
    said = shares(logits(model.eval(), start, asked.rows, bench))
    true = said[np.arange(len(said)), asked.classes]
    return float(-np.log(np.maximum(true, 1e-12)).mean())
