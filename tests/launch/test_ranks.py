"""Ranks live and die together, none outlives its parent, and the first cause is told once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_retina.errors import InputError
from ssl_retina.launch import ranks as launch

NONE: dict[str, str] = {}
FULL = {name: "1" for name in launch.NEEDED}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: object, seconds: float = 30) -> None:
    """Poll until a condition holds; the bound only ends a test that has failed."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_the_environment_is_set_wholly_or_not_at_all() -> None:
    assert not launch.is_rank(NONE)
    assert launch.is_rank(FULL)
    for missing in launch.NEEDED:
        partly = {name: value for name, value in FULL.items() if name != missing}
        with pytest.raises(InputError, match=f"only partly set: .* without {missing}") as caught:
            launch.is_rank(partly)
        assert caught.value.exit_code == 2


def test_processes_default_to_the_gpus_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    assert launch.processes(None) == 1
    assert launch.processes(3) == 3
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    assert launch.processes(None) == 4
    assert launch.processes(2) == 2
    with pytest.raises(InputError, match="there are 4 GPUs"):
        launch.processes(5)


def test_every_rank_gets_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import os, json, pathlib; n = os.environ['RANK'];"
        f"pathlib.Path({str(tmp_path)!r}, n).write_text(json.dumps(dict(os.environ, PPID=os.getppid())))"
    )
    launch.run_ranks(python(code), 3)
    seen = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [one["LOCAL_RANK"] for one in seen] == ["0", "1", "2"]
    assert {one["WORLD_SIZE"] for one in seen} == {"3"}
    assert {one["MASTER_ADDR"] for one in seen} == {"127.0.0.1"}
    assert len({one["MASTER_PORT"] for one in seen}) == 1
    assert {one["OMP_NUM_THREADS"] for one in seen} == {str(max(1, launch.cores() // 3))}
    assert {one["PPID"] for one in seen} == {os.getpid()}


REPORTING = """
import os, sys, time
from ssl_retina.launch import ranks as launch
rank = int(os.environ["RANK"])
"""


def test_f71_the_first_cause_is_told_once_with_its_rank() -> None:
    """Rank 1 fails; the others fail after it (as gloo's peers do) or hang, and are ended."""
    code = REPORTING + (
        "time.sleep({0: 0.4, 1: 0.0, 2: 60}[rank])\n"
        "launch.report_failure(f'reason of rank {rank}', 5 if rank == 1 else 1)\n"
        "sys.exit(5 if rank == 1 else 1)\n"
    )
    begin = time.monotonic()
    with pytest.raises(launch.RanksError) as caught:
        launch.run_ranks(python(code), 3)
    assert time.monotonic() - begin < 30
    assert str(caught.value) == "rank 1: reason of rank 1"
    assert caught.value.exit_code == 5


def test_what_all_ranks_agree_on_has_no_rank() -> None:
    code = REPORTING + "launch.report_failure('the shards are damaged', 4); sys.exit(4)\n"
    with pytest.raises(launch.RanksError) as caught:
        launch.run_ranks(python(code), 2)
    assert (str(caught.value), caught.value.exit_code) == ("the shards are damaged", 4)


def test_f74_a_killed_rank_is_the_cause_although_its_peers_complain() -> None:
    """Also where a peer aborts without a report, and where it complains before the parent looks."""
    code = REPORTING + (
        "if rank == 1:\n"
        "    print('last words', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "time.sleep(0.3)\n"
        "if rank == 2: os.abort()\n"
        "launch.report_failure('connection closed by peer', 1); sys.exit(1)\n"
    )
    with pytest.raises(launch.RanksError) as caught:
        launch.run_ranks(python(code), 3)
    assert str(caught.value).startswith("rank 1 was ended by SIGKILL; was the memory full?")
    assert "last words" in str(caught.value)
    assert caught.value.exit_code == 137


def test_an_abort_after_a_report_is_no_cause() -> None:
    code = REPORTING + ("if rank == 1: os.abort()\nlaunch.report_failure('out of disk', 4); sys.exit(4)\n")
    with pytest.raises(launch.RanksError, match="rank 0: out of disk"):
        launch.run_ranks(python(code), 2)


PARENT = """
import sys
from ssl_retina.launch import ranks as launch
try:
    launch.run_ranks([sys.executable, "-c", sys.argv[1], sys.argv[2]], 2)
except launch.RanksError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

WAITING = (
    REPORTING
    + """
import pathlib, signal
launch.end_with_parent()
folder = pathlib.Path(sys.argv[1])
def handler(number, frame):
    (folder / f"signal-{rank}-{number}").touch()
    launch.report_failure(f"saved after {number}", 75)
    sys.exit(75)
for number in (2, 10, 12, 15):
    signal.signal(number, handler)
(folder / f".pid-{rank}").write_text(str(os.getpid()))
(folder / f".pid-{rank}").rename(folder / f"pid-{rank}")
while True:
    time.sleep(1)
"""
)


def started(folder: Path) -> tuple["subprocess.Popen[bytes]", list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, WAITING, str(folder)], stderr=subprocess.PIPE, start_new_session=True
    )
    paths = [folder / f"pid-{rank}" for rank in range(2)]
    wait_for(lambda: all(path.exists() for path in paths))
    return parent, [int(path.read_text()) for path in paths]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_f73_signals_reach_every_rank(tmp_path: Path, number: signal.Signals) -> None:
    parent, ranks = started(tmp_path)
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 75
    assert said.decode().strip() == f"saved after {int(number)}"
    assert sorted(path.name for path in tmp_path.glob("signal-*")) == [
        f"signal-0-{int(number)}",
        f"signal-1-{int(number)}",
    ]
    assert not any(alive(pid) for pid in ranks)


def test_f74_no_rank_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent, ranks = started(tmp_path)
    parent.kill()
    parent.communicate(timeout=60)
    wait_for(lambda: not any(alive(pid) for pid in ranks))


def test_a_rank_whose_parent_died_before_it_looked_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second net: the signal of the parent's death was set too late."""
    code = "from ssl_retina import launch; launch.end_with_parent(); print('lived')"
    environment = {**os.environ, launch.PARENT: "1"}
    done = subprocess.run(python(code), env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


def test_a_process_of_nobody_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.PARENT, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    launch.end_with_parent()
    assert not launch.report_failure("nobody asks", 1)


def test_the_third_net_sees_a_changed_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    launch._watch(parent=-1)
    assert killed == [(os.getpid(), signal.SIGKILL)]
