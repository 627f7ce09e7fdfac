"""Every run under a folder as a row: where it stands, how fast it goes, and whether it still does.

In: a folder. Out: rows, from the run folders' own files; SLURM is asked once where it is there. Read-only:
damaged files cost a number, not the table, and nothing heavy is loaded, so that 200 runs take a moment.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina import locks
from ssl_retina.errors import InputError, RequeueError
from ssl_retina.launch.submit import JOB
from ssl_retina.train import starts
from ssl_retina.train.tracking import METRICS

DEPTH = 4
TAIL_BYTES = 64 * 1024
UNKNOWN_JOB = "Invalid job id"
"""What squeue says, and ends with an error, where it is asked for one job alone that it does not know."""
WAITING_SECONDS = 10.0
"""So long SLURM may take to answer."""
FORGOTTEN = "FORGOTTEN"
"""In place of a job's state: SLURM was asked and does not know the job, so it waits and runs no more."""
COLUMNS = ("run", "state", "step", "loss", "images/s", "time left", "restarts", "method", "last line")


@dataclass(frozen=True)
class Row:
    """One run. Numbers that its files do not give are None; seconds are whole.

    state: queued, running, requeued (waits to go on), finished, stopped (by a signal), failed,
    interrupted (killed, or its machine is gone), new (never started), unknown (its job never began, and
    SLURM knows it no more).
    """

    run: str
    state: str
    step: int
    total: int | None
    loss: float | None
    images_per_second: float | None
    seconds_left: int | None
    restarts: int
    method: str | None
    job: str | None
    last_line_seconds: int | None


def survey(folder: Path) -> list[Row]:
    """The runs in `folder`, itself included, a few levels deep, by name.

    Raises InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist or is no folder: give a folder with runs in it")
    found = sorted(_run_folders(folder, DEPTH))
    jobs = {run: _jobs(run) for run in found}
    states = _scheduler_states({job for numbers in jobs.values() for job in numbers})
    now = time.time()
    return [_row(run, folder, [(job, states.get(job, "")) for job in jobs[run]], now=now) for run in found]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (
        (folder / METRICS).exists()
        or (folder / starts.SUBMISSIONS).is_dir()
        or (folder / starts.STARTS).exists()
    ):
        yield folder
        return
    if depth == 0:
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _run_folders(Path(entry.path), depth - 1)


def _jobs(run: Path) -> list[str]:
    """Numbers of the jobs that were submitted for a run, oldest first."""
    found = []
    folders = [path for path in (run / starts.SUBMISSIONS).glob("*") if path.name.isdigit()]
    for folder in sorted(folders, key=lambda path: int(path.name)):
        job = _object(folder / JOB).get("job")
        if isinstance(job, str) and job.isdigit():
            found.append(job)
    return found


def _scheduler_states(jobs: Iterable[str]) -> dict[str, str]:
    """What SLURM says of these jobs, such as PENDING, or FORGOTTEN; nothing where it is absent or slow."""
    wanted = sorted(jobs)
    if not wanted or shutil.which("squeue") is None:
        return {}
    lines = _asked("squeue", "--noheader", "--states=all", "--format=%i|%T", "--jobs=" + ",".join(wanted))
    if lines is None or any(line.count("|") != 1 for line in lines):
        return {}
    return {**dict.fromkeys(wanted, FORGOTTEN), **dict(line.split("|", 1) for line in lines)}


def _asked(*command: str) -> list[str] | None:
    """The lines of SLURM's answer, none for a job that it does not know; None where it gives no answer."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAITING_SECONDS)
        if done.returncode == 0:
            return done.stdout.splitlines()
        if UNKNOWN_JOB in done.stderr:
            return []
    return None


