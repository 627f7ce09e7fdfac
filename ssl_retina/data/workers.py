"""The loader's processes: they are started clean, load micro-batches ahead, and end with the trainer.

In: what gives the batch of any positions, and the positions. Out: the batches in that order, or a sentence
that says which process was lost.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssl_retina.data import memory
from ssl_retina.data.memory import Pool
from ssl_retina.data.stream import Loaded, Positions, Stream
from ssl_retina.errors import StateError

PREFETCH = 2
KEPT = 2
"""Batches that a trainer holds: the one it works on, and the next or the last one."""
OWN = "in DataLoader worker process"
"""What torch says of an error that a living worker raised; one of its pinning thread is not among them."""

_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def load(stream: Stream, asked: Iterable[Positions], *, workers: int, rank: int = 0) -> Iterator[Loaded]:
    """What the stream gives for each of `asked`, in order; in this process where there are no workers.

    From workers it comes in pinned memory where there is CUDA, so that copies to the device wait for
    nothing. Raises StateError, with this rank and the last sample that came, where a worker was killed.
    """
    if workers == 0:
        yield from map(stream.__getitem__, asked)
        return
    first, asked = _first(asked)
    if first is None:
        return
    samples = len(first)
    pool = Pool(workers * PREFETCH + KEPT, stream.pixel_bytes(samples))
    lent = ((some, pool.taken() if len(some) <= samples else None) for some in asked)
    pinned = torch.cuda.is_available()  # by a thread of torch's that knows no pool
    batches, last = _started(_Filling(stream, pool.pieces, sends=pinned), lent, workers), ""
    try:
        for loaded, piece in batches:
            last = loaded.batch.keys[-1] if loaded.batch else last
            if piece is not None:
                loaded = _returning(loaded, piece, pool, stream)  # noqa: PLW2901
            yield loaded
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        # a dead worker also takes along what it had already put into shared memory
        if OWN in str(error):  # torch raises it again, as the type that it had there
            raise
        if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
            raise
        came = f"after sample {last} had come" if last else "before a sample came"
        raise StateError(
            f"a loader process of rank {rank} was killed {came}, most often because memory ran out: "
            "lower data.workers or the batch of each rank, and start again; the run continues at its last "
            "checkpoint"
        ) from None


Asked = tuple[Positions, int | None]
"""Positions, and which piece of the pool their pixels go into."""


class _Filling:
    """A dataset whose items are batches in the memory that was asked for, new one where none was free.

    sends: the pixels, too, as torch sends shared memory: by a new connection and a new mapping for each
        batch. Else a batch in a piece comes without them, whose memory the trainer has had from the start.
    """

    def __init__(self, stream: Stream, pieces: Sequence[Tensor], *, sends: bool) -> None:
        self.stream, self.pieces, self.sends = stream, pieces, sends

    def __getitem__(self, asked: Asked) -> tuple[Loaded, int | None]:
        positions, piece = asked
        if piece is None:
            room = memory.shared(self.stream.pixel_bytes(len(positions)))
            return self.stream.fill(positions, room), None
        loaded = self.stream.fill(positions, self.pieces[piece])
        return (loaded if self.sends else loaded.without_pixels()), piece


def _first(asked: Iterable[Positions]) -> tuple[Positions | None, Iterator[Positions]]:
    asked = iter(asked)
    first = next(asked, None)
    return first, asked if first is None else itertools.chain([first], asked)


def _returning(loaded: Loaded, piece: int, pool: Pool, stream: Stream) -> Loaded:
    """The batch in memory that goes back to the pool when its views are gone."""
    batch = loaded.batch
    if batch is None or torch.cuda.is_available():  # a pinned copy was made of it
        pool.give_back(piece)
        return loaded
    global_views, local_views = stream.views_in(pool.pieces[piece], len(batch.keys))
    there = [global_views] if local_views is None else [global_views, local_views]
    global_views, *rest = pool.lent(piece, there)
    lent = replace(batch, global_views=global_views, local_views=rest[0] if rest else None)
    return replace(loaded, batch=lent)


def _started(filling: _Filling, asked: Iterable[Asked], workers: int) -> Iterator[tuple[Loaded, int | None]]:
    with warnings.catch_warnings():
        # how many workers are sensible was decided in the config; torch counts this machine's cores
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            filling,  # type: ignore[arg-type]  # its indexes are arrays of positions
            batch_size=None,
            sampler=asked,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            prefetch_factor=PREFETCH,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=start_server(),
            generator=torch.Generator(),  # torch's own would lose a number to each loader
        )
        return iter(loader)


def _as_it_is(loaded: Any) -> Any:
    return loaded


def start_server() -> ForkServerContext:
    """Processes forked from a clean server that has torch loaded: safe beside threads and CUDA, and quick.

    The servers inherit a signal mask: a scheduler's signal to the process group is for the trainer alone.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssl_retina.data.stream"])
    with _blocked(_OURS):
        resource_tracker.ensure_running()  # unblocks SIGINT and SIGTERM when it is done
    with _blocked(_OURS):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Leave signals to the trainer, but end with it, however it ends, or when it asks.

    torch's own watch looks at the parent, which is the fork server: it outlives a killed trainer, since its
    children hold it. The sentinel is a pipe that only the trainer keeps open.
    """
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    assert trainer.pid is not None
    signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    for target, argument in ((_end_with, trainer.sentinel), (_end_when_asked, trainer.pid)):
        threading.Thread(target=target, args=(argument,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _end_when_asked(trainer: int) -> None:
    """Obey a SIGTERM of the trainer itself (multiprocessing sends one at exit), drop all other signals."""
    while True:
        received = signal.sigwaitinfo(_OURS)
        if received.si_signo == signal.SIGTERM and received.si_pid == trainer:
            os._exit(0)
