"""Exports of several seeds and labels -> the table: means over seeds, intervals over patients, differences.

Every WEIGHTS is judged on the same photographs, folds and resamples, so that differences are paired. A mean
over seeds is taken in each resample: its interval holds the spread over patients, and the figures of the
single seeds beside it show the spread over trainings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ssl_retina import labels
from ssl_retina.metrics import Estimate
from ssl_retina.probe import evaluate, features, material, summary
from ssl_retina.probe.evaluate import Fitting, Judged
from ssl_retina.probe.features import MEAN_COLOUR, PIXEL_PCA, RANDOM, Advance, Representation
from ssl_retina.probe.material import Case, Material, Settings

PRETRAINED = "pretrained"
RESAMPLES = 2000
SEED = 0
"""Of folds and resamples; the same for all, so that differences are paired."""


@dataclass(frozen=True)
class Asked:
    """One task: where its shards and labels lie, as the probe takes them."""

    task: str
    settings: Settings


def table(asked: Sequence[Asked], exports: Sequence[Path], advance: Advance) -> list[dict[str, Any]]:
    """Each task's facts, results and differences; `exports` are of one recipe, a seed each."""
    found = []
    for one in asked:
        gathered = material.gather(one.settings)
        case = material.case(gathered, labels.target(labels.parse_task(one.task), gathered.table), seed=SEED)
        judged = _judge(case, gathered, exports, advance)
        found.append(
            {
                **summary.task(case, gathered),
                "level": gathered.grouping.level,
                "results": [_result(name, seeds) for name, seeds in judged.items()],
                "differences": list(_differences(judged)),
            }
        )
    return found


def _judge(
    case: Case, gathered: Material, exports: Sequence[Path], advance: Advance
) -> Mapping[str, list[Judged]]:
    """Name -> what each seed's weights are worth."""
    judged: dict[str, list[Judged]] = {PRETRAINED: [], RANDOM: [], MEAN_COLOUR: [], PIXEL_PCA: []}
    for one in _represented(case, gathered, exports, advance):
        name = one.name if one.name in judged else PRETRAINED
        with threadpool_limits(1, user_api="blas"):  # in hundreds of small fits threads only wait
            fitting = Fitting(one.components, SEED)
            judged[name].append(evaluate.judge(case.question, one.values, fitting, resamples=RESAMPLES))
    return judged


def _represented(
    case: Case, gathered: Material, exports: Sequence[Path], advance: Advance
) -> Iterator[Representation]:
    rows = gathered.joined.numbers[case.places]
    for seed, export in enumerate(exports):
        yield from features.represent((str(export), RANDOM), gathered.index, rows, seed=seed, advance=advance)
    yield from features.represent((MEAN_COLOUR, PIXEL_PCA), gathered.index, rows, seed=SEED, advance=advance)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds, in the sample and in every resample; all have the same groups and resamples."""
    first = estimates[0]
    return Estimate(
        float(np.mean([one.value for one in estimates])),
        np.mean([one.resampled for one in estimates], axis=0),
        np.mean([one.refitted for one in estimates], axis=0),
        first.lowest,
    )


def _result(name: str, seeds: Sequence[Judged]) -> dict[str, Any]:
    return {
        "weights": name,
        "probes": {
            probe: {
                metric: {**summary.number(_over(seeds, probe, metric)), "seeds": _each(seeds, probe, metric)}
                for metric in metrics
            }
            for probe, metrics in seeds[0].estimates.items()
        },
        "C": [list(one.costs) for one in seeds],
    }


def _each(seeds: Sequence[Judged], probe: str, metric: str) -> list[float | None]:
    return [summary.number(one.estimates[probe][metric])["value"] for one in seeds]


def _over(seeds: Sequence[Judged], probe: str, metric: str) -> Estimate:
    return mean([one.estimates[probe][metric] for one in seeds])


def _differences(judged: Mapping[str, Sequence[Judged]]) -> Iterator[dict[str, Any]]:
    """The pretrained encoder, mean over seeds, less each of the others."""
    own = judged[PRETRAINED]
    for name, seeds in judged.items():
        if name == PRETRAINED:
            continue
        yield {
            "against": name,
            "probes": {
                probe: {
                    metric: summary.number(_over(own, probe, metric).minus(_over(seeds, probe, metric)))
                    for metric in metrics
                }
                for probe, metrics in own[0].estimates.items()
            },
        }
