"""The commit protocol: a checkpoint is there whole or not at all, whatever dies, and only good ones load."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_retina.errors import CheckpointError
from ssl_retina.train import checkpoint
from ssl_retina.train.checkpoint import Content


def content(step: int) -> Content:
    """Tiny, and different at every step."""
    weights = {"a.weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)}
    moments = {"exp_avg/a.weight": torch.full((2, 3), step / 2)}
    return Content(weights, moments, {"samples": 8 * step}, {"seed": 1})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (0, 4, 8):
        checkpoint.commit(tmp_path, step, content(step))
    return tmp_path


def test_round_trip(run_dir: Path) -> None:
    folder = checkpoint.newest(run_dir)
    assert folder.name == "step-00000008"
    assert torch.equal(checkpoint.load_weights(folder)["a.weight"], content(8).weights["a.weight"])
    assert checkpoint.load_weights(folder)["count"].item() == 8
    assert torch.equal(checkpoint.load_moments(folder)["exp_avg/a.weight"], torch.full((2, 3), 4.0))
    assert checkpoint.load_facts(folder) == {"format": 1, "step": 8, "samples": 64}
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert not list((run_dir / "checkpoints").glob(".*"))


def test_equal_content_gives_equal_bytes(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = checkpoint.commit(tmp_path_factory.mktemp("other"), 8, content(8))
    for path in checkpoint.newest(run_dir).iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


@pytest.mark.parametrize("hint", [None, "", "step-00009999\n", "step-00000000\n"])
def test_f81_latest_missing_empty_or_pointing_to_nothing(run_dir: Path, hint: str | None) -> None:
    latest = run_dir / "checkpoints" / "latest"
    latest.unlink()
    if hint is not None:
        latest.write_text(hint)
    assert checkpoint.newest(run_dir).name == "step-00000008"


def _cut(folder: Path) -> None:
    path = folder / checkpoint.MOMENTS
    path.write_bytes(path.read_bytes()[:-3])


def _flipped(file: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        path = folder / file
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(bytes(damaged))

    return flip


def _edited_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / checkpoint.MANIFEST
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edit


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "f82-missing": (lambda folder: (folder / checkpoint.MOMENTS).unlink(), "missing-moments"),
    "f82-cut": (_cut, "size-moments"),
    "f83-weights": (_flipped(checkpoint.WEIGHTS), "hash-weights"),
    "f83-moments": (_flipped(checkpoint.MOMENTS), "hash-moments"),
    "f83-facts": (_flipped(checkpoint.FACTS), "hash-state"),
    "no-manifest": (lambda folder: (folder / checkpoint.MANIFEST).unlink(), "no-manifest"),
    "torn-manifest": (lambda folder: (folder / checkpoint.MANIFEST).write_text('{"step'), "manifest"),
    "other-step": (_edited_manifest(lambda m: m.update(step=4)), "manifest"),
    "f89-newer-format": (_edited_manifest(lambda m: m.update(format=2)), "format"),
    "unlisted-file": (_edited_manifest(lambda m: m["files"].pop(checkpoint.WEIGHTS)), "manifest"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_f82_f83_a_damaged_checkpoint_falls_back_to_the_one_before(run_dir: Path, name: str) -> None:
    damage, code = DAMAGE[name]
    damage(run_dir / "checkpoints" / "step-00000008")
    found = checkpoint.survey(run_dir)
    assert found.newest is not None
    assert found.newest.name == "step-00000004"
    assert [bad.code for bad in found.bad] == [code]
    renamed = checkpoint.set_aside(found.bad[0])
    assert renamed.name == f"step-00000008.bad-{code}"
    assert renamed.is_dir()
    assert checkpoint.survey(run_dir).bad == ()


def test_f84_all_bad_is_an_error_that_lists_each(run_dir: Path) -> None:
    for folder, file in zip(checkpoint.folders(run_dir), ("weights", "moments", "weights"), strict=True):
        _flipped(f"{file}.safetensors")(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.newest(run_dir)
    assert caught.value.exit_code == 4
    for step, file in ((8, "weights"), (4, "moments"), (0, "weights")):
        assert f"step-{step:08d}: {file}.safetensors does not have the SHA-256" in str(caught.value)


def test_setting_aside_twice_keeps_both(run_dir: Path) -> None:
    for _ in range(2):
        _cut(run_dir / "checkpoints" / "step-00000008")
        checkpoint.set_aside(checkpoint.survey(run_dir).bad[0])
        checkpoint.commit(run_dir, 8, content(8))
    assert len(list((run_dir / "checkpoints").glob("step-00000008.bad-*"))) == 2


def test_order_is_by_step_and_never_by_time(run_dir: Path) -> None:
    os.utime(run_dir / "checkpoints" / "step-00000000")
    checkpoint.commit(run_dir, 123_456_789, content(12))
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders(run_dir)] == [123_456_789, 8, 4, 0]


def test_retention_keeps_the_newest_and_the_one_resumed_from(run_dir: Path) -> None:
    checkpoint.commit(run_dir, 12, content(12))
    checkpoint.retain(run_dir, keep=2, spared={0})
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders(run_dir)] == [12, 8, 0]


def test_f85_a_full_disk_leaves_the_last_one_and_no_rest(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in (run_dir / "checkpoints").iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.commit(run_dir, 12, content(12))
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == before


CALLS = ("open", "fsync", "rename", "replace", "mkdir", "unlink", "fchmod", "close")


def _killed_at(call: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies of kill -9 before its call number `call`; False where it ended."""
    child = os.fork()
    if child == 0:
        counter = iter(range(10**6))

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                if next(counter) == call:
                    os.kill(os.getpid(), 9)
                return original(*args, **kwargs)

            return wrapper

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        checkpoint.save_file = counted(checkpoint.save_file)
        shutil.rmtree = counted(shutil.rmtree)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _points(work: Callable[[Path], object], fresh: Callable[[], Path]) -> Iterator[Path]:
    """The folder after a crash at every call of `work`, and once after none."""
    for call in range(1000):
        folder = fresh()
        died = _killed_at(call, lambda folder=folder: work(folder))
        yield folder
        if not died:
            assert call > 5
            return
    raise AssertionError("the work never ended")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kill_9_at_every_call_of_a_commit(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After a crash anywhere, the newest that verifies is step 8 or 12, whole, and nothing else is bad."""

    def fresh() -> Path:
        folder = tmp_path_factory.mktemp("crash")
        return Path(shutil.copytree(run_dir, folder, dirs_exist_ok=True))

    def commit(folder: Path, step: int = 12) -> None:
        checkpoint.commit(folder, step, content(step))
        checkpoint.retain(folder, keep=2, spared={None})

    reached = []
    for folder in _points(commit, fresh):
        found = checkpoint.survey(folder)
        assert found.newest is not None
        assert found.bad == ()
        step = checkpoint.step_of(found.newest)
        assert torch.equal(checkpoint.load_weights(found.newest)["a.weight"], torch.full((2, 3), float(step)))
        reached.append(step)
        checkpoint.sweep(folder)
        assert not list((folder / "checkpoints").glob(".*step-*"))
        commit(folder, step + 4)  # what the resumed run does
        assert checkpoint.step_of(checkpoint.newest(folder)) == step + 4
    assert set(reached) == {8, 12}
    assert reached == sorted(reached)  # never older once it was published
