"""Metrics against slow loops and scikit-learn; a bootstrap over patients covers, one over images does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    roc_auc_score,
)

from ssl_retina import metrics
from ssl_retina.metrics import Estimate, Floats


def slow_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [(up, down) for up in scores[labels == 1] for down in scores[labels == 0]]
    return float(np.mean([1.0 if up > down else 0.5 if up == down else 0.0 for up, down in pairs]))


def slow_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    total, before = 0.0, 0
    for cut in sorted(set(scores.tolist()), reverse=True):
        shown = scores >= cut
        found = int(labels[shown].sum())
        total += (found - before) * found / shown.sum()
        before = found
    return total / labels.sum()


def slow_kappa(true: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    seen = chance = 0.0
    for i in range(classes):
        for j in range(classes):
            seen += (i - j) ** 2 * float(((true == i) & (predicted == j)).mean())
            chance += (i - j) ** 2 * float((true == i).mean() * (predicted == j).mean())
    return 1 - seen / chance


samples = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda one: 0 < sum(one) < len(one)),
        st.lists(st.integers(-3, 3), min_size=n, max_size=n),
    )
)


@given(samples)
def test_auroc_and_average_precision_with_ties(sample: tuple[list[int], list[int]]) -> None:
    labels, scores = np.array(sample[0]), np.array(sample[1]) / 7
    assert metrics.auroc(labels, scores) == pytest.approx(slow_auroc(labels, scores))
    assert metrics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.average_precision(labels, scores) == pytest.approx(slow_average_precision(labels, scores))
    assert metrics.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))


def test_undefined_is_nan() -> None:
    assert np.isnan(metrics.auroc([1, 1], [0.1, 0.2]))
    assert np.isnan(metrics.auroc([0, 0], [0.1, 0.2]))
    assert np.isnan(metrics.average_precision([0, 0], [0.1, 0.2]))
    assert np.isnan(metrics.quadratic_kappa([1, 1], [1, 1], classes=3))


def test_scores_that_are_nan_have_no_order() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        metrics.auroc([0, 1], [0.1, np.nan])


@given(st.integers(0, 10_000))
def test_agreement(seed: int) -> None:
    random = np.random.default_rng(seed)
    true, predicted = random.integers(0, 4, 25), random.integers(0, 4, 25)
    predicted[:4], true[:4] = (0, 1, 2, 3), (0, 1, 2, 3)
    kappa = metrics.quadratic_kappa(true, predicted, classes=4)
    assert kappa == pytest.approx(slow_kappa(true, predicted, 4))
    assert kappa == pytest.approx(cohen_kappa_score(true, predicted, weights="quadratic"))
    right = metrics.balanced_accuracy(true, predicted, classes=4)
    assert right == pytest.approx(balanced_accuracy_score(true, predicted))


@given(st.integers(0, 10_000))
def test_a_weight_is_a_repetition(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, scores = random.integers(0, 2, 20), random.integers(0, 6, 20) / 3
    labels[:2] = 0, 1
    weights = random.integers(0, 4, (3, 20)).astype(float)
    weights[:, :2] = 1
    for row, value in zip(weights, metrics.weighted_auroc(labels, scores, weights), strict=True):
        many = np.repeat(np.arange(20), row.astype(int))
        assert value == pytest.approx(slow_auroc(labels[many], scores[many]))
    for row, value in zip(weights, metrics.weighted_average_precision(labels, scores, weights), strict=True):
        many = np.repeat(np.arange(20), row.astype(int))
        assert value == pytest.approx(slow_average_precision(labels[many], scores[many]))
    matrix = metrics.confusion(labels, scores >= 1, weights, classes=2)
    for row, value in zip(weights, metrics.weighted_kappa(matrix), strict=True):
        many = np.repeat(np.arange(20), row.astype(int))
        predicted = (scores[many] >= 1).astype(int)
        if len(set(predicted.tolist())) > 1:
            assert value == pytest.approx(slow_kappa(labels[many], predicted, 2))


def test_strata_compare_only_inside_one_model() -> None:
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([20.0, 21.0, 10.0, 11.0, 9.0])
    fold = np.array([0, 0, 1, 1, 1])
    once = np.ones((1, 5))
    # pairs: fold 0 one of one right; fold 1 one of two right
    assert metrics.weighted_auroc(labels, scores, once, strata=fold)[0] == pytest.approx(2 / 3)
    assert metrics.weighted_auroc(labels, scores, once)[0] == pytest.approx(1 / 2)


@pytest.mark.parametrize("count", [7, 40])
def test_knn_against_a_loop(count: int) -> None:
    random = np.random.default_rng(0)
    bank, query, labels = (
        random.normal(size=(count, 5)),
        random.normal(size=(9, 5)),
        random.integers(0, 3, count),
    )
    bank[3] = 0.0
    shares = metrics.knn_scores(bank, labels, query, classes=3)
    for one, row in zip(query, shares, strict=True):
        cosine = []
        for other in bank:
            length = np.linalg.norm(one) * np.linalg.norm(other)
            cosine.append(float(one @ other / length) if length else 0.0)
        votes = np.zeros(3)
        for place in np.argsort([-value for value in cosine], kind="stable")[:20]:
            votes[labels[place]] += np.exp(cosine[place] / 0.07)
        np.testing.assert_allclose(row, votes / votes.sum())


def test_knn_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    bank, query, labels = random.normal(size=(30, 4)), random.normal(size=(11, 4)), random.integers(0, 2, 30)
    whole = metrics.knn_scores(bank, labels, query, classes=2)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 8 * 30 * 3)
    np.testing.assert_allclose(metrics.knn_scores(bank, labels, query, classes=2), whole)


def _clustered(seed: int, patients: int = 40, images: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that share a large part within a patient: N(0, 1) + N(0, 0.3), positives 0.8 higher."""
    random = np.random.default_rng(seed)
    sick = random.permutation(patients) < patients // 2
    group = np.repeat(np.arange(patients), images)
    scores = random.normal(size=patients)[group] + 0.3 * random.normal(size=len(group)) + 0.8 * sick[group]
    return sick[group].astype(int), scores, group


