"""The verb `shard` at the command line: help, exit codes, what goes to stdout and what to stderr."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import factory
import numpy as np
import pytest
from PIL import Image

from ssl_retina import cli

Shard = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shard:
    """Run the verb in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ssl-retina", "shard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def _source(folder: Path) -> Path:
    source = folder / "photos"
    source.mkdir()
    for number in range(3):
        (source / f"p{number}_OD.png").write_bytes(factory.encoded(factory.pixels(number), "png"))
    (source / "notes.txt").write_text("notes")
    return source


def test_help_has_an_example(shard: Shard) -> None:
    code, text, _ = shard("--help")
    assert code == 0
    assert "Example: ssl-retina shard" in " ".join(text.split())


def test_json_goes_to_stdout_and_all_else_to_stderr(tmp_path: Path, shard: Shard) -> None:
    out = tmp_path / "out"
    arguments = (_source(tmp_path), "--out", out, "--pattern", "{patient}_{eye}", "--processes", 1, "--json")
    code, first, notes = shard(*arguments)
    assert code == 0, notes
    assert json.loads(first) == {
        **{"scanned": 4, "written": 3, "rejected": 1, "duplicates": 0},
        **{"patients": 3, "shards": 1},
    }
    assert "rejected 1: not_an_image" in notes
    assert f"next: ssl-retina inspect {out}" in notes
    code, again, notes = shard(*arguments)
    assert (code, again) == (0, first)
    assert "complete already" in notes
    code, other, notes = shard(*arguments, "--size", 256)
    assert (code, other) == (4, "")
    assert "size was 512, is 256" in notes


def test_mistakes_are_one_sentence_and_exit_code_2(tmp_path: Path, shard: Shard) -> None:
    (tmp_path / "empty").mkdir()
    source = _source(tmp_path)
    for arguments in (
        (tmp_path / "absent",),
        (tmp_path / "empty",),
        (source, "--table", tmp_path / "absent.csv"),
        (source, "--map", "patient=Patient"),
        (source, "--pattern", "{pateint}"),
        (source, "--size", 7),
        (source, "--name", "../x"),
        (source, "--site", "a b"),
        (source, "--processes", 0),
    ):
        code, text, notes = shard(*arguments, "--out", tmp_path / "out")
        assert (code, text) == (2, ""), (arguments, notes)
        assert notes.startswith("ssl-retina: ")
        assert notes.count("\n") == 1, notes
        assert not (tmp_path / "out").exists()


def test_letters_and_photographs_without_a_rim_are_told(tmp_path: Path, shard: Shard) -> None:
    source = _source(tmp_path)
    rows, columns = np.mgrid[:200, :240]
    page = np.where(rows % 24 < 8, 20, 250)
    for name, channels in (
        ("letter", (page, page, page)),
        ("full", (150 + rows // 8, 70 + columns // 8, rows // 4)),
    ):
        Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).save(source / f"{name}.png")
    code, _, notes = shard(source, "--out", tmp_path / "out", "--processes", 1)
    assert code == 0, notes
    assert "rejected 1: not_retinal (no fundus photograph and no OCT" in notes
    assert "1 photographs without a found field of view: nothing of them was made black" in notes
    code, _, notes = shard(source, "--out", tmp_path / "kept", "--processes", 1, "--keep-other")
    assert (code, "not_retinal" in notes) == (0, False)


def test_recipes_are_listed_without_a_source(shard: Shard) -> None:
    code, text, _ = shard("--recipe", "list")
    assert code == 0
    assert all(word in text for word in ("idrid", "CC-BY-4.0", "eyepacs", "verified"))


def test_a_recipe_says_what_it_left_out_and_how_labels_are_read(tmp_path: Path, shard: Shard) -> None:
    source = tmp_path / "aptos"
    for number in range(3):
        path = source / "train_images" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(factory.encoded(factory.pixels(number), "png"))
    (source / "train.csv").write_text("id_code,diagnosis\n0,0\n1,2\n2,4\n")
    arguments = (source, "--recipe", "aptos2019", "--out", tmp_path / "out", "--processes", 1)
    code, _, notes = shard(*arguments)
    assert code == 0, notes
    assert notes.count("not verified") == 1
    assert "rejected 1: skipped_by_recipe" in notes
    last = notes.splitlines()[-1]
    assert last.startswith("labels: ssl-retina probe WEIGHTS --data")
    assert "--file id_code --patient none --task 'referable=diagnosis>=2'" in last
    code, _, notes = shard(*arguments, "--map", "patient=Patient")
    assert code == 2
    assert "the recipe aptos2019 maps its own tables" in notes
    code, _, notes = shard(source, "--recipe", "aptos", "--out", tmp_path / "out")
    assert code == 2
    assert "did you mean 'aptos2019'" in notes
