"""Law 9: files appear whole or not at all; a folder has one writer."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_retina import files
from ssl_retina.errors import StateError


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), files.whole(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


_KILLED = """
import os, sys
from pathlib import Path
from ssl_retina import files
left = int(sys.argv[2])
def counted(name):
    original = getattr(os, name)
    def call(*a, **k):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return original(*a, **k)
    setattr(os, name, call)
for name in ("open", "fsync", "fchmod", "replace", "close"):
    counted(name)
files.write_bytes(Path(sys.argv[1]), b"new" * 1000)
"""


def test_killed_at_every_system_call_the_file_is_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "a"
    outcomes = set()
    for calls in range(12):
        target.write_bytes(b"old")
        ended = subprocess.run([sys.executable, "-c", _KILLED, str(target), str(calls)], check=False)
        assert target.read_bytes() in (b"old", b"new" * 1000)
        outcomes.add((ended.returncode, target.read_bytes()[:3]))
    assert (-signal.SIGKILL, b"old") in outcomes
    assert (-signal.SIGKILL, b"new") in outcomes
    assert (0, b"new") in outcomes


def test_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from ssl_retina import files
with files.lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StateError, match=str(holder.pid)), files.lock(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with files.lock(tmp_path):
        assert (tmp_path / files.LOCK_NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_over_one_dead_lock_one_writes_at_a_time(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from ssl_retina import files
from ssl_retina.errors import StateError
folder = Path({str(tmp_path)!r})
sys.stdin.readline()
try:
    with files.lock(folder):
        (folder / "inside").open("x").close()
        time.sleep(0.2)
        (folder / "inside").unlink()
except StateError:
    sys.exit(4)
"""
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = {"host": socket.gethostname(), "pid": dead.pid, "started": "1"}
    (tmp_path / files.LOCK_NAME).write_text(json.dumps(stale))
    takers = [subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) for _ in range(6)]
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write(b"go\n")
        taker.stdin.close()
    for taker in takers:
        taker.wait()
    codes = [taker.returncode for taker in takers]
    assert set(codes) <= {0, 4}
    assert 0 in codes


def test_another_machines_lock_is_believed(tmp_path: Path) -> None:
    (tmp_path / files.LOCK_NAME).write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    with pytest.raises(StateError, match="elsewhere"), files.lock(tmp_path):
        pass


def test_a_number_reused_by_another_process_is_not_the_holder(tmp_path: Path) -> None:
    stale = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1"}
    (tmp_path / files.LOCK_NAME).write_text(json.dumps(stale))
    with files.lock(tmp_path):
        pass
