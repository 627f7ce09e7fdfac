"""What together may single a patient out (age, sex, visits, device) -> unknown where it is rare.

In: what is known of each sample, and who belongs together. Out: which of these are written, so that at least
k patients share everything that is written of a patient (k-anonymity, Sweeney 2002), and the smallest number
that still share it.
"""

import hmac
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

K = 5
"""So many patients share everything, where age or sex are written."""
DATES = ("order", "shift")
ORDER = ("age", "sex", "visit", "device")
"""What is made unknown first: of a rare patient as little as needed."""
TOLD_BY = {"visit": ("day",), "device": ("source_width", "source_height", "rare")}
"""What gives a value away and is unknown with it: a file's size is that of the camera's sensor, and what is
rare may be told by the device.
"""
BELOW_K = "below_k"
"""The count of all patients where they are fewer than k."""

Row = tuple[str | None, str | None, int | None, str | None]
"""Age, sex, visit and device of one sample."""
Profile = frozenset[Row]
"""Everything that is written of a patient: the rows of all their samples."""


@dataclass(frozen=True)
class Rule:
    """k: patients that must share a combination; None: K where age or sex are there, else nothing is changed.

    dates: `order` gives the order of visits alone, `shift` also the days since the patient's first visit.
    secret: chooses whose values are made unknown only so that others can hide among them.
    """

    k: int | None = None
    dates: str = "order"
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        assert self.dates in DATES, self.dates


PLAIN = Rule()
"""What holds where nothing else is said."""