def test_intervals_over_patients_cover_and_over_images_do_not() -> None:
    """Law 7: photographs of a patient are no independent evidence."""
    from math import erf, sqrt

    truth = 0.5 * (1 + erf(0.8 / sqrt(2 * (1 + 0.09)) / sqrt(2)))
    covered = {"patients": 0, "images": 0}
    rounds = 200
    for seed in range(rounds):
        labels, scores, group = _clustered(seed)

        def statistic(weights: Floats, labels: np.ndarray = labels, scores: np.ndarray = scores) -> Floats:
            return metrics.weighted_auroc(labels, scores, weights)

        for name, groups in (("patients", group), ("images", np.arange(len(group)))):
            found = metrics.bootstrap(statistic, groups, resamples=300, seed=seed).interval()
            covered[name] += found.low <= truth <= found.high
    assert 0.90 <= covered["patients"] / rounds <= 0.99, covered
    assert covered["images"] / rounds < 0.70, covered


def _mean(weights: Floats) -> Floats:
    return weights @ np.arange(12.0) / weights.sum(axis=1)


def test_f98_the_same_seed_draws_the_same_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.repeat(np.arange(4), 3)
    first = metrics.bootstrap(_mean, groups, resamples=50, seed=3)
    monkeypatch.setattr(metrics, "CHUNK_BYTES", 8 * 12 * 7)  # in pieces of seven resamples
    np.testing.assert_array_equal(
        first.resampled, metrics.bootstrap(_mean, groups, resamples=50, seed=3).resampled
    )
    assert not np.array_equal(
        first.resampled, metrics.bootstrap(_mean, groups, resamples=50, seed=4).resampled
    )


def test_whole_patients_are_drawn() -> None:
    drawn: list[Floats] = []

    def remember(weights: Floats) -> Floats:
        drawn.append(weights)
        return weights.sum(axis=1)

    metrics.bootstrap(remember, ["b", "a", "b", "a", "c"], resamples=40, seed=0)
    weights = np.concatenate(drawn)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 3]).all()
    assert (weights[:, [0, 1, 4]].sum(axis=1) == 3).all()


def test_differences_are_paired() -> None:
    groups = np.arange(12)
    first = metrics.bootstrap(_mean, groups, resamples=200, seed=0)
    second = metrics.bootstrap(lambda weights: _mean(weights) + 1.0, groups, resamples=200, seed=0)
    found = second.minus(first).interval()
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_an_interval_needs_defined_resamples() -> None:
    values = np.linspace(0.2, 0.8, 101)
    assert Estimate(0.5, values).interval() == metrics.Interval(
        0.5, pytest.approx(0.215), pytest.approx(0.785)
    )
    values[:6] = np.nan
    assert np.isnan(Estimate(0.5, values).interval().low)
    assert np.isnan(Estimate(float("nan"), np.linspace(0, 1, 9)).interval().low)


@given(st.floats(1.1, 3.0))
@settings(max_examples=20)
def test_refits_that_vary_more_stretch_the_interval(factor: float) -> None:
    values = np.linspace(0.4, 0.6, 101)
    refitted = 0.5 + (values - 0.5) * factor
    plain, wide = Estimate(0.5, values).interval(), Estimate(0.5, values, refitted).interval()
    expected = factor * np.std(values, ddof=1) / np.std(values)
    assert (0.5 - wide.low) / (0.5 - plain.low) == pytest.approx(expected)
    assert Estimate(0.5, values, 0.5 + (values - 0.5) / factor).interval() == plain
    assert Estimate(0.99, values + 0.45, refitted).interval().high <= 1.0
