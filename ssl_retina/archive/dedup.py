"""Same decoded pixels -> one sample with aliases; near duplicates marked; patients that share one -> a group.

In: the records of all files in the order of the scan, and which of them are one photograph (`copies`).
Out: a `Resolution`: who belongs together, the order of visits. Memory: about 200 bytes a photograph.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.duplicates.copies import Groups, same_pixels
from ssl_retina.archive.identity.disclosure import PLAIN, Collector, Release, Rule, belongs_to
from ssl_retina.archive.statements.attributes import DEVICES_LIMIT
from ssl_retina.archive.statements.devices import Usage

DEVICE_REMARK = "of device "
UNKNOWN_DEVICE = "device_unknown"
FROM_FILES = ("eye_unverified", UNKNOWN_DEVICE)
"""Remarks on samples that their files alone give: no sample holds them."""

Records = Callable[[], Iterable[Record]]


@dataclass(frozen=True)
class Resolution:
    """What only the whole archive can tell; files are named by their number in the scan.

    keys: the keys of photographs that have copies, near ones included; copies: the records of their exact
    duplicates. root: patient (or file of several pictures without a patient) -> the group's name, where
    several share a photograph. conflicts: leaders of photographs that lie under several patients. visits:
    patient -> its visit orders, sorted. devices: those that are written. clusters: number -> cluster.
    rare: samples of the rare stratum, None where none was asked for. counts: of id_conflict and the like, in
    samples. release: what is written of age, sex, days and rare combinations.
    """

    groups: Groups
    keys: Mapping[int, str]
    copies: Mapping[int, tuple[Record, ...]]
    root: Mapping[str, str]
    conflicts: frozenset[int]
    visits: Mapping[str, tuple[int, ...]]
    devices: frozenset[str]
    devices_dropped: bool
    clusters: Sequence[int]
    counts: Mapping[str, int]
    release: Release = Release()
    rare: frozenset[int] | None = None

    def sample(self, number: int, record: Record) -> dict[str, Any]:
        """The sample's JSON: the contract's fields and no others."""
        copies = self.copies.get(number, ())
        together = (record, *copies)
        belong = sorted(filter(None, map(owner, together)))
        splits = {part for one in together for part in one["split"].split("|") if part}
        plain = ("key", "name", "modality", "width", "height", "source_width", "source_height")
        place = ("volume", "slice", "slices")
        sample = {
            **{name: record[name] for name in plain},
            **{name: record.get(name) for name in place},
            "patient": record["patient"],
            "group": self.root.get(belong[0], belong[0]) if belong else record["key"],
            "eye": _one_eye(together),
            "device": record["device"] if record["device"] in self.devices else None,
            "visit": self._visit(record),
            "split": "|".join(sorted(splits)),
            "field_of_view": record["field_of_view"],
            "aliases": [{name: one[name] for name in ("key", "name", "patient", "split")} for one in copies],
            "near": self.keys[self.groups.near[number]] if number in self.groups.near else None,
            "id_conflict": self.groups.leader(number) in self.conflicts,
            "quality": record.get("quality"),
            "cluster": f"c{self.clusters[number]:02d}" if self.clusters else None,
            "pixels_xxh128": record["pixels_xxh128"],
            **({} if self.rare is None else {"rare": number in self.rare}),
        }
        return self.release.apply(number, record, sample)

    def original_key(self, number: int) -> str:
        """The key of the sample that a duplicate is an alias of."""
        return self.keys[self.groups.original[number]]

    def _visit(self, record: Record) -> int | None:
        if record["visit_order"] is None:
            return None
        return self.visits[record["patient"]].index(record["visit_order"])


def resolve(
    records: Records, groups: Groups | None = None, *, clusters: Sequence[int] = (), rule: Rule = PLAIN
) -> Resolution:
    """Read all records once more; `groups` None: exact duplicates alone."""
    groups = groups or same_pixels(records())
    copied = _Copied(groups)
    visits: dict[str, set[int]] = {}
    patients: set[str] = set()
    usage = Usage()
    known = Collector(rule, groups.original)
    samples: Counter[str | None] = Counter()
    counts: Counter[str] = Counter(groups.counts)
    for number, record in enumerate(records()):
        if groups.out(number, record):
            continue
        if not copied.add(number, record):
            counts.update(_remarks([record]))
        if record["patient"]:
            patients.add(record["patient"])
            if record["visit_order"] is not None:
                visits.setdefault(record["patient"], set()).add(record["visit_order"])
        known.add(number, record)
        usage.add(record["device"], record["patient"])
        samples[record["device"]] += number not in groups.original
    for one in copied.exact():
        counts.update(_remarks(one))
    conflicts = copied.conflicts()
    counts.update(id_conflict=copied.samples_in(conflicts), patients=len(patients))
    devices, unknown = _devices(usage, samples)
    orders = {patient: tuple(sorted(found)) for patient, found in visits.items()}
    release = known.release(orders, devices=devices, units=copied.units())
    return Resolution(
        groups=groups,
        keys=copied.keys(),
        copies=copied.copies(),
        root=roots(copied.together()),
        conflicts=conflicts,
        visits=orders,
        devices=devices,
        devices_dropped=usage.distinct > DEVICES_LIMIT,
        clusters=clusters,
        counts=+(counts + unknown + _told(release) + Counter(release.counts)),
        release=release,
    )


class _Copied:
    """The records of photographs that have copies, exact or near, by the number of their leader."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._firsts = {*groups.original.values(), *groups.near, *groups.near.values()}
        self._members: dict[int, dict[int, Record]] = {}

    def add(self, number: int, record: Record) -> bool:
        """Keep the record if it belongs to such a photograph."""
        if number not in self._groups.original and number not in self._firsts:
            return False
        self._members.setdefault(self._groups.leader(number), {})[number] = record
        return True

    def together(self) -> list[list[Record]]:
        """The records of every group of copies."""
        return [list(members.values()) for members in self._members.values()]

    def units(self) -> dict[str, str]:
        """Everybody in them -> the name of all who hang together, whatever is known of them."""
        return _joined(map(belongs_to, group) for group in self.together())

    def exact(self) -> list[list[Record]]:
        """The same, near duplicates apart: one list for each sample."""
        copies = self.copies()
        return [[record, *copies.get(number, ())] for number, record in self._samples()]

    def keys(self) -> dict[int, str]:
        """The key of every sample among them."""
        return {number: record["key"] for number, record in self._samples()}

    def copies(self) -> dict[int, tuple[Record, ...]]:
        """Sample -> the records that are its aliases."""
        found: dict[int, list[Record]] = {}
        for members in self._members.values():
            for number, record in members.items():
                if number in self._groups.original:
                    found.setdefault(self._groups.original[number], []).append(record)
        return {number: tuple(records) for number, records in found.items()}

    def conflicts(self) -> frozenset[int]:
        """Leaders of photographs that lie under several patients."""
        return frozenset(
            leader
            for leader, members in self._members.items()
            if len({one["patient"] for one in members.values() if one["patient"]}) > 1
        )

    def samples_in(self, leaders: frozenset[int]) -> int:
        """How many samples these groups have."""
        return sum(self._groups.leader(number) in leaders for number, _ in self._samples())

    def _samples(self) -> list[tuple[int, Record]]:
        return [
            (number, record)
            for members in self._members.values()
            for number, record in members.items()
            if number not in self._groups.original
        ]


