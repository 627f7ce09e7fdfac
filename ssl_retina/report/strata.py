"""Devices, clusters and the rare stratum of a set: how many photographs of each are kept or were taken out.

In: the index of a set and its census. Out: lines of a table. What was kept is counted in the set as it is
now; what filters took out was counted when the set was made.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssl_retina.positions import UNKNOWN
from ssl_retina.report import census
from ssl_retina.report.census import Census
from ssl_retina.shard_index import weights
from ssl_retina.shards import Index

KINDS = ("device", "cluster", "rare")
CLASSES = ("reject", "usable", "good")


@dataclass(frozen=True)
class Stratum:
    """One line. copies: further files of these photographs' pixels, near ones that were merged included.

    taken: reason -> files. spared: of the rare ones, what filters would have taken: poor photographs below
    --min-quality and near duplicates that were not merged. weight: of each photograph, None where this kind
    is not balanced.
    """

    kind: str
    word: str
    kept: int
    copies: int
    taken: Mapping[str, int]
    spared: Mapping[str, int]
    weight: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)

    def sentence(self) -> str:
        """For a terminal."""
        parts = [f"{self.kept:,} kept"]
        parts += [f"{self.copies:,} copies of them"] if self.copies else []
        parts += [f"{count:,} taken out ({reason})" for reason, count in self.taken.items()]
        parts += [f"{count:,} spared ({reason})" for reason, count in self.spared.items()]
        parts += [f"weight {self.weight:,.2f}"] if self.weight is not None else []
        name = "rare stratum" if self.kind == "rare" else f"{self.kind} {self.word}"
        return f"{name}: {', '.join(parts)}"


def has(index: Index) -> bool:
    """Whether a set was weighted or filtered, or spares anything: else there is nothing to tell."""
    made = index.facts.get("made_from", {})
    clusters = set(index.columns["cluster"]) - {UNKNOWN}
    return bool(
        index.facts.get("taken_out") or index.facts.get(weights.BALANCE) or made.get("rare") or clusters
    )


def take(index: Index, counts: Census) -> list[Stratum]:
    """The lines; empty for a set that `has` none."""
    if not has(index):
        return []
    taken = dict(index.facts.get("taken_out", {}))
    if weights.CLUSTERS in index.facts:
        taken.pop("cluster", None)  # of the archive step's clusters, not of these
    lines: list[Stratum] = []
    for kind in KINDS:
        of_kind = taken.get(kind, {})
        words = {word for one, word in counts.strata if one == kind} | set(of_kind)
        if kind == "cluster" and words == {UNKNOWN}:
            continue
        found = [_line(index, kind, word, counts, of_kind.get(word, {})) for word in words]
        if kind == index.facts.get(weights.BALANCE):
            found = _weighted(found)
        lines += sorted(found, key=lambda one: (-one.kept, one.word))
    return lines


def read(index: Index) -> list[Stratum]:
    """The lines of a set that is not counted yet; its JSON is read only where it `has` any."""
    return take(index, census.take(index)) if has(index) else []


def _weighted(found: list[Stratum]) -> list[Stratum]:
    """As `shard_index.weights` has it."""
    kept = [one.kept for one in found if one.kept]
    share = sum(kept) / max(len(kept), 1)
    return [replace(one, weight=round(share / one.kept, 4) if one.kept else None) for one in found]


def _line(index: Index, kind: str, word: str, counts: Census, taken: Mapping[str, int]) -> Stratum:
    seen = counts.strata.get((kind, word), {})
    spared = _spared(index.facts.get("made_from", {}), seen) if kind == "rare" else {}
    return Stratum(kind, word, seen.get("kept", 0), seen.get("copies", 0), taken, spared, None)


def _spared(made: Mapping[str, Any], seen: Mapping[str, int]) -> dict[str, int]:
    lowest = made.get("min_quality")
    poor = CLASSES[: CLASSES.index(lowest)] if lowest in CLASSES else ()
    spared = {
        "quality": sum(seen.get(one, 0) for one in poor),
        "near_merged": seen.get("near", 0) if made.get("near_duplicates") == "merge" else 0,
    }
    return {name: count for name, count in spared.items() if count}
