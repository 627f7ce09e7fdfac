"""Which patient, eye, visit and volume a sample is of, as numbers (`contract.ORIGIN`).

In: a sample's JSON, ours or anybody's, and its words in the index. Out: one number a column; what is not
plainly said is unknown.
"""

from collections.abc import Mapping
from typing import Any

from ssl_retina import shards
from ssl_retina.contract import UNKNOWN

EYES: Mapping[str, int] = {"right": 0, "left": 1}
LARGEST = 2**31


def read(facts: Mapping[str, Any], *, group: int, eye: str, scan: bool) -> tuple[int, ...]:
    """One sample's row of `Batch.origin`. Whoever has no patient of their own is known by their group."""
    patient = _pseudonym(facts.get("patient"))
    return (
        group if patient == UNKNOWN else patient,
        EYES.get(eye, UNKNOWN),
        _count(facts.get("visit")),
        _pseudonym(facts.get("volume")),
        _count(facts.get("slice")),
        int(scan),
    )


def _pseudonym(value: object) -> int:
    return shards.group_number(value) if isinstance(value, str) and value else UNKNOWN


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < LARGEST else UNKNOWN