def _devices(usage: Usage, samples: Counter[str | None]) -> tuple[frozenset[str], Counter[str]]:
    """The devices that may be written: they stand in the shards in clear. And how many samples lose theirs.

    What a table or a name gives is refused before anything is written (`matching`), and a DICOM file's own
    device has known words alone (`deidentify`). Who a DICOM file shows is known only here: a value that now
    looks like a person is dropped and counted.
    """
    if usage.distinct > DEVICES_LIMIT:
        return frozenset(), Counter()
    people = usage.identities()
    known = frozenset(device for device in samples if device is not None)
    return known - people, Counter({UNKNOWN_DEVICE: sum(samples[device] for device in people)})


def _told(release: Release) -> Counter[str]:
    """What is told about the devices: of those that are written, so that no count gives away another."""
    return Counter({device_remark(device): count for device, count in release.devices.items()})


def device_remark(device: str) -> str:
    """What is told about a device that is written."""
    return f"{DEVICE_REMARK}{device!r}, a name that is written in clear"


def _remarks(group: list[Record]) -> Counter[str]:
    """What is remarkable about one sample, given the records of all its copies."""
    told = {code for one in group for code in one["remarks"]}
    eyes = {one["eye"] for one in group} - {"unknown"}
    seen = {
        "no_patient": not any(one["patient"] for one in group),
        "split_conflict": len({one["split"] for one in group if one["split"]}) > 1,
        "eye_conflict": len(eyes) > 1,
        "eye_unknown": len(eyes) != 1,
    }
    return Counter(told | {code for code, present in seen.items() if present})


def _one_eye(together: Iterable[Record]) -> str:
    """The eye that all copies agree on."""
    known = {one["eye"] for one in together} - {"unknown"}
    eye: str = known.pop() if len(known) == 1 else "unknown"
    return eye


def owner(record: Record) -> str | None:
    """Who a photograph belongs to: its patient, else its file where that holds several pictures."""
    owner: str | None = record["patient"] or (record["file"] if record.get("place") else None)
    return owner


def roots(sets: Iterable[list[Record]]) -> dict[str, str]:
    """Owner -> the group's name, of owners that share a photograph."""
    return _joined(filter(None, map(owner, group)) for group in sets)


def _joined(sets: Iterable[Iterable[str]]) -> dict[str, str]:
    """Union-find over names; the smallest of them names all."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]  # halve the path
            name = parent[name]
        return name

    for group in sets:
        first, *others = sorted(set(group)) or [""]
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {name: root(name) for name in list(parent)}
