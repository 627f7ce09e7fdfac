"""The loader's processes: they are started clean, load micro-batches ahead, and end with the trainer.

In: what gives the batch of any positions, and the positions. Out: the batches in that order, or a sentence
that says which process was lost.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
from torch.utils.data import DataLoader

from ssl_retina.data.stream import Loaded, Positions, Stream
from ssl_retina.errors import StateError

PREFETCH = 2
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
    batches, last = _started(stream, asked, workers), ""
    try:
        for loaded in batches:
            last = loaded.batch.keys[-1] if loaded.batch else last
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


def _started(stream: Stream, asked: Iterable[Positions], workers: int) -> Iterator[Loaded]:
    with warnings.catch_warnings():
        # how many workers are sensible was decided in the config; torch counts this machine's cores
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            stream,  # type: ignore[arg-type]  # its indexes are arrays of positions
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
