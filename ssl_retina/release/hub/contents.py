"""What an export may hold: four names, each with its size limit, and the digests that SHA256SUMS promises.

In: bytes that a stranger may have written. Out: name -> digest, or a refusal.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files
from ssl_retina.errors import CheckpointError, StateError
from ssl_retina.models.pretrained import CONFIG_LIMIT, CONFIG_NAME, SUMS_NAME, WEIGHTS_NAME
from ssl_retina.release.export import CARD_NAME, NAMES

ORIGIN_NAME = "pulled.json"
"""Where a pulled folder came from: beside the export, not part of it, never published."""
LIMITS = {WEIGHTS_NAME: 64 << 30, CONFIG_NAME: CONFIG_LIMIT, CARD_NAME: 4 << 20, SUMS_NAME: 64 << 10}
"""Largest size in bytes that is read of each file: more is an error or an attack."""
PROMISED = tuple(sorted(NAMES - {SUMS_NAME}))
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
SHOWN = 60


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


def read_sums(content: bytes, where: str) -> Mapping[str, str]:
    """Name -> hex SHA-256 of the text of a SHA256SUMS: exactly the three files of an export, each once.

    Raises StateError for everything else: another name (a path leads out of the folder), a name twice, a
    line that is none.
    """
    promised: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise _refused(where, f"line {number} is not a SHA-256, two spaces and a name")
        digest, name = found.groups()
        if name not in PROMISED:
            raise _refused(where, f"line {number} names {name[:SHOWN]!r}, which is no file of an export")
        if name in promised:
            raise _refused(where, f"line {number} names {name} a second time")
        promised[name] = digest
    missing = [name for name in PROMISED if name not in promised]
    if missing:
        raise _refused(where, f"it does not name {', '.join(missing)}")
    return promised


def _refused(where: str, why: str) -> StateError:
    return StateError(
        f"{SUMS_NAME} of {where} is refused: {why}. An export of ssl-retina names "
        f"{', '.join(PROMISED)} there, and nothing else is read"
    )


def write_sums(promised: Mapping[str, str]) -> bytes:
    """The text of a SHA256SUMS, as `sha256sum` reads it."""
    return "".join(f"{promised[name]}  {name}\n" for name in PROMISED).encode()


def read_folder(folder: Path) -> Mapping[str, str]:
    """What a folder's own SHA256SUMS promises; raises CheckpointError where there is none."""
    path = folder / SUMS_NAME
    if not path.is_file() or path.stat().st_size > LIMITS[SUMS_NAME]:
        raise CheckpointError(
            f"{folder} holds no {SUMS_NAME}: it is no export of ssl-retina, or not all of it"
        )
    return read_sums(path.read_bytes(), str(folder))


def damaged(folder: Path, promised: Mapping[str, str]) -> list[str]:
    """The promised files that are missing or have another digest."""
    return [name for name, digest in promised.items() if not Wanted(name, digest).complete(folder / name)]
