"""Same decoded pixels -> one sample with aliases; patients that share a photograph -> one group.

In: the records of all files in the order of the scan, three times. Out: a `Resolution`: which files are
duplicates of which, who belongs together, the order of visits. Memory: about 200 bytes a photograph.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ssl_retina.archive.attributes import DEVICES_LIMIT
from ssl_retina.archive.devices import Usage
from ssl_retina.archive.worker import Record

REPEATED = "repeated"
COPIES_LIMIT = 256
"""More equal pictures than this are a placeholder ("no image available"), not a photograph of an eye: all are
rejected, else one such file would make one group of all patients, and a JSON above its limit."""

Records = Callable[[], Iterable[Record]]


@dataclass(frozen=True)
class Resolution:
    """What only the whole archive can tell; files are named by their number in the scan.

    original: duplicate -> the first file with the same pixels; keys: the keys of those first files; copies:
    the records of their duplicates. repeated: files rejected as placeholders. root: patient (or file of
    several pictures without a patient) -> the group's name, where several share a photograph. visits:
    patient -> its visit orders, sorted. devices: those that are written. counts: of id_conflict and the
    like, in samples.
    """

    original: Mapping[int, int]
    keys: Mapping[int, str]
    copies: Mapping[int, tuple[Record, ...]]
    repeated: frozenset[int]
    root: Mapping[str, str]
    visits: Mapping[str, tuple[int, ...]]
    devices: frozenset[str]
    devices_dropped: bool
    counts: Mapping[str, int]

    def sample(self, number: int, record: Record) -> dict[str, Any]:
        """The sample's JSON: the contract's fields and no others."""
        copies = self.copies.get(number, ())
        together = (record, *copies)
        belong = sorted(filter(None, map(_owner, together)))
        splits = {part for one in together for part in one["split"].split("|") if part}
        plain = ("key", "name", "modality", "width", "height", "source_width", "source_height")
        place = ("volume", "slice", "slices")
        return {
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
            "pixels_sha256": record["pixels_sha256"],
        }

    def original_key(self, number: int) -> str:
        """The key of the sample that a duplicate is an alias of."""
        return self.keys[self.original[number]]

    def _visit(self, record: Record) -> int | None:
        if record["visit_order"] is None:
            return None
        return self.visits[record["patient"]].index(record["visit_order"])


def resolve(records: Records) -> Resolution:
    """Read all records twice."""
    original, repeated = _same_pixels(records())
    firsts = set(original.values())
    members: dict[int, list[Record]] = {}
    visits: dict[str, set[int]] = {}
    patients: set[str] = set()
    usage = Usage()
    samples: Counter[str | None] = Counter()
    counts: Counter[str] = Counter()
    for number, record in enumerate(records()):
        if record.get("reason") or number in repeated:
            continue
        if number in original or number in firsts:
            members.setdefault(original.get(number, number), []).append(record)
        else:
            counts.update(_remarks([record]))
        if record["patient"]:
            patients.add(record["patient"])
            if record["visit_order"] is not None:
                visits.setdefault(record["patient"], set()).add(record["visit_order"])
        usage.add(record["device"], record["patient"])
        samples[record["device"]] += number not in original
    for group in members.values():
        counts.update(_remarks(group))
    counts["patients"] = len(patients)
    devices, told = _devices(usage, samples)
    return Resolution(
        original=original,
        keys={first: group[0]["key"] for first, group in members.items()},
        copies={first: tuple(group[1:]) for first, group in members.items()},
        repeated=repeated,
        root=_roots(members.values()),
        visits={patient: tuple(sorted(orders)) for patient, orders in visits.items()},
        devices=devices,
        devices_dropped=usage.distinct > DEVICES_LIMIT,
        counts=+(counts + told),
    )


def _devices(usage: Usage, samples: Counter[str | None]) -> tuple[frozenset[str], Counter[str]]:
    """The devices that are written, and what to tell about them: they stand in the shards in clear.

    What a table or a name gives is refused before anything is written (`matching`), and a DICOM file's own
    device has a known word (`deidentify`). Who a DICOM file shows is known only here: a value that now looks
    like a person is dropped and counted.
    """
    known = frozenset(device for device in samples if device is not None)
    if usage.distinct > DEVICES_LIMIT:
        return frozenset(), Counter()
    people = usage.identities()
    told = Counter(
        {
            f"of device {device!r}, a name that is written in clear": samples[device]
            for device in known - people
        }
    )
    told["device_unknown"] = sum(samples[device] for device in people)
    return known - people, told


def _same_pixels(records: Iterable[Record]) -> tuple[dict[int, int], frozenset[int]]:
    """Duplicate -> first file; and the files of sets that are too large to be photographs."""
    first: dict[bytes, int] = {}
    original: dict[int, int] = {}
    for number, record in enumerate(records):
        if not record.get("reason"):
            same = first.setdefault(bytes.fromhex(record["pixels_sha256"]), number)
            if same != number:
                original[number] = same
    sizes = Counter(original.values())
    placeholders = {at for at, copies in sizes.items() if copies >= COPIES_LIMIT}
    repeated = frozenset(number for number, at in original.items() if at in placeholders) | placeholders
    return {number: at for number, at in original.items() if at not in placeholders}, repeated


def _remarks(group: list[Record]) -> Counter[str]:
    """What is remarkable about one sample, given the records of all its copies."""
    told = {code for one in group for code in one["remarks"]}
    eyes = {one["eye"] for one in group} - {"unknown"}
    patients = {one["patient"] for one in group if one["patient"]}
    seen = {
        "no_patient": not patients,
        "id_conflict": len(patients) > 1,
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


def _owner(record: Record) -> str | None:
    """Who a photograph belongs to: its patient, else its file where that holds several pictures."""
    owner: str | None = record["patient"] or (record["file"] if record.get("place") else None)
    return owner


def _roots(sets: Iterable[list[Record]]) -> dict[str, str]:
    """Union-find over owners that share a photograph; the smallest pseudonym names the group."""
    parent: dict[str, str] = {}

    def root(patient: str) -> str:
        while parent.setdefault(patient, patient) != patient:
            parent[patient] = parent[parent[patient]]  # halve the path
            patient = parent[patient]
        return patient

    for group in sets:
        owners = sorted(set(filter(None, map(_owner, group))))
        for other in owners[1:]:
            low, high = sorted((root(owners[0]), root(other)))
            parent[high] = low
    return {patient: root(patient) for patient in list(parent)}
