"""Law 4 after kill -9: wherever a run dies, the same command ends in the same bits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from test_laws import assert_bit_equal, lines

from ssl_retina.train import checkpoint, tracking

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": tiny.python_path(),
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
}


def killed(folder: Path, points: list[int], case: str = "calm") -> list[str]:
    """Run `killed.py`; the calls to the disk that the whole run makes, by name."""
    if not (folder / "shards").exists():
        tiny.make_shards(folder / "shards")
    script = [sys.executable, "-W", "ignore", str(HERE / "killed.py")]
    command = [*script, case, str(folder), *map(str, points)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    match = re.search(r"^whole: (.*)$", done.stdout, re.MULTILINE)
    assert match
    return match.group(1).split()


@pytest.mark.slow
def test_f74_kill_9_around_a_save_and_resume(tmp_path: Path) -> None:
    """In the first save; between steps; in the second save before its rename, and right behind it."""
    calls = killed(tmp_path, [])
    renames = [number for number, name in enumerate(calls) if name == "rename"]
    saves = [number for number, name in enumerate(calls) if name == "save_file"]
    points = [saves[1], renames[0] + 9, saves[3] + 1, renames[1] + 1]
    assert points == sorted(set(points))
    shutil.rmtree(tmp_path / "whole")
    killed(tmp_path, points)
    assert len(lines(tmp_path / "whole")) == tiny.STEPS
    for point in points:
        assert_bit_equal(tmp_path / "whole", tmp_path / f"at-{point}")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_f74_kill_9_at_every_third_call_and_resume(tmp_path: Path) -> None:
    calls = killed(tmp_path, [])
    points = list(range(0, len(calls) + 2, 3))
    shutil.rmtree(tmp_path / "whole")
    killed(tmp_path, points)
    for point in points:
        assert_bit_equal(tmp_path / "whole", tmp_path / f"at-{point}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_f63_kill_9_around_a_roll_back_and_resume(tmp_path: Path) -> None:
    """From the first spike on: in each call to the disk until the roll-back is published, and behind it."""
    calls = killed(tmp_path, [], "spiking")
    renames = [number for number, name in enumerate(calls) if name == "rename"]
    publishes = renames[3]  # steps 0, 4 and 8 before it; renames of old ones come later
    first, last = renames[2] + 1, publishes + 8
    points = list(range(first, last, 2)) + [publishes, publishes + 1]
    shutil.rmtree(tmp_path / "whole")
    killed(tmp_path, points, "spiking")
    whole = tmp_path / "whole"
    assert sum("rolled_back_to" in line for line in lines(whole)) == 1
    for point in points:
        assert_bit_equal(whole, tmp_path / f"at-{point}")
        left, right = (
            checkpoint.load_facts(checkpoint.newest(run)) for run in (whole, tmp_path / f"at-{point}")
        )
        assert left["setbacks"] == right["setbacks"]
        assert left["window"] == right["window"]


def command(folder: Path, name: str, *more: str) -> list[str]:
    """`ssl-retina pretrain` with two processes, as the README has it."""
    config = HERE.parents[1] / "configs" / "pretrain" / "debug_mae.yaml"
    verb = [sys.executable, "-m", "ssl_retina", "pretrain", str(config)]
    return [*verb, *tiny.overrides(folder / "shards", folder / name), "--processes", "2", *more]


def start(folder: Path, name: str, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(folder, name, *more),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until_step(folder: Path, step: int, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 180
    while tracking.last_step(folder) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


def ranks_of(folder: Path) -> list[int]:
    """Processes on this machine whose command line names the run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"out={folder}\0" in words:
                found.append(int(entry.name))
    return found


def gone(folder: Path) -> None:
    end = time.monotonic() + 60
    while ranks_of(folder):
        assert time.monotonic() < end, "ranks outlive their parent"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_f73_f74_two_ranks_by_the_command_line(tmp_path: Path) -> None:
    """One run of two ranks dies in five ways, one after the other, and ends like the undisturbed one."""
    tiny.make_shards(tmp_path / "shards")
    whole = start(tmp_path, "whole", "--json")
    out, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert json.loads(out)["steps"] == tiny.STEPS
    run = tmp_path / "run"

    process = start(tmp_path, "run")  # the whole process group, as a scheduler's last word
    until_step(run, 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    gone(run)

    process = start(tmp_path, "run")  # the parent alone
    until_step(run, 5, process)
    process.kill()
    process.communicate()
    gone(run)

    process = start(tmp_path, "run")  # one rank: the other is ended, the cause is told once
    until_step(run, 6, process)
    os.kill(next(pid for pid in reversed(sorted(ranks_of(run))) if pid != process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 137
    assert said.count("was ended by SIGKILL") == 1
    assert "Traceback" not in said
    gone(run)

    process = start(tmp_path, "run")  # a scheduler's warning
    until_step(run, 9, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75
    assert said.count("stopped by SIGTERM and saved at step") == 1
    assert said.count("the same command continues") == 1
    stopped = checkpoint.step_of(checkpoint.newest(run))
    assert stopped >= 9
    gone(run)

    process = start(tmp_path, "run")
    until_step(run, stopped + 1, process)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches every process of the terminal
    _, said = process.communicate(timeout=120)
    assert process.returncode in (0, 130)  # it may have been the last step
    gone(run)

    process = start(tmp_path, "run")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert_bit_equal(tmp_path / "whole", run)
