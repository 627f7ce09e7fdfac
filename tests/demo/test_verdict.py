"""What the demo says of its own table: nothing is proven unless the interval clears zero."""

from typing import Any

import pytest

from ssl_retina.demo.verdict import judge


def table(scores: dict[str, float], low: float | None, high: float | None = 0.2) -> dict[str, Any]:
    names = ["out/model", *scores]
    results = [
        {"weights": name, "probe": probe, "metrics": {"auroc": {"value": {"out/model": 0.7, **scores}[name]}}}
        for name in names
        for probe in ("logistic", "knn")
    ]
    differences = [
        {
            "against": name,
            "probe": probe,
            "metrics": {
                "auroc": {
                    "value": 0.7 - scores[name] if probe == "logistic" else 9.0,
                    "low": low if name == max(scores, key=lambda one: scores[one]) else 0.5,
                    "high": high,
                }
            },
        }
        for name in scores
        for probe in ("knn", "logistic")
    ]
    return {
        "weights": [{"name": name} for name in names],
        "tasks": [{"results": results, "differences": differences}],
    }


SCORES = {"random": 0.55, "mean-colour": 0.48, "pixel-pca": 0.61}


def test_a_clear_interval_proves_something_here():
    verdict = judge(table(SCORES, 0.02))
    assert verdict.proven
    assert verdict.against == "pixel-pca"
    assert "+0.090 against pixel-pca, 95 % interval +0.020 to +0.200" in verdict.sentence
    assert "docs/results.md" in verdict.sentence


@pytest.mark.parametrize("low", [0.0, -0.01, None])
def test_an_interval_that_holds_zero_proves_nothing(low: float | None):
    verdict = judge(table(SCORES, low))
    assert not verdict.proven
    assert "prove nothing" in verdict.sentence
    assert "docs/results.md" in verdict.sentence


def test_the_best_of_the_others_is_the_opponent():
    assert judge(table({"random": 0.69, "mean-colour": 0.5}, -0.1)).against == "random"
