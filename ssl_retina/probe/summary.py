"""Estimates and counts -> the plain values of `probe.json`, and the sentences that belong to them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_retina.labels import Joined
from ssl_retina.metrics import Estimate, Integers
from ssl_retina.probe.evaluate import MEAN, METRICS, Judged
from ssl_retina.probe.features import Representation
from ssl_retina.probe.material import Case, Material
from ssl_retina.probe.patients import IMAGE_LEVEL


def data(gathered: Material) -> dict[str, Any]:
    """The shards, and how many rows and photographs found each other."""
    joined = gathered.joined
    return {
        "digest": gathered.index.digest,
        "photographs": gathered.index.samples,
        "with_labels": len(joined.numbers),
        "rows": len(gathered.table.rows),
        "rows_found_by": dict(joined.how),
        "rows_unknown": joined.unknown,
        "rows_ambiguous": joined.ambiguous,
        "rows_of_duplicates": _repeated(joined),
    }


def _repeated(joined: Joined) -> int:
    """Rows beyond the first of each photograph."""
    return sum(len(rows) - 1 for rows in joined.rows)


def weights(one: Representation) -> dict[str, Any]:
    """One WEIGHTS."""
    return {
        "name": one.name,
        "about": one.about,
        "dimensions": one.components or one.values.shape[1],
        "constant": bool((one.values.std(axis=0) <= 1e-6 * np.abs(one.values).max()).all()),
        "test_images_seen_in_pretraining": one.seen,
    }


def task(case: Case, gathered: Material) -> dict[str, Any]:
    """One task: its numbers of photographs, patients and positives, its split, and what was left out."""
    question, target = case.question, case.target
    tested = question.tested
    classes, groups = question.classes[tested], question.groups[tested]
    facts: dict[str, Any] = {
        "name": target.task.name,
        "spec": target.task.spec,
        "kind": target.kind,
        "positive": target.positive,
        "metrics": list(METRICS[target.kind]),
        "split": _split(case, gathered),
        "images": len(question.classes),
        "patients": _patients(question.groups),
        "tested_images": len(tested),
        "tested_patients": _patients(groups),
        "counts": {name: int((classes == one).sum()) for one, name in enumerate(target.classes)},
        "left_out": dict(case.left_out),
        "conflicts": {name: list(keys) for name, keys in case.conflicts.items() if keys},
    }
    if question.names:
        facts["devices"] = list(_devices(case))
    if target.kind == "binary":
        facts["positives"] = int(classes.sum())
        facts["positive_patients"] = _patients(groups[classes == 1])
        facts["base_rate"] = float(classes.mean())
    return facts


def _devices(case: Case) -> Iterator[dict[str, Any]]:
    """What each device that was left out is tested on, and what its probes learned from."""
    question = case.question
    for name, fold in zip(question.names, question.folds, strict=True):
        entry: dict[str, Any] = {"name": name}
        for side, part in (("tested", fold.test), ("trained", fold.train)):
            entry[f"{side}_images"] = len(part)
            entry[f"{side}_patients"] = _patients(question.groups[part])
            counts = {
                one: int((question.classes[part] == n).sum()) for n, one in enumerate(case.target.classes)
            }
            entry[f"{side}_counts"] = counts
        yield entry


def by_device(names: Sequence[str], judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Every metric of each WEIGHTS and probe on each device by itself, and the mean of the devices."""
    for name, one in zip(names, judged, strict=True):
        for part, probes in one.parts.items():
            for probe, estimates in probes.items():
                entry: dict[str, Any] = {"weights": name, "probe": probe, "device": part}
                yield entry | {"metrics": {metric: number(found) for metric, found in estimates.items()}}


def _patients(groups: Integers) -> int:
    return len(np.unique(groups))


def _split(case: Case, gathered: Material) -> str:
    folds = case.question.folds
    unit = "patients" if gathered.grouping.level == "patient" else "photographs"
    if case.question.names:
        return f"{len(folds)} devices, each scored by a model that saw neither it nor its {unit}"
    if gathered.role is not None:
        return f"column {gathered.split!r}: {len(folds[0].train)} train, {len(folds[0].test)} test"
    return f"{len(folds)} folds of {unit}, each scored by a model that never saw them"


def results(names: Sequence[str], judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Every metric of each WEIGHTS and probe, with its interval."""
    for name, one in zip(names, judged, strict=True):
        for probe, estimates in one.estimates.items():
            entry: dict[str, Any] = {"weights": name, "probe": probe}
            entry["metrics"] = {metric: number(estimate) for metric, estimate in estimates.items()}
            if probe == "logistic":
                entry["C"] = list(one.costs)
            yield entry


def differences(names: Sequence[str], judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """The first WEIGHTS less each other one, on the same resamples and halves; of devices, their mean."""
    for name, other in zip(names[1:], judged[1:], strict=True):
        for probe, whole in judged[0].estimates.items():
            parts = judged[0].parts
            pairs = (
                (parts[MEAN][probe], other.parts[MEAN][probe]) if parts else (whole, other.estimates[probe])
            )
            yield {
                "weights": names[0],
                "against": name,
                "probe": probe,
                "metrics": {
                    metric: number(estimate.minus(pairs[1][metric])) for metric, estimate in pairs[0].items()
                },
            }


def number(one: Estimate) -> dict[str, float | None]:
    """Value, low and high of the 95 % interval; None for what is undefined."""
    interval = one.interval()
    return {
        name: None if math.isnan(value) else value
        for name, value in (("value", interval.value), ("low", interval.low), ("high", interval.high))
    }


def notes(gathered: Material, cases: Sequence[Case], described: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader of the table has to know, in sentences."""
    if gathered.grouping.level == IMAGE_LEVEL:
        yield f"{IMAGE_LEVEL}: photographs of one patient may lie in training and test"
    joined, photographs = gathered.joined, gathered.index.samples
    counted = {
        f"of {photographs} photographs of the shards have no row in the labels file": photographs
        - len(joined.numbers),
        "rows of the labels file speak of no photograph of these shards": joined.unknown,
        f"of {len(gathered.table.rows)} rows of the labels file are second rows of a photograph (merged "
        "duplicates)": _repeated(joined),
        "rows were left out: their bare file name fits several photographs or rows": joined.ambiguous,
    }
    yield from (f"{count} {sentence}" for sentence, count in counted.items() if count)
    for case in cases:
        for trouble, keys in case.conflicts.items():
            if keys:
                yield f"task {case.target.task.name}: {len(keys)} photographs left out, {trouble}"
    for one in described:
        if one["test_images_seen_in_pretraining"]:
            yield f"{one['name']}: the test images were seen (without labels) in pretraining"
        elif one["test_images_seen_in_pretraining"] is None and one["about"].startswith("export"):
            yield f"{one['name']}: its card does not tell whether the test images were seen in pretraining"
        if one["constant"]:
            yield f"{one['name']}: the features are the same for every photograph, they tell nothing"
