"""The online kNN score: do photographs with one label lie beside each other in the features?

In: the labels file and the binary task of the config, joined by pseudonym with the photographs that the run
may look at (`data.where` and `data.exclude` hold here too, so a test split stays unseen). Out: one AUROC
with its interval over patients. Labels are never used in training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_retina import dist, labels, metrics, pseudonyms
from ssl_retina.config import Run
from ssl_retina.contract import Clock
from ssl_retina.data.loader import Source
from ssl_retina.data.selection import select
from ssl_retina.data.views import finish
from ssl_retina.errors import InputError, StateError
from ssl_retina.shards import Index, Reader
from ssl_retina.train.engine import Engine

LIMIT = 2000
"""Labelled photographs that are looked at; the first ones of the shards where there are more."""

RESAMPLES = 1000

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """Labelled photographs: rows (n,) among all sets, classes (n,) 0 or 1, patient groups and halves (n,)."""

    rows: Integers
    classes: Integers
    groups: Integers
    half: Integers

    def features(self, engine: Engine, source: Source, *, batch: int) -> Floats:
        """(rows, width) of the whole images, pooled as an export gives them; every rank must call.

        Each rank computes an equal share (the first photographs come again where they do not divide): at
        ZeRO stage 3 all ranks must pass through the encoder equally often.
        """
        share = math.ceil(len(self.rows) / dist.world_size())
        filled = np.resize(self.rows, share * dist.world_size())
        own = filled[dist.rank() * share :][:share]
        gathered = dist.gather_objects(_features(engine, source, own, batch=batch))
        together: Floats = np.concatenate(gathered)[: len(self.rows)]
        return together

    def score(self, features: Floats) -> metrics.Interval | None:
        """AUROC of each half of the patients by its neighbours in the other; None where it is undefined.

        features: (rows, width). Only photographs that were scored by the same half are compared.
        """
        if not np.isfinite(features).all():
            return None
        scores = np.empty(len(self.rows))
        for side in (0, 1):
            query, bank = self.half == side, self.half != side
            shares = metrics.knn_scores(features[bank], self.classes[bank], features[query], classes=2)
            scores[query] = shares[:, 1]
        auroc = partial(metrics.weighted_auroc, self.classes == 1, scores, strata=self.half)
        return metrics.bootstrap(auroc, self.groups, resamples=RESAMPLES).interval()


def neighbours(run: Run, source: Source) -> Neighbours | None:
    """Join the config's labels; None without any. Ask on the first rank: it reads files.

    Raises InputError or StateError where labels, task, key and shards do not fit each other.
    """
    if run.tracking.labels is None or run.tracking.task is None:
        return None
    table = labels.read(run.tracking.labels)
    target = labels.target(labels.parse_task(run.tracking.task), table)
    if target.kind != "binary":
        raise InputError(
            f"tracking.task: the online kNN needs two classes, {run.tracking.task!r} has "
            f"{len(target.classes)}; give a threshold, such as grade=dr_grade>=2"
        )
    rows, classes, groups = _joined(source, table, target)
    visible = select(
        source.indexes, where=run.data.where, exclude=run.data.exclude, held_out=run.data.held_out
    )
    kept = np.flatnonzero(np.isin(rows, np.concatenate((visible.train, visible.held_out))))[:LIMIT]
    half = _halves(groups[kept], classes[kept])
    found = Neighbours(rows[kept], classes[kept], groups[kept], half)
    for side in (0, 1):
        if len(np.unique(found.classes[half == side])) < 2:
            raise InputError(
                f"tracking.task: {len(kept)} photographs of this run carry the label, too few for a score: "
                "each class needs two patients"
            )
    return found


def _joined(
    source: Source, table: labels.Table, target: labels.Target
) -> tuple[Integers, Integers, Integers]:
    """Rows among all sets, classes and groups of the labelled photographs of every set that has some."""
    parts, problem = [], None
    key = pseudonyms.read_key() if pseudonyms.default_key_file().exists() else None
    for index, offset in zip(source.indexes, source.offsets, strict=True):
        try:
            parts.append(_of_set(index, offset, table, target=target, key=key))
        except (InputError, StateError) as error:
            problem = error
    if not parts:
        assert problem is not None
        raise problem
    rows, classes, groups = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, classes, groups


def _of_set(
    index: Index, offset: int, table: labels.Table, *, target: labels.Target, key: bytes | None
) -> Sequence[Integers]:
    reader = Reader(index)
    try:
        numbers, classes = labels.agreed(labels.join(table, reader, key), target)
        groups: NDArray[Any] = reader.positions["group"][numbers]
    finally:
        reader.close()
    return numbers + offset, classes, groups.astype(np.int64)


def _halves(groups: Integers, classes: Integers) -> Integers:
    """0 or 1 for every photograph: whole patients, dealt alternately among those of the same class."""
    names, member = np.unique(groups, return_inverse=True)
    highest = np.zeros(len(names), np.int64)
    np.maximum.at(highest, member, classes)
    side = np.empty(len(names), np.int64)
    side[np.argsort(highest, kind="stable")] = np.arange(len(names)) % 2
    return side[member]


def _features(engine: Engine, source: Source, rows: Integers, *, batch: int) -> Floats:
    """(rows, width) of this rank's rows."""
    parts = []
    clock = Clock(0, 1, 0)
    with engine.evaluation() as method:
        encoder: Any = method.exported()  # type: ignore[operator]
        side = encoder.grid * encoder.patch_size
        for raw in source.whole(rows, batch=batch, size=side):
            ready = finish(raw, device=dist.device())
            tokens = encoder(ready.global_views[0], clock, ready.position)
            parts.append(encoder.pool(tokens.float()).cpu())
    return torch.cat(parts).double().numpy()
