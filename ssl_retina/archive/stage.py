"""Stage 1 of the build: all files of the scan through worker processes, chunk by chunk; restartable.

In: a `Job`, the scan's rows and what is stated about them. Out: complete chunks in the work folder.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ssl_retina.archive import chunk_store, process, worker
from ssl_retina.archive.chunk_store import Chunk, Record
from ssl_retina.archive.found import Found
from ssl_retina.archive.rejection import IO, UNEXPECTED
from ssl_retina.archive.statements.matching import Stated
from ssl_retina.archive.worker import Job
from ssl_retina.errors import BadInputLimitError, StateError

CHUNK_ROWS = 256
CHUNKS_WANTED = 128
IN_A_ROW = 50
WINDOW = 1000
SHARE = 0.05
FEWEST = 3
"""So many unreadable files are the storage's doing in an archive of any size, if they are SHARE of it."""

LIMITED = frozenset((IO, UNEXPECTED))
"""Reasons that say something about the machine and not about the archive."""

Progress = Callable[[int], None]


def chunk_rows(count: int) -> int:
    """Rows of a chunk: depends on the archive alone, so that a restart with other processes goes on."""
    return min(CHUNK_ROWS, max(8, -(-count // CHUNKS_WANTED)))


def chunks(found: Sequence[Found], stated: Stated) -> list[Chunk]:
    """The scan cut into chunks; no chunk holds members of a tar.gz and anything else."""
    rows = chunk_rows(len(found))
    planned: list[Chunk] = []
    start = 0
    for _, together in itertools.groupby(found, key=_stream):
        end = start + sum(1 for _ in together)
        for first in range(start, end, rows):
            numbers = range(first, min(first + rows, end))
            chunk = Chunk(len(planned), tuple((found[at], stated.get(at)) for at in numbers))
            planned.append(chunk)
        start = end
    return planned


def _stream(found: Found) -> str | None:
    """The container that can only be read from its beginning, None for all other rows."""
    member = found.member
    return member.container if member is not None and member.packing == "stream" else None


def _tasks(wanted: Sequence[Chunk]) -> list[Sequence[Chunk]]:
    """Chunks that one worker makes in turn: those of one tar.gz, any other chunk alone."""
    tasks: list[Sequence[Chunk]] = []
    for name, together in itertools.groupby(wanted, key=lambda chunk: _stream(chunk.rows[0][0])):
        one = tuple(together)
        tasks.extend([one] if name is not None else [(chunk,) for chunk in one])
    return tasks


def missing(job: Job, planned: Iterable[Chunk]) -> list[Chunk]:
    """The chunks that are not there yet."""
    return [chunk for chunk in planned if not _is_complete(job, chunk)]


def _is_complete(job: Job, chunk: Chunk) -> bool:
    """Whether a chunk need not be made again.

    One with a file that could not be read gets another try, and one whose files were changed since.
    """
    made = chunk_store.read_records(job.work, chunk.number, chunk_store.identity(job.key, chunk))
    return made is not None and all(record.get("reason") != IO for record in made)


def run(job: Job, wanted: Sequence[Chunk], *, processes: int, progress: Progress) -> None:
    """Make chunks; `progress` is told the rows of each.

    Raises BadInputLimitError where the storage fails (or our code, on everything), StateError where a
    worker was ended from outside.
    """
    limit = Limit()
    with process.pool(min(processes, len(wanted))) as executor:
        futures = {executor.submit(worker.process_chunks, job, task): task for task in _tasks(wanted)}
        ordered = deque(futures)
        try:
            for future in as_completed(futures):
                progress(sum(map(len, future.result())))
                while ordered and ordered[0].done():
                    for reasons in ordered.popleft().result():
                        limit.count(reasons)
        except BrokenProcessPool:
            raise StateError(
                "a worker process was ended from outside (most often: out of memory). Run the same command "
                "again, it continues; with less memory: --processes 1"
            ) from None
        except MemoryError:
            raise StateError(
                "a worker process ran out of memory. Run the same command again with fewer --processes: it "
                "continues"
            ) from None
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def records(work: Path, planned: int) -> Iterator[tuple[int, Record]]:
    """All records in the order of the scan, each with its chunk's number."""
    for number in range(planned):
        content = chunk_store.read_records(work, number)
        if content is None:
            raise StateError(f"{work} has lost chunk {number}: run the same command again, it makes it anew")
        for record in content:
            yield number, record


def require_readable(work: Path, planned: int) -> None:
    """Judge the whole archive once more when all chunks are made, however small it is.

    Raises BadInputLimitError where SHARE of the files could not be read; their chunks are made again by the
    next run.
    """
    reasons = Counter(record.get("reason") for _, record in records(work, planned))
    failed, total = reasons[IO], reasons.total()
    if failed >= FEWEST and failed >= SHARE * total:
        raise BadInputLimitError(
            f"stopped: {failed:,} of {total:,} files could not be read (io), and nothing was published. Look "
            "at the mount and the permissions, then run the same command again: it tries those files anew"
        )


class Limit:
    """Stops the run when the machine fails and not the files: 50 in a row, or 5 % of the last 1,000 rows."""

    def __init__(self) -> None:
        self._row = 0
        self._window: deque[bool] = deque(maxlen=WINDOW)
        self._reasons: Counter[str] = Counter()

    def count(self, reasons: Sequence[str]) -> None:
        """Take the next rows of the scan. Raises BadInputLimitError."""
        for reason in reasons:
            failed = reason in LIMITED
            self._row = self._row + 1 if failed else 0
            self._window.append(failed)
            self._reasons.update([reason] if failed else ())
            share = sum(self._window) / WINDOW if failed and len(self._window) == WINDOW else 0.0
            if self._row >= IN_A_ROW or share >= SHARE:
                self._stop()

    def _stop(self) -> None:
        how = f"{self._row} in a row" if self._row >= IN_A_ROW else f"{SHARE:.0%} of the last {WINDOW:,}"
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(self._reasons.items()))
        raise BadInputLimitError(
            f"stopped: {how} files could not be read ({counts}). That is the storage, or a defect of this "
            "program where the reason is `unexpected`, not the files. Look at the mount, then run the same "
            "command again: it continues"
        )
