"""`config.Data` -> an endless iterator of batches that starts at any position; and the held-out patients.

In: sets, a seed, the views. Out: for every rank its part of each global batch. Which sample stands at a
position does not depend on ranks or workers (law 2); a position is all that a resume needs.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_retina import config, shard_index, shards
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import remote, sampling, workers
from ssl_retina.data.sampling import EVENLY, Ways
from ssl_retina.data.selection import Rows, Selection, select
from ssl_retina.data.stream import Loaded, Sets, Stream, as_positions
from ssl_retina.errors import InputError, ShardError
from ssl_retina.shards import Index

REPLACED_SHARE = 0.001
REPLACED_LEAST = 3
HELD_OUT_SEED = 0
"""Held-out samples and their views are the same for every run, so that losses can be compared (of sets at
addresses: for every run with the same `data.shuffle_shards`)."""


def open_source(data: config.Data, spec: ViewSpec, *, seed: int) -> "Source":
    """Read the indexes and choose the samples; no shard is opened. Addresses give their tables to the cache.

    Raises ShardError that names every set without a readable index, and what `selection.select` raises.
    """
    indexes, problems = [], []
    for place in data.shards:
        try:
            indexes.append(
                shards.read_index(place)
                if isinstance(place, Path)
                else remote.opened(place, data.cache, data.cache_gib)
            )
        except ShardError as error:
            problems.append(str(error))
    if problems:
        raise ShardError("\n".join(problems))
    if len({index.digest for index in indexes}) < len(indexes):
        raise InputError("data.shards names the same set twice")
    sampling.check(data, indexes)
    chosen = select(indexes, where=data.where, exclude=data.exclude, held_out=data.held_out)
    remote.require_room(indexes, (chosen.train, chosen.held_out), window=data.shuffle_shards)
    if data.workers:
        workers.start_server()  # its server loads torch (seconds) while the caller builds the model
    ways = sampling.Ways.of(data)
    return Source(indexes, chosen, spec, seed=seed, workers=data.workers, ways=ways)


class Source:
    """The chosen samples of one or several sets, as batches."""

    def __init__(
        self,
        indexes: Sequence[Index],
        chosen: Selection,
        spec: ViewSpec,
        *,
        seed: int,
        workers: int,
        ways: Ways = EVENLY,
    ) -> None:
        self.indexes = tuple(indexes)
        self._spec, self._workers = spec, workers
        self._sets = Sets(indexes)
        order, self.epoch = sampling.order(indexes, chosen.train, ways, seed=seed)
        self._stream = Stream(self._sets, order, spec)
        # at addresses few shards at a time: an evaluation must not ask a bounded cache for all of them
        far = any(isinstance(index.opener, remote.RemoteSet) for index in indexes)
        few = Ways(shuffle_shards=ways.shuffle_shards) if far else EVENLY
        self._held_out, _ = sampling.order(indexes, chosen.held_out, few, seed=HELD_OUT_SEED)
        self._count = _Count()

    @property
    def stream(self) -> Stream:
        """What gives the training batch of any positions."""
        return self._stream

    @property
    def samples(self) -> int:
        """How many samples are trained on, and the draws of an epoch."""
        return self.epoch.draws

    @property
    def held_out_samples(self) -> int:
        """How many samples belong to held-out patients."""
        return len(self._held_out)

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of every set's index, in the order of `data.shards`."""
        return tuple(index.digest for index in self.indexes)

    @property
    def devices(self) -> tuple[str, ...]:
        """The known devices of all sets; a sample's number in `Batch.device` is its place here."""
        return self._sets.devices

    @property
    def offsets(self) -> tuple[int, ...]:
        """The number, among the rows of all sets, of each set's first row (for `whole`)."""
        return tuple(itertools.accumulate((index.samples for index in self.indexes[:-1]), initial=0))

    @property
    def notes(self) -> list[str]:
        """What there is to tell of sets at addresses."""
        return remote.notes(self.indexes)

    @property
    def replaced(self) -> int:
        """How many samples of this rank did not decode so far and were replaced by the next in order."""
        return len(self._count.replaced)

    def verify(self, *, hashes: bool) -> None:
        """Raise ShardError with every difference between the sets and their indexes, all sets at once."""
        wrong = []
        for index in self.indexes:
            if isinstance(index.opener, remote.RemoteSet):
                found, place = remote.verify(index.opener, index), str(index.opener.address)
            else:
                found, place = shard_index.verify(index, hashes=hashes), str(index.folder)
            wrong += [f"{place}: {sentence}" for sentence in found]
        if wrong:
            listed = "\n".join(f"  {sentence}" for sentence in wrong)
            raise ShardError(
                f"{len(wrong)} differences between shards and index; ssl-retina inspect shows what is lost"
                f"\n{listed}"
            )

    def batches(self, start: int, *, rank: int, world: int, micro_batch: int) -> Iterator[Batch]:
        """This rank's micro-batches from global position `start` on, without end.

        Micro-step m of rank r holds positions start + (m * world + r) * micro_batch and the following
        micro_batch - 1. Raises ShardError for damaged shards, and when more than 0.1 % of the samples
        (3 at least) do not decode.
        """
        assert 0 <= rank < world, (rank, world)
        starts = itertools.count(start + rank * micro_batch, world * micro_batch)
        asked = (as_positions(first, micro_batch) for first in starts)
        order, epoch = self._stream.order, self.samples
        used = order.runs.shards.tolist()
        with remote.ahead(order.shards, self.indexes, start=start, epoch=epoch, used=used) as moved:
            given = workers.load(self._stream, asked, workers=self._workers, rank=rank)
            for step, loaded in enumerate(given):
                moved(start + step * world * micro_batch)
                yield self._count.checked(loaded, micro_batch)

    def held_out(self, *, rank: int, world: int, batch: int, limit: int) -> Iterator[Batch]:
        """This rank's share of about `limit` held-out samples, in a fixed order with fixed views.

        Global batches of world * batch, of which every rank gets as many as every other: as many as are
        full, so that a number depends on world * batch alone and not on the ranks. Where the samples do not
        fill one, it holds each of them once, and ranks get unequally many, or none: a sample that came
        again would be a negative of itself to a loss that contrasts a batch.
        """
        if not self.held_out_samples:
            return
        whole = min(world * batch, self.held_out_samples)
        count = max(min(limit, self.held_out_samples) // whole, 1)
        stream = Stream(self._sets, self._held_out, self._spec)
        begin, end = whole * rank // world, whole * (rank + 1) // world
        asked = (as_positions(number * whole + begin, end - begin) for number in range(count))
        for loaded in workers.load(stream, asked, workers=self._workers, rank=rank):
            yield self._count.checked(loaded, end - begin)

    def whole(self, rows: NDArray[np.int64], *, batch: int, size: int) -> Iterator[Batch]:
        """The whole images of these rows (counted through all sets, see `offsets`), recipe "plain".

        `size`: their side in pixels.
        """
        spec = ViewSpec("plain", global_views=1, global_size=size)
        stream = Stream(self._sets, sampling.listed(_as_rows(rows)), spec, shuffled=False)
        starts = range(0, len(rows), batch)
        asked = (as_positions(first, min(batch, len(rows) - first)) for first in starts)
        for loaded in workers.load(stream, asked, workers=self._workers):
            yield _batch(loaded)


def _as_rows(rows: NDArray[np.int64]) -> Rows:
    return rows.astype(np.uint32)


def _batch(loaded: Loaded) -> Batch:
    if loaded.batch is None:
        raise ShardError(loaded.trouble)
    return loaded.batch


class _Count:
    """How many samples came, and which of them had to be replaced."""

    def __init__(self) -> None:
        self.seen = 0
        self.replaced: list[str] = []

    def checked(self, loaded: Loaded, samples: int) -> Batch:
        """The batch, unless too many samples were replaced by now."""
        batch = _batch(loaded)
        self.seen += samples
        self.replaced += loaded.replaced
        lost = len(self.replaced)
        expected = REPLACED_SHARE * self.seen
        # four standard deviations above: a set just below the share must not be stopped by chance
        if loaded.replaced and lost >= REPLACED_LEAST + expected + 4 * math.sqrt(expected):
            names = ", ".join(list(dict.fromkeys(self.replaced))[:20])
            raise ShardError(
                f"{lost} of {self.seen} samples do not decode, more than {REPLACED_SHARE:.1%}: {names}; "
                "ssl-retina inspect names all of them; list them in data.exclude, or shard again"
            )
        return batch
