"""One task as arrays, with its folds; and the same task on random halves of its patients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssl_retina import labels
from ssl_retina.metrics import Integers
from ssl_retina.probe.splits import Fold, cross_fitting, fold_count


@dataclass(frozen=True)
class Question:
    """Classes in [0, count) and groups (photographs,) int64, and the folds they are split into.

    One fold is a declared split, several are cross-fitting; or each has a name, that of what is left out of
    its training part (`names`), and is judged by itself too.
    """

    kind: labels.Kind
    count: int
    classes: Integers
    groups: Integers
    folds: tuple[Fold, ...]
    names: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether the folds are not drawn here, so that a part of the patients keeps them."""
        return len(self.folds) == 1 or bool(self.names)

    @property
    def tested(self) -> Integers:
        """Places of the photographs that are scored, ascending."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))


def halves(question: Question, *, seed: int) -> Iterator[tuple[Integers, Question]]:
    """Two complementary random halves of the patients: places kept, and the question on them.

    Patients are dealt by their highest class and by the side of a declared split, so that each half has its
    share of both. A half in which nothing could be learned or judged is left out.
    """
    names, member = np.unique(question.groups, return_inverse=True)
    stratum = np.zeros(len(names), np.int64)
    sides = len(question.folds) + 1
    np.maximum.at(stratum, member, question.classes * sides + _tested_by(question))
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(stratum[order], kind="stable")]
    side = np.empty(len(names), np.int64)
    side[order] = np.arange(len(names)) % 2
    for wanted in (0, 1):
        kept = np.flatnonzero(side[member] == wanted)
        part = _part(question, kept, seed=seed)
        if part is not None:
            yield kept, part


def _tested_by(question: Question) -> Integers:
    """The number of the given fold that tests each photograph, from 1 on; 0 for none."""
    tested = np.zeros(len(question.classes), np.int64)
    for number, fold in enumerate(question.folds if question.given else (), start=1):
        tested[fold.test] = number
    return tested


def _part(question: Question, kept: Integers, *, seed: int) -> Question | None:
    classes, groups = question.classes[kept], question.groups[kept]
    if question.given:
        folds = tuple(
            Fold(*(np.flatnonzero(np.isin(kept, side)) for side in (fold.train, fold.test)))
            for fold in question.folds
        )
    elif fold_count(classes, groups) < 2:
        return None
    else:
        folds = cross_fitting(classes, groups, seed=seed, folds=fold_count(classes, groups))
    if any(len(np.unique(classes[fold.train])) < 2 or not len(fold.test) for fold in folds):
        return None
    return Question(question.kind, question.count, classes, groups, folds, question.names)
