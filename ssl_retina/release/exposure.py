"""Which runs, checkpoints and exports under a folder were trained on given shard sets.

In: a folder and the digests of indexes. Out: one row a run or export that names one of them, as its own or by
way of the export that it started from. Read-only, by the digests that stand in every checkpoint's state and
every model card.
"""

import errno
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssl_retina.errors import InputError

DEPTH = 6
CHECKPOINTS, STATE = "checkpoints", "state.json"
CARD = "README.md"
WEIGHTS = "model.safetensors"
LIMIT = 16 * 1024 * 1024
MEANING = (
    "these weights were trained on a set that held the patient. Taking photographs out of shards does not "
    "take them out of weights: delete those, or train again from the set as it is now; a copy elsewhere "
    "(a hub, another site) is not found here"
)


@dataclass(frozen=True)
class Exposed:
    """One run or export. checkpoints: names of those that name a set, oldest first; empty for the others.

    kind: `run`, `export`, or `unread`: a folder that cannot be looked into, or lies too deep, may hold some.
    path: below the folder that was searched.
    """

    kind: str
    path: str
    checkpoints: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**asdict(self), "checkpoints": list(self.checkpoints)}


def check(folder: Path) -> None:
    """Raise InputError for what can never be a folder of runs; one that does not exist holds none."""
    if os.path.exists(folder) and not folder.is_dir():
        raise InputError(f"--runs {folder} is no folder: give the folder that holds the runs")


def find(folder: Path, digests: Collection[str]) -> list[Exposed]:
    """All below `folder`, itself included, by path; links are followed, and no folder is looked into twice.

    Raises InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"--runs {folder} does not exist or is no folder: give the folder that holds the runs"
        )
    return sorted(_found(_Search(folder, frozenset(digests)), folder, DEPTH), key=lambda one: one.path)


@dataclass(frozen=True)
class _Search:
    """seen: device and number of every folder that was come to, each with the depth that was left there."""

    top: Path
    digests: frozenset[str]
    seen: dict[tuple[int, int], int] = field(default_factory=dict)

    def is_done(self, folder: Path, depth: int) -> bool:
        """Whether a folder was come to before, on a way that reaches as far down as this one."""
        try:
            status = folder.stat()
        except OSError:
            return False  # it is told where it is listed
        place = (status.st_dev, status.st_ino)
        before = self.seen.get(place, -1)
        self.seen[place] = max(before, depth)
        return before >= depth


def _found(search: _Search, folder: Path, depth: int) -> Iterator[Exposed]:
    if search.is_done(folder, depth):
        return
    path, digests = str(folder.relative_to(search.top)), search.digests
    inner, checkpoints = _folders(folder), folder / CHECKPOINTS
    if inner is None or (checkpoints.is_dir() and _folders(checkpoints) is None):
        yield Exposed("unread", path, ())
        return
    states = sorted(checkpoints.glob(f"*/{STATE}"))
    seen = [one.parent.name for one in states if _names(one, digests)]
    if seen:
        yield Exposed("run", path, tuple(seen))
    card = folder / CARD
    if (folder / WEIGHTS).is_file() and _is_small(card) and _mentions(card, digests):
        yield Exposed("export", path, ())
    for one in inner:
        if depth:
            yield from _found(search, one, depth - 1)
        elif not search.is_done(one, 0):
            yield Exposed("unread", str(one.relative_to(search.top)), ())


def _folders(folder: Path) -> list[Path] | None:
    """Folders in a folder but checkpoints and hidden ones, links last; None where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            inner = [(one.is_symlink(), one.path) for one in entries if _open(one.name) and _may_hold(one)]
    except OSError:
        return None
    return [Path(path) for _, path in sorted(inner)]


def _may_hold(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder or a link to one; a link that cannot be followed may be, one to nothing not."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


def _open(name: str) -> bool:
    return not name.startswith(".") and name != CHECKPOINTS


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LIMIT


def _mentions(card: Path, digests: frozenset[str]) -> bool:
    text = card.read_text(encoding="utf-8", errors="replace")
    return any(digest in text for digest in digests)


def _names(state: Path, digests: frozenset[str]) -> bool:
    """Whether a checkpoint's state names one of the sets; one that cannot be read counts: it may have.

    Sets of the weights that the run started from count like its own.
    """
    if not _is_small(state):
        return True
    try:
        content = json.loads(state.read_bytes())
        named = [(content.get(part) or {}).get("digests", ()) for part in ("data", "init")]
        return not digests.isdisjoint(one for part in named for one in part)
    except (ValueError, AttributeError, TypeError):
        return True
