"""Fetches the shards of the coming positions before they are read, within the cache's bound.

In: a stream and where the run stands. Out: nothing but shards in the cache. Threads of one process of each
node; a shard that does not come is told and tried again, and is an error only to whoever must read it.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ssl_retina import dist
from ssl_retina.data.remote.fetching import say
from ssl_retina.data.remote.sets import AT_ONCE, RemoteSet
from ssl_retina.errors import InputError, ShardError
from ssl_retina.shards import Index, Shard

SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 6, 1 << 13
LOOK_SECONDS = 600.0
"""The address is asked this often whether its set is still the one that the run began with."""
RETRY_SECONDS = 30.0
IDLE_SECONDS = 1.0
MOST_LOST = 4
"""So many shards may leave the cache between two plans that both hold them: an evaluation needs room, too."""
OTHERS = (
    "shards leave the cache before they are read and are fetched again, most likely since "
    "another run uses this cache: give each run a data.cache of its own, or raise data.cache_gib"
)


@dataclass(frozen=True)
class Need:
    """One shard of one set."""

    remote: RemoteSet
    shard: Shard

    @property
    def name(self) -> str:
        """Where it lies in the cache."""
        return str(self.remote.folder / self.shard.url)


Coming = Callable[[int, int], Sequence[tuple[int, int]]]
"""(first position, the one after the last) -> (set, shard) of each shard, in the order of first need."""


class Ahead:
    """AT_ONCE threads that fetch what comes next; see `ahead`."""

    def __init__(
        self,
        needs: Coming,
        indexes: Sequence[Index],
        *,
        start: int,
        epoch: int,
        used: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._needs, self._indexes, self._epoch = needs, indexes, epoch
        self._remotes = [index.opener for index in indexes if isinstance(index.opener, RemoteSet)]
        named = used or [
            (number, shard) for number, one in enumerate(indexes) for shard in range(len(one.shards))
        ]
        self._whole = sum(isinstance(indexes[number].opener, RemoteSet) for number, _ in named)
        self._lock = threading.Lock()
        self._position = start
        self._there: set[str] = set()
        self._lost = 0
        self._begin_plan()
        self._later: dict[str, float] = {}
        self._looked = time.monotonic()
        self._told: dict[str, float] = {}
        self._closed = threading.Event()
        self._problem: ShardError | InputError | None = None
        for _ in range(AT_ONCE):
            threading.Thread(target=self._work, name="fetch ahead", daemon=True).start()

    def moved(self, position: int) -> None:
        """The run stands there now. Raises ShardError where a set is another one by now."""
        self._position = position
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Begin no more shards."""
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.is_set():
            self._look()
            with self._lock:
                need = self._next()
            if need is None:
                self._closed.wait(IDLE_SECONDS)
                continue
            try:
                os.close(need.remote(need.shard))
                with self._lock:
                    self._there.add(need.name)
            except (ShardError, InputError, OSError) as error:
                with self._lock:
                    self._later[need.name] = time.monotonic() + RETRY_SECONDS
                    self._missing[need.name] = need
                    self._tell("failed", f"not fetched ahead, tried again later: {error}")
                self._closed.wait(IDLE_SECONDS)  # what fails for one shard often fails for all

    def _next(self) -> Need | None:
        """The first coming shard that is not there and that no thread of ours fetches."""
        if self._position - self._planned >= max(self._scanned // 4, 1):
            self._begin_plan()
        now = time.monotonic()
        while True:
            for name, need in self._missing.items():
                if self._later.get(name, 0.0) <= now:
                    del self._missing[name]
                    return need
            if self._scanned >= self._epoch or self._room <= 0 or len(self._plan) == self._whole:
                return None
            self._extend_plan()

    def _begin_plan(self) -> None:
        self._planned, self._scanned = self._position, 0
        self._room = self._remotes[0].cache.limit
        self._plan: set[str] = set()
        self._missing: dict[str, Need] = {}
        self._before, self._there = self._there, set()

    def _extend_plan(self) -> None:
        """Look a little further, while the cache holds what is needed up to there.

        What is there counts as used just now, the nearest last, so that it is the last to be evicted.
        """
        chunk = min(max(self._scanned // 4, SMALLEST_CHUNK), LARGEST_CHUNK, self._epoch - self._scanned)
        start = self._planned + self._scanned
        self._scanned += chunk
        for number, shard in self._needs(start, start + chunk):
            index = self._indexes[number]
            if not isinstance(index.opener, RemoteSet):
                continue
            need = Need(index.opener, index.shards[shard])
            if need.name in self._plan:
                continue
            self._room -= need.shard.filesize
            if self._room < 0:
                break
            self._plan.add(need.name)
            now = time.time_ns() - 1000 * len(self._plan)
            try:
                os.utime(need.name, ns=(now, now))
                self._there.add(need.name)
            except FileNotFoundError:
                self._missing[need.name] = need
                self._lost += need.name in self._before
        if self._lost >= MOST_LOST:
            self._lost = 0
            self._tell("lost", OTHERS)

    def _look(self) -> None:
        """Now and then: is the set at each address still the same?"""
        with self._lock:
            due = time.monotonic() - self._looked >= LOOK_SECONDS
            self._looked = time.monotonic() if due else self._looked
        try:
            for remote in self._remotes if due else ():
                remote.refuse_another()
        except (ShardError, InputError) as error:
            self._problem = error

    def _tell(self, kind: str, text: str) -> None:
        """A line on stderr, of each kind not more often than the address is looked at."""
        now = time.monotonic()
        if now - self._told.get(kind, -LOOK_SECONDS) >= LOOK_SECONDS:
            self._told[kind] = now
            say(text)


@contextlib.contextmanager
def ahead(
    needs: Coming,
    indexes: Sequence[Index],
    *,
    start: int,
    epoch: int,
    used: Sequence[Sequence[int]] | None = None,
) -> Iterator[Callable[[int], None]]:
    """Fetch ahead while positions are read from `start` on; gives what is told every position reached.

    epoch: positions after which all shards have come. used: set and shard of all that ever come; None for all
    shards of the sets. Does nothing where all sets lie in folders, and on all but one rank of each node.
    """
    anywhere = any(isinstance(index.opener, RemoteSet) for index in indexes)
    if not anywhere or dist.local_rank() != 0:
        yield lambda position: None
        return
    fetcher = Ahead(needs, indexes, start=start, epoch=epoch, used=used)
    try:
        yield fetcher.moved
    finally:
        fetcher.close()
