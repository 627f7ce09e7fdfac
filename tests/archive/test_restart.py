"""F45: killed with -9 at any moment, a build continues and ends with the bytes of an undisturbed run."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from killing import Bomb, fork, killed
from photographs import contents, save, shard, write_table

from ssl_retina.archive import build as build_module
from ssl_retina.archive.build import Listener, Settings, build
from ssl_retina.errors import StateError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 20 photographs in three chunks, its table, and `whole`: an undisturbed build."""
    folder = tmp_path_factory.mktemp("place")
    for number in range(18):
        save(folder / "archive" / f"{number:02d}.png", number, size=40)
    for number in range(2):
        save(folder / "archive" / f"copy{number}.png", number, size=40)
    (folder / "archive" / "page.jpg").write_text("<html>")
    write_table(
        folder / "t.csv", ["file", "patient"], [[f"{number:02d}", number % 5] for number in range(18)]
    )
    shard(folder, folder / "archive", "whole", **_options(folder))
    return folder


def _options(folder: Path) -> dict[str, object]:
    return {"table": folder / "t.csv", "samples_per_shard": 7}


def _killed(folder: Path, out: Path, at: int) -> bool:
    """Build in a forked process that ends at event `at`; False where it ran through."""

    def work(bomb: Bomb) -> None:
        settings = Settings(key_file=folder / "key", processes=1, **_options(folder))
        build(folder / "archive", out, settings, Listener(progress=bomb.tick))

    return killed(at, work)


def _published(out: Path) -> list[str]:
    return [name for name in contents(out) if not name.startswith(".")] if out.exists() else []


def test_f45_killed_in_the_first_stage(place: Path, tmp_path: Path) -> None:
    """Before anything, after the plan, after the first chunk, after the second."""
    for at in (0, 2, 3, 4, 5, 6, 7):
        out = tmp_path / str(at)
        assert _killed(place, out, at)
        assert _published(out) == []
        shard(place, place / "archive", str(out), **_options(place))
        assert contents(out) == contents(place / "whole"), at


@pytest.mark.slow
def test_f45_killed_at_every_file_operation_of_the_second_stage(place: Path, tmp_path: Path) -> None:
    """Between close and rename, after each rename, in the index write, while the work folder is removed."""
    chunks = tmp_path / "chunks"
    assert _killed(place, chunks, 7)  # all three chunks are there, no shard
    assert _published(chunks) == []
    at = 0
    while True:
        out = tmp_path / str(at)
        shutil.copytree(chunks, out)
        alive = not _killed(place, out, at)
        if not alive:
            left = _published(out)
            assert all((out / name).read_bytes() == (place / "whole" / name).read_bytes() for name in left), (
                at
            )
            assert "index.json" not in left or left == _published(place / "whole")
            shard(place, place / "archive", str(out), **_options(place))
        assert contents(out) == contents(place / "whole"), at
        if alive:
            break
        at += 1
    assert at > 30


def test_f45_half_written_files_are_swept_away(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _killed(place, out, 7)
    (out / ".retina-000000.tar.tmp-99999").write_bytes(b"half")
    (out / ".work" / ".chunk-000001.bin.tmp-99999").write_bytes(b"half")
    (out / ".work" / "chunk-000002.bin").write_bytes(b"cut")  # as after a power cut
    shard(place, place / "archive", str(out), **_options(place))
    assert contents(out) == contents(place / "whole")


def test_a_killed_worker_is_said_and_the_run_continues(place: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    settings = Settings(key_file=place / "key", processes=1, **_options(place))
    with pytest.raises(StateError, match="ended from outside"):
        build(place / "archive", tmp_path / "out", settings, Listener(progress=kill))
    shard(place, place / "archive", str(tmp_path / "out"), **_options(place))
    assert contents(tmp_path / "out") == contents(place / "whole")


def test_workers_end_with_their_killed_parent(place: Path, tmp_path: Path) -> None:
    """No orphan goes on writing into a folder that another run has taken over."""
    noted = tmp_path / "workers"
    child = fork()
    if child == 0:

        def die(done: int, total: int) -> None:
            noted.write_text(" ".join(str(one.pid) for one in multiprocessing.active_children()))
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            settings = Settings(key_file=place / "key", processes=2, **_options(place))
            build(place / "archive", tmp_path / "out", settings, Listener(progress=die))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    workers = [int(pid) for pid in noted.read_text().split()]
    assert workers
    until = time.monotonic() + 30
    while any(_runs(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_file_that_was_unreadable_gets_another_try(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunk is made again, and shards that were packed without it are dropped."""
    source = tmp_path / "archive"
    shutil.copytree(place / "archive", source)
    listing = list(build_module.scan(source))
    (source / "03.png").rename(tmp_path / "away.png")
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "scan", lambda _: iter(listing))
        patched.setattr(build_module.shard_index, "write", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            shard(place, source, str(tmp_path / "out"), **_options(place))
    assert len(_published(tmp_path / "out")) == 4
    (tmp_path / "away.png").rename(source / "03.png")
    shard(place, source, str(tmp_path / "out"), **_options(place))
    assert contents(tmp_path / "out") == contents(place / "whole")


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
