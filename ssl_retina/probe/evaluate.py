"""Features and a task -> estimates: every probe fitted in every fold, its scores judged over patients.

An interval joins two spreads: a bootstrap over the tested patients with the fitted probes held as they
are, and the same procedure on random halves of the patients, where the probes are fitted again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ssl_retina import labels, metrics
from ssl_retina.metrics import Estimate, Floats, Integers
from ssl_retina.probe import linear
from ssl_retina.probe.question import Question, halves

PROBES = ("logistic", "knn")
METRICS: Mapping[labels.Kind, tuple[str, ...]] = {
    "binary": ("auroc", "auprc"),
    "ordinal": ("quadratic_kappa", "balanced_accuracy"),
    "classes": ("auroc", "auprc", "balanced_accuracy"),
}
"""What is reported of a kind of task; the first is its headline. Of classes, AUROC and AUPRC are means
over each class against the rest; the predicted class is the likeliest against its base rate."""

WHOLE, MEAN = "", "mean of devices"
"""Parts of what is tested, beside the names of folds."""

LOWEST = {"quadratic_kappa": -1.0}
PAIRS_OF_HALVES = 10

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Out-of-sample scores of one probe: evidence (tested, classes), predicted class and fold (tested,)."""

    evidence: Floats
    predicted: Integers
    fold: Integers


@dataclass(frozen=True)
class Fitting:
    """How probes are fitted: components of a PCA before them or None, the seed of the inner folds."""

    components: int | None
    seed: int


def costs(question: Question, features: Features, fitting: Fitting) -> tuple[float, ...]:
    """The C of each fold, chosen inside its training patients."""
    return tuple(
        linear.choose_cost(
            linear.standardised(features, fold, components=fitting.components, seed=fitting.seed).train,
            question.classes[fold.train],
            question.groups[fold.train],
            seed=fitting.seed,
        )
        for fold in question.folds
    )


def score(
    question: Question, features: Features, fitting: Fitting, *, chosen: Sequence[float]
) -> dict[str, Scores]:
    """Fit both probes in every fold with its C. features: (photographs, dimensions)."""
    photographs = len(question.classes)
    evidence = {probe: np.zeros((photographs, question.count)) for probe in PROBES}
    grade = {probe: np.zeros(photographs, np.int64) for probe in PROBES}
    number = np.zeros(photographs, np.int64)
    for place, (fold, cost) in enumerate(zip(question.folds, chosen, strict=True)):
        sides = linear.standardised(features, fold, components=fitting.components, seed=fitting.seed)
        classes, groups = question.classes[fold.train], question.groups[fold.train]
        for probe, predict in _probes(question.count, cost).items():
            evidence[probe][fold.test] = predict(sides, classes).evidence
            if question.kind == "ordinal":
                found = linear.grades(predict, sides, classes, groups, seed=fitting.seed)
                grade[probe][fold.test] = found
        number[fold.test] = place
    if question.kind != "ordinal":
        grade = {probe: evidence[probe].argmax(axis=1) for probe in PROBES}
    at = question.tested
    return {probe: Scores(evidence[probe][at], grade[probe][at], number[at]) for probe in PROBES}


def _probes(count: int, cost: float) -> dict[str, linear.Predict]:
    return {
        "logistic": partial(linear.logistic, count=count, cost=cost),
        "knn": partial(linear.nearest, count=count),
    }


@dataclass(frozen=True)
class Judged:
    """Probe -> metric -> estimate, and the C that was chosen in each fold.

    parts: the same of every named fold by itself, and their MEAN.
    """

    estimates: Mapping[str, Mapping[str, Estimate]]
    costs: tuple[float, ...]
    parts: Mapping[str, Mapping[str, Mapping[str, Estimate]]] = field(default_factory=dict)


