"""De-identification: an allow-list, the table first, contradictions become unknown, dates an order."""

import dataclasses

import factory
import pytest

from ssl_retina import pseudonyms
from ssl_retina.archive.attributes import Attributes
from ssl_retina.archive.deidentify import Identity, identify


def _identify(stated: Attributes | None, facts: dict[str, str], path: str = "a/1.dcm") -> Identity:
    return identify(path, stated, facts, key=factory.KEY, site="")


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
    assert "no_patient" in found.remarks


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
