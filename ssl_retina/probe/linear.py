"""Features -> out-of-sample scores: logistic regression with its C chosen inside the training patients, kNN.

Everything that is fitted (PCA, scale, C, weights) sees the training part alone; C is chosen by grouped
cross-validation inside it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ssl_retina import metrics
from ssl_retina.metrics import Floats, Integers
from ssl_retina.probe.splits import Fold, cross_fitting, fold_count

COSTS = tuple(10.0**power for power in range(-6, 3))
"""scikit-learn's C, small is strong; the features are standardised, so one grid serves all of them."""

ITERATIONS = 2000
SMALLEST_SHARE = 1e-12
EXACT_PCA = 1000
CUT_FOLDS = 3


@dataclass(frozen=True)
class Sides:
    """Standardised features of a fold: (train, dimensions) and (test, dimensions)."""

    train: Floats
    test: Floats


@dataclass(frozen=True)
class Prediction:
    """What a probe says of test photographs.

    evidence: (photographs, classes), how much more likely than in its training part a class is; a probe
        that learned nothing says 0 of everything, in every fold, so folds can be pooled.
    expected: (photographs,) the expected class number, for grades; only its order and, for the same data,
        its scale mean something, since a strong penalty shrinks it.
    """

    evidence: Floats
    expected: Floats


Predict = Callable[[Sides, Integers], Prediction]
"""A probe: from the two sides and the classes of the first (train,) to what it says of the second."""


def standardised(features: NDArray[np.float32], fold: Fold, *, components: int | None, seed: int) -> Sides:
    """Scale to mean 0 and variance 1 of the training part, after a PCA of it where `components` says so."""
    train, test = (features[part].astype(np.float64) for part in (fold.train, fold.test))
    if components is not None:
        count = min(components, len(train) - 1, train.shape[1])
        solver = "full" if min(train.shape) <= EXACT_PCA else "randomized"
        pca = PCA(n_components=count, svd_solver=solver, random_state=seed).fit(train)
        train, test = pca.transform(train), pca.transform(test)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
    scale = np.where(constant, np.inf, scale)
    return Sides((train - mean) / scale, (test - mean) / scale)


def logistic(sides: Sides, classes: Integers, *, count: int, cost: float) -> Prediction:
    """Multinomial logistic regression with an L2 penalty; classes: (train,) in [0, count)."""
    model = _fit(_model(cost), sides.train, classes)
    shares = np.zeros((len(sides.test), count))
    shares[:, model.classes_] = model.predict_proba(sides.test)
    base = np.bincount(classes, minlength=count) / len(classes)
    own = model.predict_proba(sides.train) @ model.classes_
    expected = (shares @ np.arange(count) - own.mean()) / max(own.std(), SMALLEST_SHARE)
    return Prediction(log_odds(shares) - log_odds(base), expected)


def nearest(sides: Sides, classes: Integers, *, count: int) -> Prediction:
    """kNN by cosine of standardised features (20 neighbours, temperature 0.07), as DINO's."""
    shares = metrics.knn_scores(sides.train, classes, sides.test, classes=count)
    base = np.bincount(classes, minlength=count) / len(classes)
    return Prediction(shares - base, shares @ np.arange(count))


def grades(predict: Predict, sides: Sides, classes: Integers, groups: Integers, *, seed: int) -> Integers:
    """Predicted grades (test,): the expected grade, cut so that grades are as frequent as in training.

    A probe with a strong penalty expects nearly the same of everybody, so rounding would give one grade to
    all. The cuts come from expectations for the training photographs by probes that did not see their
    patients.
    """
    seen = np.empty(len(classes))
    folds = min(CUT_FOLDS, fold_count(classes, groups))
    for fold in cross_fitting(classes, groups, seed=seed, folds=folds):
        inner = Sides(sides.train[fold.train], sides.train[fold.test])
        seen[fold.test] = predict(inner, classes[fold.train]).expected
    return np.searchsorted(cuts(seen, classes), predict(sides, classes).expected, side="right")


def cuts(expected: Floats, classes: Integers) -> Floats:
    """Where to cut expected grades (photographs,) so that each grade is as frequent as in `classes`."""
    ordered = np.sort(expected)
    ends = np.cumsum(np.bincount(classes))[:-1]
    between: Floats = (ordered[np.maximum(ends - 1, 0)] + ordered[np.minimum(ends, len(ordered) - 1)]) / 2
    return between


def choose_cost(features: Floats, classes: Integers, groups: Integers, *, seed: int) -> float:
    """The C with the least log loss in grouped cross-validation of these (training) photographs.

    Ties go to the stronger penalty.
    """
    folds = fold_count(classes, groups)
    assert folds >= 2, "the caller refuses classes of fewer groups"
    losses = np.zeros(len(COSTS))
    for fold in cross_fitting(classes, groups, seed=seed, folds=folds):
        if len(np.unique(classes[fold.train])) < 2:
            continue
        losses += _losses(features, classes, fold)
    return COSTS[int(np.argmin(np.round(losses, 9)))]


def _losses(features: Floats, classes: Integers, fold: Fold) -> Floats:
    """Summed log loss of a fold's test part for every C, from strong to weak with a warm start."""
    model = _model(COSTS[0])
    losses = np.zeros(len(COSTS))
    for number, cost in enumerate(COSTS):
        _fit(model.set_params(C=cost), features[fold.train], classes[fold.train])
        judged = fold.test[np.isin(classes[fold.test], model.classes_)]
        if not len(judged):
            continue
        shares = model.predict_proba(features[judged])
        true = np.searchsorted(model.classes_, classes[judged])
        losses[number] = -np.log(np.maximum(shares[np.arange(len(true)), true], SMALLEST_SHARE)).sum()
    return losses


def _model(cost: float) -> LogisticRegression:
    return LogisticRegression(C=cost, max_iter=ITERATIONS, warm_start=True)


def _fit(model: LogisticRegression, features: Floats, classes: Integers) -> LogisticRegression:
    """Fit; stopping at the last iteration is a slightly stronger penalty, no reason for a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, classes)


def log_odds(shares: Floats) -> Floats:
    """log(p / (1 - p)) of shares in [0, 1], finite also at both ends."""
    held = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    odds: Floats = np.log(held) - np.log1p(-held)
    return odds
