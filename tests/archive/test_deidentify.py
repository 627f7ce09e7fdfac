"""De-identification: an allow-list, the table first, contradictions become unknown, dates an order."""

import dataclasses
from typing import Any

import factory
import pytest

from ssl_retina import pseudonyms
from ssl_retina.archive import dedup
from ssl_retina.archive.identity.deidentify import Identity, identify
from ssl_retina.archive.picture import WHOLE
from ssl_retina.archive.statements.attributes import Attributes


def _identify(stated: Attributes | None, facts: dict[str, str], path: str = "a/1.dcm") -> Identity:
    return identify(path, stated, place=WHOLE, facts=facts, key=factory.KEY, site="")


@pytest.mark.parametrize(
    ("stated", "own", "eye", "conflict"),
    [
        ("left", "R", "unknown", True),
        ("right", "OS", "unknown", True),
        ("left", "L", "left", False),
        ("left", "", "left", False),
        (None, "OD", "right", False),
        ("unknown", "R", "right", False),
        (None, "B", "unknown", False),
        (None, "", "unknown", False),
    ],
)
def test_f20_eyes_that_contradict_each_other_are_unknown(
    stated: str | None, own: str, eye: str, conflict: bool
) -> None:
    found = _identify(Attributes(eye=stated), {"eye": own})
    assert found.eye == eye
    assert ("eye_conflict" in found.remarks) == conflict


def test_the_table_counts_before_the_file() -> None:
    facts = {"patient": "dicom", "device": "Canon", "visit": "20200101"}
    alone = _identify(None, facts)
    assert (alone.patient, alone.device) == (pseudonyms.patient(factory.KEY, "dicom"), "Canon")
    both = _identify(Attributes(patient="table", device="Topcon"), facts)
    assert (both.patient, both.device) == (pseudonyms.patient(factory.KEY, "table"), "Topcon")


def test_only_the_allow_list_is_looked_at() -> None:
    facts = {
        "patient": "1",
        "name": "DOE",
        "birth": "1950",
        "device": "DOE^JOHN",
        "eye": "DOE",
        "visit": "DOE",
    }
    found = _identify(None, facts, "DOE/DOE.dcm")
    assert "DOE" not in repr(dataclasses.asdict(found)).upper()
    assert (found.device, found.eye, found.visit_order) == (None, "unknown", None)


@pytest.mark.parametrize("missing", ["", "0000", "ANONYMOUS"])
def test_f36_nobody_is_no_patient(missing: str) -> None:
    found = _identify(None, {"patient": missing, "visit": "20200101"})
    assert found.patient is None
    assert found.visit_order is None


@pytest.mark.parametrize(
    "name", ["DOE JOHN 19500102", "DOE JOHN 2-1-1950", "DOE 02 Jan 1950", "N 19 500 102", "Doe 1"]
)
def test_f99_a_model_name_with_a_date_is_dropped_and_counted(name: str) -> None:
    found = _identify(None, {"patient": "1", "device": name})
    assert found.device is None
    assert "device_unknown" in found.remarks
    assert _identify(None, {"patient": "1", "device": "Spectralis 6.10.5"}).device == "Spectralis 6.10.5"


def test_visits_keep_their_order_and_lose_their_date() -> None:
    orders = [
        _identify(None, {"patient": "1", "visit": date}).visit_order or 0
        for date in ("20190101", "20191231", "20200101")
    ]
    assert orders == sorted(orders)
    assert len(set(orders)) == 3
    other = _identify(None, {"patient": "2", "visit": "20190101"}).visit_order
    assert other != orders[0]
    assert all(str(order) != "20190101" for order in orders)


def _record(number: int, device: str | None, **other: object) -> dict[str, Any]:
    base = factory.facts(number, patients=1000) | {"pixels_xxh128": f"{number:032x}", "visit_order": None}
    base |= {"volume": None, "slice": None, "slices": None}
    return base | {"remarks": [], "notes": [], "device": device} | other


def test_f99_devices_that_only_the_whole_archive_shows_to_be_people_are_dropped() -> None:
    """P1 ... P3 of one DICOM patient each; and every device that is written is told by its name."""
    devices = ["P1", "P2", "P3", "Topcon", "Topcon", None]
    rows = [_record(number, device) for number, device in enumerate(devices)]
    found = dedup.resolve(lambda: rows)
    written = [found.sample(number, row)["device"] for number, row in enumerate(rows)]
    assert written == [None, None, None, "Topcon", "Topcon", None]
    assert found.counts["device_unknown"] == 3
    assert found.counts["of device 'Topcon', a name that is written in clear"] == 2
    assert not any("P1" in name for name in found.counts)


def test_remarks_count_samples_not_their_copies() -> None:
    copies = {"pixels_xxh128": "ab" * 16, "patient": None, "eye": "unknown", "remarks": ["eye_conflict"]}
    rows = [_record(number, "Topcon", **copies) for number in range(3)]
    rows.append(_record(9, None, patient=None, eye="unknown"))
    counts = dedup.resolve(lambda: rows).counts
    assert (counts["no_patient"], counts["eye_unknown"], counts["eye_conflict"]) == (2, 2, 1)
    assert counts["of device 'Topcon', a name that is written in clear"] == 1
