"""Training and test photographs: a declared split, or cross-fitting folds over groups of patients.

A group never straddles (law 7). Without a declared split, five stratified folds are taken in turn as the
test part, so that every photograph is scored once by a probe that never saw its patient: at a few hundred
labels this uses all of them, where a half split would waste half and give intervals 1.4 times as wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from ssl_retina import labels
from ssl_retina.errors import InputError, StateError
from ssl_retina.shards import split_names

FOLDS = 5
LISTED_KEYS = 3
TRAIN, TEST, NO_SPLIT, SPLIT_CONFLICT = 0, 1, -1, -2
_ROLES = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation", "dev", "development"), TRAIN),
    **dict.fromkeys(("test", "testing", "holdout", "held-out"), TEST),
}
"""What a split column may say; validation photographs join the training part, where C is chosen."""

Integers = NDArray[np.int64]


class StraddlingError(StateError):
    """Patients lie in training and in test. keys: all that `--exclude` needs to take them out of training."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


@dataclass(frozen=True)
class Fold:
    """Places of the training and of the test photographs: two int64 vectors without a common group."""

    train: Integers
    test: Integers


def roles(
    joined: labels.Joined, table: labels.Table, *, records: Sequence[Mapping[str, Any]], column: str
) -> Integers:
    """TRAIN, TEST, NO_SPLIT or SPLIT_CONFLICT (aliases in both) of each joined photograph, by a column.

    Raises InputError where the column names no training or no test photograph.
    """
    cells = [_ROLES.get(cell.casefold(), NO_SPLIT) for cell in table.column(column)]
    if not {TRAIN, TEST} <= set(cells):
        raise InputError(
            f"--split {column}: the column must say train and test; it says: "
            f"{labels.listed(table.column(column))}. "
            "Without --split, patients are split into folds here"
        )
    return np.array([_role(rows, cells, record) for rows, record in zip(joined.rows, records, strict=True)])


def _role(rows: Sequence[int], cells: Sequence[int], record: Mapping[str, Any]) -> int:
    said = {cells[row] for row in rows} - {NO_SPLIT}
    declared = {_ROLES.get(name.casefold(), NO_SPLIT) for name in split_names(str(record.get("split") or ""))}
    if len(said) > 1 or {TRAIN, TEST} <= declared:
        return SPLIT_CONFLICT
    return said.pop() if said else NO_SPLIT


def declared(role: Integers, groups: Integers, keys: Sequence[str]) -> Fold:
    """The one fold of a declared split.

    role: TRAIN or TEST of each photograph. Raises StraddlingError with the number of groups that straddle and
    the keys of their training photographs (pseudonyms), which `--exclude` takes.
    """
    both = np.intersect1d(groups[role == TRAIN], groups[role == TEST])
    if len(both):
        straddling = [keys[int(place)] for place in np.flatnonzero(np.isin(groups, both) & (role == TRAIN))]
        lie = "1 patient lies" if len(both) == 1 else f"{len(both)} patients lie"
        more = f" and {len(straddling) - LISTED_KEYS} more" if len(straddling) > LISTED_KEYS else ""
        raise StraddlingError(
            f"{lie} in training and in test. Leave out --split for folds by patient, or leave out their "
            f"training photographs with --exclude FILE, one key a line: "
            f"{' '.join(straddling[:LISTED_KEYS])}{more}",
            straddling,
        )
    return Fold(np.flatnonzero(role == TRAIN), np.flatnonzero(role == TEST))


def cross_fitting(classes: Integers, groups: Integers, *, seed: int, folds: int = FOLDS) -> tuple[Fold, ...]:
    """Stratified folds over groups (photographs,): every photograph is in the test part of one of them.

    Rare classes, in fewer groups than folds, are stratified as one.
    """
    rare = [one for one in np.unique(classes) if len(np.unique(groups[classes == one])) < folds]
    strata = np.where(np.isin(classes, rare), -1, classes)
    if (strata == -1).sum() < folds:
        strata = np.where(strata == -1, strata.max(), strata)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(strata)), strata, groups)
    return tuple(Fold(train.astype(np.int64), test.astype(np.int64)) for train, test in parts)


def leave_one_out(
    kinds: Sequence[str], groups: Integers, classes: Integers, *, fewest: int
) -> tuple[tuple[str, ...], tuple[Fold, ...]]:
    """A fold for each kind (such as a device) of photographs: it is tested, all others are trained on.

    Patients who were photographed by several have no photograph in the training part of a fold that tests
    them. A kind in which a class has fewer than `fewest` patients can be judged by nobody: it is trained on
    alone. kinds, groups, classes: of each photograph. Gives the kinds that are judged, and their folds.
    """
    kind = np.asarray(kinds)
    count = int(classes.max()) + 1 if len(classes) else 0
    names, folds = [], []
    for name in sorted(set(kinds)):
        there = kind == name
        if (groups_of_class(classes[there], groups[there], count) < fewest).any():
            continue
        elsewhere = ~there & ~np.isin(groups, groups[there])
        names.append(name)
        folds.append(Fold(np.flatnonzero(elsewhere), np.flatnonzero(there)))
    return tuple(names), tuple(folds)


def groups_of_class(classes: Integers, groups: Integers, count: int) -> Integers:
    """How many groups hold each of `count` classes: (count,)."""
    return np.array([len(np.unique(groups[classes == one])) for one in range(count)], np.int64)


def fold_count(classes: Integers, groups: Integers) -> int:
    """How many folds these photographs carry: five, or the groups of the second most common class."""
    counts = np.sort(groups_of_class(classes, groups, int(classes.max()) + 1))
    return int(min(FOLDS, counts[-2:].min()))