@dataclass(frozen=True)
class Release:
    """What is written of each sample.

    levels: sample -> how many of ORDER are made unknown (0 where it is absent). first_days: patient -> the
    first visit's day, empty unless days are asked for. asked: whether age and sex are written at all.
    smallest: how few patients share everything that is written of them. devices: those that are written, and
    of how many samples. counts: of values made unknown, in samples; BELOW_K, in patients.
    """

    levels: Mapping[int, int] = field(default_factory=dict)
    first_days: Mapping[str, int] | None = None
    asked: frozenset[str] = frozenset()
    k: int | None = None
    smallest: int | None = None
    devices: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def apply(self, number: int, record: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
        """The sample's JSON with age, sex and day where they are asked for, and without what is too rare."""
        sample |= {name: record.get(name) for name in sorted(self.asked)}
        if self.first_days is not None:
            sample["day"] = self._day(record)
        for name in ORDER[: self.levels.get(number, 0)]:
            sample |= dict.fromkeys(sample.keys() & {name, *TOLD_BY.get(name, ())})
        return sample

    def _day(self, record: Mapping[str, Any]) -> int | None:
        day = record.get("day_order")
        assert self.first_days is not None
        return None if day is None else int(day) - self.first_days[record["patient"]]

    def facts(self) -> dict[str, Any]:
        """What the index says: k (null: nothing was asked for), and the smallest class."""
        return {"k": self.k, "smallest": self.smallest}


class Collector:
    """Takes one file after the other, then decides. About 200 bytes a sample.

    copies: file -> the sample whose pixels it has: it becomes no sample, but that one is its owner's too.
    """

    def __init__(self, rule: Rule, copies: Mapping[int, int] | None = None) -> None:
        self._rule, self._copies = rule, copies or {}
        self._samples: list[tuple[int, str, str | None, Mapping[str, Any]]] = []
        self._sharers: dict[int, list[str]] = {}
        self._days: dict[str, int] = {}
        self._asked: set[str] = set()

    def add(self, number: int, record: Mapping[str, Any]) -> None:
        """Take a file with its number."""
        if number in self._copies:
            if record["patient"]:
                self._sharers.setdefault(self._copies[number], []).append(record["patient"])
            return
        known = {name: record.get(name) for name in ("age", "sex", "visit_order", "device")}
        self._asked |= {name for name in ("age", "sex") if known[name]}
        self._samples.append((number, belongs_to(record), record["patient"], known))
        day = record.get("day_order")
        if day is not None:
            patient = record["patient"]
            self._days[patient] = min(day, self._days.get(patient, day))

    def release(
        self,
        visits: Mapping[str, Sequence[int]],
        *,
        devices: Collection[str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Release:
        """Decide. visits: patient -> the orders of their visits, sorted. devices: those that may be written.

        units: `belongs_to` -> the name of all that is joined by photographs, where it is more than one.
        """
        k = self._rule.k if self._rule.k is not None else K if self._asked else None
        people = _People(self._rule.secret)
        rows: list[tuple[int, str, Row]] = []
        for number, one, patient, known in self._samples:
            order, device = known["visit_order"], known["device"]
            visit = None if order is None or patient is None else visits[patient].index(order)
            named = device if devices is None or device in devices else None
            row = (known["age"], known["sex"], visit, named)
            unit = (units or {}).get(one, one)
            people.add(unit, {*filter(None, (patient, *self._sharers.get(number, ())))} or {unit}, row)
            rows.append((number, unit, row))
        levels = people.levels(k) if k is not None else {}
        smallest = min(map(len, people.classes(levels)), default=None)
        counts = _suppressed(rows, levels)
        if k is not None and smallest is not None and smallest < k:
            counts[BELOW_K] = smallest
        return Release(
            levels={number: levels[unit] for number, unit, _ in rows if unit in levels},
            first_days=self._days if self._rule.dates == "shift" else None,
            asked=frozenset(self._asked),
            k=k,
            smallest=smallest,
            devices=Counter(row[3] for _, unit, row in rows if row[3] and levels.get(unit, 0) < len(ORDER)),
            counts=counts,
        )


def belongs_to(record: Mapping[str, Any]) -> str:
    """Whose values they are: the patient's, else a file's of several pictures, else the picture's own."""
    owner: str = record["patient"] or (record["file"] if record.get("place") else record["key"])
    return owner


def _suppressed(rows: Sequence[tuple[int, str, Row]], levels: Mapping[str, int]) -> Counter[str]:
    """How many samples lose each value."""
    lost = (
        f"suppressed_{name}"
        for _, unit, row in rows
        for at, name in enumerate(ORDER[: levels.get(unit, 0)])
        if row[at] is not None
    )
    return Counter(lost)


class _People:
    """Everything that is known of each patient, and the unit of patients that their photographs join.

    A unit has one level: what is unknown in one of its samples stands in no other one.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._rows: dict[str, set[Row]] = {}
        self._unit: dict[str, str] = {}

    def add(self, unit: str, patients: Collection[str], row: Row) -> None:
        """One sample, which shows a photograph of each of these patients."""
        for patient in sorted(patients):
            self._rows.setdefault(patient, set()).add(row)
            self._unit[patient] = unit

    def levels(self, k: int) -> dict[str, int]:
        """Unit -> level, so that k patients are in every class, or all in the one without a value."""
        levels: dict[str, int] = {}
        for level in range(1, len(ORDER) + 1):
            self._raise(levels, self._rare(levels, k), level)
        while further := self._rare(levels, k) or self._company(levels, k):
            self._raise(levels, further, len(ORDER))
        if len(ORDER) in levels.values():  # what is unknown beside the values must not tell who had some
            self._raise(levels, self._profiles(levels)[NOTHING], len(ORDER))
        return levels

    def classes(self, levels: Mapping[str, int]) -> list[list[str]]:
        """The patients of each profile as written, in the order of their first samples."""
        return list(self._profiles(levels).values())

    def _profiles(self, levels: Mapping[str, int]) -> dict[Profile, list[str]]:
        found: dict[Profile, list[str]] = {}
        for patient, rows in self._rows.items():
            level = levels.get(self._unit[patient], 0)
            found.setdefault(frozenset(_left(row, level) for row in rows), []).append(patient)
        return found

    def _raise(self, levels: dict[str, int], patients: Collection[str], level: int) -> None:
        levels.update((self._unit[patient], level) for patient in patients)

    def _rare(self, levels: Mapping[str, int], k: int) -> list[str]:
        """Patients of classes below k that still have a value."""
        return [
            patient
            for profile, patients in self._profiles(levels).items()
            if len(patients) < k and profile != NOTHING
            for patient in patients
        ]

    def _company(self, levels: Mapping[str, int], k: int) -> list[str]:
        """Who loses all values so that those without any are k: as few as can be, or a whole class.

        Of the largest class as many as needed where k stay behind, else everybody of the smallest. Which of
        them, the secret decides: in any order that can be seen they could be told from the rare ones.
        """
        profiles = self._profiles(levels)
        hidden = profiles.pop(NOTHING, [])
        if not 0 < len(hidden) < k or not profiles:
            return []
        needed, largest = k - len(hidden), max(profiles.values(), key=len)
        if len(largest) >= needed + k:
            return sorted(largest, key=self._lot)[:needed]
        return min(profiles.values(), key=len)

    def _lot(self, patient: str) -> bytes:
        return hmac.digest(self._secret, f"company\0{self._unit[patient]}".encode(), "sha256")


def _left(row: Row, level: int) -> Row:
    """The row with its first `level` values made unknown."""
    age, sex, visit, device = row
    return (
        age if level < 1 else None,
        sex if level < 2 else None,
        visit if level < 3 else None,
        device if level < 4 else None,
    )


NOTHING: Profile = frozenset([(None, None, None, None)])
"""The profile of a patient of whom nothing is written."""
