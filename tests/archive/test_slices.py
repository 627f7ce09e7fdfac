"""One archive in n slices: the merged set has the bytes of one run, and no two processes write the same."""

import json
import shutil
from pathlib import Path

import pytest
from photographs import contents, save, shard, write_table
from typer.testing import CliRunner

from ssl_retina import files
from ssl_retina.archive import build as build_module
from ssl_retina.archive import output, slices
from ssl_retina.archive.build import Settings, build_slice, merge
from ssl_retina.archive.chunk_store import Chunk
from ssl_retina.archive.revision.withdraw import DERIVED
from ssl_retina.archive.slices import Slice
from ssl_retina.cli import app
from ssl_retina.errors import InputError, StateError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of three chunks, its table, `whole`: one run, and `half`: the first of two slices."""
    folder = tmp_path_factory.mktemp("place")
    for number in range(20):
        save(folder / "archive" / f"{number:02d}.png", number, size=40)
    write_table(
        folder / "t.csv", ["file", "patient"], [[f"{number:02d}", number % 5] for number in range(20)]
    )
    shard(folder, folder / "archive", "whole", table=folder / "t.csv", samples_per_shard=7)
    assert build_slice(folder / "archive", folder / "half", _settings(folder), Slice(1, 2)) == 12
    return folder


def _settings(folder: Path, **other: object) -> Settings:
    options = {"table": folder / "t.csv", "samples_per_shard": 7, "processes": 1, **other}
    return Settings(key_file=folder / "key", **options)


def test_the_merged_set_has_the_bytes_of_one_run(place: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(place / "half", tmp_path / "out"))
    with pytest.raises(StateError, match=r"slices 2/2 are not complete"):
        merge(place / "archive", out, _settings(place))
    command = ["shard", str(place / "archive"), "--out", str(out), "--table", str(place / "t.csv")]
    command += ["--key-file", str(place / "key"), "--samples-per-shard", "7", "--processes", "1", "--json"]
    done = CliRunner().invoke(app, [*command, "--slice", "2/2"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"slice": "2/2", "files": 8})
    assert not (out / "index.json").exists()
    done = CliRunner().invoke(app, [*command, "--merge"])
    assert done.exit_code == 0, done.output
    for page in DERIVED:
        (out / page).unlink()
    assert contents(out) == contents(place / "whole")
    assert build_slice(place / "archive", out, _settings(place), Slice(1, 2)) == 0
    assert contents(out) == contents(place / "whole")  # a late slice finds the set complete


def test_a_run_without_merge_makes_what_is_missing(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "half", tmp_path / "out")
    (tmp_path / "key").write_bytes((place / "key").read_bytes())
    (tmp_path / "key").chmod(0o600)
    shard(tmp_path, place / "archive", table=place / "t.csv", samples_per_shard=7)
    assert contents(tmp_path / "out") == contents(place / "whole")


@pytest.mark.parametrize("change", ["slices", "settings", "same slice", "whole"])
def test_what_would_write_the_same_chunks_is_refused(place: Path, tmp_path: Path, change: str) -> None:
    out = Path(shutil.copytree(place / "half", tmp_path / "out"))
    before = contents(out)
    part, options, locked = Slice(2, 2), {}, None
    if change == "slices":
        part, words = Slice(2, 3), "begun in 2 slices, not in 3"
    elif change == "settings":
        options, words = {"size": 64}, "other settings"
    elif change == "same slice":
        part, locked = Slice(1, 2), out / output.WORK_NAME / slices.FOLDER / "1-of-2"
        words = "is being written by process"
    else:
        locked, words = out, "run of the whole archive"
    with pytest.raises(StateError, match=words):
        if locked is None:
            build_slice(place / "archive", out, _settings(place, **options), part)
        else:
            with files.lock(locked):
                build_slice(place / "archive", out, _settings(place), part)
    after = contents(out)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if "chunk" in name and name not in before]


def test_a_run_of_the_whole_waits_for_no_slice(place: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(place / "half", tmp_path / "out"))
    with (
        files.lock(out / output.WORK_NAME / slices.FOLDER / "1-of-2"),
        pytest.raises(StateError, match="slice 1/2 of .* is being made"),
    ):
        build_module.build(place / "archive", out, _settings(place))


def test_nothing_to_merge_is_said(place: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="has no slices to merge"):
        merge(place / "archive", tmp_path / "out", _settings(place))
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StateError, match="has no slices to merge"):
        merge(place / "archive", tmp_path / "empty", _settings(place))
    assert not any((tmp_path / "empty").iterdir())


def test_every_chunk_is_in_one_slice() -> None:
    chunks = [Chunk(number, ()) for number in range(11)]
    for of in (1, 2, 3, 11, 20):
        made = [chunk for number in range(1, of + 1) for chunk in Slice(number, of).own(chunks)]
        assert sorted(chunk.number for chunk in made) == list(range(11))


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/0", "a/b", "-1/8", "1/99999"])
def test_a_slice_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write the third of eight"):
        slices.parse(text)
    assert str(slices.parse("3/8")) == "3/8"


def test_the_plan_of_the_first_slice_counts(tmp_path: Path) -> None:
    """Two that start at once: a link lets one of them be first."""
    plan = tmp_path / "plan.json"
    assert files.write_first(plan, b'{"size": 1}')
    assert not files.write_first(plan, b'{"size": 2}')
    assert json.loads(plan.read_bytes()) == {"size": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
