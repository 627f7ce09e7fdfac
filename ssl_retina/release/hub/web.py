"""Files below an http(s) address: continued where they stop, tried again with growing pauses, never trusted.

In: the address of each file. Out: its bytes at the end of a part file. A server that stalls, cuts, stumbles
or cannot continue is asked again; one that answers "no" or announces too much is believed at once.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from ssl_retina import __version__, http_rules
from ssl_retina.errors import InputError
from ssl_retina.http_rules import Asked, BusyError, Content
from ssl_retina.release.hub.contents import Wanted
from ssl_retina.release.hub.sources import Tell, not_there, too_large, validator_of

USER_AGENT = f"ssl-retina/{__version__}"
LONGEST_PAUSE = 8.0
HOPELESS = {
    "Name or service not known": "no host has this name; check the address",
    "WRONG_VERSION_NUMBER": "the server does not speak https there; try http://",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted; ask whoever runs the server",
}
"""What an error says that comes again at every attempt, and what to do."""


@dataclass(frozen=True)
class Patience:
    """How long a silent server is waited for, how often in vain, and the first pause, which doubles."""

    stall_seconds: float = 30.0
    attempts: int = 5
    pause_seconds: float = 0.5

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt."""
        return min(LONGEST_PAUSE, self.pause_seconds * 2.0**failures)


class AnewError(BusyError):
    """What had arrived cannot be continued and is gone: the file is asked for from its start."""


@dataclass(frozen=True)
class Web:
    """An export below an address. `address(name)` is where a file lies; `headers` go to that host only."""

    shown: str
    address: Callable[[str], str]
    known: Mapping[str, str]
    patience: Patience = field(default_factory=Patience)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def origin(self) -> Mapping[str, str]:
        """What is known of the place."""
        return self.known

    def fetch(self, wanted: Wanted, part: Path, tell: Tell) -> None:
        """Bring a file to its end: see `sources.Source`.

        Attempts count only while nothing new arrives; how often a part may be given up counts by itself.
        """
        failures, anew, furthest = 0, 0, _size(part)
        with client(self.patience) as connection:
            while not wanted.complete(part):
                try:
                    while not self._receive(connection, wanted, part=part, tell=tell):
                        pass  # a legal answer that held a piece: the next request asks for the next one
                    return
                except (httpx2.TransportError, BusyError) as error:
                    failures = 0 if _size(part) > furthest else failures + 1
                    furthest = max(furthest, _size(part))
                    if isinstance(error, AnewError):
                        anew, furthest = anew + 1, 0
                    self._pause(wanted, error, failures=max(failures, anew), part=part, tell=tell)

    def _pause(self, wanted: Wanted, error: Exception, *, failures: int, part: Path, tell: Tell) -> None:
        reason = _reason(error)
        hopeless = _hopeless(reason)
        if hopeless:
            raise InputError(f"{self.shown} cannot be reached ({reason}): {hopeless}") from None
        if failures >= self.patience.attempts or isinstance(error, httpx2.UnsupportedProtocol):
            kept = ", and continues with what arrived" if _size(part) else ""
            raise InputError(
                f"{self.shown} did not give {wanted.name} ({reason}; {failures} attempts in vain). "
                f"The same command tries again{kept}"
            ) from None
        pause = max(self.patience.pause(failures), error.after if isinstance(error, BusyError) else 0.0)
        tell.note(f"{wanted.name}: {reason}; again in {pause:g} s")
        time.sleep(pause)

    def _receive(self, connection: httpx2.Client, wanted: Wanted, *, part: Path, tell: Tell) -> bool:
        """One request; the part grows by what comes. Whether the server says that this is the file's end.

        Raises BusyError where nothing new came, or where the end of the answer may be a cut.
        """
        asked, mark = _size(part), validator_of(part)
        known = mark.read_text() if mark.exists() else ""
        headers = {**self.headers, **http_rules.resuming(asked, known)}
        with self._answered(connection, wanted, headers) as response:
            body = http_rules.content(response.status_code, response.headers, asked)
            if body is not None and body.ends and asked:
                return True
            if body is None or body.ends:
                part.unlink(missing_ok=True)
                raise AnewError("the server cannot continue where the part ends")
            if (body.total or 0) > wanted.limit:
                raise too_large(self.shown, wanted, body.total or 0)
            _check_room(part, body.total, body.start)
            if body.start == 0:
                part.write_bytes(b"")
                mark.write_text(http_rules.mark(response.headers))
            done = self._write(response, wanted, part=part, body=body, tell=tell)
        return _is_end(wanted, part, body=body, done=done, framed=_framed(response))

    def _write(
        self, response: httpx2.Response, wanted: Wanted, *, part: Path, body: Content, tell: Tell
    ) -> int:
        """Append an answer's content to the part; gives the part's size."""
        done = body.start
        with part.open("ab") as stream:
            for block in response.iter_raw():
                done += len(block)
                if done > wanted.limit:
                    raise too_large(self.shown, wanted, done)
                stream.write(block)
                tell.progress(wanted.name, done, body.total)
        return done

    @contextlib.contextmanager
    def _answered(
        self, connection: httpx2.Client, wanted: Wanted, headers: Mapping[str, str]
    ) -> Iterator[httpx2.Response]:
        """The answer behind all redirects, its body still to be read."""
        request = connection.build_request("GET", self.address(wanted.name), headers=dict(headers))
        asked = Asked(self.shown, wanted.name, InputError)
        for _ in range(http_rules.REDIRECTS + 1):
            response = connection.send(request, stream=True)
            with contextlib.closing(response):
                if response.next_request is None:
                    if response.status_code in http_rules.MISSING:
                        raise not_there(self.shown, wanted.name)
                    asked.check(response.status_code, response.headers)
                    yield response
                    return
                asked.follow(request.url.scheme, response.next_request.url.scheme)
                request = response.next_request
        raise asked.circles()


