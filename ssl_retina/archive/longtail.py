"""What is rare in an archive, and what filters may take out: rare photographs are spared.

In: the records of a finished stage 1 and what the user asked. Out: the cluster of every file, the rare ones,
those that the quality filter refuses; and, once all is resolved, what was taken out of which stratum.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.dedup import Resolution, device_remark
from ssl_retina.archive.duplicates.copies import REPEATED
from ssl_retina.archive.filters import Filters
from ssl_retina.archive.identity import disclosure
from ssl_retina.archive.pixels import features, quality
from ssl_retina.positions import UNKNOWN

LOW_QUALITY = "quality"
NO_CLUSTER = features.CLUSTERS
"""The cluster of what is no fundus photograph."""


@dataclass(frozen=True)
class Strata:
    """By number in the scan. clusters: of every file, empty if none was asked for. counts: for the report."""

    clusters: list[int]
    rare: frozenset[int]
    refused: Mapping[int, str]
    counts: Mapping[str, int]


def survey(records: Iterable[Record], filters: Filters) -> Strata:
    """Read all records once: 12 numbers of a photograph are held where clusters are asked for."""
    devices: dict[int, str | None] = {}
    poor: set[int] = set()
    table: list[list[float] | None] = []
    lowest = quality.CLASSES.index(filters.min_quality)
    for number, record in enumerate(records):
        table.append(record.get("features") if filters.wants_clusters else None)
        if record.get("reason"):
            continue
        if filters.rare_device is not None:
            devices[number] = record["device"]
        judged = record["quality"]
        if judged is not None and quality.CLASSES.index(judged["class"]) < lowest:
            poor.add(number)
    clusters = _clusters(table) if filters.wants_clusters else []
    rare = _rare_clusters(clusters, filters.rare_share) if filters.rare_share else set()
    rare |= {number for number, device in devices.items() if device == filters.rare_device}
    counts = Counter({"rare": len(rare), "rare_spared": len(rare & poor)})
    refused = dict.fromkeys(sorted(poor - rare), LOW_QUALITY)
    return Strata(clusters, frozenset(rare), refused, +counts)


def _clusters(table: list[list[float] | None]) -> list[int]:
    known = [number for number, row in enumerate(table) if row is not None]
    clusters = [NO_CLUSTER] * len(table)
    rows = np.array([table[number] for number in known], np.float32).reshape(len(known), features.NUMBERS)
    for number, cluster in zip(known, features.clusters(rows), strict=True):
        clusters[number] = cluster
    return clusters


def _rare_clusters(clusters: list[int], share: float) -> set[int]:
    """The files of the smallest clusters, as many clusters as together stay below the share."""
    sizes = Counter(cluster for cluster in clusters if cluster != NO_CLUSTER)
    left = share * sizes.total()
    chosen = set()
    for cluster, size in sorted(sizes.items(), key=lambda pair: (pair[1], pair[0])):
        left -= size
        if left < 0:
            break
        chosen.add(cluster)
    return {number for number, cluster in enumerate(clusters) if cluster in chosen}


Taken = dict[str, dict[str, dict[str, int]]]
"""Kind of stratum (device, cluster, rare) -> its word -> reason -> files that were taken out of it."""

RARE = "rare"
"""The kind of stratum, and its one word."""


def taken_out(records: Iterable[Record], resolution: Resolution, first: int = 0) -> Taken:
    """What filters took out of every stratum; a device that no sample carries is not named.

    first: the number of the first record.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    written: set[str] = set()
    groups = resolution.groups
    for number, record in enumerate(records, first):
        reason = groups.refused.get(number) or (REPEATED if number in groups.repeated else "")
        device = record.get("device")
        if reason:
            counts["device", device or UNKNOWN, reason] += 1
            if resolution.clusters:
                counts["cluster", f"c{resolution.clusters[number]:02d}", reason] += 1
            if resolution.rare is not None and number in resolution.rare:
                counts[RARE, RARE, reason] += 1
        elif device in resolution.devices and not _is_unknown(number, resolution):
            written.add(device)
    taken: Taken = {}
    for (kind, word, reason), count in sorted(counts.items()):
        named = word if kind != "device" or word in written else UNKNOWN
        reasons = taken.setdefault(kind, {}).setdefault(named, {})
        reasons[reason] = reasons.get(reason, 0) + count
    return taken


def _is_unknown(number: int, resolution: Resolution) -> bool:
    """Whether the device of a file is made unknown, or it is no sample."""
    suppressed = resolution.release.levels.get(number, 0) > disclosure.ORDER.index("device")
    return suppressed or number in resolution.groups.original


def without_devices(taken: Taken, remarks: Collection[str]) -> Taken:
    """The same where devices that the remarks on a set's samples do not name are unknown."""
    left: Taken = {}
    for kind, word, reason, count in _flat(taken):
        gone = kind == "device" and device_remark(word) not in remarks
        left = together(left, {kind: {UNKNOWN if gone else word: {reason: count}}})
    return left


def together(one: Taken, other: Taken) -> Taken:
    """The sum of two."""
    total: Taken = {}
    for kind, word, reason, count in (*_flat(one), *_flat(other)):
        reasons = total.setdefault(kind, {}).setdefault(word, {})
        reasons[reason] = reasons.get(reason, 0) + count
    return total


def _flat(taken: Taken) -> list[tuple[str, str, str, int]]:
    return [
        (kind, word, reason, count)
        for kind, words in taken.items()
        for word, reasons in words.items()
        for reason, count in reasons.items()
    ]
