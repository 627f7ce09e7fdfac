"""A complete set -> the shards that must differ when some of its samples go or say something else.

In: an index and, for some rows, another JSON or none. Out: new tars in a folder; every other tar stays as it
is, byte for byte. Imports webdataset's writer, and so torch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_retina import files, shard_index, shards
from ssl_retina.archive import dedup, pack
from ssl_retina.shard_index.manifest import SEALED
from ssl_retina.shards import Index, Reader

Facts = Mapping[str, Any]
Changes = dict[int, Facts | None]
"""Row -> the sample's new JSON, or None where the sample goes."""


@dataclass(frozen=True)
class Revised:
    """kept: shards that stay. rewritten: those with other samples. removed: those that nothing is left of."""

    kept: frozenset[str]
    rewritten: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass
class Holdings:
    """What the samples of a set amount to: the part of `Totals` that changes with them."""

    patients: set[int] = field(default_factory=set)
    remarks: Counter[str] = field(default_factory=Counter)

    def add(self, facts: Facts) -> None:
        """Count one sample, its aliases with it."""
        everyone = owners(facts)
        self.patients |= {shards.group_number(one) for one in everyone}
        splits = {one["split"] for one in (facts, *facts["aliases"]) if one["split"]}
        seen = {
            "no_patient": not everyone,
            "id_conflict": facts.get("id_conflict", len(everyone) > 1),
            "near_duplicate": bool(facts.get("near")),
            "split_conflict": len(splits) > 1,
            "eye_unknown": facts["eye"] == "unknown",
            pack.UNCROPPED: facts["modality"] != "oct" and facts["field_of_view"] is None,
        }
        self.remarks.update(name for name, present in seen.items() if present)
        if facts["device"] is not None:
            self.remarks[dedup.device_remark(facts["device"])] += 1

    def revised(self, remarks: Mapping[str, int]) -> dict[str, int]:
        """The remarks of a build with these counts in place of the ones that the samples decide."""
        own = ("no_patient", "id_conflict", "near_duplicate", "split_conflict", "eye_unknown", pack.UNCROPPED)
        stay = {
            name: count
            for name, count in remarks.items()
            if name not in own and not name.startswith(dedup.DEVICE_REMARK)
        }
        return {**stay, **+self.remarks}


def owners(facts: Facts) -> set[str]:
    """The patients whose photograph a sample is: its own and those of its aliases."""
    return {one["patient"] for one in (facts, *facts["aliases"]) if one["patient"]}


def cluster(facts: Facts) -> str:
    """The key of the photograph that leads this one and its near duplicates."""
    leader: str = facts.get("near") or facts["key"]
    return leader


def every(reader: Reader) -> Iterator[tuple[int, Facts]]:
    """Every row with its JSON, in the order of the set."""
    for row in range(len(reader)):
        yield row, reader.facts(row)


def regrouped(samples: Iterable[tuple[int, Facts]], several: Mapping[str, str]) -> Changes:
    """The samples whose group has another name now, given all samples of these groups that stay.

    several: key -> file of the pictures whose file holds several: without a patient it owns them (`dedup`).
    """
    together = list(samples)
    sets = [[_owned(one, several) for one in (facts, *facts["aliases"])] for _, facts in together]
    clusters: dict[str, list[dict[str, Any]]] = {}
    for (_, facts), own in zip(together, sets, strict=True):
        clusters.setdefault(cluster(facts), []).extend(own)
    roots = dedup.roots(clusters.values())
    changes: Changes = {}
    for (row, facts), one_set in zip(together, sets, strict=True):
        everyone = sorted(filter(None, map(dedup.owner, one_set)))
        group = roots.get(everyone[0], everyone[0]) if everyone else facts["key"]
        if group != facts["group"]:
            changes[row] = {**facts, "group": group}
    return changes


def _owned(one: Facts, several: Mapping[str, str]) -> dict[str, Any]:
    """A sample or an alias as `dedup` sees its owner."""
    return {"patient": one["patient"], "file": several.get(one["key"]), "place": one["key"] in several}


def rewrite(index: Index, reader: Reader, changes: Changes, folder: Path) -> Revised:
    """Write the shards that `changes` touch into `folder`, each whole, its samples in their order.

    Raises ShardError for an image whose CRC-32 is wrong.
    """
    touched = {reader.shard(row) for row in changes}
    start = 0
    rewritten: list[str] = []
    removed: list[str] = []
    for shard in index.shards:
        rows = range(start, start + shard.nsamples)
        start += shard.nsamples
        if shard.url not in touched:
            continue
        left = [row for row in rows if changes.get(row, reader) is not None]
        if left:
            _write(folder / shard.url, reader, left, changes)
        (rewritten if left else removed).append(shard.url)
    return Revised(frozenset(shard.url for shard in index.shards) - touched, tuple(rewritten), tuple(removed))


def _write(path: Path, reader: Reader, rows: Iterable[int], changes: Changes) -> None:
    mode = files.mode_beside(path.parent)
    with files.whole(path, mode) as temporary, temporary.open("wb") as stream, pack.writer(stream) as tar:
        for row in rows:
            facts = changes.get(row) or reader.facts(row)
            tar.write(
                {
                    "__key__": reader.key(row),
                    reader.suffix(row): reader.image(row),
                    "json": pack.encoded(facts),
                }
            )


def index_again(index: Index, revised: Revised, folder: Path, facts: Mapping[str, Any]) -> Index:
    """Write table, manifest and index of the revised set into `folder`, where its new ledger lies.

    A set that had no manifest gets none: what it was made from was never told.
    """
    kept = shard_index.Kept(index, revised.kept)
    proven = facts if SEALED in index.facts else None
    return shard_index.write(folder, facts, manifest=proven, kept=kept)