def client(patience: Patience) -> httpx2.Client:
    """A client that says no more of us than our name, and follows no redirect by itself."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Cache-Control": "no-cache"}
    return httpx2.Client(headers=headers, timeout=patience.stall_seconds, follow_redirects=False)


def at(address: str, patience: Patience) -> Web:
    """The export below a plain address, such as https://host/models/a; a query goes to every file."""
    try:
        base = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise InputError(f"this address cannot be read ({error}): http://HOST/PATH") from None
    if not base.host:
        raise InputError("this address names no host: http://HOST/PATH")
    if base.port is not None and not 0 < base.port < 1 << 16:
        raise InputError(f"this address names port {base.port}; ports are 1 to 65535")
    shown = str(base.copy_with(username=None, password=None, query=None, fragment=None)).rstrip("/")
    folder = base.path.rstrip("/")
    return Web(
        shown=shown,
        address=lambda name: str(base.copy_with(path=f"{folder}/{name}", fragment=None)),
        known={"source": shown},
        patience=patience,
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _framed(response: httpx2.Response) -> bool:
    """Whether the end of the body is announced, so that a cut is noticed by the client."""
    return response.headers.get("Content-Length", "").isdecimal() or "Transfer-Encoding" in response.headers


def _is_end(wanted: Wanted, part: Path, *, body: Content, done: int, framed: bool) -> bool:
    """Whether the file ends where an answer ended that nothing cut visibly.

    One that began at 0 and announced its end is the whole file. Otherwise the length that the range names
    decides, and without one the digest, where it is known.
    """
    if body.total is not None:
        ends = done >= body.total
    else:
        ends = (body.start == 0 and framed) or wanted.digest is None or wanted.complete(part)
    if not ends and (done == body.start or not framed):
        raise BusyError(f"the answer ended at byte {done}, before the file's end")
    return ends


def _check_room(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise InputError(
            f"the disk has no room: {total - start} bytes are to come, {free} are free. "
            f"Make room; the same command continues"
        )


def _hopeless(reason: str) -> str:
    """What to do about an error that no second attempt mends; '' for any other."""
    return next((remedy for sign, remedy in HOPELESS.items() if sign in reason), "")


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "the server is silent"
    return str(error) or type(error).__name__
