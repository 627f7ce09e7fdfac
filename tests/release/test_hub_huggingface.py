"""`hf://`: a server that speaks the hub's protocol, fetched from and pushed to, cuts included."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported
import huggingface_hub
import pytest
from fake_hub import TOKEN, Fault, Hub, speaking
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from ssl_retina import cli
from ssl_retina.errors import CheckpointError, InputError, StateError, UserError
from ssl_retina.release.card import PSEUDONYMISED
from ssl_retina.release.hub import huggingface, pull, push, web
from ssl_retina.release.hub.web import Patience

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's own upload
HERE = Path(__file__).parent
QUICK = Patience(stall_seconds=1.5, attempts=3, pause_seconds=0.01)
PLACE = huggingface.Place("site/retina")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.make(tmp_path_factory.mktemp("site") / "a")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that this process speaks to with a token, and without xet."""
    with speaking() as given:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, given.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", given.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield given
        huggingface_hub.close_session()


def fetch(text: str, target: Path, **named: Any) -> pull.Placed:
    return pull.pull(pull.source(text, QUICK), target, **named)


def verb(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_revision_is_pinned_to_its_commit(hub: Hub, folder: Path, tmp_path: Path) -> None:
    commit = hub.add("site/retina", exported.files(folder))
    hub.repositories["site/retina"].branches["v1/final"] = commit
    hub.repositories["site/retina"].commit({})  # main moves on
    placed = fetch("hf://site/retina@v1/final", tmp_path / "in" / "x")
    found = exported.files(tmp_path / "in" / "x")
    known = {"source": "hf://site/retina", "revision": "v1/final", "commit": commit}
    assert json.loads(found.pop("pulled.json")) == known == placed.origin
    assert found == exported.files(folder)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x"]
    asked = [one.path for one in hub.asked if "/resolve/" in one.path]
    assert all(f"/resolve/{commit}/" in path for path in asked), "no file is asked for by the branch"
    assert fetch(f"hf://site/retina@{commit}", tmp_path / "y").origin["commit"] == commit


def test_the_token_goes_to_the_hub_only(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add("site/retina", exported.files(folder))
    fetch("hf://site/retina", tmp_path / "x")
    assert all(one.headers["authorization"] == f"Bearer {TOKEN}" for one in hub.asked)
    assert len(hub.large.asked) == 1
    assert "authorization" not in hub.large.asked[0].headers


def test_nothing_is_told_of_this_machine(hub: Hub, folder: Path, tmp_path: Path) -> None:
    huggingface.push(folder, PLACE, visibility="private", existing="refuse", tell=pull.Tell())
    fetch("hf://site/retina", tmp_path / "x")
    assert {one.headers["user-agent"] for one in (*hub.asked, *hub.large.asked)} == {web.USER_AGENT}


def test_f94_an_interrupted_download_is_continued(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add("site/retina", exported.files(folder))
    path = f"/large/{digest(folder)}"
    hub.large.script[path] = [Fault(cut=500_000), Fault(status=404)]
    with pytest.raises(InputError, match="holds no model.safetensors"):
        fetch("hf://site/retina", tmp_path / "in" / "x")
    assert not (tmp_path / "in" / "x").exists()
    hub.large.script[path] = [Fault(cut=700_000)]
    fetch("hf://site/retina", tmp_path / "in" / "x")
    assert (tmp_path / "in" / "x" / "model.safetensors").read_bytes() == hub.large.files[path]
    assert sum(one.sent for one in hub.large.asked) == len(hub.large.files[path]), "no byte came twice"
    assert [one.headers.get("range") for one in hub.large.asked] == [
        None,
        "bytes=500000-",
        "bytes=500000-",
        "bytes=1200000-",
    ]


def test_f95_a_file_that_is_always_wrong(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add("site/retina", exported.files(folder))
    hub.large.always[f"/large/{digest(folder)}"] = Fault(corrupt=7)
    with pytest.raises(CheckpointError, match=f"expected {digest(folder)}, found "):
        fetch("hf://site/retina", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("hf://site/nothing", InputError, "does not exist, or your token"),
        ("hf://site/retina@v9", InputError, "has no revision v9"),
        ("hf://site/empty", InputError, "holds no SHA256SUMS: it is no export"),
        ("hf://-site/a--b", InputError, "is no name that the hub knows"),
    ],
)
def test_what_the_hub_does_not_have(
    hub: Hub, folder: Path, tmp_path: Path, text: str, kind: type[UserError], says: str
) -> None:
    hub.add("site/retina", exported.files(folder))
    hub.add("site/empty", {})
    with pytest.raises(kind, match=says):
        fetch(text, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_private_repository_without_a_token(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    hub.add("site/retina", exported.files(folder))
    with pytest.raises(InputError, match="does not exist, or your token"):
        fetch("hf://site/retina", tmp_path / "x")
    with pytest.raises(InputError, match="wants to know who you are"):
        push.to_hub(folder, PLACE, visibility="private")


def test_offline_is_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        fetch("hf://site/retina", tmp_path / "x")
    assert hub.asked == []


def test_a_hub_that_is_silent_or_gone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with speaking() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.endpoint)
    with pytest.raises(InputError, match=r"the hub did not answer for hf://site/retina \(ConnectError\)"):
        fetch("hf://site/retina", tmp_path / "x")


def test_a_hub_that_stumbles_is_asked_again(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.add("site/retina", exported.files(folder))
    hub.stumbles = [503, 429, 502, 500]
    with pytest.raises(InputError, match="the hub refuses hf://site/retina .status 502"):
        fetch("hf://site/retina", tmp_path / "x")
    hub.stumbles = [503, 429]
    fetch("hf://site/retina", tmp_path / "x")
    assert (tmp_path / "x" / "config.json").exists()


def test_push_makes_a_private_repository_with_one_commit(hub: Hub, folder: Path) -> None:
    done = verb("push", folder, "hf://site/retina", "--json")
    assert done.exit_code == 0, done.output
    repository = hub.repositories["site/retina"]
    answer = json.loads(done.stdout)
    assert answer == {
        "repository": "hf://site/retina",
        "state": "written",
        "commit": repository.branches["main"],
        "visibility": "private",
    }
    assert repository.private
    assert len(repository.commits) == 2, "the hub's own, and ours"
    assert repository.head == {".gitattributes": b"", **exported.files(folder)}
    assert hub.verified == [digest(folder)]
    assert PSEUDONYMISED not in done.stderr


def test_public_is_asked_for_and_reminded_of(hub: Hub, folder: Path) -> None:
    done = verb("push", folder, "hf://site/retina", "--public")
    assert done.exit_code == 0, done.output
    assert not hub.repositories["site/retina"].private
    assert "a retina is a biometric" in PSEUDONYMISED
    assert PSEUDONYMISED in done.stderr


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_that_others_may_read_is_not_written_unasked(
    hub: Hub, folder: Path, private: bool
) -> None:
    hub.add("site/retina", {}, private=private)
    with pytest.raises(InputError, match="is private: leave" if private else "is public: add --public"):
        push.to_hub(folder, PLACE, visibility="public" if private else "private")
    assert len(hub.repositories["site/retina"].commits) == 1
    assert hub.large.asked == []


def test_the_same_export_is_not_sent_again(hub: Hub, folder: Path) -> None:
    first = push.to_hub(folder, PLACE, visibility="private")
    again = push.to_hub(folder, PLACE, visibility="private")
    assert (first.state, again.state) == ("written", "unchanged")
    assert first.commit == again.commit
    assert len(hub.repositories["site/retina"].commits) == 2


def test_another_content_needs_replace_and_goes_as_a_whole(hub: Hub, folder: Path, tmp_path: Path) -> None:
    before = hub.add("site/retina", {"README.md": b"mine", "model.bin": b"old"})
    with pytest.raises(StateError, match="holds 2 files of something else: add --replace"):
        push.to_hub(folder, PLACE, visibility="private")
    assert not any("preupload" in one.path for one in hub.asked)
    push.to_hub(folder, PLACE, visibility="private", existing="replace")
    repository = hub.repositories["site/retina"]
    assert repository.head == {".gitattributes": b"", **exported.files(folder)}
    assert repository.parents[-1] == before
    other = exported.make(tmp_path / "other", seed=1)
    with pytest.raises(StateError, match="holds 4 files of something else"):
        push.to_hub(other, PLACE, visibility="private")


def test_nothing_is_sent_of_a_folder_that_is_refused(hub: Hub, tmp_path: Path) -> None:
    broken = exported.make(tmp_path / "a")
    (broken / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(StateError, match="no part of an export"):
        push.to_hub(broken, PLACE, visibility="private")
    assert hub.asked == []


@pytest.mark.parametrize("step", ["/api/repos/create", "/preupload/", "/commit/", "/objects/batch"])
def test_a_hub_that_refuses_is_one_sentence(hub: Hub, folder: Path, step: str) -> None:
    hub.refuse[step] = 403
    with pytest.raises(InputError, match=r"the hub refuses hf://site/retina \(status 403: not today"):
        push.to_hub(folder, PLACE, visibility="private")
    hub.refuse.clear()
    push.to_hub(folder, PLACE, visibility="private")
    assert hub.repositories["site/retina"].head == {".gitattributes": b"", **exported.files(folder)}


def test_a_server_without_xet_is_one_sentence(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(InputError, match=r"could not be sent \(.*404.*needs HF_HUB_DISABLE_XET=1"):
        push.to_hub(folder, PLACE, visibility="private")
    assert len(hub.repositories["site/retina"].commits) == 1


def test_an_upload_that_fails_is_one_sentence_and_can_be_repeated(hub: Hub, folder: Path) -> None:
    hub.refuse["/large/"] = 403
    with pytest.raises(InputError, match="the weights could not be sent"):
        push.to_hub(folder, PLACE, visibility="private")
    hub.refuse.clear()
    assert push.to_hub(folder, PLACE, visibility="private").state == "written"
    assert hub.verified == [digest(folder)]


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub: Hub, folder: Path) -> None:
    hub.add("site/retina", {})
    hub.meanwhile = lambda: hub.repositories["site/retina"].commit({"theirs": b"x"})
    with pytest.raises(InputError, match=r"status 412: .*A commit has happened since"):
        push.to_hub(folder, PLACE, visibility="private")
    assert hub.repositories["site/retina"].head == {"theirs": b"x"}


@pytest.mark.slow
def test_the_way_there_and_back_reaches_no_other_host(folder: Path, tmp_path: Path) -> None:
    """Two commands as a user types them, in processes that end where they leave 127.0.0.1."""
    with speaking() as hub:
        environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        for arguments in (
            ("push", str(folder), "hf://site/retina"),
            ("pull", "hf://site/retina", str(tmp_path / "in" / "x")),
        ):
            done = subprocess.run(
                [sys.executable, str(HERE / "caged.py"), *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=200,
                env={**os.environ, **environment},
            )
            assert done.returncode == 0, done.stderr
        commit = hub.repositories["site/retina"].branches["main"]
    assert f"pulled from hf://site/retina, commit {commit}\n" in done.stderr
    assert exported.files(tmp_path / "in" / "x").items() >= exported.files(folder).items()
