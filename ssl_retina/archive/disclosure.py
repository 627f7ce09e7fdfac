"""What together may single a patient out (age, sex, number of visits, device) -> unknown where it is rare.

In: what is known of each sample. Out: which of these are written, so that every combination that is written
is shared by at least k patients (k-anonymity, Sweeney 2002), and the smallest number that still share one.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

K = 5
"""So many patients share every combination, where age or sex are written."""
DATES = ("order", "shift")
ORDER = ("age", "sex", "visit", "device")
"""What is made unknown first: of a rare combination as little as needed."""

Row = tuple[str | None, str | None, int | None, str | None]
"""Age, sex, number of visits and device of one sample's patient."""


@dataclass(frozen=True)
class Rule:
    """k: patients that must share a combination; None: K where age or sex are there, else nothing is changed.

    dates: `order` gives the order of visits alone, `shift` also the days since the patient's first visit.
    """

    k: int | None = None
    dates: str = "order"

    def __post_init__(self) -> None:
        assert self.dates in DATES, self.dates


PLAIN = Rule()
"""What holds where nothing else is said."""


@dataclass(frozen=True)
class Release:
    """What is written of each sample.

    levels: sample -> how many of ORDER are made unknown (0 where it is absent). first_days: patient -> the
    first visit's day, empty unless days are asked for. asked: whether age and sex are written at all.
    smallest: how few patients share a combination. counts: of values made unknown, in samples.
    """

    levels: Mapping[int, int] = field(default_factory=dict)
    first_days: Mapping[str, int] | None = None
    asked: frozenset[str] = frozenset()
    k: int | None = None
    smallest: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def apply(self, number: int, record: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
        """The sample's JSON with age, sex and day where they are asked for, and without what is too rare."""
        sample |= {name: record.get(name) for name in sorted(self.asked)}
        if self.first_days is not None:
            sample["day"] = self._day(record)
        for name in ORDER[: self.levels.get(number, 0)]:
            if name in sample:
                sample[name] = None
            if name == "visit" and "day" in sample:
                sample["day"] = None
        return sample

    def _day(self, record: Mapping[str, Any]) -> int | None:
        day = record.get("day_order")
        assert self.first_days is not None
        return None if day is None else int(day) - self.first_days[record["patient"]]

    def facts(self) -> dict[str, Any]:
        """What the index says: k (null: nothing was asked for), and the smallest class."""
        return {"k": self.k, "smallest": self.smallest}


class Collector:
    """Takes one sample after the other, then decides. About 200 bytes a sample."""

    def __init__(self, rule: Rule, copies: Container[int] = ()) -> None:
        self._rule, self._copies = rule, copies
        self._samples: list[tuple[int, str, Mapping[str, Any]]] = []
        self._days: dict[str, int] = {}
        self._asked: set[str] = set()

    def add(self, number: int, record: Mapping[str, Any]) -> None:
        """Take a file with its number; one of `copies` becomes no sample and does not count."""
        if number in self._copies:
            return
        known = {name: record.get(name) for name in ("age", "sex", "device")}
        self._asked |= {name for name in ("age", "sex") if known[name]}
        self._samples.append((number, record["patient"] or record["key"], known))
        day = record.get("day_order")
        if day is not None:
            patient = record["patient"]
            self._days[patient] = min(day, self._days.get(patient, day))

    def release(self, visits: Mapping[str, Collection[int]]) -> Release:
        """Decide. visits: patient -> the orders of their visits."""
        k = self._rule.k if self._rule.k is not None else K if self._asked else None
        numbers = {patient: len(orders) for patient, orders in visits.items()}
        rows = [
            (number, who, (one["age"], one["sex"], numbers.get(who), one["device"]))
            for number, who, one in self._samples
        ]
        levels = _levels(rows, k) if k is not None else {}
        counts = {
            f"suppressed_{name}": sum(
                levels.get(number, 0) > at and row[at] is not None for number, _, row in rows
            )
            for at, name in enumerate(ORDER)
        }
        sizes = _sizes(rows, levels)
        return Release(
            levels=levels,
            first_days=self._days if self._rule.dates == "shift" else None,
            asked=frozenset(self._asked),
            k=k,
            smallest=min(map(len, sizes.values()), default=None),
            counts={name: count for name, count in counts.items() if count},
        )


Known = Sequence[tuple[int, str, Row]]
"""Number, patient (or the sample itself where none is known) and row of every sample."""


def _levels(rows: Known, k: int) -> dict[int, int]:
    """Make one value more unknown wherever fewer than k patients share what is left, at most all of them."""
    levels: dict[int, int] = {}
    for level in range(1, len(ORDER) + 1):
        sizes = _sizes(rows, levels)
        rare = [number for number, _, row in rows if len(sizes[_left(row, levels.get(number, 0))]) < k]
        levels.update(dict.fromkeys(rare, level))
    return levels


def _sizes(rows: Known, levels: Mapping[int, int]) -> dict[Row, set[str]]:
    """Combination as written -> its patients."""
    sizes: dict[Row, set[str]] = {}
    for number, who, row in rows:
        sizes.setdefault(_left(row, levels.get(number, 0)), set()).add(who)
    return sizes


def _left(row: Row, level: int) -> Row:
    """The row with its first `level` values made unknown."""
    age, sex, visits, device = row
    return (
        age if level < 1 else None,
        sex if level < 2 else None,
        visits if level < 3 else None,
        device if level < 4 else None,
    )
