"""Scan: a fixed order, every entry a row, nothing followed, nothing opened."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_retina.archive.scan import Found, scan
from ssl_retina.errors import InputError


def test_order_depends_on_names_alone(tmp_path: Path) -> None:
    names = ["b/2.jpg", "b/10.jpg", "a.jpg", "B.jpg", "b.jpg", "ä.jpg"]
    for order in (names, names[::-1]):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in order:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"12")
    listings = [[one.path for one in scan(root)] for root in sorted(tmp_path.iterdir())]
    assert listings[0] == listings[1] == ["B.jpg", "a.jpg", "b/10.jpg", "b/2.jpg", "b.jpg", "ä.jpg"]


def test_f14_nothing_but_regular_files_is_opened_or_followed(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    (root / "folder.jpg").mkdir(parents=True)
    (root / "folder.jpg" / "inner.jpg").write_bytes(b"1")
    (root / "loop").symlink_to(root)
    (root / "out.jpg").symlink_to("/etc/passwd")
    (root / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # socket paths are short
        try:
            server.bind("s.jpg")
        finally:
            os.chdir(here)
        found = {one.path: one.reason for one in scan(root)}
    assert found.pop("folder.jpg/inner.jpg") == ""
    assert set(found) == {"loop", "out.jpg", "dangling.jpg", "pipe.jpg", "s.jpg"}
    assert set(found.values()) == {"not_regular"}


def test_f17_any_name_is_a_row(tmp_path: Path) -> None:
    names = [b"new\nline.jpg", b'quote".jpg', b"\xff\xfe.jpg", b"-rf", "\U0001f441.jpg".encode(), b"n" * 255]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"1")
    assert sorted(os.fsencode(one.path) for one in scan(tmp_path)) == sorted(names)


def test_f18_many_files_in_one_folder_stay_in_bounded_memory(tmp_path: Path) -> None:
    for number in range(20_000):
        (tmp_path / f"{number}.jpg").touch()
    code = (
        "import resource, sys; from pathlib import Path; from ssl_retina.archive.scan import scan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in scan(Path(sys.argv[1])))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, kibibytes = map(int, done.stdout.split())
    assert count == 20_000
    assert kibibytes < 25_000  # about 1 kB a row of one folder, and nothing of the files


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"1")
    listed = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    with monkeypatch.context() as patched:  # the folder is to be cleared away when the test has ended
        patched.setattr(os, "scandir", refuse)
        assert list(scan(tmp_path)) == [Found("a.jpg", 1), Found("shut", 0, "io")]


@pytest.mark.parametrize("name", ["absent", "file.jpg"])
def test_a_source_that_is_no_folder_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.jpg").write_bytes(b"1")
    with pytest.raises(InputError, match="give the folder that holds the photographs"):
        list(scan(tmp_path / name))
