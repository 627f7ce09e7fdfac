"""`starts.jsonl`: how often a run was started and how each start ended, whatever happened to the file."""

from pathlib import Path

import pytest

from ssl_retina.errors import CheckpointError
from ssl_retina.train import starts


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_start_and_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with starts.noted(tmp_path, 0, world_size=4):
        starts.ended(tmp_path, "signal")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(CheckpointError), starts.noted(tmp_path, 5, world_size=4):
        raise CheckpointError("x")
    with pytest.raises(ZeroDivisionError), starts.noted(tmp_path, 6, world_size=4):
        raise ZeroDivisionError
    with starts.noted(tmp_path, 7, world_size=4):
        pass
    assert starts.read(tmp_path) == [
        starts.Start(step=0, world_size=4, hosts=1, job=None, restart=0, end="signal"),
        starts.Start(step=5, world_size=4, hosts=2, job="9", restart=2, end="4"),
        starts.Start(step=6, world_size=4, hosts=2, job="9", restart=2, end="1"),
        starts.Start(step=7, world_size=4, hosts=2, job="9", restart=2, end=None),
    ]


def test_a_line_that_was_cut_short_costs_only_itself(tmp_path: Path) -> None:
    with starts.noted(tmp_path, 0, world_size=1):
        pass
    path = tmp_path / starts.STARTS
    path.write_bytes(path.read_bytes() + path.read_bytes()[:30])
    with starts.noted(tmp_path, 3, world_size=1):
        pass
    assert [start.step for start in starts.read(tmp_path)] == [0, 3]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b"[1]\n{}\nnull\n", b'{"event": "end", "how": "done"}\n']
)
def test_damage_is_tolerated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / starts.STARTS).write_bytes(content)
    assert starts.read(tmp_path) == []
    assert starts.read(tmp_path / "absent") == []


def test_no_host_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ward7-dr-schmidt")
    with starts.noted(tmp_path, 0, world_size=1):
        assert "ward7" not in (tmp_path / starts.STARTS).read_text()
