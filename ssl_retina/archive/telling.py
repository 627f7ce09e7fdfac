"""The first stage, told: how many files are done, also while no chunk ends for a while.

In: chunks to make and a listener. Out: lines of progress.
"""

from collections.abc import Sequence

from ssl_retina.archive import settings, stage
from ssl_retina.archive.chunk_store import Chunk
from ssl_retina.archive.settings import Listener
from ssl_retina.archive.worker import Job


class Progress:
    """Adds up the rows of finished chunks for the listener."""

    def __init__(self, listener: Listener, done: int, total: int) -> None:
        self._listener, self._done, self._total = listener, done, total

    def add(self, rows: int) -> None:
        """Some more rows are done."""
        self._done += rows
        self._tell()

    def _tell(self) -> None:
        self._listener.progress(self._done, self._total)

    def run(self, job: Job, wanted: Sequence[Chunk], processes: int) -> None:
        """Make chunks. Raises as `stage.run` does. Those of one tar.gz may take hours, and end together."""
        with settings.beating(self._tell):
            stage.run(job, wanted, processes=processes, progress=self.add)
