"""How often a run was started, and how each start ended: `starts.jsonl` beside the metrics.

One line when training is about to begin, one when it ends in order; a start without an end was killed.
No host names: how many machines took part is enough.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ssl_retina import scheduler
from ssl_retina.errors import UserError

STARTS = "starts.jsonl"
SUBMISSIONS = "slurm"
"""The folder of a run in which `launch` puts one folder for each submission."""


@dataclass(frozen=True)
class Start:
    """One start: the step it began at, its ranks and machines, its job, and how it ended (None: not yet).

    end: `done`, `signal`, or the exit code of the error as a text.
    """

    step: int
    world_size: int
    hosts: int
    job: str | None
    restart: int
    end: str | None


@contextlib.contextmanager
def noted(run_dir: Path, step: int, *, world_size: int) -> Iterator[None]:
    """Write down that training begins at `step`, and what ended it where that is an error.

    For the process that holds the run's lock. `ended` writes down an end in order.
    """
    job = scheduler.current()
    hosts = world_size // int(os.environ.get("LOCAL_WORLD_SIZE") or world_size)  # torchrun's word
    facts = {"job": job.id if job else None, "restart": job.restart if job else 0}
    _append(run_dir, {"event": "start", "step": step, "world_size": world_size, "hosts": hosts, **facts})
    with contextlib.ExitStack() as stack:
        stack.push(partial(_failed, run_dir))
        yield


def _failed(
    run_dir: Path, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    del kind, trace
    if error is not None:
        ended(run_dir, str(error.exit_code) if isinstance(error, UserError) else "1")


def ended(run_dir: Path, how: str) -> None:
    """Write down how the last start ended. A disk that refuses does not hide the error that is on its way."""
    with contextlib.suppress(OSError):
        _append(run_dir, {"event": "end", "how": how})


def _append(run_dir: Path, line: Mapping[str, Any]) -> None:
    """One whole line, on disk; what a kill cut short before it is closed by a line's end of its own."""
    path = run_dir / STARTS
    torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    text = json.dumps({"time": round(time.time()), **line}, sort_keys=True)
    with path.open("ab") as stream:
        stream.write((b"\n" if torn else b"") + text.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read(run_dir: Path) -> list[Start]:
    """Every start, oldest first; damaged lines are left out. Empty for runs of earlier versions."""
    found: list[Start] = []
    try:
        lines = (run_dir / STARTS).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for text in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            line = json.loads(text)
            if line["event"] == "start":
                found.append(_start(line))
            elif found:
                found[-1] = Start(**{**vars(found[-1]), "end": str(line["how"])})
    return found


def _start(line: Mapping[str, Any]) -> Start:
    job = line["job"]
    return Start(
        step=int(line["step"]),
        world_size=int(line["world_size"]),
        hosts=int(line["hosts"]),
        job=None if job is None else str(job),
        restart=int(line["restart"]),
        end=None,
    )


def idle_restarts(found: list[Start], job: scheduler.Job, step: int) -> int:
    """How many restarts of `job` in a row have not brought the run beyond `step`, where it stands now."""
    own = [start for start in found if start.job == job.id]
    if not own:
        return job.restart
    still = [start.restart for start in own if start.step >= step]
    return job.restart - (min(still) if still else own[-1].restart)
