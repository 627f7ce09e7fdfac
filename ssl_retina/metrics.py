"""Scores and their uncertainty, in numpy: AUROC, average precision, kappa, kNN, bootstrap over patients.

Every statistic is written for weighted samples, (resamples, samples) at once: a bootstrap over patients is
then one call with the counts of the drawn patients as weights. Ties count half; an undefined value is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]
"""From weights (resamples, samples) to values (resamples,)."""

CHUNK_BYTES = 64 * 1024 * 1024


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    labels, scores: (samples,), labels true or non-zero for positives. NaN where one class is missing.
    """
    return float(weighted_auroc(labels, scores, _ones(labels))[0])


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean of the precision at each positive, without interpolation (as scikit-learn); ties at once.

    labels, scores: (samples,). NaN where no positive is there; a random score gives about the base rate.
    """
    return float(weighted_average_precision(labels, scores, _ones(labels))[0])


def quadratic_kappa(true: ArrayLike, predicted: ArrayLike, *, classes: int) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) between grades (samples,) in [0, classes).

    NaN where both are one and the same constant grade.
    """
    return float(weighted_kappa(confusion(true, predicted, _ones(true), classes=classes))[0])


def balanced_accuracy(true: ArrayLike, predicted: ArrayLike, *, classes: int) -> float:
    """Mean recall over the classes that occur, of classes (samples,) in [0, classes)."""
    return float(weighted_balanced_accuracy(confusion(true, predicted, _ones(true), classes=classes))[0])


def weighted_auroc(
    labels: ArrayLike, scores: ArrayLike, weights: Floats, *, strata: ArrayLike | None = None
) -> Floats:
    """AUROC under each row of `weights` (resamples, samples): (resamples,).

    With `strata` (samples,) only pairs inside one stratum count: out-of-fold scores come from different
    models, and comparing across folds is biased (Parker et al. 2007; Forman and Scholz 2010).
    """
    positive, score = _checked(labels, scores)
    stratum = np.zeros(len(score), np.int64) if strata is None else np.asarray(strata)
    concordant = np.zeros(len(weights))
    pairs = np.zeros(len(weights))
    for value in np.unique(stratum):
        member = np.flatnonzero(stratum == value)
        up, down = _tie_sums(positive[member], score[member], weights[:, member])
        below = np.cumsum(down, axis=1) - down
        concordant += (up * (below + down / 2)).sum(axis=1)
        pairs += up.sum(axis=1) * down.sum(axis=1)
    return _ratio(concordant, pairs)


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: Floats) -> Floats:
    """Average precision under each row of `weights` (resamples, samples): (resamples,)."""
    positive, score = _checked(labels, scores)
    up, down = _tie_sums(positive, -score, weights)
    found = np.cumsum(up, axis=1)
    shown = found + np.cumsum(down, axis=1)
    precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
    return _ratio((up * precision).sum(axis=1), up.sum(axis=1))


def confusion(true: ArrayLike, predicted: ArrayLike, weights: Floats, *, classes: int) -> Floats:
    """Confusion matrices (resamples, classes true, classes predicted) under each row of `weights`."""
    cell = np.asarray(true, np.int64) * classes + np.asarray(predicted, np.int64)
    one_hot = np.zeros((len(cell), classes * classes))
    one_hot[np.arange(len(cell)), cell] = 1.0
    return (weights @ one_hot).reshape(-1, classes, classes)


def weighted_kappa(matrices: Floats) -> Floats:
    """Quadratic kappa of each confusion matrix (resamples, classes, classes): (resamples,)."""
    grades = np.arange(matrices.shape[1])
    cost = (grades[:, None] - grades[None, :]) ** 2
    total = matrices.sum(axis=(1, 2))
    chance = np.einsum("ij,bi,bj->b", cost, matrices.sum(axis=2), matrices.sum(axis=1))
    seen = (cost * matrices).sum(axis=(1, 2)) * total
    return 1.0 - _ratio(seen, chance)


def weighted_balanced_accuracy(matrices: Floats) -> Floats:
    """Mean recall of the classes that occur, of each confusion matrix: (resamples,)."""
    occurring = matrices.sum(axis=2)
    right = np.einsum("bii->bi", matrices)
    recall = np.divide(right, occurring, out=np.zeros_like(right), where=occurring > 0)
    return _ratio(recall.sum(axis=1), (occurring > 0).sum(axis=1).astype(np.float64))


