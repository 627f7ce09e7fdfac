"""How the method does on photographs that are never trained on, without labels and, where given, with them.

In: the engine and the source. Out: a few numbers for the metrics' line, equal on every rank.
"""

import numpy as np
import torch
from torch import Tensor

from ssl_retina import dist
from ssl_retina.contract import Clock
from ssl_retina.data.loader import Source
from ssl_retina.data.views import finish
from ssl_retina.train import health
from ssl_retina.train.engine import Engine
from ssl_retina.train.knn import Neighbours
from ssl_retina.train.tracking import finite

LIMIT = 2048
"""Held-out samples that are looked at, give or take a batch: enough for two digits of the loss, little beside
100 steps."""


class Evaluation:
    """The held-out loss, the rank of the held-out features, and the online kNN score."""

    def __init__(self, engine: Engine, source: Source, *, batch: int, neighbours: Neighbours | None) -> None:
        self._engine = engine
        self._source = source
        self._batch = batch
        self._neighbours = neighbours

    def measure(self, clock: Clock) -> dict[str, float | None]:
        """All numbers; every rank must call. Masks are those of the samples' positions, always the same."""
        line: dict[str, float | None] = {}
        if self._source.held_out_samples:
            line |= self._held_out(clock)
        if self._neighbours is not None:
            line |= self._score(self._neighbours)
        return line

    def _held_out(self, clock: Clock) -> dict[str, float | None]:
        device = dist.device()
        total = torch.zeros(2, dtype=torch.float64, device=device)  # sum of losses, samples
        features: list[Tensor] = []
        with self._engine.evaluation() as method:
            for raw in self._source.held_out(
                rank=dist.rank(), world=dist.world_size(), batch=self._batch, limit=LIMIT
            ):
                batch = finish(raw, device=device)
                output = method(batch, clock)
                if samples := len(batch.position):  # a rank without any has no mean loss
                    total += torch.stack((output.loss.double() * samples, total.new_tensor(samples)))
                if output.features is not None:
                    features.append(output.features.float().cpu())
        summed = dist.mean(total)
        line = {"held_out_loss": finite(float(summed[0] / summed[1]))}
        gathered = dist.gather_objects(torch.cat(features).numpy() if features else None)
        known = [part for part in gathered if part is not None]
        if known:
            line["feature_rank"] = health.feature_rank(torch.from_numpy(np.concatenate(known)))
        return line

    def _score(self, neighbours: Neighbours) -> dict[str, float | None]:
        """Every rank computes the features of its share; the first one compares them and tells the others."""
        features = neighbours.features(self._engine, self._source, batch=2 * self._batch)
        found = dist.first_decides(lambda: neighbours.score(features))
        names = ("knn_auroc", "knn_auroc_low", "knn_auroc_high")
        values = (None, None, None) if found is None else (found.value, found.low, found.high)
        return {
            name: None if value is None else finite(value) for name, value in zip(names, values, strict=True)
        }
