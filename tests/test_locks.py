"""Law 9 across machines: who holds a lock lives or not, by its signs of life and its job, without races."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ssl_retina import locks, scheduler
from ssl_retina.errors import StateError
from ssl_retina.scheduler import Job

MINE = {"host": "here", "pid": os.getpid(), "job": "7", "restart": 2}
DEAD_PID = 2**22 - 1

HOLDER = """
import socket, sys, time
from pathlib import Path
from ssl_retina import locks
socket.gethostname = lambda: {host!r}
locks.BEAT_SECONDS, locks.LEAVING_SECONDS = {beat}, 0.7
with locks.lock(Path({folder!r})):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(
    folder: Path, *, host: str = "elsewhere", beat: float = 0.1, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that holds `folder`, on another machine by its own account."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(host=host, beat=beat, folder=str(folder))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job around, and a clock that a test can wait for."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(locks, "LEAVING_SECONDS", 0.7)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)


def rest(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": ""}, None),
        ({"SLURM_JOB_ID": "12"}, Job("12", 0)),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}, Job("12", 3)),
    ],
)
def test_the_job_is_read_from_slurms_environment(environment: dict[str, str], job: Job | None) -> None:
    assert scheduler.current(environment) == job


def foreign(**more: Any) -> dict[str, Any]:
    return {"host": "elsewhere", "pid": 1, "beat": 10, "job": None, "restart": None, **more}


@pytest.mark.parametrize(
    ("holder", "silent", "state"),
    [
        ({}, 0, "dead"),
        ({"host": "here", "pid": DEAD_PID, "started": "1"}, 0, "dead"),
        ({"host": "here", "pid": DEAD_PID, "started": "1", "job": "7", "restart": 1}, 0, "dead"),
        ({"host": "elsewhere", "pid": 1}, 1e9, "alive"),
        (foreign(), 299, "unsure"),
        (foreign(), 301, "dead"),
        (foreign(job="7", restart=1), 29, "leaving"),
        (foreign(job="7", restart=1), 31, "dead"),
        (foreign(job="7", restart=2), 31, "unsure"),
        (foreign(job="7", restart=3), 31, "unsure"),
        (foreign(job="8", restart=1), 31, "unsure"),
    ],
)
def test_who_lives(
    monkeypatch: pytest.MonkeyPatch, holder: dict[str, Any], silent: float, state: str
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 300)
    monkeypatch.setattr(locks, "LEAVING_SECONDS", 30)
    assert locks.judge(holder, MINE, silent) == state


def test_this_machines_processes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"host": "here", "pid": os.getpid(), "started": locks._started(os.getpid())}
    assert locks.judge(here, MINE, 1e9) == "alive"
    assert locks.judge({**here, "job": "7", "restart": 1}, MINE, 1e9) == "leaving"
    assert locks.judge({**here, "job": "7", "restart": 2}, MINE, 0) == "alive"
    assert locks.judge({**here, "started": "1"}, MINE, 0) == "dead"


def test_another_machines_holder_is_believed_while_it_beats(tmp_path: Path) -> None:
    with held(tmp_path):
        time.sleep(2)  # longer than a holder may be silent
        assert locks.is_held(tmp_path)
        with pytest.raises(StateError, match=r"elsewhere; its last sign of life was 0 s ago"):
            locks.lock(tmp_path).__enter__()


def test_a_job_asks_no_longer_than_until_the_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr(locks, "SILENT_SECONDS", 60)
    begin = time.monotonic()
    with held(tmp_path, beat=0.5), pytest.raises(StateError, match="elsewhere"):
        locks.lock(tmp_path).__enter__()
    assert time.monotonic() - begin < 20


