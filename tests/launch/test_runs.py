"""`runs`: the state of every run under a folder, from its own files, whatever happened to them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ssl_retina import locks
from ssl_retina.cli import app
from ssl_retina.errors import InputError
from ssl_retina.launch import runs

CONFIG = {"data": {"batch_size": 8}, "train": {"steps": 100}, "method": {"name": "mae"}}


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def lines_of(run: Path, *lines: dict[str, Any]) -> None:
    (run / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


START = {"event": "start", "step": 0, "world_size": 2, "hosts": 2, "job": "7", "restart": 0}


def make(run: Path, *, step: int = 40, end: str | None = None, restarts: int = 0) -> Path:
    """A run of 100 steps that stands at `step`; its last start ended in this way."""
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(CONFIG))
    clock = {"time": time.time() - 5, "images_per_second": 16.0}
    lines = [{"step": at, "loss": 1 / at, "clock": clock} for at in range(1, step + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    starts = [{**START, "restart": number} for number in range(restarts + 1)]
    lines_of(run, *starts, *([{"event": "end", "how": end}] if end else []))
    if step == 100:
        last = run / "checkpoints" / "step-00000100"
        last.mkdir(parents=True)
        (last / "MANIFEST.json").touch()
    return run


def submitted(run: Path, job: str, ended: str | None = None, restart: int = 0) -> Path:
    folder = run / "slurm" / "1"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job": job}))
    if ended:
        (folder / f"ended-{job}-{restart}").write_text(f"{ended}\n")
    return run


def squeue(tmp_path: Path, **states: str) -> None:
    """A stand-in that knows these jobs, written `job_7="PENDING"`."""
    path = tmp_path / "bin" / "squeue"
    path.parent.mkdir()
    said = "\n".join(f"echo '{job.removeprefix('job_')}|{state}'" for job, state in states.items())
    path.write_text(f"#!/bin/sh\n{said}\n")
    path.chmod(0o755)


def only(folder: Path) -> runs.Row:
    (row,) = runs.survey(folder)
    return row


def test_a_runs_numbers(tmp_path: Path) -> None:
    row = only(make(tmp_path / "a", restarts=2, end="75"))
    assert (row.run, row.step, row.total, row.loss) == ("a", 40, 100, 1 / 40)
    assert (row.images_per_second, row.seconds_left) == (16.0, 60 * 8 / 16)
    assert (row.restarts, row.method) == (2, "mae")
    assert row.last_line_seconds in (5, 6)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (None, "interrupted"),
        ("signal", "stopped"),
        ("75", "stopped"),
        ("130", "stopped"),
        ("4", "failed"),
        ("1", "failed"),
    ],
)
def test_how_a_run_without_a_writer_ended(tmp_path: Path, end: str | None, state: str) -> None:
    assert only(make(tmp_path / "a", end=end)).state == state


def test_finished_is_what_has_its_last_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path / "a", step=100, end="done")
    row = only(run)
    assert (row.state, row.seconds_left) == ("finished", None)
    (run / "checkpoints" / "step-00000100" / "MANIFEST.json").unlink()
    lines_of(run, START)
    assert only(run).state == "interrupted"


def test_a_live_lock_is_a_running_run(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    with locks.lock(run):
        before = sorted(path.name for path in run.iterdir())
        assert only(run).state == "running"
        assert sorted(path.name for path in run.iterdir()) == before


def test_without_slurm_the_code_that_the_ranks_left_says_that_it_goes_on(tmp_path: Path) -> None:
    run = submitted(make(tmp_path / "a", end="signal"), "7", ended="75")
    assert only(run).state == "requeued"
    lines_of(run, START, {**START, "restart": 1})  # it went on since
    assert only(run).state == "interrupted"


@pytest.mark.parametrize(
    ("known", "started", "state"),
    [
        ("PENDING", False, "queued"),
        ("PENDING", True, "requeued"),
        ("RUNNING", True, "requeued"),
        ("COMPLETING", True, "requeued"),
        ("RUNNING", False, "running"),
        ("FAILED", False, "failed"),
        ("COMPLETED", True, "stopped"),
    ],
)
def test_slurm_is_asked(tmp_path: Path, known: str, started: bool, state: str) -> None:
    squeue(tmp_path, job_7=known)
    run = submitted(make(tmp_path / "a", end="signal"), "7", ended="75")
    if not started:
        (run / "starts.jsonl").unlink()
    assert only(run).state == state
    assert only(run).job == "7"


def test_a_submission_before_its_first_start(tmp_path: Path) -> None:
    row = only(submitted(tmp_path / "a", "7"))
    assert (row.state, row.step, row.total, row.restarts) == ("queued", 0, None, 0)
    assert runs.lines([row])[1].split() == ["a", "queued", "0/?", "-", "-", "-", "0", "-", "-"]


def test_a_slurm_that_refuses_or_babbles_costs_nothing(tmp_path: Path) -> None:
    squeue(tmp_path)
    run = submitted(make(tmp_path / "a", end="4"), "7")
    for body in ("exit 1", "echo 'no | such | line'", "echo"):
        (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n{body}\n")
        assert only(run).state == "failed"


FORGOTTEN = (
    "exit 0",
    "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
)
"""What squeue answers of several jobs, and of one alone, that it does not know any more."""


@pytest.mark.parametrize("answer", FORGOTTEN)
def test_a_job_that_slurm_forgot_waits_no_more(tmp_path: Path, answer: str) -> None:
    """It ended before training began, or as it was to be requeued: neither queued nor requeued for ever."""
    squeue(tmp_path)
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\n{answer}\n")
    submitted(tmp_path / "runs" / "a", "7")
    submitted(make(tmp_path / "runs" / "b", end="signal"), "7", ended="75")
    assert [row.state for row in runs.survey(tmp_path / "runs")] == ["unknown", "stopped"]


@pytest.mark.parametrize("answer", ["echo 'Unable to contact slurm controller' >&2; exit 1", "exec sleep 5"])
def test_a_slurm_that_does_not_answer_has_forgotten_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(runs, "WAITING_SECONDS", 0.5)
    squeue(tmp_path)
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{answer}\n")
    submitted(tmp_path / "runs" / "a", "7")
    submitted(make(tmp_path / "runs" / "b", end="signal"), "7", ended="75")
    assert [row.state for row in runs.survey(tmp_path / "runs")] == ["queued", "requeued"]


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "starts.jsonl", "slurm/1/job.json", ".lock"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b'{"step": "x"', b"[1, 2]\n", b'{"data": 3, "step": null}\n']
)
def test_damaged_files_cost_a_number_and_not_the_table(tmp_path: Path, name: str, content: bytes) -> None:
    run = submitted(make(tmp_path / "runs" / "a", end="signal"), "7")
    make(tmp_path / "runs" / "b", step=100, end="done")
    (run / name).write_bytes(content)
    damaged, whole = runs.survey(tmp_path / "runs")
    assert (damaged.run, whole.run, whole.state) == ("a", "b", "finished")
    assert len(runs.lines([damaged, whole])) == 3


def test_the_last_whole_line_counts(tmp_path: Path) -> None:
    run = make(tmp_path / "a", step=3000)
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 3001, "lo')
    assert only(run).step == 3000


def test_runs_are_found_a_few_levels_deep_and_not_inside_each_other(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e/f", "b/d/e/g/too/deep"):
        make(tmp_path / "runs" / name)
    make(tmp_path / "runs" / "a" / "copy")
    assert [row.run for row in runs.survey(tmp_path / "runs")] == ["a", "b/c", "b/d/e/f"]
    with pytest.raises(InputError, match="does not exist"):
        runs.survey(tmp_path / "absent")


def test_two_hundred_runs_take_a_moment_and_nothing_heavy(tmp_path: Path) -> None:
    for number in range(200):
        make(tmp_path / "runs" / f"{number:03d}", step=50)
    begin = time.monotonic()
    assert len(runs.survey(tmp_path / "runs")) == 200
    assert time.monotonic() - begin < 5


def test_the_verb(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a", end="signal")
    submitted(make(tmp_path / "runs" / "longer", step=100, end="done"), "12")
    table = CliRunner().invoke(app, ["runs", str(tmp_path / "runs")], catch_exceptions=False).stdout
    heading, first, second = table.splitlines()
    assert heading.split("  ")[0] == "run"
    assert first.split()[:3] == ["a", "stopped", "40/100"]
    assert second.split()[:3] == ["longer", "finished", "100/100"]
    said = CliRunner().invoke(app, ["runs", str(tmp_path / "runs"), "--json"], catch_exceptions=False).stdout
    assert [row["job"] for row in json.loads(said)["runs"]] == [None, "12"]
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(app, ["runs", str(tmp_path / "empty")], catch_exceptions=False)
    assert "a run's folder holds metrics.jsonl, starts.jsonl or slurm/" in empty.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (59, "59s"), (61, "1m 01s"), (3661, "1h 01m"), (90000, "1d 1h")],
)
def test_durations(seconds: int | None, text: str) -> None:
    assert runs._duration(seconds) == text
