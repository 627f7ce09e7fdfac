"""What a build marks, takes out, spares and weights once all photographs are known.

In: the options of `ssl-retina shard`. Out: `Filters` that are checked. Nothing heavy is imported.
"""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ssl_retina.errors import InputError


class NearDuplicates(StrEnum):
    """What becomes of a resized, recompressed, cropped, lit or mirrored copy: it stays and is marked, it
    becomes an alias of the largest of its group, or it is not looked for.
    """

    MARK = "mark"
    MERGE = "merge"
    OFF = "off"


class Balance(StrEnum):
    """The column whose words are to be drawn equally often."""

    DEVICE = "device"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Filters:
    """What is marked, taken out, spared and weighted once all photographs are known.

    min_quality: the lowest class that stays (reject: all). rare: `device=NAME` or `clusters=SHARE`, the
    smallest clusters that hold less than a share of the photographs: no filter takes these out.
    """

    near_duplicates: NearDuplicates = NearDuplicates.MARK
    min_quality: str = "reject"
    balance: Balance | None = None
    rare: str | None = None

    def __post_init__(self) -> None:
        kind, _, value = (self.rare or "device=x").partition("=")
        share = re.fullmatch(r"0?\.\d+", value)
        if not value or kind not in ("device", "clusters") or (kind == "clusters" and not share):
            raise InputError(f"--rare {self.rare}: write device=NAME, or clusters=0.05 for the rarest 5 %")

    @property
    def rare_device(self) -> str | None:
        """The device whose photographs are spared."""
        kind, _, value = (self.rare or "").partition("=")
        return " ".join(value.split()) if kind == "device" else None

    @property
    def rare_share(self) -> float:
        """The share of photographs whose smallest clusters are spared."""
        kind, _, value = (self.rare or "").partition("=")
        return float(value) if kind == "clusters" else 0.0

    @property
    def wants_clusters(self) -> bool:
        """Whether anything needs clusters."""
        return self.balance == Balance.CLUSTER or self.rare_share > 0

    def decisive(self) -> dict[str, Any]:
        """Part of what decides the bytes of the output."""
        return {**asdict(self), "balance": self.balance and str(self.balance)}