def _row(run: Path, folder: Path, jobs: Sequence[tuple[str, str]], *, now: float) -> Row:
    config = _object(run / "config.json")
    line = _last_line(run / METRICS)
    clock = line.get("clock") if isinstance(line.get("clock"), dict) else {}
    assert isinstance(clock, dict)
    step = int(_number(line.get("step")) or 0)
    total = _number(_at(config, "train", "steps"))
    if total is not None:
        total += _number(line.get("lost")) or 0  # steps that roll-backs gave up are done again
    batch, speed = _number(_at(config, "data", "batch_size")), _number(clock.get("images_per_second"))
    left = (total - step) * batch / speed if total is not None and batch and speed else None
    written, found = _number(clock.get("time")), starts.read(run)
    state = _state(run, found, jobs, finished=_is_finished(run, total))
    name = _at(config, "method", "name")
    return Row(
        run=str(run.relative_to(folder)) if run != folder else run.resolve().name,
        state=state,
        step=step,
        total=int(total) if total is not None else None,
        loss=_number(line.get("loss")),
        images_per_second=speed,
        seconds_left=round(left) if left is not None and state in LIVE else None,
        restarts=max(len(found) - 1, 0),
        method=name if isinstance(name, str) else None,
        job=jobs[-1][0] if jobs else None,
        last_line_seconds=round(max(now - written, 0)) if written is not None else None,
    )


LIVE = ("running", "requeued", "queued", "stopped", "interrupted")


def _state(
    run: Path, found: Sequence[starts.Start], jobs: Sequence[tuple[str, str]], *, finished: bool
) -> str:
    if finished:
        return "finished"
    if locks.is_held(run):
        return "running"
    known = {state for _, state in jobs} - {"", FORGOTTEN}
    silent = any(state == "" for _, state in jobs)
    if known & {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"}:
        return "requeued" if found else "queued"
    going_on = known & {"RUNNING", "COMPLETING"}
    if found and (going_on or (silent and not known)) and _asks_for_requeue(run, found[-1]):
        return "requeued"
    if going_on:  # loading its libraries, or about to end
        return "running"
    if not found:
        return _never_began(jobs, silent=silent, ended=bool(known))
    ends = {None: "interrupted", "signal": "stopped", "done": "finished", "75": "stopped", "130": "stopped"}
    return ends.get(found[-1].end, "failed")


def _never_began(jobs: Sequence[tuple[str, str]], *, silent: bool, ended: bool) -> str:
    """The state of a run that no start of training is known of, and none of whose jobs waits or runs."""
    if not jobs:
        return "new"
    if ended:
        return "failed"
    return "queued" if silent else "unknown"


def _asks_for_requeue(run: Path, last: starts.Start) -> bool:
    """Whether the last start's ranks left the code that makes their batch script requeue the job."""
    for path in (run / starts.SUBMISSIONS).glob(f"*/ended-{last.job}-{last.restart}"):
        with contextlib.suppress(OSError):
            return path.read_text().strip() == str(RequeueError.exit_code)
    return False


def _is_finished(run: Path, total: float | None) -> bool:
    return total is not None and (run / "checkpoints" / f"step-{int(total):08d}" / "MANIFEST.json").is_file()


def _object(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or an empty one."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _at(content: Mapping[str, Any], section: str, key: str) -> Any:
    found = content.get(section)
    return found.get(key) if isinstance(found, dict) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of the metrics, from the file's end alone."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            texts = stream.read().splitlines()
    except OSError:
        return {}
    for text in reversed(texts):
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                return line
    return {}


def lines(found: Sequence[Row]) -> list[str]:
    """The rows as a table of text, one line each below the heading."""
    cells = [COLUMNS, *(_cells(row) for row in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cells(row: Row) -> tuple[str, ...]:
    age = _duration(row.last_line_seconds)
    return (
        row.run,
        row.state,
        f"{row.step}/{row.total if row.total is not None else '?'}",
        "-" if row.loss is None else f"{row.loss:.4f}",
        "-" if row.images_per_second is None else f"{row.images_per_second:.0f}",
        _duration(row.seconds_left),
        str(row.restarts),
        row.method or "-",
        "-" if age == "-" else f"{age} ago",
    )


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds % 60:02d}s" if minutes else f"{seconds}s"
