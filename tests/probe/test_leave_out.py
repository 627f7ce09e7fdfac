"""Devices that are left out: nothing of them and their patients is trained on; each is judged by itself."""

import dataclasses

import numpy as np
import pytest

from ssl_retina import metrics
from ssl_retina.probe import evaluate, question, splits
from ssl_retina.probe.evaluate import MEAN, Fitting
from ssl_retina.probe.question import Question

FITTING = Fitting(None, 0)
NAMES = ("a", "b", "c")


def asked(seed: int = 0, patients: int = 90) -> tuple[Question, np.ndarray]:
    """A question on three devices, some of whose patients went to two; and the device of each photograph."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), 2)
    kinds = np.array([NAMES[group % 3] for group in groups])
    kinds[1:20:2] = [NAMES[(group + 1) % 3] for group in groups[1:20:2]]
    classes = random.permutation(np.arange(patients) % 2)[groups].astype(np.int64)
    names, folds = splits.leave_one_out(list(kinds), groups, classes, fewest=5)
    return Question("binary", 2, classes, groups, folds, names), kinds


@pytest.mark.parametrize("seed", range(5))
def test_no_device_and_no_patient_is_on_both_sides(seed: int) -> None:
    question, kinds = asked(seed)
    assert question.names == NAMES
    for name, fold in zip(question.names, question.folds, strict=True):
        assert set(kinds[fold.test]) == {name}
        assert name not in kinds[fold.train]
        assert not set(question.groups[fold.train]) & set(question.groups[fold.test])
        left = set(range(len(kinds))) - set(fold.train.tolist()) - set(fold.test.tolist())
        assert set(question.groups[list(left)]) <= set(question.groups[fold.test])
        assert left  # patients of two devices
    assert question.tested.tolist() == list(range(len(kinds)))


def test_a_device_with_too_few_patients_is_trained_on_alone() -> None:
    kinds = ["a"] * 20 + ["b"] * 20 + ["rare"] * 8
    classes = np.arange(48) % 2
    names, folds = splits.leave_one_out(kinds, np.arange(48), classes, fewest=5)
    assert names == ("a", "b")
    for fold in folds:
        assert set(range(40, 48)) <= set(fold.train.tolist())
        assert not set(range(40, 48)) & set(fold.test.tolist())


def leaking(question: Question, kinds: np.ndarray) -> np.ndarray:
    """Features that tell the class of each device by a number of its own, and nothing that they share."""
    random = np.random.default_rng(7)
    features = random.normal(size=(len(kinds), len(NAMES) + 4)).astype(np.float32)
    for column, name in enumerate(NAMES):
        features[:, column] = (kinds == name) * (2.0 * question.classes - 1)
    return features


def headline(question: Question, features: np.ndarray, probe: str = "logistic") -> dict[str, float]:
    judged = evaluate.judge(question, features, FITTING, resamples=50)
    parts = {name: judged.parts[name][probe]["auroc"].value for name in judged.parts}
    return {"whole": judged.estimates[probe]["auroc"].value, **parts}


def test_what_only_the_left_out_device_tells_is_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds by patient find a perfect probe here; and so does a split that lets one device through."""
    monkeypatch.setattr(evaluate, "PAIRS_OF_HALVES", 1)
    asking, kinds = asked()
    features = leaking(asking, kinds)
    found = headline(asking, features)
    assert max(found.values()) < 0.7
    folds = splits.cross_fitting(asking.classes, asking.groups, seed=0)
    assert headline(dataclasses.replace(asking, folds=folds, names=()), features)["whole"] > 0.98
    first = asking.folds[0]
    leak = np.setdiff1d(np.flatnonzero(kinds == "a"), first.test[:20])
    through = dataclasses.replace(first, train=np.concatenate((first.train, leak)), test=first.test[:20])
    assert headline(dataclasses.replace(asking, folds=(through, *asking.folds[1:])), features)["a"] > 0.95


def test_each_device_and_the_mean_are_what_a_person_would_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PAIRS_OF_HALVES", 2)
    asking, kinds = asked(3)
    features = np.random.default_rng(1).normal(size=(len(kinds), 5)).astype(np.float32)
    features[:, 0] += 1.5 * asking.classes
    judged = evaluate.judge(asking, features, FITTING, resamples=200)
    assert tuple(judged.parts) == (*NAMES, MEAN)
    scored = evaluate.score(asking, features, FITTING, chosen=judged.costs)
    for probe, scores in scored.items():
        own = [
            metrics.auroc(asking.classes[kinds == name], scores.evidence[kinds == name, 1]) for name in NAMES
        ]
        for name, value in zip(NAMES, own, strict=True):
            estimate = judged.parts[name][probe]["auroc"]
            assert estimate.value == pytest.approx(value)
            interval = estimate.interval()
            assert interval.low < value < interval.high
        assert judged.parts[MEAN][probe]["auroc"].value == pytest.approx(np.mean(own))
    widths = [judged.parts[name]["logistic"]["auroc"].interval() for name in ("a", MEAN)]
    assert widths[1].high - widths[1].low < widths[0].high - widths[0].low


def test_halves_keep_the_devices_apart() -> None:
    asking, kinds = asked()
    found = list(question.halves(asking, seed=4))
    assert len(found) == 2
    for kept, half in found:
        assert half.names == NAMES
        for name, fold in zip(half.names, half.folds, strict=True):
            assert set(kinds[kept][fold.test]) == {name}
            assert name not in kinds[kept][fold.train]
            assert not set(half.groups[fold.train]) & set(half.groups[fold.test])