def knn_scores(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    features: ArrayLike,
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Floats:
    """Class shares (samples, classes) from the nearest training samples by cosine (Wu et al. 2018; DINO).

    Features are (samples, dimensions), labels (train samples,) in [0, classes). A neighbour weighs
    exp(cosine / temperature); rows sum to one. With fewer training samples than `neighbours`, all count.
    """
    bank, query = _unit(train_features), _unit(features)
    one_hot = np.eye(classes)[np.asarray(train_labels, np.int64)]
    count = min(neighbours, len(bank))
    shares = np.empty((len(query), classes))
    step = max(1, CHUNK_BYTES // (8 * len(bank)))
    for start in range(0, len(query), step):
        cosine = query[start : start + step] @ bank.T
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        near = np.take_along_axis(cosine, nearest, axis=1)
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
        votes = (weight[:, :, None] * one_hot[nearest]).sum(axis=1)
        shares[start : start + step] = votes / weight.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Interval:
    """A value with its two-sided 95 % interval; NaN bounds where the data cannot give one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A statistic of the sample and of every bootstrap resample (resamples,).

    refitted: (halves,) the statistic where everything was fitted again on random halves of the patients;
        empty where nothing is fitted. lowest: the least value that the statistic can have; the largest is 1.
    """

    value: float
    resampled: Floats
    refitted: Floats = field(default_factory=lambda: np.empty(0))
    lowest: float = 0.0

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference: both were drawn with the same groups, resamples and seed."""
        assert self.resampled.shape == other.resampled.shape
        return Estimate(
            self.value - other.value, self.resampled - other.resampled, self.refitted - other.refitted, -1.0
        )

    def interval(self, level: float = 0.95, undefined_limit: float = 0.05) -> Interval:
        """Percentile interval (Efron 1979), stretched about the value to the spread of the refits.

        A bootstrap of scores holds the fitted model as it is and so leaves out what other training
        patients would have changed. The standard deviation over random halves is that of the whole
        procedure (delete-half jackknife, Shao and Wu 1989): where it is larger, the interval grows by the
        ratio. NaN where more than `undefined_limit` of the resamples are undefined.
        """
        defined = self.resampled[~np.isnan(self.resampled)]
        if np.isnan(self.value) or len(defined) < (1 - undefined_limit) * len(self.resampled):
            return Interval(self.value, float("nan"), float("nan"))
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        stretch = self._stretch(float(defined.std()))
        return Interval(
            self.value,
            max(self.value - (self.value - float(low)) * stretch, self.lowest),
            min(self.value + (float(high) - self.value) * stretch, 1.0),
        )

    def _stretch(self, spread: float) -> float:
        halves = self.refitted[~np.isnan(self.refitted)]
        if len(halves) < 2 or spread == 0.0:
            return 1.0
        return max(1.0, float(halves.std(ddof=1)) / spread)


def bootstrap(statistic: Statistic, groups: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Draw whole groups (patients) with replacement and take the statistic of every draw.

    groups: (samples,), equal for samples of one patient. Photographs of a patient are alike, so drawing
    single photographs gives intervals that are too narrow. The same groups, number and seed give the
    same draws, whatever the statistic: differences of two estimates are paired.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    patients = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_BYTES // (8 * len(member)))
    parts = []
    for start in range(0, resamples, step):
        drawn = generator.multinomial(
            patients, np.full(patients, 1 / patients), size=min(step, resamples - start)
        )
        parts.append(statistic(drawn[:, member].astype(np.float64)))
    return Estimate(float(statistic(np.ones((1, len(member))))[0]), np.concatenate(parts))


def _ones(labels: ArrayLike) -> Floats:
    return np.ones((1, len(np.asarray(labels))))


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    positive, score = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    assert positive.shape == score.shape, (positive.shape, score.shape)
    assert positive.ndim == 1, positive.shape
    assert not np.isnan(score).any(), "NaN scores have no order"
    return positive, score


def _tie_sums(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and negatives at each distinct score, ascending: two (resamples, distinct)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    sorted_weights = weights[:, order]
    up = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    return up, np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    undefined = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _unit(features: ArrayLike) -> Floats:
    """Rows of length one; a row of zeros stays zero."""
    rows = np.asarray(features, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
