"""One WEIGHTS of one seed -> what it is worth on every task, as plain values that a stage can keep.

Every WEIGHTS is judged on the same photographs, folds and resamples, so that differences of any two are
paired, whenever each was judged. Floats survive JSON as they are; an undefined value is null there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ssl_retina import labels
from ssl_retina.metrics import Estimate, Floats
from ssl_retina.probe import evaluate, features, material
from ssl_retina.probe.evaluate import Fitting, Judged
from ssl_retina.probe.features import MEAN_COLOUR, PIXEL_PCA, RANDOM, Advance
from ssl_retina.probe.material import Case, Material, Settings

RESAMPLES = 2000
SEED = 0
"""Of folds and resamples; the same for all, so that differences are paired."""

BASELINES = (RANDOM, MEAN_COLOUR, PIXEL_PCA)


@dataclass(frozen=True)
class Asked:
    """One task: where its shards and labels lie, as the probe takes them."""

    task: str
    settings: Settings


@dataclass(frozen=True)
class Posed:
    """A task with its photographs, folds and labels."""

    case: Case
    gathered: Material


@dataclass(frozen=True)
class Weights:
    """What is judged.

    name: of its row. title: its own. digest: of all that its features depend on beside the photographs.
    seed: of its training, or of the draw of `random`. export: its own, or for `random` one whose architecture
    it takes; None for pixels.
    """

    name: str
    title: str
    digest: str
    seed: int = SEED
    export: Path | None = None


def pose(asked: Sequence[Asked]) -> tuple[Posed, ...]:
    """Join labels and shards of every task, and split."""
    found = []
    for one in asked:
        gathered = material.gather(one.settings)
        target = labels.target(labels.parse_task(one.task), gathered.table)
        found.append(Posed(material.case(gathered, target, seed=SEED), gathered))
    return tuple(found)


def judge(posed: Sequence[Posed], weights: Weights, advance: Advance) -> dict[str, Any]:
    """Task -> every metric of both probes with its resamples, as plain values (see `restored`)."""
    judged = {}
    for one in posed:
        rows = one.gathered.joined.numbers[one.case.places]
        names = _names(weights)
        # the first name alone is computed: `random` takes only the architecture of the second
        found = next(
            iter(features.represent(names, one.gathered.index, rows, seed=weights.seed, advance=advance))
        )
        with threadpool_limits(1, user_api="blas"):  # in hundreds of small fits threads only wait
            fitting = Fitting(found.components, SEED)
            result = evaluate.judge(one.case.question, found.values, fitting, resamples=RESAMPLES)
        judged[one.case.target.task.name] = _plain(result)
    return judged


def _names(weights: Weights) -> tuple[str, ...]:
    if weights.name in BASELINES:
        return (weights.name,) if weights.export is None else (weights.name, str(weights.export))
    return (str(weights.export),)


def _plain(judged: Judged) -> dict[str, Any]:
    estimates = {
        probe: {metric: _estimate(one) for metric, one in metrics.items()}
        for probe, metrics in judged.estimates.items()
    }
    return {"C": list(judged.costs), "estimates": estimates}


def _estimate(one: Estimate) -> dict[str, Any]:
    return {
        "value": _listed(np.array([one.value]))[0],
        "resampled": _listed(one.resampled),
        "refitted": _listed(one.refitted),
        "lowest": one.lowest,
    }


def _listed(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def restored(plain: Mapping[str, Any]) -> Judged:
    """What `judge` found of one task."""
    estimates = {
        probe: {metric: _restored(one) for metric, one in metrics.items()}
        for probe, metrics in plain["estimates"].items()
    }
    return Judged(estimates, tuple(plain["C"]))


def _restored(plain: Mapping[str, Any]) -> Estimate:
    value, resampled, refitted = (
        np.array(found, np.float64)  # null becomes NaN
        for found in ([plain["value"]], plain["resampled"], plain["refitted"])
    )
    return Estimate(float(value[0]), resampled, refitted, plain["lowest"])
