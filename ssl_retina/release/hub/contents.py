"""What an export may hold: four names, each with its size limit, and a digest that SHA256SUMS promises.

In: a file's name and its promised digest. Out: whether a file is what was promised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files
from ssl_retina.models.pretrained import (
    CARD_NAME,
    CONFIG_LIMIT,
    CONFIG_NAME,
    PROMISED,
    SUMS_LIMIT,
    SUMS_NAME,
    WEIGHTS_NAME,
)

ORIGIN_NAME = "pulled.json"
"""Where a pulled folder came from: beside the export, not part of it, never published."""
LIMITS = {WEIGHTS_NAME: 64 << 30, CONFIG_NAME: CONFIG_LIMIT, CARD_NAME: 4 << 20, SUMS_NAME: SUMS_LIMIT}
"""Largest size in bytes that is read of each file: more is an error or an attack."""


@dataclass(frozen=True)
class Wanted:
    """One file to bring, and its digest: hex SHA-256, or none for SHA256SUMS itself."""

    name: str
    digest: str | None

    @property
    def limit(self) -> int:
        """The most bytes that are read."""
        return LIMITS[self.name]

    def complete(self, part: Path) -> bool:
        """Whether `part` already is what was promised."""
        return self.digest is not None and part.is_file() and files.sha256(part) == self.digest


def write_sums(promised: Mapping[str, str]) -> bytes:
    """The text of a SHA256SUMS, as `sha256sum` reads it."""
    return "".join(f"{promised[name]}  {name}\n" for name in PROMISED).encode()


def damaged(folder: Path, promised: Mapping[str, str]) -> list[str]:
    """The promised files that are missing or have another digest."""
    return [name for name, digest in promised.items() if not Wanted(name, digest).complete(folder / name)]
