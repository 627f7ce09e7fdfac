"""Letters among the photographs, storage that fails, outputs that cannot be written or were damaged."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from photographs import contents, save, shard, write_table
from PIL import Image

from ssl_retina import files, shards
from ssl_retina.archive import build as build_module
from ssl_retina.archive import readers, worker
from ssl_retina.archive.build import Listener, Settings, build
from ssl_retina.archive.identity import deidentify
from ssl_retina.archive.rejection import Rejected
from ssl_retina.errors import BadInputLimitError, InputError, StateError


def _letter(path: Path) -> None:
    page = np.full((300, 220, 3), 250, np.uint8)
    for row in range(30, 270, 24):
        page[row : row + 8, 20 : 120 + row % 70] = 20
    Image.fromarray(page).save(path)


def _frame_filled(path: Path) -> None:
    rows, columns = np.mgrid[:200, :240]
    Image.fromarray(
        np.stack([150 + rows // 8, 70 + columns // 8, 40 + rows // 16], axis=2).astype(np.uint8)
    ).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(4):
        save(tmp_path / "archive" / f"{number}.png", number)
    return tmp_path / "archive"


def test_a_letter_becomes_no_sample_unless_it_is_wanted(tmp_path: Path, source: Path) -> None:
    _letter(source / "letter.png")
    totals = shard(tmp_path, source)
    assert (totals.written, dict(totals.reasons)) == (4, {"not_retinal": 1})
    assert '"reason": "not_retinal"' in (tmp_path / "out" / shards.LEDGER_NAME).read_text()
    with pytest.raises(StateError, match="keep_other was False, is True"):
        shard(tmp_path, source, keep_other=True)
    kept = shard(tmp_path, source, "kept", keep_other=True)
    assert (kept.written, kept.remarks["no_field_of_view"]) == (5, 1)
    table = write_table(tmp_path / "t.csv", ["file", "modality"], [["letter.png", "other"]])
    assert shard(tmp_path, source, "declared", table=table).written == 5


def test_photographs_without_a_field_are_counted(tmp_path: Path, source: Path) -> None:
    assert "no_field_of_view" not in shard(tmp_path, source, "before").remarks
    _frame_filled(source / "full.png")
    assert shard(tmp_path, source).remarks["no_field_of_view"] == 1


def test_half_a_small_archive_unreadable_stops_it_and_the_same_command_continues(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the 1,000 files of the window and the 50 in a row the share is judged at the end."""
    undisturbed = shard(tmp_path, source, "whole")
    listing = list(build_module.scan(source))
    aside = tmp_path / "aside"
    aside.mkdir()
    for number in range(3):
        (source / f"{number}.png").rename(aside / f"{number}.png")
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "scan", lambda _: iter(listing))
        for _ in range(2):  # starting again does not help as long as nothing was mended
            with pytest.raises(BadInputLimitError, match="3 of 4 files could not be read"):
                shard(tmp_path, source)
    assert [name for name in contents(tmp_path / "out") if not name.startswith(".")] == []
    for path in aside.iterdir():
        path.rename(source / path.name)
    assert shard(tmp_path, source) == undisturbed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_single_unreadable_files_are_rejections_and_are_named_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = [*build_module.scan(source), build_module.Found("gone1.png", 1)]
    monkeypatch.setattr(build_module, "scan", lambda _: iter(listing))
    assert dict(shard(tmp_path, source).reasons) == {"io": 1}
    notes: list[str] = []
    build(
        source,
        tmp_path / "out",
        Settings(key_file=tmp_path / "key", processes=1),
        Listener(note=notes.append),
    )
    assert "same names and sizes" in notes[0]
    assert notes[1].startswith("1 files could not be read then")


def test_a_chunk_of_files_that_were_changed_since_is_made_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same name and size, other pixels, between a kill and the restart."""
    for path in source.iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(build_module.shard_index, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shard(tmp_path, source)
    first, second = (source / f"{number}.bmp" for number in (0, 1))
    one, other = first.read_bytes(), second.read_bytes()
    assert len(one) == len(other)
    first.write_bytes(other)
    second.write_bytes(one)
    os.utime(first, ns=(1, 1))
    shard(tmp_path, source)
    shard(tmp_path, source, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "missing", "positions", "ledger", "extra"])
def test_a_complete_output_is_looked_at(tmp_path: Path, source: Path, damage: str) -> None:
    shard(tmp_path, source)
    out = tmp_path / "out"
    tar = out / "retina-000000.tar"
    if damage == "cut":
        os.truncate(tar, tar.stat().st_size - 512)
    elif damage == "missing":
        tar.unlink()
    elif damage == "extra":
        shutil.copy(tar, out / "retina-000007.tar")
    else:
        (out / {"positions": shards.POSITIONS_NAME, "ledger": shards.LEDGER_NAME}[damage]).unlink()
    with pytest.raises(StateError, match="remove that folder and run the same command again") as error:
        shard(tmp_path, source)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("out", ["afile", "afile/x", "/proc/x"])
def test_an_output_that_cannot_be_is_one_sentence(tmp_path: Path, source: Path, out: str) -> None:
    (tmp_path / "afile").touch()
    with pytest.raises(InputError, match="cannot be read or written: ") as error:
        shard(tmp_path, source, out)
    assert f"--out {tmp_path / out} " in str(error.value)


def test_an_output_without_permission_is_one_sentence(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(files.os, "link", refuse)  # the lock; root is refused nothing by itself
    with pytest.raises(InputError, match=rf"--out {tmp_path / 'out'} cannot be .*: Permission denied"):
        shard(tmp_path, source)


def test_the_first_key_where_nothing_can_be_written_is_one_sentence(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc")
    with pytest.raises(StateError, match=r"key file /proc/ssl-retina/key cannot be read or made: "):
        shard(tmp_path, source, key_file=None)
    assert not (tmp_path / "out").exists()


def test_only_undeclared_pictures_are_refused(tmp_path: Path) -> None:
    """The rule stands in the worker, so that its ledger line is like any other's."""
    _letter(tmp_path / "letter.png")
    job = worker.Job(tmp_path, tmp_path, bytes(32), "", 64, Settings().encoding)
    with pytest.raises(Rejected, match="not_retinal"):
        part = readers.parts((tmp_path / "letter.png").read_bytes(), "letter.png")[0]
        picture = part.decode()
        identity = deidentify.identify("letter.png", None, picture.facts, key=job.key, site="")
        worker._photograph(job, None, (part, picture), identity)