def test_a_silent_holder_of_another_machine_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is told at once, a job waits until it is sure."""
    with held(tmp_path) as holder:
        holder.kill()
        holder.wait()
    with pytest.raises(StateError, match="after 2 s it counts as dead"), locks.lock(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    with locks.lock(tmp_path):
        assert json.loads((tmp_path / locks.LOCK_NAME).read_text())["job"] == "9"
    assert rest(tmp_path) == []


def test_a_restarted_job_takes_its_own_lock_back_from_a_machine_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 3600)
    with held(tmp_path, SLURM_JOB_ID="9") as holder:
        holder.kill()
        holder.wait()
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with locks.lock(tmp_path):
        pass
    assert rest(tmp_path) == []


@pytest.mark.parametrize("host", ["elsewhere", "here"])
def test_a_restarted_job_waits_for_its_dying_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with held(tmp_path, host=host, SLURM_JOB_ID="9", SLURM_RESTART_COUNT="0") as holder:
        threading.Timer(1.5, holder.kill).start()
        begin = time.monotonic()
        with locks.lock(tmp_path):
            assert time.monotonic() - begin > 1.2
        holder.wait()


def test_a_start_that_does_not_die_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with held(tmp_path, SLURM_JOB_ID="9"), pytest.raises(StateError, match="elsewhere"), locks.lock(tmp_path):
        pass


def test_who_lost_the_lock_while_it_stood_still_writes_no_more(tmp_path: Path) -> None:
    with held(tmp_path) as holder:
        holder.send_signal(signal.SIGSTOP)
        time.sleep(2)
        with locks.lock(tmp_path):
            holder.send_signal(signal.SIGCONT)
            assert holder.wait(timeout=60) == 4
            assert holder.stderr is not None
            assert b"has another writer now" in holder.stderr.read()
            assert json.loads((tmp_path / locks.LOCK_NAME).read_text())["pid"] == os.getpid()


def test_a_lock_removed_by_hand_is_put_back(tmp_path: Path) -> None:
    with locks.lock(tmp_path):
        before = (tmp_path / locks.LOCK_NAME).read_bytes()
        (tmp_path / locks.LOCK_NAME).unlink()
        time.sleep(0.5)
        assert (tmp_path / locks.LOCK_NAME).read_bytes() == before
        assert rest(tmp_path) == [locks.LOCK_NAME]
        with pytest.raises(StateError, match=f"is being written by process {os.getpid()}"):
            locks.lock(tmp_path).__enter__()
    assert rest(tmp_path) == []


def test_a_folder_removed_by_hand_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run") as holder:
        shutil.rmtree(tmp_path / "run")
        time.sleep(2)  # longer than a holder may stand still
        assert holder.poll() is None
        assert rest(tmp_path) == []


def test_who_stood_still_while_another_came_and_went_writes_no_more(tmp_path: Path) -> None:
    """Nothing is left of the other writer, but what this one knows of the folder is no longer true."""
    with held(tmp_path) as holder:
        holder.send_signal(signal.SIGSTOP)
        time.sleep(2)
        with locks.lock(tmp_path):
            pass
        assert rest(tmp_path) == []
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(timeout=60) == 4
        assert holder.stderr is not None
        assert b"may have had another writer" in holder.stderr.read()
        assert rest(tmp_path) == []


@pytest.mark.parametrize("key", ["boot", "processes"])
def test_one_name_may_be_that_of_two_machines_or_containers(tmp_path: Path, key: str) -> None:
    """Another's process number says nothing here: its signs of life count."""
    mine = {**locks._mine(), "job": None}
    assert mine[key], "Linux says it"
    other = {**mine, key: "another", "pid": DEAD_PID, "started": "1"}
    assert locks.judge(other, mine, 1) == "unsure"
    assert locks.judge(other, mine, 2) == "dead"
    unsaid = {name: value for name, value in other.items() if name != key}
    assert locks.judge(unsaid, mine, 1) == "dead", "a lock of an earlier version: the host's name decides"
    (tmp_path / locks.LOCK_NAME).write_text(json.dumps(other))
    with pytest.raises(StateError, match="is being written by process"):
        locks.lock(tmp_path).__enter__()


def test_a_container_does_not_take_the_lock_of_its_neighbour(tmp_path: Path) -> None:
    """Two real PID namespaces under one name: each has its own process 1."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no PID namespaces")
    asks = "import sys; from pathlib import Path; from ssl_retina import locks; "
    asks += "locks.lock(Path(sys.argv[1])).__enter__()"
    with held(tmp_path, host=socket.gethostname()):
        done = subprocess.run(
            [*apart, sys.executable, "-c", asks, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "is being written by process" in done.stderr, done.stderr


RACER = """
import socket, sys, time
from pathlib import Path
from ssl_retina import locks
from ssl_retina.errors import StateError
folder = Path(sys.argv[1])
socket.gethostname = lambda: sys.argv[2]
original = locks._Taker._retire
def slowly(self, path, dead):
    time.sleep(float(sys.argv[3]))  # between the verdict and the deed
    original(self, path, dead)
locks._Taker._retire = slowly
sys.stdin.readline()
try:
    with locks.lock(folder):
        (folder / "inside").open("x").close()
        time.sleep(0.3)
        (folder / "inside").unlink()
except StateError:
    sys.exit(4)
"""


def racers(folder: Path, delays: list[float]) -> list[int]:
    """Processes that judge one lock at the same time and act on it at different times: their exit codes."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder), "here", str(delay)], stdin=subprocess.PIPE
        )
        for delay in delays
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    return [process.wait() for process in started]


def stale(path: Path) -> None:
    path.write_text(json.dumps({"host": "here", "pid": DEAD_PID, "started": "1"}))


def test_who_judged_long_ago_does_not_take_a_living_lock_away(tmp_path: Path) -> None:
    """Each but the first finds another's lock where the dead one was, which it must leave alone."""
    stale(tmp_path / locks.LOCK_NAME)
    codes = racers(tmp_path, [0.0, 0.15, 0.2, 0.25, 0.5])
    assert set(codes) == {0, 4}
    assert rest(tmp_path) == []


def test_a_taker_that_died_with_the_right_to_retire_is_retired_itself(tmp_path: Path) -> None:
    lock = tmp_path / locks.LOCK_NAME
    stale(lock)
    digest = locks.hashlib.blake2b(lock.read_bytes(), digest_size=8).hexdigest()
    (tmp_path / f"{locks.LOCK_NAME}-{digest}-retired").write_text(
        json.dumps({"host": "here", "pid": DEAD_PID, "started": "2"})
    )
    codes = set(racers(tmp_path, [0.0, 0.0, 0.1]))
    assert codes in ({0}, {0, 4}), "one at least gets it"
    assert rest(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"[1]", b"{"])
def test_a_file_that_is_no_lock_of_ours_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / locks.LOCK_NAME).write_bytes(content)
    assert not locks.is_held(tmp_path)
    with locks.lock(tmp_path):
        pass
    assert rest(tmp_path) == []
