"""The photographs of a set as the archive step's second stage takes them, and what new files change of them.

In: the reader of a complete set. Out: records of its samples and aliases, its near duplicates, by number in
that order; the samples that must say something else once new files are there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssl_retina.archive import dedup
from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.revision import revise
from ssl_retina.shards import Reader

UNSAID = ("volume", "slice", "slices", "visit_order")


@dataclass(frozen=True)
class Older:
    """several: key -> file of the pictures whose file holds several. visits: file -> the order of its visit,
    for the patients whose visits are found again (`visits`).
    """

    reader: Reader
    several: Mapping[str, str]
    visits: Mapping[str, int]

    def records(self) -> Iterator[Record]:
        """Every sample, followed by its aliases."""
        nothing: Record = dict.fromkeys(UNSAID) | {"remarks": [], "notes": []}
        for _, facts in revise.every(self.reader):
            for one in (facts, *facts["aliases"]):
                own: Record = {} if one is facts else {"eye": "unknown", "device": None}
                file = self.several.get(one["key"], one["key"])
                own |= {"file": file, "place": one["key"] in self.several}
                yield {**nothing, **facts, **one, **own, "visit_order": self.visits.get(file)}

    def numbered(self) -> Iterator[tuple[int, int, revise.Facts]]:
        """Every sample: its number among the records, its row, its JSON."""
        number = 0
        for row, facts in revise.every(self.reader):
            yield number, row, facts
            number += 1 + len(facts["aliases"])

    def near(self) -> dict[int, int]:
        """The near duplicates that are marked: copy -> leader, by number."""
        numbers: dict[str, int] = {}
        leaders: dict[int, str] = {}
        for number, _, facts in self.numbered():
            numbers[facts["key"]] = number
            if facts.get("near"):
                leaders[number] = facts["near"]
        return {copy: numbers[leader] for copy, leader in leaders.items()}

    def changes(self, resolution: dedup.Resolution) -> revise.Changes:
        """The samples that have new copies, another leader or visit, or whose group has another name now."""
        changes: revise.Changes = {}
        records = self.records()
        for number, row, facts in self.numbered():
            record = next(records)
            now = resolution.sample(number, record)
            for _ in facts["aliases"]:
                next(records)
            changed = {name: now[name] for name in ("group", "split", "aliases", "near", "id_conflict")}
            if facts["eye"] != "unknown":
                changed["eye"] = now["eye"]
            if record["visit_order"] is not None:
                changed["visit"] = now["visit"]
            if any(facts.get(name) != value for name, value in changed.items()):
                changes[row] = {**facts, **changed}
        return changes
