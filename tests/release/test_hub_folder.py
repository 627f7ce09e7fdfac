"""`push` to and `pull` from folders: what may go out (F105), what may be overwritten, and kill -9 (law 9)."""

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import exported
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from ssl_retina import cli, files
from ssl_retina.errors import CheckpointError, InputError, StateError, UserError
from ssl_retina.models import pretrained
from ssl_retina.release.hub import publishable, pull, push, staging
from ssl_retina.release.hub.sources import Folder
from ssl_retina.release.hub.web import Patience
from ssl_retina.train import checkpoint

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exports of other weights."""
    folder = tmp_path_factory.mktemp("site")
    return exported.make(folder / "a"), exported.make(folder / "b", seed=1)


def verb(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


def test_push_then_pull(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = verb("push", pair[0], tmp_path / "registry", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["folder"], answer["state"]) == (str(tmp_path / "registry" / "a"), "written")
    assert exported.files(tmp_path / "registry" / "a") == exported.files(pair[0])
    assert [path.name for path in (tmp_path / "registry").iterdir()] == ["a"]
    done = verb("pull", tmp_path / "registry" / "a", tmp_path / "in" / "x", "--json")
    assert done.exit_code == 0, done.output
    assert exported.files(tmp_path / "in" / "x") == exported.files(pair[0])
    assert (
        json.loads(done.stdout)["files"]["config.json"]["bytes"] == (pair[0] / "config.json").stat().st_size
    )


def test_the_trailing_slash_and_the_dot(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0])
    assert push.to_folder(Path(), tmp_path).folder == tmp_path / "a"


def test_a_pulled_folder_is_a_probes_weights(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pull.pull(Folder(pair[0]), tmp_path / "x")
    here, there = pretrained.load_timm(str(tmp_path / "x")), pretrained.load_timm(str(pair[0]))
    images = torch.rand(2, 3, exported.SIZE, exported.SIZE)
    assert torch.equal(here.module(images), there.module(images))


def test_a_pulled_folder_goes_out_again_without_its_origin(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pull.pull(Folder(pair[0]), tmp_path / "x")
    (tmp_path / "x" / "pulled.json").write_text('{"source": "http://inside.example/secret"}')
    push.to_folder(tmp_path / "x", tmp_path / "registry")
    assert exported.files(tmp_path / "registry" / "x") == exported.files(pair[0])


def test_the_same_content_is_said_and_left(pair: tuple[Path, Path], tmp_path: Path) -> None:
    verb("push", pair[0], tmp_path)
    before = (tmp_path / "a" / "model.safetensors").stat().st_ino
    again = verb("push", pair[0], tmp_path)
    assert again.exit_code == 0
    assert "the same export was there already" in again.stderr
    pulled = verb("pull", pair[0], tmp_path / "a")
    assert f"{tmp_path / 'a'}: the export of {pair[0]} was there already" in pulled.stderr
    assert (tmp_path / "a" / "model.safetensors").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_content_needs_replace(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pull.pull(Folder(pair[0]), tmp_path / "x")
    with pytest.raises(StateError, match="holds another export: add --replace"):
        pull.pull(Folder(pair[1]), tmp_path / "x")
    assert exported.files(tmp_path / "x") == exported.files(pair[0])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    done = verb("pull", pair[1], tmp_path / "x", "--replace")
    assert done.exit_code == 0, done.output
    assert exported.files(tmp_path / "x") == exported.files(pair[1])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_damaged_target_is_no_same_content(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pull.pull(Folder(pair[0]), tmp_path / "x")
    (tmp_path / "x" / "README.md").write_text("mine")
    with pytest.raises(StateError, match="holds an export that is damaged: add --replace"):
        pull.pull(Folder(pair[0]), tmp_path / "x")
    assert (tmp_path / "x" / "README.md").read_text() == "mine"
    pull.pull(Folder(pair[0]), tmp_path / "x", existing="replace")
    assert exported.files(tmp_path / "x") == exported.files(pair[0])


@pytest.mark.parametrize("existing", ["refuse", "replace"])
def test_a_folder_of_other_things_is_never_touched(
    pair: tuple[Path, Path], tmp_path: Path, existing: pull.Existing
) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "SHA256SUMS").write_text("")
    (target / "chapter.tex").write_text("mine")
    with pytest.raises(StateError, match="holds other things than an export"):
        pull.pull(Folder(pair[0]), target, existing=existing)
    assert (target / "chapter.tex").read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(pair[1])
    with pytest.raises(StateError, match="exists and is no folder"):
        pull.pull(Folder(pair[0]), link, existing=existing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "thesis"]


def test_an_empty_folder_is_filled(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    pull.pull(Folder(pair[0]), tmp_path / "x")
    assert exported.files(tmp_path / "x") == exported.files(pair[0])


def test_two_pulls_into_one_target(pair: tuple[Path, Path], tmp_path: Path) -> None:
    stage = tmp_path / ".pull-x.partial"
    stage.mkdir()
    with (
        files.lock(stage),
        pytest.raises(StateError, match=f"is being written by process {os.getpid()}"),
    ):
        pull.pull(Folder(pair[0]), tmp_path / "x")
    assert not (tmp_path / "x").exists()


HOLDER = """
import sys
from pathlib import Path
from ssl_retina.release.hub import staging
with staging.opened(Path(sys.argv[1]), "pull") as stage:
    stage.discard()
    print("discarded", flush=True)
    sys.stdin.readline()
