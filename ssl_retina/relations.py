"""How photographs of one patient are related, and what a contrast makes of them.

In: group and origin of samples (`contract.Batch.kin`) and the config's treatment of each kind of relation.
Out: the kind of every pair, and by kind a weight as a positive and whether it is a negative.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from ssl_retina.config import Positive, Section
from ssl_retina.contract import ORIGIN, UNKNOWN

KINDS = (
    "stranger",
    "same_visit",
    "adjacent_slice",
    "same_volume",
    "repeat_visit",
    "other_modality",
    "fellow_eye",
    "unknown",
)
"""Every pair of samples is of one kind; its code is its place here."""

STRANGER = KINDS.index("stranger")


def _treatment(value: str | float) -> str | float:
    if value in ("ignore", "negative") or (isinstance(value, float) and 0 < value <= 1):
        return value
    raise ValueError(f"ignore, negative, or a weight as a positive above 0 and at most 1; not {value!r}")


Treatment = Annotated[str | float, AfterValidator(_treatment)]
"""`ignore`: neither positive nor negative; `negative`: as anybody's; or the weight as a positive."""


class Related(Section):
    """What two photographs of one patient are to each other in a contrast; by default nothing.

    Ignoring costs a few of many negatives. Making any of them a positive teaches the encoder to forget what
    differs between them, and making them negatives to tell a patient's own photographs apart, so both are
    asked for by name; `negative` throughout is the papers' loss.

    same_visit: one eye at one visit, or the same photograph drawn twice.
    adjacent_slice: B-scans of one volume at most `adjacent_within` slices apart.
    same_volume: other B-scans of one volume.
    repeat_visit: one eye at two visits, both times photographs or both times B-scans.
    other_modality: a photograph and a B-scan of one eye, of any visits.
    fellow_eye: a right and a left eye, of any visits.
    unknown: eye or visit of one is unknown, or the group holds several patients; never a positive.
    """

    same_visit: Treatment = "ignore"
    adjacent_slice: Treatment = "ignore"
    same_volume: Treatment = "ignore"
    repeat_visit: Treatment = "ignore"
    other_modality: Treatment = "ignore"
    fellow_eye: Treatment = "ignore"
    unknown: Literal["ignore", "negative"] = "ignore"
    adjacent_within: Positive = 1

    def weights(self) -> list[float]:
        """The weight of each kind as a positive, 0 for none."""
        return [value if isinstance(value, float) else 0.0 for value in self._treatments()]

    def ignored(self) -> list[bool]:
        """Whether pairs of each kind are neither positive nor negative."""
        return [value == "ignore" for value in self._treatments()]

    def _treatments(self) -> list[str | float]:
        return ["negative", *(getattr(self, kind) for kind in KINDS[1:])]


def kinds(rows: Tensor, columns: Tensor, *, adjacent_within: int = 1) -> Tensor:
    """The kind (rows, columns), uint8, of each pair of two lists of `Batch.kin`.

    Only what both samples are known to share or to differ in makes a relation; the rest of a group is of
    the kind `unknown`. A volume is of one eye at one visit, whether or not these are known. The same slice
    twice is the same photograph, of the kind `same_visit`.
    """
    group, *origin = ((own[:, None], other[None, :]) for own, other in zip(rows.T, columns.T, strict=True))
    same, known = {}, {}
    for name, (own, other) in zip(ORIGIN, origin, strict=True):
        known[name] = (own != UNKNOWN) & (other != UNKNOWN)
        same[name] = known[name] & (own == other)
    slices = origin[ORIGIN.index("slice")]
    near = known["slice"] & ((slices[0] - slices[1]).abs() <= adjacent_within)
    eye = same["patient"] & same["eye"]
    alike = eye & same["scan"]
    found = torch.full_like(near, KINDS.index("unknown"), dtype=torch.uint8)
    for kind, where in (
        ("fellow_eye", same["patient"] & known["eye"] & ~same["eye"]),
        ("other_modality", eye & known["scan"] & ~same["scan"]),
        ("repeat_visit", alike & known["visit"] & ~same["visit"]),
        ("same_visit", alike & same["visit"]),
        ("same_volume", same["volume"]),
        ("adjacent_slice", same["volume"] & near),
        ("same_visit", same["volume"] & same["slice"]),
        ("stranger", group[0] != group[1]),
    ):
        found.masked_fill_(where, KINDS.index(kind))
    return found
