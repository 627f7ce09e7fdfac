"""Shards and a labels file -> photographs with their labels, patients and split; every count of what is not.

In: the verb's settings. Out: one `Case` for each task, ready for any features. All checks that need no
model are made here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_retina import labels, pseudonyms, shards
from ssl_retina.data.selection import AS_OPTIONS, select
from ssl_retina.errors import InputError
from ssl_retina.metrics import Integers
from ssl_retina.positions import UNKNOWN
from ssl_retina.probe import splits
from ssl_retina.probe.patients import Grouping, grouping
from ssl_retina.probe.question import Question
from ssl_retina.shards import Index, Reader

FEWEST_GROUPS = 5
"""Of every class in training: folds, C and intervals mean nothing below."""


COARSER = "Ask for a coarser task, such as a threshold (COLUMN>=NUMBER), or label more"
_CONFLICTS: tuple[str, ...] = ("aliases in training and test", "aliases with contradicting labels")


@dataclass(frozen=True)
class Settings:
    """What the labels are joined by; None leaves a column to be recognised.

    leave_out: a column of the shards (`device`): each of its words is tested by probes that never saw it.
    """

    data: Path
    labels: Path
    patient: str | None = None
    split: str | None = None
    file: str | None = None
    key_file: Path | None = None
    exclude: Path | None = None
    leave_out: str | None = None


@dataclass(frozen=True)
class Material:
    """The photographs that have a row in the labels file: (photographs,) in each array.

    role: TRAIN, TEST and so on of `splits`, or None without a declared split. kinds: the word of each in the
        column that is left out, or None.
    """

    index: Index
    table: labels.Table
    joined: labels.Joined
    keys: tuple[str, ...]
    grouping: Grouping
    role: Integers | None
    excluded: NDArray[np.bool_]
    split: str | None
    kinds: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Case:
    """One task over the photographs that it can be asked of; `places` (photographs,) into the material."""

    target: labels.Target
    question: Question
    places: Integers
    left_out: Mapping[str, int]
    conflicts: Mapping[str, tuple[str, ...]]


def gather(settings: Settings) -> Material:
    """Join labels and shards. Raises UserError that says what to do where they do not fit."""
    if settings.split is not None and settings.leave_out is not None:
        raise InputError("--split and --leave-out both say what is tested: give one of them")
    table = labels.read(settings.labels)
    index = shards.read_index(settings.data)
    reader = Reader(index)
    joined = labels.join(table, reader, _key(settings.key_file), file=settings.file)
    numbers = joined.numbers.tolist()
    records = [reader.facts(number) for number in numbers]
    keys = tuple(reader.key(number) for number in numbers)
    kinds = None
    if settings.leave_out is not None:
        words = index.columns[settings.leave_out]
        kinds = tuple(words[int(reader.positions[number][settings.leave_out])] for number in numbers)
    reader.close()
    role = None
    if settings.split is not None:
        role = splits.roles(joined, table, records=records, column=settings.split)
    kept = select([index], exclude=settings.exclude, named=AS_OPTIONS).train
    return Material(
        index=index,
        table=table,
        joined=joined,
        keys=keys,
        grouping=grouping(joined, table, records=records, column=settings.patient),
        role=role,
        excluded=~np.isin(joined.numbers, kept),
        split=settings.split,
        kinds=kinds,
    )


def _key(path: Path | None) -> bytes | None:
    """The key; none where the user has none: it is not made here, since it could join nothing."""
    if path is None and not pseudonyms.default_key_file().exists():
        return None
    return pseudonyms.read_key(path)


def case(material: Material, target: labels.Target, *, seed: int) -> Case:
    """The task on the photographs that carry one label and one side; splits them.

    Raises InputError where too few patients carry a class, StateError where patients straddle.
    """
    classes = np.array([labels.class_of(rows, target) for rows in material.joined.rows], np.int64)
    reasons = _reasons(material, classes)
    usable = ~np.logical_or.reduce(list(reasons.values()))
    places = np.flatnonzero(usable)
    question = _question(material, target, classes, places=places, seed=seed)
    _check(question, target, material)
    conflicts: dict[str, tuple[str, ...]] = {
        name: tuple(material.keys[int(place)] for place in np.flatnonzero(reasons[name]))
        for name in _CONFLICTS
        if name in reasons
    }
    counts = {name: int(there.sum()) for name, there in reasons.items() if there.any()}
    return Case(target, question, places, counts, conflicts)


def _reasons(material: Material, classes: Integers) -> dict[str, NDArray[np.bool_]]:
    """Why a photograph is not asked about; the first reason counts."""
    reasons = {"excluded": material.excluded}
    if material.role is not None:
        reasons["aliases in training and test"] = material.role == splits.SPLIT_CONFLICT
        reasons["in no split"] = material.role == splits.NO_SPLIT
    if material.kinds is not None:
        reasons["device unknown"] = np.isin(material.kinds, (UNKNOWN, ""))
    reasons |= {"no label": classes == -1, "aliases with contradicting labels": classes == labels.CONFLICT}
    seen = np.zeros(len(classes), bool)
    for name, there in reasons.items():
        reasons[name] = there & ~seen
        seen |= there
    return reasons


def _question(
    material: Material, target: labels.Target, classes: Integers, *, places: Integers, seed: int
) -> Question:
    chosen, groups = classes[places], material.grouping.groups[places]
    count = len(target.classes)
    if material.role is not None:
        keys = [material.keys[int(place)] for place in places]
        folds: tuple[splits.Fold, ...] = (splits.declared(material.role[places], groups, keys),)
        return Question(target.kind, count, chosen, groups, folds)
    if material.kinds is not None:
        kinds = [material.kinds[int(place)] for place in places]
        names, folds = splits.leave_one_out(kinds, groups, chosen, fewest=FEWEST_GROUPS)
        return Question(target.kind, count, chosen, groups, folds, names)
    enough = len(places) and (splits.groups_of_class(chosen, groups, count) >= FEWEST_GROUPS).sum() >= 2
    folds = splits.cross_fitting(chosen, groups, seed=seed) if enough else ()
    return Question(target.kind, count, chosen, groups, folds)


def _check(question: Question, target: labels.Target, material: Material) -> None:
    """Refuse what would give numbers without meaning: a missing class, a handful of patients."""
    unit = "patients" if material.grouping.level == "patient" else "photographs"
    if material.kinds is not None:
        _check_left_out(question, target, unit)
        return
    declared = len(question.folds) == 1
    train = question.folds[0].train if declared else np.arange(len(question.classes))
    where = "the training part" if declared else "the labelled photographs"
    _check_classes(question, target, train, where=f"{unit} of {where}")
    if not declared:
        return
    test = question.folds[0].test
    present = np.unique(question.classes[test])
    if len(present) < (2 if question.kind != "classes" else question.count):
        missing = [target.classes[one] for one in range(question.count) if one not in present]
        raise InputError(
            f"task {target.task.name}: the test part has {len(test)} photographs, none of them "
            f"{' or '.join(missing[:5])}: nothing can be judged"
        )


def _check_left_out(question: Question, target: labels.Target, unit: str) -> None:
    if len(question.names) < 2:
        found = ", ".join(question.names) or "none"
        raise InputError(
            f"task {target.task.name}: --leave-out needs two devices at least with {FEWEST_GROUPS} {unit} of "
            f"each class; there is {found}. Ask for a coarser task, or label more"
        )
    for name, fold in zip(question.names, question.folds, strict=True):
        _check_classes(question, target, fold.train, where=f"{unit} without device {name}")


def _check_classes(question: Question, target: labels.Target, train: Integers, *, where: str) -> None:
    counts = splits.groups_of_class(question.classes[train], question.groups[train], question.count)
    few = [one for one in range(question.count) if counts[one] < FEWEST_GROUPS]
    allowed = question.count - 2 if question.kind == "ordinal" else 0
    if len(few) <= allowed:
        return
    listed = ", ".join(f"{counts[one]} with {target.classes[one]!r}" for one in few[:5])
    raise InputError(
        f"task {target.task.name}: too few {where}: {listed}; at least {FEWEST_GROUPS} of each class are "
        f"needed. {'Label more' if question.kind == 'binary' else COARSER}"
    )