"""


def test_a_stage_stays_ours_until_its_lock_is_gone(tmp_path: Path) -> None:
    """A finished pull that has not left yet lets nobody in, so it tidies nobody else's stage away."""
    target = tmp_path / "x"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], text=True, **pipes) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "discarded\n"
        with (
            pytest.raises(StateError, match=f"is being written by process {first.pid}"),
            staging.opened(target, "pull"),
        ):
            pass
        first.stdin.write("\n")
    assert first.returncode == 0
    assert list(tmp_path.iterdir()) == []
    with staging.opened(target, "pull") as stage:
        (stage.parts / "a").write_text("half")
    assert (tmp_path / ".pull-x.partial" / "parts" / "a").exists()


def test_l2_a_source_that_cannot_be_read_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Linux answers a read of one's own memory at 0 with an input/output error."""
    broken = exported.make(tmp_path / "broken")
    (broken / "README.md").unlink()
    (broken / "README.md").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"broken/README\.md cannot be read: Input/output error"):
        pull.pull(Folder(broken), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_law_9_kill_9_at_every_call_to_the_disk(pair: tuple[Path, Path], tmp_path: Path) -> None:
    script = [sys.executable, str(HERE / "killed_pull.py"), str(pair[1]), str(pair[0]), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) moments, (\d+) without a target\n", done.stdout)
    assert found is not None
    assert int(found[1]) >= 20
    assert int(found[2]) <= 1, "only between the two renames is there no target"


def test_law_9_what_a_kill_between_two_renames_hid_comes_back(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also where the next call fails, or may not replace."""
    hidden, target = tmp_path / ".pull-x.partial" / "replaced", tmp_path / "x"
    exported.make(hidden)
    with pytest.raises(InputError, match="holds no SHA256SUMS"):
        pull.pull(Folder(tmp_path / "nowhere"), target)
    assert exported.files(target) == exported.files(pair[0])
    target.rename(hidden.parent.parent / "y")
    hidden.parent.mkdir()
    (tmp_path / "y").rename(hidden)
    with pytest.raises(StateError, match="holds another export: add --replace"):
        pull.pull(Folder(pair[1]), target)
    assert exported.files(target) == exported.files(pair[0])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_source_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no SHA256SUMS"):
        pull.pull(Folder(tmp_path), tmp_path / "x")
    for text, says in (
        (str(tmp_path / "nowhere"), "is no folder; give one, http"),
        ("s3://bucket/a", "s3:// is not read"),
        ("file:///etc", "file:// is not read"),
        ("hf://name", "no repository of the hub"),
        ("hf://owner/name/more", "no repository of the hub"),
        ("hf://owner/name@", "no repository of the hub"),
        ("http:/127.0.0.1/a", "did you mean http://127.0.0.1/a?"),
        ("https:host/a", "did you mean https://host/a?"),
        ("hf:/owner/name", "did you mean hf://owner/name?"),
        ("127.0.0.1:8931/a", "did you mean http://127.0.0.1:8931/a?"),
        ("host.example:80", "did you mean http://host.example:80?"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            pull.source(text, Patience())
    assert list(tmp_path.iterdir()) == []


def test_a_source_whose_file_is_gone_or_too_large(pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = exported.make(tmp_path / "broken")
    (broken / "config.json").unlink()
    with pytest.raises(InputError, match="holds no config.json, though its SHA256SUMS names it"):
        pull.pull(Folder(broken), tmp_path / "x")
    (broken / "config.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(InputError, match="config.json has 2097152 bytes, more than the"):
        pull.pull(Folder(broken), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for nameless in (Path(), Path("/"), tmp_path / ".."):
        with pytest.raises(InputError, match="has no name of its own"):
            pull.pull(Folder(pair[0]), nameless)
    (tmp_path / "file").write_text("")
    for verb_of_it in (pull.pull, lambda source, target: push.to_folder(source.path, target)):
        with pytest.raises(InputError, match=r"cannot be written: .*/file is a file, not a folder") as caught:
            verb_of_it(Folder(pair[0]), tmp_path / "file" / "x")
        assert "continues" not in str(caught.value)
    with pytest.raises(InputError, match=r"/sys/x cannot be written .*\. Choose another folder$"):
        pull.pull(Folder(pair[0]), Path("/sys/x"))


@pytest.mark.parametrize(
    ("destination", "says"),
    [
        ("http://host/a", "http:// cannot be pushed to: push to the folder that the server serves"),
        ("https://host/a", "https:// cannot be pushed to"),
        ("s3://bucket/a", "s3:// cannot be pushed to"),
        ("hf://name", "no repository of the hub"),
        ("hf:/me/name", r"did you mean hf://me/name\?"),
        ("hf:me/name", r"did you mean hf://me/name\?"),
        ("http:/host/a", "is no folder's name: give a folder or hf://OWNER/NAME"),
    ],
)
def test_places_that_cannot_be_written(pair: tuple[Path, Path], destination: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        push.destination(destination)


def test_public_is_for_the_hub(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = verb("push", pair[0], tmp_path / "r", "--public")
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "r").exists()


def test_a_registry_inside_the_export(pair: tuple[Path, Path]) -> None:
    for registry in (pair[0], pair[0] / "registry"):
        with pytest.raises(InputError, match="lies inside"):
            push.to_folder(pair[0], registry)
    assert sorted(exported.files(pair[0])) == exported.NAMES


def _metadata(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "args": "Namespace(lr=1)"})


def _optimiser(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "exp_avg.norm.bias": torch.zeros(192)}, path, metadata={"format": "pt"})


def _numbers(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "ids": torch.zeros(3, dtype=torch.uint8)}, path)


def _argument(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "args": {"lr": 1}}))


def _says(text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "README.md").write_text(f"A card.\n{text}\n")

    return spoil


HOST = "node-17.example"


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (_metadata, CheckpointError, "metadata of its own: args"),
        (_optimiser, CheckpointError, "1 extra: exp_avg.norm.bias"),
        (_numbers, CheckpointError, "holds other numbers than weights: ids"),
        (_argument, CheckpointError, "is no config of an export:\n  args: unknown key"),
        (_says("from /data/site/run7"), InputError, "README.md, line 2, names a path"),
        (_says('{"shards": "/mnt/x"}'), InputError, "README.md, line 2, names a path"),
        (_says("at C:\\Users\\x"), InputError, "README.md, line 2, names a path"),
        (_says("in ~/runs"), InputError, "README.md, line 2, names a path"),
        (_says(f"on {HOST}, at night"), InputError, "README.md, line 2, names a path, this machine"),
        (_says(f"by /{getpass.getuser()}"), InputError, "README.md, line 2, names a path, this machine"),
    ],
)
def test_f105_what_does_not_belong_is_not_sent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    kind: type[UserError],
    says: str,
) -> None:
    """Also where SHA256SUMS was written anew over it."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    folder = exported.make(tmp_path / "a")
    assert sorted(publishable.verify(folder)) == ["README.md", "config.json", "model.safetensors"]
    spoil(folder)
    with pytest.raises(CheckpointError, match="is not what was exported"):
        push.to_folder(folder, tmp_path / "registry")
    exported.seal(folder)
    with pytest.raises(kind, match=says):
        push.to_folder(folder, tmp_path / "registry")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "text", ["1/2 and 3 / 4", "https://example.org/a/b", "[x](docs/a/b.md)", "</details>", "~3 px"]
)
def test_what_is_no_path_goes_out(tmp_path: Path, text: str) -> None:
    folder = exported.make(tmp_path / "a")
    _says(text)(folder)
    exported.seal(folder)
    push.to_folder(folder, tmp_path / "registry")
    assert text in (tmp_path / "registry" / "a" / "README.md").read_text()


@pytest.mark.parametrize("name", ["Mueller_Anna_OD.jpg", "optimizer.pt", ".hidden"])
def test_f105_other_files_are_counted_and_not_named(tmp_path: Path, name: str) -> None:
    folder = exported.make(tmp_path / "a")
    (folder / name).write_text("x")
    with pytest.raises(StateError, match="holds 1 entry that is no part of an export") as caught:
        push.to_folder(folder, tmp_path / "registry")
    assert name not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_in_place_of_its_export_is_told_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/a")
    (run / checkpoint.FOLDER).mkdir(parents=True)
    (run / "config.json").write_text("{}")
    says = "runs/a is a run, not an export: ssl-retina export runs/a --out out/a, then give out/a"
    with pytest.raises(StateError, match=says):
        push.to_folder(run, tmp_path / "registry")
    with pytest.raises(InputError, match=says):
        pull.pull(Folder(run), tmp_path / "x")
    for load in (pretrained.load_timm, partial(pretrained.untrained, seed=0)):  # as finetune and embed do
        with pytest.raises(CheckpointError, match=says):
            load(str(run))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_classifier_is_called_one(tmp_path: Path) -> None:
    folder = exported.make(tmp_path / "a")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "num_classes": 2, "label_names": ["a", "b"]}))
    exported.seal(folder)
    with pytest.raises(
        CheckpointError, match="holds a classifier that was fine-tuned .* carry encoders only"
    ):
        push.to_folder(folder, tmp_path / "registry")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder: give the one that ssl-retina export wrote"):
        push.to_folder(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no SHA256SUMS"):
        push.to_folder(tmp_path / "empty", tmp_path)


def test_help_has_its_examples() -> None:
    for name, example in (
        ("push", "ssl-retina push out/a out/registry"),
        ("pull", "ssl-retina pull http://127.0.0.1:8123/a out/pulled"),
    ):
        assert example in " ".join(verb(name, "--help").stdout.split())
