"""F104: what holds photographs is private, whatever the umask; F101: so is the key."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from photographs import save, shard, write_table

from ssl_retina.archive.build import Listener, Settings, build
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.report import datasheet
from ssl_retina.shards import read_index


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_umask")
def test_f104_folder_0700_and_files_0600_under_umask_000(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "archive" / f"{number}.png", number, size=40)
    table = write_table(tmp_path / "t.csv", ["file", "patient"], [[f"{n}.png", f"P{n}"] for n in range(3)])
    shard(tmp_path, tmp_path / "archive", table=table)
    out = tmp_path / "out"
    assert _mode(out) == 0o700
    assert {path.name: _mode(path) for path in out.iterdir() if _mode(path) != 0o600} == {}
    withdraw(out, "P1", key_file=tmp_path / "key")
    assert {path.name: _mode(path) for path in out.iterdir() if _mode(path) != 0o600} == {}
    shared = Path(shutil.copytree(out, tmp_path / "shared"))
    shared.chmod(0o750)  # the user's own choice stays: colleagues go on reading
    withdraw(shared, "P2", key_file=tmp_path / "key")
    assert _mode(shared / "index.json") == 0o644
    (tmp_path / "pages").mkdir(mode=0o755)
    for folder, mode in ((tmp_path / "pages", 0o600), (shared, 0o644)):  # photographs are in it
        datasheet.write(read_index(shared), folder / "page.html")
        assert _mode(folder / "page.html") == mode
    notes: list[str] = []
    settings = Settings(key_file=tmp_path / "key", table=table, processes=1)
    (tmp_path / "open").mkdir(mode=0o755)
    build(tmp_path / "archive", tmp_path / "open", settings, Listener(note=notes.append))
    assert any("every user of this machine can read" in note and "chmod 700" in note for note in notes)


def test_f101_a_first_key_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SSL_RETINA_KEY_FILE", raising=False)
    save(tmp_path / "archive" / "a.png", 1, size=40)
    for out, told in (("out", 1), ("again", 0)):
        notes: list[str] = []
        build(tmp_path / "archive", tmp_path / out, Settings(processes=1), Listener(note=notes.append))
        made = read_index(tmp_path / out).facts["key_fingerprint"]
        assert sum("a first key was made" in note and made in note for note in notes) == told
