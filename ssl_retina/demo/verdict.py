"""What a probe's table proves about the pretraining, said plainly.

In: what `probe --json` gives. Out: one sentence, and whether anything was proven.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RESULTS = "docs/results.md"


@dataclass(frozen=True)
class Verdict:
    """`proven`: whether the export is better than the best baseline beyond its 95 % interval."""

    proven: bool
    against: str
    sentence: str


def judge(probe: Mapping[str, Any]) -> Verdict:
    """Hold the export against the best of the others: AUROC of the logistic probe, paired by patients."""
    (task,) = probe["tasks"]
    export = probe["weights"][0]["name"]
    scores = {
        one["weights"]: one["metrics"]["auroc"]["value"]
        for one in task["results"]
        if one["probe"] == "logistic" and one["weights"] != export
    }
    best = max(scores, key=lambda name: scores[name])
    number = next(
        one["metrics"]["auroc"]
        for one in task["differences"]
        if one["probe"] == "logistic" and one["against"] == best
    )
    low, high = number["low"], number["high"]
    if low is None or high is None:
        return Verdict(False, best, _nothing(f"there are too few patients to compare it with {best}"))
    apart = f"AUROC {number['value']:+.3f} against {best}, 95 % interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return Verdict(True, best, _something(apart))
    return Verdict(False, best, _nothing(apart))


def _something(apart: str) -> str:
    return (
        f"Two minutes of pretraining are visible here: the export beats the best of the others ({apart}). "
        f"That holds for these drawn pictures and this one run; what it says of real ones is in {RESULTS}."
    )


def _nothing(apart: str) -> str:
    return (
        f"Two minutes of pretraining prove nothing here: the export does not beat the best of the others "
        f"({apart}). What longer training gives, on real photographs, is in {RESULTS}."
    )
