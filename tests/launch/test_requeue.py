"""A rank's exit code for the batch script: what is left, by whom, and when a requeue is not asked for."""

import signal
from pathlib import Path

import pytest

from ssl_retina.errors import CheckpointError, InterruptedRunError, RequeueError, UserError
from ssl_retina.launch import requeue
from ssl_retina.scheduler import Job
from ssl_retina.train import signals, starts
from ssl_retina.train.starts import Start


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the script named, in a run's folder."""
    path = tmp_path / "run" / "slurm" / "1" / "ended-7-0"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setenv(requeue.ENDED, str(path))
    return path


def stopped(number: int) -> UserError:
    return signals.stopped(number, "and saved")


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (stopped(signal.SIGUSR1), "75\n"),
        (stopped(signal.SIGUSR2), "75\n"),
        (stopped(signal.SIGTERM), None),  # SLURM decides; torchrun sends it to a failed rank's peers too
        (stopped(signal.SIGINT), "130\n"),
        (CheckpointError("x"), "4\n"),
    ],
)
def test_which_code_is_left(ended: Path, error: UserError, left: str | None) -> None:
    assert requeue.leave(error) is None
    assert (ended.read_text() if ended.exists() else None) == left
    assert [path.name for path in ended.parent.iterdir()] == ([ended.name] if left else [])


def test_the_first_rank_decides(ended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requeue.leave(CheckpointError("the cause"))
    monkeypatch.setenv("RANK", "1")
    requeue.leave(stopped(signal.SIGUSR1))
    assert ended.read_text() == "4\n"


def test_nothing_is_left_where_no_script_asks(ended: Path) -> None:
    assert requeue.leave(InterruptedRunError("x"), {}) is None
    assert not ended.exists()


def test_a_script_folder_that_is_gone_hides_no_error(ended: Path) -> None:
    ended.parent.rmdir()
    assert requeue.leave(CheckpointError("x")) is None


def test_the_signal_is_known_to_the_error() -> None:
    error = stopped(signal.SIGUSR2)
    assert isinstance(error, RequeueError)
    assert (error.signal, error.exit_code) == (signal.SIGUSR2, 75)


def start(step: int, restart: int, job: str = "7") -> Start:
    return Start(step=step, world_size=2, hosts=2, job=job, restart=restart, end="signal")


@pytest.mark.parametrize(
    ("found", "restart", "step", "idle"),
    [
        ([], 0, 0, 0),
        ([], 4, 0, 4),  # every start ended before training began
        ([start(0, 0)], 0, 40, 0),
        ([start(0, 0), start(40, 1)], 1, 40, 0),
        ([start(0, 0), start(40, 1), start(40, 2), start(40, 3)], 3, 40, 2),
        ([start(0, 0), start(40, 1)], 6, 40, 5),
        ([start(0, 0)], 5, 40, 5),
        ([start(0, 0), start(20, 1), start(40, 2)], 2, 60, 0),
        ([start(40, 9, job="6"), start(40, 0)], 0, 40, 0),
    ],
)
def test_restarts_without_progress(found: list[Start], restart: int, step: int, idle: int) -> None:
    assert starts.idle_restarts(found, Job("7", restart), step) == idle


def test_a_job_that_gets_nowhere_is_not_requeued(ended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ended.parents[2]
    (run / "checkpoints" / "step-00000040").mkdir(parents=True)
    for restart in range(requeue.IDLE_LIMIT + 1):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        with starts.noted(run, 40, world_size=2):
            ended.unlink(missing_ok=True)
            refusal = requeue.leave(stopped(signal.SIGUSR1))
        if restart < requeue.IDLE_LIMIT:
            assert (refusal, ended.read_text()) == (None, "75\n")
    assert refusal is not None
    assert "5 restarts of job 7 in a row have not brought the run beyond step 40" in refusal
    assert ended.read_text() == "1\n"
