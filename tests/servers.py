"""Real servers on 127.0.0.1 that misbehave as told: they cut, corrupt, stall, lie and stumble.

In: files, and for each path a script of faults, one for each GET. Out: an address, and what was asked and
sent, byte by byte.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request: headers in lower case; `sent` counts the bytes of the body that went out."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    status: int = 0


@dataclass
class Fault:
    """What is wrong with one answer.

    cut: bytes of the body before the connection ends. stall: bytes before silence. corrupt: position of the
    byte that is wrong. announce: a false Content-Length. status: instead of the file. before: done first.
    unframed: no Content-Length, the end of the connection is the end of the body.
    """

    cut: int | None = None
    stall: int | None = None
    corrupt: int | None = None
    announce: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    chunked: bool = False
    unframed: bool = False


@dataclass
class Server:
    """Files under paths; `always` holds faults that never end, `script` those that are used up.

    most: bytes that one answer to a range holds, as some caches have it. rate: bytes a second, over all.
    busiest: how many requests were answered at the same time.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    most: int = 1 << 40
    rate: float | None = None
    busiest: int = 0
    busy: int = 0
    free_at: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def of(self, name: str) -> list[Asked]:
        """The requests for one file."""
        return [one for one in self.asked if one.path.split("?")[0].rsplit("/", 1)[-1] == name]

    def serve(self, given: BaseHTTPRequestHandler) -> None:
        """Answer one GET or HEAD."""
        with self.turn:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            self._serve(given)
        finally:
            with self.turn:
                self.busy -= 1

    def _serve(self, given: BaseHTTPRequestHandler) -> None:
        path = given.path.split("?")[0]
        note = Asked(given.command, given.path, {key.lower(): value for key, value in given.headers.items()})
        self.asked.append(note)
        waiting = self.script.get(path, [])
        fault = waiting.pop(0) if waiting else self.always.get(path, Fault())
        fault.before()
        if fault.status is not None or path not in self.files:
            note.status = fault.status or 404
            _answer(given, note.status, {"Content-Length": "0", **fault.headers})
            return
        self._send(given, self.files[path], fault, note)

    def _send(self, given: BaseHTTPRequestHandler, content: bytes, fault: Fault, note: Asked) -> None:
        tag = f'"{hash(content):x}"'
        headers = {"ETag": tag} if self.tags else {}
        start, end, note.status = 0, len(content), 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", note.headers.get("range", ""))
        if found and self.ranges and note.headers.get("if-range", tag) == tag:
            start, note.status = int(found[1]), 206
            if start >= len(content):
                note.status = 416
                _answer(given, 416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"})
                return
            end = min(len(content), start + self.most, int(found[2] or len(content)) + 1)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content
        if fault.corrupt is not None:
            at = fault.corrupt
            body = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        body = body[start:end]
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not fault.unframed:
            announced = len(body) if fault.announce is None else fault.announce
            headers["Content-Length"] = str(announced)
        _answer(given, note.status, {**headers, **fault.headers})
        if given.command == "HEAD":
            return
        self._body(given, body, fault, note)

    def _body(self, given: BaseHTTPRequestHandler, body: bytes, fault: Fault, note: Asked) -> None:
        ends = fault.cut if fault.cut is not None else fault.stall
        body = body if ends is None else body[:ends]
        with contextlib.suppress(OSError):
            for at in range(0, len(body), 1 << 14):
                piece = body[at : at + (1 << 14)]
                frame = b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece
                self._pace(len(piece))
                given.wfile.write(frame)
                note.sent += len(piece)
            if fault.chunked and ends is None:
                given.wfile.write(b"0\r\n\r\n")
        if fault.stall is not None:
            self.released.wait(20)
        if ends is not None or fault.announce is not None or fault.unframed:
            given.close_connection = True

    def _pace(self, count: int) -> None:
        """Wait until the line, which all answers share, has carried these bytes."""
        if self.rate is None:
            return
        with self.turn:
            self.free_at = max(self.free_at, time.monotonic()) + count / self.rate
            until = self.free_at
        time.sleep(max(until - time.monotonic(), 0))


def _answer(given: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
    given.send_response(status)
    for name, value in headers.items():
        given.send_header(name, value)
    given.end_headers()


def _method(answer: Callable[[BaseHTTPRequestHandler], None]) -> Any:
    return lambda handler: answer(handler)


@contextlib.contextmanager
def listening(answers: Mapping[str, Callable[[BaseHTTPRequestHandler], None]]) -> Iterator[str]:
    """An http server in a thread; `answers` has a function for each method. Gives its address."""

    def no_log(*_: Any) -> None:
        """Keep the tests' output quiet."""

    content = {f"do_{method}": _method(answer) for method, answer in answers.items()}
    handler = type("Handler", (BaseHTTPRequestHandler,), {**content, "log_message": no_log})
    handler.protocol_version = "HTTP/1.1"
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def served(files: Mapping[str, bytes], under: str = "/a") -> Iterator[Server]:
    """A server that holds `files` below a path; `address` is that path's."""
    server = Server({f"{under}/{name}": content for name, content in files.items()})
    with listening({"GET": server.serve, "HEAD": server.serve}) as address:
        server.address = address + under
        try:
            yield server
        finally:
            server.released.set()