def judge(question: Question, features: Features, fitting: Fitting, *, resamples: int) -> Judged:
    """Every metric of both probes, with its spread; paired for the same question, seed and resamples."""
    chosen = costs(question, features, fitting)
    groups = question.groups[question.tested]
    refitted = _refitted(question, features, fitting, cost=float(np.median(chosen)))
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    for probe, scores in score(question, features, fitting, chosen=chosen).items():
        for (part, name), statistic in _of_parts(question, scores).items():
            drawn = metrics.bootstrap(statistic, groups, resamples=resamples, seed=fitting.seed)
            found.setdefault(part, {}).setdefault(probe, {})[name] = dataclasses.replace(
                drawn, refitted=np.array(refitted.get((probe, part, name), [])), lowest=LOWEST.get(name, 0.0)
            )
    return Judged(found.pop(WHOLE), chosen, found)


def _refitted(
    question: Question, features: Features, fitting: Fitting, *, cost: float
) -> dict[tuple[str, str, str], list[float]]:
    """Every metric of the whole procedure on random halves of the patients, at one C: (halves,) each."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for pair in range(PAIRS_OF_HALVES):
        for kept, part in halves(question, seed=fitting.seed + pair):
            once = np.ones((1, len(part.tested)))
            scored = score(part, features[kept], fitting, chosen=[cost] * len(part.folds))
            for probe, scores in scored.items():
                for (place, name), statistic in _of_parts(part, scores).items():
                    values.setdefault((probe, place, name), []).append(float(statistic(once)[0]))
    return values


def _of_parts(question: Question, scores: Scores) -> dict[tuple[str, str], metrics.Statistic]:
    """(part, metric) -> statistic: of all that is tested, of each named fold, and of the mean of those."""
    whole = statistics(question, scores)
    found: dict[tuple[str, str], metrics.Statistic] = {(WHOLE, name): one for name, one in whole.items()}
    for name, one in whole.items():
        parts = [partial(_within, one, scores.fold == number) for number in range(len(question.names))]
        found |= {(part, name): part_of for part, part_of in zip(question.names, parts, strict=True)}
        if parts:
            found[MEAN, name] = partial(_mean_of, parts)
    return found


def _within(statistic: metrics.Statistic, there: NDArray[np.bool_], weights: Floats) -> Floats:
    return statistic(weights * there)


def _mean_of(parts: Sequence[metrics.Statistic], weights: Floats) -> Floats:
    return _mean([one(weights) for one in parts])


def statistics(question: Question, scores: Scores) -> dict[str, metrics.Statistic]:
    """Every metric of this kind of task as a function of the weights of the tested photographs."""
    true = question.classes[question.tested]
    judged = (1,) if question.kind == "binary" else tuple(range(question.count))
    functions: dict[str, metrics.Statistic] = {
        "auroc": partial(_auroc, true, scores, judged),
        "auprc": partial(_auprc, true, scores, judged),
        "quadratic_kappa": partial(_agreement, true, scores, metrics.weighted_kappa),
        "balanced_accuracy": partial(_agreement, true, scores, metrics.weighted_balanced_accuracy),
    }
    return {name: functions[name] for name in METRICS[question.kind]}


def _auroc(true: Integers, scores: Scores, judged: Sequence[int], weights: Floats) -> Floats:
    """Only pairs scored by the same fold's model are compared; mean over the classes."""
    return _mean(
        [
            metrics.weighted_auroc(true == one, scores.evidence[:, one], weights, strata=scores.fold)
            for one in judged
        ]
    )


def _auprc(true: Integers, scores: Scores, judged: Sequence[int], weights: Floats) -> Floats:
    """Over all folds together (one fold has too few positives); mean over the classes."""
    return _mean(
        [metrics.weighted_average_precision(true == one, scores.evidence[:, one], weights) for one in judged]
    )


def _agreement(true: Integers, scores: Scores, statistic: metrics.Statistic, weights: Floats) -> Floats:
    """A statistic of the confusion matrix of the predicted classes."""
    count = scores.evidence.shape[1]
    return statistic(metrics.confusion(true, scores.predicted, weights, classes=count))


def _mean(values: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(np.stack(values), axis=0)
    return mean
