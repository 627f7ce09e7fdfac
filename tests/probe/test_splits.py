"""Law 7: patients never straddle, in no fold and in no half; overlap in a declared split stops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_retina import labels
from ssl_retina.errors import InputError, StateError
from ssl_retina.probe import splits
from ssl_retina.probe.patients import IMAGE_LEVEL, components, grouping
from ssl_retina.probe.question import Question, halves
from ssl_retina.probe.splits import Fold, StraddlingError, cross_fitting, declared

Archive = tuple[np.ndarray, np.ndarray]


@st.composite
def archives(draw: Any) -> Archive:
    """Classes and groups of a small archive with five or more patients in each of two or three classes."""
    count = draw(st.integers(2, 3))
    patients = draw(st.integers(5, 12)) * count
    random = np.random.default_rng(draw(st.integers(0, 999)))
    group = np.repeat(np.arange(patients), random.integers(1, 6, patients))
    classes = (group % count).astype(np.int64)
    mixed = random.random(len(classes)) < 0.1  # patients with both kinds of photographs
    classes[mixed] = random.integers(0, count, mixed.sum())
    return classes, random.permutation(patients)[group]


def apart(fold: Fold, groups: np.ndarray) -> bool:
    return not set(groups[fold.train].tolist()) & set(groups[fold.test].tolist())


@given(archives(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_patient_straddles_a_fold(archive: Archive, seed: int) -> None:
    classes, groups = archive
    folds = cross_fitting(classes, groups, seed=seed)
    assert all(apart(fold, groups) for fold in folds)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(classes)))
    for fold in folds:
        assert len(fold.train) + len(fold.test) == len(classes)


@given(archives(), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_patient_straddles_in_a_half(archive: Archive, seed: int, given_split: bool) -> None:
    classes, groups = archive
    folds = cross_fitting(classes, groups, seed=seed)
    question = Question(
        "classes", int(classes.max()) + 1, classes, groups, folds[:1] if given_split else folds
    )
    kept_groups = []
    for kept, part in halves(question, seed=seed):
        assert all(apart(fold, part.groups) for fold in part.folds)
        np.testing.assert_array_equal(part.classes, classes[kept])
        if given_split:
            assert set(kept[part.folds[0].test].tolist()) <= set(folds[0].test.tolist())
        kept_groups.append(set(groups[kept].tolist()))
    if len(kept_groups) == 2:
        assert not kept_groups[0] & kept_groups[1]
        assert len(kept_groups[0] | kept_groups[1]) == len(set(groups.tolist()))


def test_folds_are_stratified() -> None:
    groups = np.arange(200)
    classes = (groups < 20).astype(np.int64)
    for fold in cross_fitting(classes, groups, seed=0):
        assert classes[fold.test].sum() == 4


def test_f96_patients_in_training_and_test_stop() -> None:
    role = np.array([0, 0, 1, 0, 1, 1])
    groups = np.array([0, 1, 2, 3, 3, 1])
    with pytest.raises(StateError, match="2 patients lie in training and in test.*k1 k3") as caught:
        declared(role, groups, [f"k{number}" for number in range(6)])
    assert caught.value.exit_code == 4
    many = np.arange(20) % 10
    with pytest.raises(StateError, match=r"10 patients .*: k0 k1 k2 and 7 more$") as caught:
        declared(np.arange(20) // 10, many, [f"k{number}" for number in range(20)])
    assert isinstance(caught.value, StraddlingError)
    assert caught.value.keys == tuple(f"k{number}" for number in range(10))
    fold = declared(role, np.arange(6), ["k"] * 6)
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 1, 3], [2, 4, 5])


def joined(*rows: tuple[int, ...]) -> labels.Joined:
    return labels.Joined(np.arange(len(rows)), rows, {}, 0, 0)


def test_roles_of_a_column() -> None:
    table = labels.Table(("s",), (("Train",), ("test",), ("validation",), ("",), ("training",), ("test",)))
    where = joined((0,), (1,), (2,), (3,), (4, 5), (0,))
    records = [{}, {"split": "test"}, {"split": ""}, {}, {}, {"split": "test|train"}]
    found = splits.roles(where, table, records=records, column="s")
    assert found.tolist() == [0, 1, 0, -1, -2, -2]


def test_a_column_that_is_no_split() -> None:
    table = labels.Table(("s",), tuple((f"p{number}",) for number in range(30)))
    with pytest.raises(InputError, match="must say train and test; it says: 30 different values"):
        splits.roles(joined((0,)), table, records=[{}], column="s")


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=20))
def test_components_against_a_flood(items: list[list[int]]) -> None:
    found = components([[str(one) for one in names] for names in items])
    reach = [set(names) for names in items]
    changed = True
    while changed:
        changed = False
        for one in reach:
            for other in reach:
                if one & other and one != other:
                    one |= other
                    changed = True
    for i in range(len(items)):
        for j in range(len(items)):
            assert (found[i] == found[j]) == bool(reach[i] & reach[j])


TABLE = labels.Table(("file", "Patient ID"), (("a", "1"), ("b", "01"), ("c", "2"), ("d", "3"), ("e", "")))


def test_patients_that_share_a_photograph_are_one() -> None:
    """Rows 2 and 3 are aliases of one photograph under two patients; 1 and 01 are one spelling."""
    where = joined((0,), (1,), (2, 3), (2,), (4,))
    found = grouping(where, TABLE, records=[{}] * 5, column=None)
    assert found.groups.tolist() == [0, 0, 1, 1, 2]
    assert (found.level, "1 photographs without" in found.about) == ("patient", True)


def test_a_patient_that_pandas_wrote_as_a_fraction_is_the_same() -> None:
    table = labels.Table(("file", "patient"), (("a", "65"), ("b", "65.0"), ("c", "66.0")))
    found = grouping(joined((0,), (1,), (2,)), table, records=[{}] * 3, column=None)
    assert (found.groups.tolist(), "2 rows write a patient like 65.0" in found.about) == ([0, 0, 1], True)


def test_groups_of_the_shards_and_of_the_labels_are_joined() -> None:
    records = [{"patient": "p", "group": "g"}, {"patient": "q", "group": "h"}, {"patient": "p", "group": "g"}]
    found = grouping(joined((0,), (2,), (2,)), TABLE, records=records, column="Patient ID")
    assert found.groups.tolist() == [0, 0, 0]


def test_no_patients_must_be_said() -> None:
    table = labels.Table(("file", "grade"), (("a", "1"), ("b", "2")))
    with pytest.raises(InputError, match="--patient none"):
        grouping(joined((0,), (1,)), table, records=[{}, {}], column=None)
    found = grouping(joined((0,), (1,)), table, records=[{}, {}], column="none")
    assert (found.groups.tolist(), found.level) == ([0, 1], IMAGE_LEVEL)
    with pytest.raises(InputError, match="the shards know the patients of 1 of 2"):
        grouping(joined((0,), (1,)), table, records=[{"patient": "p"}, {}], column="none")


def test_two_patient_columns_are_unclear() -> None:
    table = labels.Table(("patient", "subject"), (("a", "1"),))
    with pytest.raises(InputError, match="patient, subject"):
        grouping(joined((0,)), table, records=[{}], column=None)
