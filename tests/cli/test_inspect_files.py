"""The verb `inspect` where the system refuses: one sentence that names the folder, and exit code 4."""

import os
import sys
from pathlib import Path

import factory
import pytest

from ssl_retina import cli, shards


@pytest.mark.parametrize("name", [shards.INDEX_NAME, "the first tar"])
def test_an_unreadable_file_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Root may read everything, so the refusal is played."""
    index = factory.make_shards(tmp_path, samples=8, shards=1)
    refused = tmp_path / (name if name == shards.INDEX_NAME else index.shards[0].url)
    opened = Path.open

    def refuse(path: Path, *arguments: object, **named: object) -> object:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(sys, "argv", ["ssl-retina", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    assert capfd.readouterr().err == (
        f"ssl-retina: {tmp_path} ({refused.name}) cannot be read or written: {os.strerror(13)}\n"
    )
