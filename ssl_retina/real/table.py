"""What each WEIGHTS of each seed is worth -> the table: means over seeds, intervals, paired differences.

A mean over seeds is taken in each resample: its interval holds the spread over patients, and the figures of
the single seeds beside it show the spread over trainings.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_retina.metrics import Estimate
from ssl_retina.probe import summary
from ssl_retina.probe.evaluate import Judged
from ssl_retina.real.judging import Posed

Rows = Mapping[str, Sequence[Judged]]
"""Name of a row -> its seeds."""


def table(
    posed: Sequence[Posed], judged: Mapping[str, Rows], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Each task's facts, results and differences; `judged`: by task, `pairs`: (row, row less which)."""
    found = []
    for one in posed:
        rows = judged[one.case.target.task.name]
        found.append(
            {
                **summary.task(one.case, one.gathered),
                "level": one.gathered.grouping.level,
                "results": [_result(name, seeds) for name, seeds in rows.items()],
                "differences": [_difference(rows, *pair) for pair in pairs],
            }
        )
    return found


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


def _difference(rows: Rows, name: str, against: str) -> dict[str, Any]:
    """One row less another, means over seeds; `seeds`: seed by seed, where both have as many."""
    own, other = rows[name], rows[against]
    return {
        "weights": name,
        "against": against,
        "probes": {
            probe: {
                metric: {
                    **summary.number(_over(own, probe, metric).minus(_over(other, probe, metric))),
                    "seeds": list(_by_seed(own, other, probe, metric)),
                }
                for metric in metrics
            }
            for probe, metrics in own[0].estimates.items()
        },
    }


def _by_seed(
    own: Sequence[Judged], other: Sequence[Judged], probe: str, metric: str
) -> Iterator[float | None]:
    """The same seed means the same first weights and the same order of photographs."""
    if len(own) != len(other):
        return
    for one, two in zip(own, other, strict=True):
        yield summary.number(one.estimates[probe][metric].minus(two.estimates[probe][metric]))["value"]
