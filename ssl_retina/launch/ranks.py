"""Several ranks on this machine, or one rank where a launcher set the environment.

In: how many processes. Out: ranks that train together; signals reach all of them, one that dies ends the
others, and none outlives its parent. What went wrong first is told once, with its rank.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ssl_retina.errors import InputError, UserError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PARENT = "SSL_RETINA_PARENT"
FAILURE = "SSL_RETINA_FAILURE"
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_PR_SET_PDEATHSIG = 1
Process = subprocess.Popen[bytes]
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 3.0
"""So long the other ranks may end by themselves after the first that failed."""
POLL_SECONDS = 0.1


class RanksError(UserError):
    """What ended a run of several ranks, with the exit code of its first cause."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher (ours, torchrun, srun) started this process as one rank.

    Raises InputError for a partly set environment: training alone beside others would ruin their run.
    """
    given = [name for name in NEEDED if environment.get(name)]
    if given and len(given) < len(NEEDED):
        missing = ", ".join(name for name in NEEDED if name not in given)
        raise InputError(
            f"the launcher's environment is only partly set: {', '.join(given)} without {missing}; "
            "set all of them for each rank, or unset them to train on this machine alone"
        )
    return bool(given)


def processes(asked: int | None) -> int:
    """How many ranks to start: what was asked for, else one for each GPU, else one."""
    gpus = _gpus()
    if asked is None:
        return max(1, gpus)
    if gpus and asked > gpus:
        raise InputError(f"--processes {asked}: there are {gpus} GPUs, and each process needs its own")
    return asked


def _gpus() -> int:
    """GPUs that this process may use, counted without loading torch where there can be none."""
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()):
        return 0
    counted = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
        check=False,
        capture_output=True,
        text=True,
    )
    return int(counted.stdout) if counted.returncode == 0 and counted.stdout.strip().isdigit() else 0


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Let a rank of ours or of torchrun die with its launcher, also when that was killed with -9.

    Three nets: the kernel's signal at the parent's death, a look whether it died before that was set, and a
    watch for systems without such a signal.
    """
    if not (os.environ.get(PARENT) or os.environ.get(_TORCHRUN)):
        return
    parent = int(os.environ.get(PARENT) or os.getppid())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Failure:
    """What a rank reports before it ends: when (monotonic nanoseconds), what, and its exit code."""

    rank: int
    moment: int
    message: str
    exit_code: int


def report_failure(message: str, exit_code: int) -> bool:
    """Leave a report for our own launcher; False where there is none, and the rank must speak itself."""
    path = os.environ.get(FAILURE)
    if not path:
        return False
    report = {"moment": time.monotonic_ns(), "message": message, "exit_code": exit_code}
    temporary = Path(f"{path}.tmp")
    try:
        temporary.write_text(json.dumps(report))
        os.replace(temporary, path)
    except OSError:  # cleaned away in a long run: then the exit code and the rank's own words must do
        return False
    return True


def run_ranks(command: Sequence[str], count: int) -> None:
    """Run `command` as `count` ranks of this machine until all are done.

    The first rank keeps this process's stdout and stderr. Raises RanksError with the first cause.
    """
    with tempfile.TemporaryDirectory(prefix="ssl-retina-") as name:
        folder = Path(name)
        with _started(command, count, folder) as ranks, _forwarding(ranks) as passed_on:
            killed = _wait(ranks)
            codes = {rank: process.wait() for rank, process in ranks.items()}
        if any(codes.values()):
            own = {rank: code for rank, code in codes.items() if code and rank not in killed}
            raise _first_cause(own, folder, passed_on[0] if passed_on else 0)


@contextmanager
def _started(command: Sequence[str], count: int, folder: Path) -> Iterator[dict[int, Process]]:
    port = _free_port()
    ranks: dict[int, Process] = {}
    try:
        for rank in range(count):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                PARENT: str(os.getpid()),
                FAILURE: str(folder / f"failure-{rank}.json"),
            }
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
            log = (folder / f"rank-{rank}.log").open("wb") if rank else None
            ranks[rank] = subprocess.Popen(
                list(command), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            if log is not None:
                log.close()
        yield ranks
    finally:
        for process in ranks.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def _free_port() -> int:
    """A port that is free now, below the range from which systems hand out ports to others meanwhile."""
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def _forwarding(ranks: Mapping[int, Process]) -> Iterator[list[int]]:
    """Pass signals on to every rank instead of dying of them; gives the list of those passed on."""
    seen: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        seen.append(number)
        for process in ranks.values():
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: Mapping[int, Process]) -> set[int]:
    """Until all ended, or one ended badly and the others had their grace; gives those that were killed."""
    deadline = None
    while any(process.poll() is None for process in ranks.values()):
        if deadline is None and any(process.returncode for process in ranks.values()):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            late = {rank for rank, process in ranks.items() if process.poll() is None}
            for rank in late:
                ranks[rank].kill()
            return late
        time.sleep(POLL_SECONDS)
    return set()


def _first_cause(codes: Mapping[int, int], folder: Path, passed_on: int) -> RanksError:
    """The earliest report, unless a rank died without one: then the reports only follow from that.

    `codes`: the exit codes of the ranks that ended badly by themselves. (A rank that aborts while others
    report is a follower too: that is how gloo and nccl leave when a peer is gone.)
    """
    reports = sorted(_reports(folder), key=lambda report: report.moment)
    reported = {report.rank for report in reports}
    dead = [
        rank
        for rank, code in codes.items()
        if rank not in reported and not (reports and code == -signal.SIGABRT)
    ]
    if dead:
        return _died(dead[0], codes[dead[0]], folder, passed_on=passed_on)
    first = reports[0]
    shared = len(reports) > 1 and len({report.message for report in reports}) == 1
    prefix = "" if shared else f"rank {first.rank}: "
    return RanksError(prefix + first.message, first.exit_code)


def _died(rank: int, code: int, folder: Path, *, passed_on: int) -> RanksError:
    if passed_on and -code == passed_on:
        name = signal.Signals(passed_on).name
        return RanksError(f"stopped by {name} before training began; nothing was lost", 128 + passed_on)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = "; was the memory full?" if code == -signal.SIGKILL else ""
    return RanksError(f"rank {rank} {how}{hint}{_tail(folder, rank)}", 128 - code if code < 0 else code)


def _reports(folder: Path) -> Iterator[Failure]:
    for path in folder.glob("failure-*.json"):
        content = json.loads(path.read_text())
        rank = int(path.stem.rsplit("-", 1)[1])
        yield Failure(rank, content["moment"], content["message"], content["exit_code"])


def _tail(folder: Path, rank: int) -> str:
    path = folder / f"rank-{rank}.log"
    lines = path.read_text(errors="replace").splitlines()[-20:] if path.is_file() else []
    return "".join(f"\n  {line}" for line in lines)
