"""What a set of shards holds, counted: pictures by device and eye, visits by patient, who shares what.

In: the index of a set. Out: a `Census` of plain numbers; no pseudonym is in it. Every JSON is read once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ssl_retina import positions, shards
from ssl_retina.shards import Index, Reader

COLUMNS = ("modality", "eye", "device", "split", "quality", "age", "sex")
UNKNOWN, UNDECLARED = "unknown", "not declared"
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Census:
    """Counts of one set.

    columns: for each of COLUMNS that the samples have, how many have each word. visits, photographs: how many
    patients have 1, 2, ... of them, as far as known. smallest: how few patients share all that is written of
    their photographs' devices, ages, sexes and visits; k-anonymity as anybody who has the shards can count
    it. aliases: further files of the same pixels. near: photographs that are marked as near duplicates of
    another. shared: photographs that lie under several patients, near duplicates included. strata: (device,
    cluster or rare; word) -> `kept`, `copies` (further files of the same pixels), `near`, and how many are of
    each quality.
    """

    samples: int
    patients: int
    groups: int
    columns: Mapping[str, Mapping[str, int]]
    visits: Mapping[int, int]
    photographs: Mapping[int, int]
    smallest: int | None
    aliases: int
    near: int
    shared: int
    strata: Mapping[tuple[str, str], Mapping[str, int]]


@dataclass
class _Counts:
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    visits: dict[int, set[int]] = field(default_factory=dict)
    photographs: Counter[int] = field(default_factory=Counter)
    rows: dict[int, set[tuple[Any, ...]]] = field(default_factory=dict)
    groups: set[int] = field(default_factory=set)
    aliases: int = 0
    near: int = 0
    shared: int = 0
    strata: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def add(self, row: int, facts: Facts, cluster: str = UNKNOWN) -> None:
        """Count one sample, in the cluster that the table has it in.

        A sample without a patient stands for its group, which is somebody else.
        """
        for name in COLUMNS:
            if name in facts:
                word = facts[name]
                if name == "quality" and isinstance(word, dict):
                    word = word.get("class")
                known = str(word) if word not in (None, "") else UNKNOWN if name != "split" else UNDECLARED
                self.columns.setdefault(name, Counter())[known] += 1
        patient, visit = facts.get("patient"), facts.get("visit")
        visit = visit if isinstance(visit, int) else None
        if isinstance(patient, str) and visit is not None:
            self.visits.setdefault(shards.group_number(patient), set()).add(visit)
        group = shards.group_number(str(facts.get("group", row)))
        self.groups.add(group)
        others = [one for one in facts.get("aliases", ()) if isinstance(one, dict)]
        self.aliases += len(others)
        named = (one.get("patient") for one in (facts, *others))
        owners = {one for one in named if isinstance(one, str)}
        numbers = {shards.group_number(one) for one in owners}
        self.photographs.update(numbers)
        for who in numbers or {group}:
            combination = (facts.get("device"), facts.get("age"), facts.get("sex"), visit)
            self.rows.setdefault(who, set()).add(combination)
        self.near += bool(facts.get("near"))
        self.shared += len(owners) > 1 or bool(facts.get("id_conflict"))
        self._add_to_strata(facts, cluster, copies=len(others))

    def _add_to_strata(self, facts: Facts, cluster: str, *, copies: int) -> None:
        seen = Counter(kept=1, copies=copies, near=int(bool(facts.get("near"))))
        quality = facts.get("quality")
        if isinstance(quality, dict):
            seen[str(quality.get("class"))] += 1
        own = [("device", str(facts.get("device") or UNKNOWN)), ("cluster", cluster)]
        for stratum in (*own, ("rare", "rare")) if facts.get("rare") is True else own:
            self.strata.setdefault(stratum, Counter()).update(seen)

    def smallest(self) -> int | None:
        """Patients of the rarest kind: a patient's whole set of rows counts, over all their photographs."""
        return min(Counter(map(frozenset, self.rows.values())).values(), default=None)


def take(index: Index) -> Census:
    """Read every sample's JSON. Raises ShardError where one cannot be read."""
    counts = _Counts()
    reader = Reader(index)
    try:
        codes = positions.codes(reader.positions, "cluster")
        for row in range(len(reader)):
            counts.add(row, reader.facts(row), index.columns["cluster"][int(codes[row])])
    finally:
        reader.close()
    return Census(
        samples=index.samples,
        patients=len(counts.photographs),
        groups=len(counts.groups),
        columns={name: dict(words.most_common()) for name, words in counts.columns.items()},
        visits=dict(sorted(Counter(map(len, counts.visits.values())).items())),
        photographs=dict(sorted(Counter(counts.photographs.values()).items())),
        smallest=counts.smallest(),
        aliases=counts.aliases,
        near=counts.near,
        shared=counts.shared,
        strata=counts.strata,
    )
