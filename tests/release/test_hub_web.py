"""`pull` from servers that cut, corrupt, stall, lie and stumble (F94, F95): whole or not at all."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported
import httpx2
import pytest
from servers import Fault, Server, listening, served

from ssl_retina import files
from ssl_retina.errors import CheckpointError, InputError, StateError, UserError
from ssl_retina.models import pretrained
from ssl_retina.release.hub import contents, pull, push, web
from ssl_retina.release.hub.web import Patience

HERE = Path(__file__).parent
WEIGHTS = "/a/model.safetensors"
QUICK = Patience(stall_seconds=1.5, attempts=3, pause_seconds=0.01)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine stands between the tests and their servers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.make(tmp_path_factory.mktemp("site") / "a")


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with served(exported.files(folder)) as given:
        yield given


def fetch(server: Server, target: Path, **named: Any) -> pull.Placed:
    return pull.pull(web.at(server.address, QUICK), target, **named)


def assert_whole(target: Path, folder: Path, address: str) -> None:
    """The four files, byte for byte, where they came from, and nothing beside the target."""
    found = exported.files(target)
    assert json.loads(found.pop("pulled.json")) == {"source": address}
    assert found == exported.files(folder)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def refused(server: Server, target: Path, kind: type[UserError], says: str) -> None:
    """The pull ends with this error, and nothing has the final name."""
    with pytest.raises(kind, match=says):
        fetch(server, target)
    assert not target.exists()


def size(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_each_file_is_asked_for_once(server: Server, folder: Path, tmp_path: Path) -> None:
    placed = fetch(server, tmp_path / "in" / "pulled")
    assert_whole(tmp_path / "in" / "pulled", folder, server.address)
    assert placed.state == "written"
    assert placed.sizes["model.safetensors"] == size(folder)
    assert sorted(one.path for one in server.asked) == sorted(f"/a/{name}" for name in exported.NAMES)
    assert server.asked[0].path == "/a/SHA256SUMS", "the sums come first"


def test_requests_say_our_name_and_nothing_of_the_machine(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "x")
    for one in server.asked:
        assert one.headers["user-agent"] == web.USER_AGENT
        assert set(one.headers) <= {
            "host",
            "accept",
            "accept-encoding",
            "connection",
            "user-agent",
            "cache-control",
        }


def test_f94_two_cuts_are_continued(server: Server, folder: Path, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(cut=500_000), Fault(cut=300_000)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    asked = server.of("model.safetensors")
    assert [one.status for one in asked] == [200, 206, 206]
    assert sum(one.sent for one in asked) == size(folder), "no byte came twice"
    tag = f'"{hash(server.files[WEIGHTS]):x}"'
    assert [one.headers.get("if-range") for one in asked] == [None, tag, tag]


def test_f94_a_server_without_ranges_starts_anew(server: Server, folder: Path, tmp_path: Path) -> None:
    server.ranges = False
    server.script[WEIGHTS] = [Fault(cut=500_000), Fault(cut=900_000)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    assert [one.status for one in server.of("model.safetensors")] == [200, 200, 200]


def test_a_server_that_always_cuts_is_given_up(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.always[WEIGHTS] = Fault(cut=500_000)
    refused(server, tmp_path / "x", InputError, r"did not give model.safetensors \(.*; 3 attempts in vain")
    assert len(server.of("model.safetensors")) == 4, "the first brought bytes, three brought none"


def test_f94_what_a_cut_left_is_continued_by_the_next_call(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    server.script[WEIGHTS] = [Fault(cut=700_000), Fault(status=404)]
    refused(server, tmp_path / "in" / "x", InputError, "holds no model.safetensors, though")
    assert [path.name for path in (tmp_path / "in").iterdir()] == [".pull-x.partial"]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    last = server.of("model.safetensors")[-1]
    assert (last.status, last.headers["range"], last.sent) == (206, "bytes=700000-", size(folder) - 700_000)
    assert len(server.of("README.md")) == 1, "what was whole is not asked for again"


def test_f94_a_server_that_answers_ranges_in_pieces(server: Server, folder: Path, tmp_path: Path) -> None:
    """RFC 9110 14.2: a 206 may hold less than was asked for. The next request asks for the rest."""
    server.most = 300_000
    server.script[WEIGHTS] = [Fault(cut=100_000)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    asked = server.of("model.safetensors")
    assert sum(one.sent for one in asked) == size(folder), "no byte came twice"
    assert {one.status for one in asked[1:]} == {206}
    assert len(asked) == 1 + -(-(size(folder) - 100_000) // 300_000)


def test_pieces_without_bytes_are_given_up(server: Server, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(cut=100_000)]
    server.most = 0
    refused(server, tmp_path / "x", InputError, r"did not give model.safetensors \(.*; 3 attempts in vain")
    assert len(server.of("model.safetensors")) == 4


def test_progress_after_a_part_that_was_given_up_counts(server: Server, folder: Path, tmp_path: Path) -> None:
    """A part that is longer than the file is of another one; the new one grows from 0."""
    server.script[WEIGHTS] = [Fault(), *[Fault(cut=200_000) for _ in range(4)]]
    part = tmp_path / "part"
    part.write_bytes(b"x" * (size(folder) + 1000))
    wanted = contents.Wanted("model.safetensors", files.sha256(folder / "model.safetensors"))
    web.at(server.address, QUICK).fetch(wanted, part, pull.Tell())
    assert part.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert [one.status for one in server.asked] == [416, 200, 206, 206, 206, 206]


def test_a_server_that_gives_up_every_part_is_given_up(server: Server, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(cut=500_000), Fault(status=416)] * 5
    refused(server, tmp_path / "x", InputError, r"cannot continue where the part ends; 3 attempts in vain")
    assert len(server.of("model.safetensors")) == 6, "each of three parts brought bytes and was given up"


def test_f94_an_answer_without_a_length_that_ends_early(server: Server, folder: Path, tmp_path: Path) -> None:
    """Nothing tells a cut from the end but the digest, so the rest is asked for."""
    server.script[WEIGHTS] = [Fault(cut=500_000, unframed=True), Fault(cut=300_000, unframed=True)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    asked = server.of("model.safetensors")
    assert [one.status for one in asked] == [200, 206, 206]
    assert sum(one.sent for one in asked) == size(folder), "no byte came twice"


def test_f95_an_answer_without_a_length_that_is_always_wrong_is_named(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    """The server says of the rest that there is none: it is the content that is wrong, not the line."""
    server.always[WEIGHTS] = Fault(corrupt=1_000_000, unframed=True)
    refused(server, tmp_path / "x", CheckpointError, "is not what SHA256SUMS promises, 2 times")
    assert [one.status for one in server.of("model.safetensors")] == [200, 416] * 2


def test_an_answer_without_a_length_from_a_server_without_ranges_is_bounded(
    server: Server, tmp_path: Path
) -> None:
    server.ranges = False
    server.always[WEIGHTS] = Fault(cut=500_000, unframed=True)
    refused(server, tmp_path / "x", InputError, r"did not give model.safetensors \(.*; 3 attempts in vain")


def test_a_byte_that_is_wrong_once_is_fetched_again(server: Server, folder: Path, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(corrupt=1_000_000)]
    notes: list[str] = []
    fetch(server, tmp_path / "in" / "x", tell=pull.Tell(note=notes.append))
    assert notes == ["model.safetensors came with other bytes than promised; it is fetched again"]
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    asked = server.of("model.safetensors")
    assert [one.sent for one in asked] == [size(folder)] * 2
    assert "range" not in asked[1].headers


def test_f95_a_byte_that_is_always_wrong_is_named(server: Server, folder: Path, tmp_path: Path) -> None:
    server.always[WEIGHTS] = Fault(corrupt=1_000_000)
    right = hashlib.sha256(server.files[WEIGHTS]).hexdigest()
    body = bytearray(server.files[WEIGHTS])
    body[1_000_000] ^= 1
    found = hashlib.sha256(body).hexdigest()
    refused(server, tmp_path / "x", CheckpointError, f"(?s)expected {right}, found {found}")
    assert CheckpointError.exit_code == 4
    assert len(server.of("model.safetensors")) == 2


def test_a_part_with_a_wrong_byte_is_not_kept(server: Server, folder: Path, tmp_path: Path) -> None:
    """A resumed download whose first half was damaged on the way: found, and fetched from its start."""
    server.script[WEIGHTS] = [Fault(corrupt=5, cut=700_000)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    assert [one.status for one in server.of("model.safetensors")] == [200, 206, 200]


def test_f94_silence_is_not_waited_for(server: Server, folder: Path, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(stall=400_000), Fault(stall=0)]
    notes: list[str] = []
    began = time.monotonic()
    fetch(server, tmp_path / "in" / "x", tell=pull.Tell(note=notes.append))
    assert time.monotonic() - began < 10
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    assert sum("the server is silent" in note for note in notes) == 2
    assert server.of("model.safetensors")[-1].headers["range"] == "bytes=400000-"


@pytest.mark.parametrize("extra", [1000, -1000])
def test_a_false_length(server: Server, folder: Path, tmp_path: Path, extra: int) -> None:
    """One that is too long looks like a cut, one that is too short gives other bytes: both once."""
    server.script[WEIGHTS] = [Fault(announce=size(folder) + extra)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)


def test_a_length_that_is_always_too_short(server: Server, folder: Path, tmp_path: Path) -> None:
    server.always[WEIGHTS] = Fault(announce=size(folder) - 1000)
    refused(server, tmp_path / "x", CheckpointError, "model.safetensors is not what SHA256SUMS promises")


def test_no_length_at_all(server: Server, folder: Path, tmp_path: Path) -> None:
    server.always[WEIGHTS] = Fault(chunked=True)
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_stumbles_is_asked_again(
    server: Server, folder: Path, tmp_path: Path, status: int
) -> None:
    server.script[WEIGHTS] = [Fault(status=status), Fault(status=status)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    assert [one.status for one in server.of("model.safetensors")] == [status, status, 200]


def test_a_server_that_always_stumbles(server: Server, tmp_path: Path) -> None:
    server.always[WEIGHTS] = Fault(status=503)
    refused(server, tmp_path / "x", InputError, r"status 503; 3 attempts in vain")
    assert len(server.of("model.safetensors")) == 3


def test_retry_after_is_kept_to(server: Server, tmp_path: Path) -> None:
    server.script["/a/README.md"] = [Fault(status=429, headers={"Retry-After": "1"})]
    notes: list[str] = []
    began = time.monotonic()
    fetch(server, tmp_path / "x", tell=pull.Tell(note=notes.append))
    assert time.monotonic() - began >= 1
    assert notes == ["README.md: status 429; again in 1 s"]


@pytest.mark.parametrize(
    ("status", "says"),
    [(404, "holds no SHA256SUMS: it is no export"), (403, "does not let you read"), (418, "with status 418")],
)
def test_a_no_is_believed(server: Server, tmp_path: Path, status: int, says: str) -> None:
    server.always["/a/SHA256SUMS"] = Fault(status=status)
    refused(server, tmp_path / "x", InputError, says)
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == [], "no hidden folder stays for nothing"


def test_nobody_listens(tmp_path: Path) -> None:
    with listening({}) as address:
        pass
    with pytest.raises(InputError, match=r"did not give SHA256SUMS .*; 3 attempts in vain"):
        pull.pull(web.at(f"{address}/a", QUICK), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_what_no_second_attempt_mends_is_told_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def ask(address: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            pull.pull(web.at(address, QUICK), tmp_path / "x", tell=pull.Tell(note=notes.append))

    ask(
        server.address.replace("http", "https"),
        r"cannot be reached \(.*\): .* not speak https there; try http:",
    )
    ask("http://127.0.0.1:99999/a", "port 99999; ports are 1 to 65535")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    ask("http://nowhere.example/a", r"cannot be reached \(.*\): no host has this name; check the address")
    assert notes == []
    assert list(tmp_path.iterdir()) == []


def test_only_what_arrived_is_said_to_be_continued(server: Server, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(cut=500_000), *[Fault(status=503)] * 3]
    refused(server, tmp_path / "x", InputError, "tries again, and continues with what arrived$")
    server.always["/a/SHA256SUMS"] = Fault(status=503)
    refused(server, tmp_path / "x", InputError, "The same command tries again$")


def test_a_file_that_changes_between_two_attempts(server: Server, tmp_path: Path) -> None:
    """The ETag is another one, so the server sends all of the new file: never two halves in one."""
    other = exported.make(tmp_path / "other", seed=1)
    new = exported.files(other)

    def exchange() -> None:
        server.files.update({f"/a/{name}": content for name, content in new.items()})

    server.script[WEIGHTS] = [Fault(cut=600_000), Fault(before=exchange)]
    refused(server, tmp_path / "in" / "x", CheckpointError, "if it is being replaced there")
    asked = server.of("model.safetensors")
    assert (asked[1].status, asked[1].sent) == (200, len(new["model.safetensors"]))
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", other, server.address)


def test_an_export_that_changes_between_two_calls(server: Server, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(cut=600_000), Fault(status=404)]
    refused(server, tmp_path / "in" / "x", InputError, "holds no model.safetensors")
    other = exported.make(tmp_path / "other", seed=1)
    (other / "README.md").write_text("Another card.\n")
    exported.seal(other)
    server.files.update({f"/a/{name}": content for name, content in exported.files(other).items()})
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", other, server.address)
    assert "range" not in server.of("model.safetensors")[-1].headers


GOOD = "".join(f"{'0' * 64}  {name}\n" for name in pretrained.PROMISED)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + f"{'0' * 64}  ../../evil\n", "line 4 names '../../evil', which is no file of an export"),
        (GOOD + f"{'0' * 64}  /tmp/evil\n", "line 4 names '/tmp/evil'"),
        (GOOD + f"{'0' * 64}  model.pth\n", "line 4 names 'model.pth'"),
        (GOOD + f"{'0' * 64}  SHA256SUMS\n", "line 4 names 'SHA256SUMS'"),
        (GOOD + f"{'1' * 64}  config.json\n", "line 4 names config.json a second time"),
        (GOOD.replace("  config.json", "  ./config.json"), "line 2 names './config.json'"),
        (GOOD.replace("0" * 64, "0" * 63), "line 1 is not a SHA-256"),
        (GOOD.split("\n", 1)[1], "it does not name README.md"),
        ("<html>a login page</html>", "line 1 is not a SHA-256"),
        ("", "it does not name README.md, config.json, model.safetensors"),
    ],
)
def test_law_11_sums_that_name_other_things(server: Server, tmp_path: Path, text: str, says: str) -> None:
    server.files["/a/SHA256SUMS"] = text.encode()
    refused(server, tmp_path / "in" / "x", StateError, re.escape(says))
    assert [one.path for one in server.asked] == ["/a/SHA256SUMS"], "no other file is asked for"
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "README.md", "model.safetensors"])
def test_law_11_a_huge_length_is_refused_before_a_byte(server: Server, tmp_path: Path, name: str) -> None:
    server.always[f"/a/{name}"] = Fault(announce=1 << 50)
    refused(server, tmp_path / "x", InputError, f"{name} has {1 << 50} bytes, more than the")
    assert len(server.of(name)) == 1


def test_law_11_a_body_without_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.files["/a/config.json"] = b" " * (contents.LIMITS["config.json"] + (1 << 20))
    server.always["/a/config.json"] = Fault(chunked=True)
    refused(server, tmp_path / "x", InputError, "config.json has .* bytes, more than the")


def test_law_11_redirects_stay_on_http(server: Server, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((folder / "SHA256SUMS").read_bytes())
    for location in (secret.as_uri(), "ftp://127.0.0.1/a", "gopher://127.0.0.1/a"):
        server.always["/a/SHA256SUMS"] = Fault(status=302, headers={"Location": location})
        refused(server, tmp_path / "x", InputError, "redirects from http to .*, which is not followed")


def test_law_11_https_does_not_become_http() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        other = {"http": "https", "https": "http"}[request.url.scheme]
        return httpx2.Response(302, headers={"Location": f"{other}://host.example/b"})

    asked: list[str] = []
    place = web.at("http://host.example/a", QUICK)
    connection = httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=False)
    refused = pytest.raises(InputError, match="redirects from https to http, which is not followed")
    with connection, refused, place._answered(connection, contents.Wanted("x", None), {}):
        pass
    assert asked == ["http://host.example/a/x", "https://host.example/b"]


def test_redirects_are_followed_but_not_in_circles(server: Server, folder: Path, tmp_path: Path) -> None:
    server.files["/elsewhere"] = server.files.pop(WEIGHTS)
    server.files[WEIGHTS] = b""
    server.always[WEIGHTS] = Fault(status=302, headers={"Location": "/elsewhere"})
    server.script["/elsewhere"] = [Fault(cut=100_000)]
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)
    assert server.asked[-1].headers["range"] == "bytes=100000-"
    server.always[WEIGHTS] = Fault(status=302, headers={"Location": WEIGHTS})
    refused(server, tmp_path / "y", InputError, "in circles: more than 5 redirects")


def test_a_password_goes_to_its_host_only_and_is_never_shown(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    with served(exported.files(folder), "/b") as other:
        location = {"Location": f"{other.address}/model.safetensors"}
        server.always[WEIGHTS] = Fault(status=307, headers=location)
        address = server.address.replace("http://", "http://me:geheim@") + "?token=geheim"
        placed = pull.pull(web.at(address, QUICK), tmp_path / "in" / "x")
    assert all(one.headers["authorization"].startswith("Basic ") for one in server.asked)
    assert all(one.path.endswith("?token=geheim") for one in server.asked)
    assert [one.headers.get("authorization") for one in other.asked] == [None]
    assert "geheim" not in repr(placed) + (tmp_path / "in" / "x" / "pulled.json").read_text()
    server.always["/a/SHA256SUMS"] = Fault(status=503)
    with pytest.raises(InputError) as caught:
        pull.pull(web.at(address, QUICK), tmp_path / "y")
    assert "geheim" not in str(caught.value)


def test_an_answer_in_another_encoding_is_refused(server: Server, tmp_path: Path) -> None:
    server.always["/a/config.json"] = Fault(headers={"Content-Encoding": "gzip"})
    refused(server, tmp_path / "x", InputError, "another encoding")


def test_a_config_that_would_lead_timm_elsewhere_is_refused(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    evil = shutil.copytree(folder, tmp_path / "evil")
    content = json.loads((evil / "config.json").read_text())
    content["pretrained_cfg"]["custom_load"] = True
    (evil / "config.json").write_text(json.dumps(content))
    exported.seal(evil)
    server.files = {f"/a/{name}": body for name, body in exported.files(evil).items()}
    refused(server, tmp_path / "x", CheckpointError, "pretrained_cfg.custom_load: unknown key")


def test_weights_of_another_architecture_are_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    evil = shutil.copytree(folder, tmp_path / "evil")
    content = json.loads((evil / "config.json").read_text())
    content["model_args"]["depth"] = 2
    (evil / "config.json").write_text(json.dumps(content))
    exported.seal(evil)
    server.files = {f"/a/{name}": body for name, body in exported.files(evil).items()}
    refused(server, tmp_path / "x", CheckpointError, "(?s)does not fit config.json.*missing: blocks.1")


def test_a_full_disk_is_said_before_and_while_writing(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: free)
        wanted = f"{size(folder)} bytes are to come, 1000 are free"
        refused(server, tmp_path / "in" / "x", InputError, f"no room: {wanted}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, before[1]))
    try:
        refused(server, tmp_path / "in" / "x", InputError, r"cannot be written \(File too large\)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch(server, tmp_path / "in" / "x")
    assert_whole(tmp_path / "in" / "x", folder, server.address)


@pytest.mark.parametrize(
    ("address", "says"), [("http://", "names no host"), ("http://[::1", "cannot be read")]
)
def test_an_address_that_is_none(address: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        pull.source(address, QUICK)


def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`ssl-retina` in a process that reaches 127.0.0.1 only."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "caged.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_f94_kill_9_in_the_middle_then_the_same_command(server: Server, folder: Path, tmp_path: Path) -> None:
    """Continued, not begun anew: every byte of the weights is served once."""
    target, stopped = tmp_path / "in" / "x", 1_200_000
    server.script[WEIGHTS] = [Fault(stall=stopped)]
    command = ("pull", server.address, str(target), "--json")
    child = run(*command)
    parts = tmp_path / "in" / ".pull-x.partial" / "parts"
    while not (parts.is_dir() and any(path.stat().st_size == stopped for path in parts.iterdir())):
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not target.exists()
    again = run(*command)
    out, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert_whole(target, folder, server.address)
    asked = server.of("model.safetensors")
    assert [one.sent for one in asked] == [stopped, size(folder) - stopped]
    answer = json.loads(out)
    assert (answer["state"], answer["folder"]) == ("written", str(target))
    assert answer["files"]["model.safetensors"]["bytes"] == size(folder)


def assert_timm_loads(lines: list[str]) -> None:
    """The printed lines give a model, in a process that never imports ssl_retina (law 6)."""
    script = "\n".join(
        (
            "import sys, torch",
            *lines,
            f"assert model(torch.zeros(1, 3, {exported.SIZE}, {exported.SIZE})).shape == (1, 2)",
            "assert not any(name.startswith('ssl_retina') for name in sys.modules)",
        )
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    server.script[WEIGHTS] = [Fault(stall=100_000)]
    child = run("pull", server.address, str(tmp_path / "x"))
    while not any(one.sent == 100_000 for one in server.of("model.safetensors")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.splitlines()[-1] == (
        "ssl-retina: interrupted: what arrived is kept, the same command continues"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_acceptance_with_pythons_own_server(folder: Path, tmp_path: Path) -> None:
    """Published into a folder that `python -m http.server` serves, cut once, and fetched."""
    push.to_folder(folder, tmp_path / "registry")
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path / "registry", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as given:
        try:
            assert given.stdout is not None
            found = re.search(r"port (\d+)", given.stdout.readline())
            assert found is not None
            address = f"http://127.0.0.1:{found[1]}/a"
            parts = tmp_path / "in" / ".pull-x.partial" / "parts"
            parts.mkdir(parents=True)
            weights = (folder / "model.safetensors").read_bytes()
            (parts / hashlib.sha256(weights).hexdigest()).write_bytes(weights[:1000])
            child = run("pull", address, str(tmp_path / "in" / "x"))
            out, errors = child.communicate(timeout=120)
        finally:
            given.terminate()
    assert child.returncode == 0, errors
    assert_whole(tmp_path / "in" / "x", folder, address)
    assert_timm_loads(out.splitlines())
