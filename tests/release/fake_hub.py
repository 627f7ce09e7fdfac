"""A server that speaks the hub's protocol: repositories, commits, large files kept on another host.

In: repositories in memory. Out: an endpoint for HF_ENDPOINT. What is spoken is what huggingface_hub asks:
model info, resolve (GET, HEAD, Range), create, validate-yaml, preupload, LFS batch, upload, verify, commit.
Large files are redirected to a second port, which counts as another host.
"""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from servers import Asked, Fault, Server, listening

TOKEN = "hf_secret"


@dataclass
class Repository:
    """Commits by their hash, each with all of its files."""

    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    parents: list[str | None] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], branch: str = "main", parent: str | None = None) -> str:
        """A new commit at the head of a branch."""
        name = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[name], self.branches[branch] = dict(files), name
        self.parents.append(parent)
        return name

    @property
    def head(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """The hub; `large` is the other host, whose files are named by their digest."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    large: Server = field(default_factory=Server)
    endpoint: str = ""
    verified: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    stumbles: list[int] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def add(self, name: str, files: Mapping[str, bytes], *, private: bool = True) -> str:
        """A repository with one commit; gives the commit."""
        self.repositories[name] = Repository(private=private)
        return self.repositories[name].commit({".gitattributes": b"", **files})

    def get(self, given: BaseHTTPRequestHandler) -> None:
        """Answer GET and HEAD."""
        note = self._note(given)
        if self.stumbles:
            return _answer(given, self.stumbles.pop(0), {"error": "not now"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", note.path):
            return self._info(given, found[1], found[2].replace("%2F", "/"), note)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", note.path):
            return self._resolve(given, found[1], found[2], found[3])
        return _answer(given, 404, {"error": "not spoken here"})

    def post(self, given: BaseHTTPRequestHandler) -> None:
        """Answer POST."""
        note = self._note(given)
        body = given.rfile.read(int(note.headers.get("content-length", "0")))
        for ending, status in self.refuse.items():
            if ending in note.path:
                return _answer(given, status, {"error": "not today"})
        if note.headers.get("authorization") != f"Bearer {TOKEN}" and "/verify/" not in note.path:
            return _answer(given, 401, {"error": "Invalid username or password."})
        if note.path == "/api/repos/create":
            content = json.loads(body)
            name = f"{content['organization']}/{content['name']}"
            self.add(name, {}, private=content["visibility"] == "private")
            return _answer(given, 200, {"url": f"{self.endpoint}/{name}"})
        if note.path == "/api/validate-yaml":
            return _answer(given, 200, {"errors": [], "warnings": []})
        if "/preupload/" in note.path:
            return _answer(given, 200, {"files": [_mode(one) for one in json.loads(body)["files"]]})
        if note.path.endswith(".git/info/lfs/objects/batch"):
            return _answer(given, 200, {"objects": [self._batch(o) for o in json.loads(body)["objects"]]})
        if note.path.startswith("/verify/"):
            self.verified.append(json.loads(body)["oid"])
            return _answer(given, 200, {})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", note.path):
            return self._commit(given, found[1], found[2], body)
        return _answer(given, 404, {"error": "not spoken here"})

    def put(self, given: BaseHTTPRequestHandler) -> None:
        """A large file arrives, on the other host."""
        note = self._note(given, self.large.asked)
        body = given.rfile.read(int(note.headers["content-length"]))
        note.sent = len(body)
        if status := self.refuse.get("/large/"):
            return _answer(given, status, {"error": "not today"})
        assert given.path == f"/large/{hashlib.sha256(body).hexdigest()}"
        self.large.files[given.path] = body
        return _answer(given, 200, {})

    def _note(self, given: BaseHTTPRequestHandler, where: list[Asked] | None = None) -> Asked:
        headers = {key.lower(): value for key, value in given.headers.items()}
        note = Asked(given.command, given.path, headers)
        (self.asked if where is None else where).append(note)
        return note

    def _info(self, given: BaseHTTPRequestHandler, name: str, revision: str, note: Asked) -> None:
        found = self.repositories.get(name)
        hidden = found and found.private and note.headers.get("authorization") != f"Bearer {TOKEN}"
        if found is None or hidden:
            return _answer(given, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            return _answer(given, 404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": one} for one in found.commits[commit]]
        content = {"id": name, "sha": commit, "private": found.private, "siblings": siblings}
        return _answer(given, 200, content)

    def _resolve(self, given: BaseHTTPRequestHandler, name: str, commit: str, file: str) -> None:
        files = self.repositories[name].commits[commit]
        known = {"X-Repo-Commit": commit}
        if file not in files:
            return _answer(given, 404, {"error": "none"}, {**known, "X-Error-Code": "EntryNotFound"})
        content = files[file]
        if not file.endswith(".safetensors"):
            return _send(given, content, {**known, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
        digest = hashlib.sha256(content).hexdigest()
        self.large.files[f"/large/{digest}"] = content
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        location = {"Location": f"{self.large.address}/large/{digest}?signed=1"}
        return _answer(given, 302, {}, {**known, **linked, **location})

    def _batch(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        known = {"oid": asked["oid"], "size": asked["size"]}
        if f"/large/{asked['oid']}" in self.large.files:
            return known
        upload = {"href": f"{self.large.address}/large/{asked['oid']}"}
        verify = {"href": f"{self.endpoint}/verify/{asked['oid']}"}
        return {**known, "actions": {"upload": upload, "verify": verify}}

    def _commit(self, given: BaseHTTPRequestHandler, name: str, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        repository = self.repositories[name]
        files = dict(repository.commits[repository.branches[branch]])
        parent = None
        self.meanwhile()
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    parent = value["parentCommit"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large.files[f"/large/{value['oid']}"]
                case "deletedFile":
                    del files[value["path"]]
        if parent != repository.branches[branch]:
            return _answer(
                given, 412, {"error": "A commit has happened since. Please refresh and try again."}
            )
        commit = repository.commit(files, branch, parent)
        return _answer(
            given, 200, {"commitUrl": f"{self.endpoint}/{name}/commit/{commit}", "commitOid": commit}
        )


def _mode(asked: Mapping[str, Any]) -> dict[str, Any]:
    large = asked["path"].endswith(".safetensors")
    return {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


def _answer(
    given: BaseHTTPRequestHandler,
    status: int,
    content: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> None:
    body = json.dumps(content).encode()
    kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    given.send_response(status)
    for key, value in {**kind, **(headers or {})}.items():
        given.send_header(key, value)
    given.end_headers()
    if given.command != "HEAD":
        given.wfile.write(body)


def _send(given: BaseHTTPRequestHandler, content: bytes, headers: Mapping[str, str]) -> None:
    given.send_response(200)
    for key, value in {**headers, "Content-Length": str(len(content))}.items():
        given.send_header(key, value)
    given.end_headers()
    if given.command != "HEAD":
        given.wfile.write(content)


@contextlib.contextmanager
def speaking() -> Iterator[Hub]:
    """A hub with its second host; `hub.large.script` holds the faults of the large files."""
    hub = Hub()
    with (
        listening({"GET": hub.get, "HEAD": hub.get, "POST": hub.post}) as endpoint,
        listening({"GET": hub.large.serve, "HEAD": hub.large.serve, "PUT": hub.put}) as large,
    ):
        hub.endpoint, hub.large.address = endpoint, large
        try:
            yield hub
        finally:
            hub.large.released.set()


__all__ = ["TOKEN", "Fault", "Hub", "Repository", "speaking"]
