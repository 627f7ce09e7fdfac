"""Stage 1 in n processes of a SLURM array: who makes which chunks, and that nobody else makes them.

In: `3/8`. Out: the chunks of that slice, under a lock of its own. A run of the whole archive and a slice
never write at the same time: each takes its own lock first and then looks at the other's.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files, locks, shards
from ssl_retina.archive import output
from ssl_retina.archive.chunk_store import Chunk
from ssl_retina.errors import InputError, StateError

FOLDER = "slices"
LARGEST = 10_000


@dataclass(frozen=True)
class Slice:
    """The `number`-th (from 1) of `of` slices."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, planned: Sequence[Chunk]) -> list[Chunk]:
        """Every `of`-th chunk: neighbours differ in size less than halves of an archive do."""
        return [chunk for chunk in planned if number_of(chunk, self.of) == self.number]


def number_of(chunk: Chunk, of: int) -> int:
    """The slice that makes a chunk."""
    return chunk.number % of + 1


def parse(text: str) -> Slice:
    """`3/8`. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    part = Slice(int(match[1]), int(match[2])) if match else Slice(0, 0)
    if not 1 <= part.number <= part.of <= LARGEST:
        raise InputError(f"--slice {text!r}: write the third of eight slices as 3/8 (1/8 to 8/8)")
    return part


@contextlib.contextmanager
def held(out: Path, part: Slice) -> Iterator[None]:
    """Hold a slice as its only writer. Raises StateError where another process makes it, or the whole."""
    _refuse_whole(out)
    folder = out / output.WORK_NAME / FOLDER / f"{part.number}-of-{part.of}"
    folder.mkdir(parents=True, exist_ok=True)
    others = {one.of for one in _known(out)} - {part.of}
    if others:
        raise StateError(f"{out} was begun in {others.pop()} slices, not in {part.of}: give the same number")
    with files.lock(folder):
        _refuse_whole(out)
        yield


def _refuse_whole(out: Path) -> None:
    if locks.is_held(out):
        raise StateError(
            f"{out} is being written by a run of the whole archive: wait for it, it needs no slices"
        )


def refuse_running(out: Path) -> None:
    """Raise StateError while a slice is being made; for a run of the whole archive, which holds `out`."""
    for one in _known(out):
        if locks.is_held(out / output.WORK_NAME / FOLDER / f"{one.number}-of-{one.of}"):
            raise StateError(
                f"slice {one} of {out} is being made by another process: wait for it, then merge"
            )


def _known(out: Path) -> list[Slice]:
    """The slices that were begun."""
    names = [path.name.split("-of-") for path in (out / output.WORK_NAME / FOLDER).glob("*-of-*")]
    return [Slice(int(number), int(of)) for number, of in sorted(names)]


def require_begun(out: Path) -> None:
    """Raise StateError where nothing was ever made that could be merged; the place stays as it is."""
    names = (shards.INDEX_NAME, shards.EXCHANGE_NAME, output.WORK_NAME)
    if not any((out / name).exists() for name in names):
        raise _nothing_to_merge(out)


def _nothing_to_merge(out: Path) -> StateError:
    return StateError(f"{out} has no slices to merge: make them (--slice 1/8 ...), or leave --merge away")


def require_all(out: Path, wanted: Sequence[Chunk]) -> None:
    """Raise StateError that names the slices with chunks that are missing."""
    if not wanted:
        return
    counts = {one.of for one in _known(out)}
    if not counts:
        raise _nothing_to_merge(out)
    of = counts.pop()
    missing = sorted({number_of(chunk, of) for chunk in wanted})
    listed = ", ".join(f"{number}/{of}" for number in missing)
    raise StateError(
        f"{out} cannot be merged yet: slices {listed} are not complete. Run them again with the same options "
        "(--slice), or leave --merge away: then this process makes what is missing"
    )
