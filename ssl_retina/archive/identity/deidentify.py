"""What may be known about a photograph: an allow-list; ids become keyed pseudonyms, dates an order.

In: a path, what a table states, what the file itself states. Out: an `Identity` without one raw word.
"""

import datetime
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from ssl_retina import pseudonyms
from ssl_retina.archive.picture import WHOLE, Place
from ssl_retina.archive.statements import attributes, devices
from ssl_retina.archive.statements.attributes import Attributes

NOTHING = Attributes()


@dataclass(frozen=True)
class Identity:
    """De-identified facts of one photograph.

    key, file, name, volume, patient: pseudonyms (patient None: unknown; volume None: no slice of a volume).
    place: which picture of the file, empty where it has one. slice, slices: the place in the volume.
    visit_order orders a patient's visits and is a number shifted by a secret of the patient, never a date; it
    does not leave the work folder; nor does day_order, the same for days where the visit is a date.
    remarks: codes to count, such as eye_conflict. mark: tells whether the patient was withdrawn; not written.
    """

    key: str
    file: str
    place: str
    name: str
    volume: str | None
    slice: int | None
    slices: int | None
    patient: str | None
    eye: str
    device: str | None
    visit_order: int | None
    split: str
    remarks: tuple[str, ...]
    age: str | None = None
    sex: str | None = None
    day_order: int | None = None
    mark: str | None = None


def identify(
    path: str,
    stated: Attributes | None,
    facts: Mapping[str, str],
    *,
    key: bytes,
    site: str,
    place: Place = WHOLE,
) -> Identity:
    """Merge what the table states with what the file states (DICOM); the table counts first.

    Eyes that contradict each other become unknown. `facts` is read under the names patient, eye, eye_source,
    device and visit alone; anything else in it is never looked at.
    """
    stated = stated or NOTHING
    eye, conflict = _eye(stated.eye, attributes.eye(facts.get("eye", "")))
    own_patient = attributes.patient(facts.get("patient", ""))
    raw = stated.patient if stated.patient is not None else own_patient
    patient = None if raw is None else pseudonyms.patient(key, raw, site)
    visit = stated.visit if stated.visit is not None else attributes.visit(facts.get("visit", ""))
    device = stated.device or _own_device(facts.get("device", ""))
    seen = {"eye_conflict": conflict, "device_unknown": device is None and bool(facts.get("device"))}
    seen["eye_unverified"] = facts.get("eye_source") == "vendor" and eye != "unknown" and stated.eye is None
    return Identity(
        key=pseudonyms.part(key, path, place.name, site),
        file=pseudonyms.image(key, path, site),
        place=place.name,
        name=pseudonyms.name(key, path, site),
        volume=None if place.volume is None else pseudonyms.part(key, path, place.volume, site),
        slice=place.slice,
        slices=place.slices,
        patient=patient,
        eye=eye,
        device=device,
        visit_order=None if visit is None or patient is None else visit + _shift(key, patient),
        split=stated.split or "",
        remarks=tuple(code for code, present in seen.items() if present),
        age=stated.age,
        sex=stated.sex,
        day_order=_day(visit, key, patient),
        mark=None if raw is None else pseudonyms.withdrawal_mark(key, raw, site),
    )


def _own_device(text: str) -> str | None:
    """A file's own device, where a known word says that it is one: nobody read it before it is written."""
    device = attributes.device(text)
    return device if device is not None and devices.is_plain(device) else None


def _eye(stated: str | None, own: str | None) -> tuple[str, bool]:
    """The eye, and whether the two sources contradict each other."""
    known = {stated, own} & {"right", "left"}
    if len(known) == 2:
        return "unknown", True
    return (known.pop() or "unknown" if known else "unknown"), False


def _day(visit: int | None, key: bytes, patient: str | None) -> int | None:
    """The day of a visit that is a date (YYYYMMDD), shifted by the patient's secret."""
    if visit is None or patient is None:
        return None
    try:
        day = datetime.date(visit // 10000, visit // 100 % 100, visit % 100)
    except ValueError:
        return None
    return day.toordinal() + _shift(key, patient)


def _shift(key: bytes, patient: str) -> int:
    """A secret offset of about 2**47 for each patient: order stays, dates do not."""
    digest = hmac.new(key, f"visit\0{patient}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big")
