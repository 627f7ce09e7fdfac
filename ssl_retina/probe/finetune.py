"""WEIGHTS, shards and labels -> end-to-end fine-tuning in every fold, judged as the probe judges.

In: what `prepared` gives. Out: `finetune.json` as plain values, what is said of every tested photograph,
and the fine-tuned ViT. Folds, metrics and intervals are the probe's own; the photographs of a test part
are asked once, after the training of its fold.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ssl_retina import metrics
from ssl_retina.metrics import Floats
from ssl_retina.models import classifier, weights
from ssl_retina.models.classifier import Classifier
from ssl_retina.models.pretrained import Pretrained
from ssl_retina.probe import evaluate, linear, outcome, tuning
from ssl_retina.probe.evaluate import Judged, Scores
from ssl_retina.probe.fits import Answer, Fit
from ssl_retina.probe.prepared import Prepared
from ssl_retina.probe.tuning import Advance, Bench


@dataclass(frozen=True)
class Outcome:
    """What came out. predictions: rows of a table, its head first. vit: with its head, fp32, on the CPU."""

    result: dict[str, Any]
    predictions: list[tuple[str, ...]]
    vit: Any
    description: Mapping[str, Any]


def run(prepared: Prepared, advance: Advance) -> Outcome:
    """Do what is not done yet, and judge."""
    for fit in prepared.left():
        prepared.shelf.do(fit, advance)
    found = [judge(prepared, name) for name in prepared.names]
    vit, start = _final(prepared)
    return Outcome(
        result=outcome.result(prepared, found),
        predictions=list(outcome.predictions(prepared)),
        vit=vit,
        description=classifier.describe(vit, start.data, prepared.case.target.classes),
    )


def judge(prepared: Prepared, name: str) -> Judged:
    """Every metric: the mean over the seeds, its bootstrap over patients, its spread over the halves.

    Resamples and halves are those of every other WEIGHTS: differences are paired.
    """
    question, options = prepared.plan.question, prepared.options
    groups = question.groups[question.tested]
    by_seed = [evaluate.statistics(question, _scores(prepared, name, 0, seed)) for seed in options.all_seeds]
    halves = [
        evaluate.statistics(part, _scores(prepared, name, number, options.seed))
        for number, (_, part) in enumerate(prepared.plan.parts)
        if number > 0
    ]
    found = {}
    for metric in evaluate.METRICS[question.kind]:
        drawn = metrics.bootstrap(
            _mean([statistics[metric] for statistics in by_seed]),
            groups,
            resamples=options.resamples,
            seed=options.seed,
        )
        refitted = [
            float(statistics[metric](np.ones((1, len(part.tested))))[0])
            for statistics, (_, part) in zip(halves, prepared.plan.parts[1:], strict=True)
        ]
        lowest = evaluate.LOWEST.get(metric, 0.0)
        found[metric] = dataclasses.replace(drawn, refitted=widened(np.array(refitted)), lowest=lowest)
    return Judged({outcome.PROBE: found}, ())


def _mean(statistics: Sequence[metrics.Statistic]) -> metrics.Statistic:
    def mean(drawn: Floats) -> Floats:
        values: Floats = np.mean([statistic(drawn) for statistic in statistics], axis=0)
        return values

    return mean


def widened(values: Floats) -> Floats:
    """The values (halves,) spread about their mean, so that a stretch by few of them is a t interval.

    The probe refits twenty halves; here a half costs minutes to hours and there are six or so, whose
    standard deviation is itself uncertain: Student's quantile stands in for the normal one. A half in which
    the metric is undefined (NaN: a class that its test part lacks) says nothing and counts for nothing.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return defined
    factor = stats.t.ppf(0.975, len(defined) - 1) / stats.norm.ppf(0.975)
    spread: Floats = defined.mean() + (defined - defined.mean()) * factor
    return spread


def _scores(prepared: Prepared, name: str, part: int, seed: int) -> Scores:
    """What the folds of one part say, in the form that the probe judges."""
    question = prepared.plan.parts[part][1]
    evidence = np.zeros((len(question.classes), question.count))
    predicted = np.zeros(len(question.classes), np.int64)
    number = np.zeros(len(question.classes), np.int64)
    for place, (fit, answer) in enumerate(prepared.answers(name, part, seed)):
        test = question.folds[place].test
        evidence[test] = _evidence(answer, fit, prepared.bench)
        predicted[test] = evidence[test].argmax(axis=1)
        if question.kind == "ordinal":
            expected = tuning.shares(answer.logits) @ np.arange(question.count)
            predicted[test] = np.searchsorted(answer.cuts, expected, side="right")
        number[test] = place
    at = question.tested
    return Scores(evidence[at], predicted[at], number[at])


def _evidence(answer: Answer, fit: Fit, bench: Bench) -> Floats:
    """Log-odds of each class less those of what the loss held its frequency for; 0 of an unseen class."""
    counts = np.bincount(fit.labelled.classes, minlength=bench.classes)
    base = counts / counts.sum()
    if bench.recipe.class_weights == "balanced":
        base = (counts > 0) / (counts > 0).sum()
    said = linear.log_odds(tuning.shares(answer.logits)) - linear.log_odds(base)
    evidence: Floats = np.where(counts > 0, said, 0.0)
    return evidence


def _final(prepared: Prepared) -> tuple[Any, Pretrained]:
    """The ViT that is handed out, on the CPU, and what it started from."""
    fit = prepared.final
    start = prepared.shelf.start(fit.weights, fit.seed).model
    model = Classifier(copy.deepcopy(start.module).cpu(), classes=prepared.bench.classes, drop_path=0.0)
    file = prepared.shelf.model_file(fit)
    weights.load_into(model.vit, weights.read_tensors(file), "the fine-tuned model")
    return model.eval().requires_grad_(False).vit, start
