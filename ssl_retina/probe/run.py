"""WEIGHTS, shards and labels -> the whole result as plain values: what `probe.json` holds.

Every number stands with its 95 % interval; the first WEIGHTS is compared with each other one, paired.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ssl_retina import __version__, labels
from ssl_retina.errors import InputError
from ssl_retina.probe import evaluate, material, summary
from ssl_retina.probe.evaluate import Fitting, Judged
from ssl_retina.probe.features import Advance, represent
from ssl_retina.probe.material import Case, Material, Settings

FORMAT = 1


def probe(
    weights: Sequence[str],
    tasks: Sequence[str],
    settings: Settings,
    *,
    resamples: int,
    seed: int,
    advance: Advance,
) -> dict[str, Any]:
    """Judge every WEIGHTS on every task. Raises UserError for anything that does not fit, models last."""
    gathered = material.gather(settings)
    cases = _cases(gathered, tasks, seed)
    used = np.unique(np.concatenate([case.places for case in cases]))
    described: list[dict[str, Any]] = []
    judged: list[list[Judged]] = [[] for _ in cases]
    for one in represent(weights, gathered.index, gathered.joined.numbers[used], seed=seed, advance=advance):
        described.append(summary.weights(one))
        for case, found in zip(cases, judged, strict=True):
            values = one.values[np.searchsorted(used, case.places)]
            fitting = Fitting(one.components, seed)
            with threadpool_limits(1, user_api="blas"):  # in hundreds of small fits threads only wait
                found.append(evaluate.judge(case.question, values, fitting, resamples=resamples))
    return {
        "format": FORMAT,
        "version": __version__,
        "seed": seed,
        "resamples": resamples,
        "level": gathered.grouping.level,
        "patients_from": gathered.grouping.about,
        "data": summary.data(gathered),
        "weights": described,
        "tasks": [
            {
                **summary.task(case, gathered),
                "results": list(summary.results(weights, found)),
                **({"by_device": list(summary.by_device(weights, found))} if case.question.names else {}),
                "differences": list(summary.differences(weights, found)),
            }
            for case, found in zip(cases, judged, strict=True)
        ],
        "notes": list(summary.notes(gathered, cases, described)),
    }


def _cases(gathered: Material, tasks: Sequence[str], seed: int) -> list[Case]:
    parsed = [labels.parse_task(text) for text in tasks]
    names = [task.name for task in parsed]
    double = [name for name in names if names.count(name) > 1]
    if double:
        raise InputError(f"two tasks are named {double[0]}: give each its own name")
    targets = [labels.target(task, gathered.table) for task in parsed]
    return [material.case(gathered, target, seed=seed) for target in targets]
