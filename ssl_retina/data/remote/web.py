"""Files below an http(s) address, through fsspec's session: an answer at a time, nothing followed blindly.

In: an address and what is wanted. Out: bytes at the end of a part. Headers, certificates and proxies are
those of fsspec's configuration and of the environment.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import aiohttp
import fsspec
from fsspec.asyn import sync
from yarl import URL

from ssl_retina import __version__, http_rules
from ssl_retina.addresses import Address
from ssl_retina.data.remote.fetching import BLOCK, OtherError, Part, Patience, Wanted
from ssl_retina.errors import ShardError
from ssl_retina.http_rules import Asked, BusyError, Content

T = TypeVar("T")

AT_ONCE = 16
LISTING_LIMIT = 1 << 24
HINT = "say who you are in ~/.netrc or in fsspec's configuration (headers)"
_LINK = re.compile(r"""href=["']?(?:\./)?([A-Za-z0-9_-][A-Za-z0-9._-]*\.tar)["'?\s>]""")


class Web:
    """A set below an http(s) address."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self.shown = str(address)
        self._address = address
        own = dict(fsspec.config.conf.get(address.scheme, {}).get("client_kwargs", {}))
        personal = {name: own.pop(name) for name in ("headers", "auth", "cookies") if name in own}
        self._files: Any = fsspec.filesystem(
            address.scheme, skip_instance_cache=True, client_kwargs={"trust_env": True, **own}
        )
        self._own = {**personal, **self._files.kwargs}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=patience.stall_seconds, sock_read=patience.stall_seconds
        )

    def receive(self, wanted: Wanted, part: Part) -> None:
        """One request for what is missing; see `fetching.Transport`."""
        sync(self._files.loop, self._receive, wanted, part)

    def sizes(self, names: list[str], patience: Patience) -> Mapping[str, int | str]:
        """One byte of each file is asked for, AT_ONCE at a time; other tars where the server lists them."""
        found: dict[str, int | str] = sync(self._files.loop, self._sizes, names, patience)
        return found

    async def _receive(self, wanted: Wanted, part: Part) -> None:
        async with self._answered(wanted.name, http_rules.resuming(part.done, part.mark)) as response:
            content = _content(response, part.done)
            if wanted.size is not None and content.total not in (None, wanted.size):
                raise OtherError(f"it has {content.total} bytes, the index promises {wanted.size}")
            if content.ends:
                return
            if content.start == 0:
                part.begin(http_rules.mark(response.headers))
            async for block in response.content.iter_chunked(BLOCK):
                part.write(block, wanted)

    @contextlib.asynccontextmanager
    async def _answered(self, name: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer behind all redirects, its body still to be read. Raises BusyError, ShardError."""
        session = await self._files.set_session()
        url = first = URL(self._address.of(name))
        asked = Asked(self.shown, name, ShardError, HINT)
        plain = {"User-Agent": f"ssl-retina/{__version__}", "Accept-Encoding": "identity", **headers}
        for _ in range(http_rules.REDIRECTS + 1):
            home = url.origin() == first.origin()
            own = self._own if home else {}  # what belongs to the user goes to their own host only
            options = {**own, "headers": {**own.get("headers", {}), **plain}, "allow_redirects": False}
            with self._failures():
                async with session.get(url, timeout=self._timeout, **options) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        if response.status in http_rules.MISSING:
                            raise ShardError(f"{name} is missing at {self.shown}")
                        asked.check(response.status, response.headers)
                        yield response
                        return
                    url = _onward(asked, url, response.headers.get("Location", ""))
            if url.user is None and url.origin() == first.origin():
                url = url.with_user(first.user).with_password(first.password)
        raise asked.circles()

    @contextlib.contextmanager
    def _failures(self) -> Any:
        """What the network does becomes a BusyError without a word of the address."""
        try:
            yield
        except TimeoutError:
            raise BusyError(f"the server is silent for {self._timeout.sock_read:g} s") from None
        except aiohttp.InvalidURL:
            raise ShardError(f"{self.shown} is no address that can be read: http(s)://HOST/PATH") from None
        except aiohttp.ClientConnectorCertificateError:
            raise ShardError(f"the certificate of {self.shown} is not trusted") from None
        except aiohttp.ClientPayloadError:
            raise BusyError("the answer was cut") from None
        except aiohttp.ClientConnectorError as error:
            raise BusyError(f"no connection ({error.os_error.strerror or error.os_error})") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise BusyError(f"the connection failed ({type(error).__name__})") from None

    async def _sizes(self, names: list[str], patience: Patience) -> dict[str, int | str]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> int | str:
            async with gate:
                return await self._size(name, patience)

        found = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
        return {name: "" for name in await self._listed()} | found

    async def _size(self, name: str, patience: Patience) -> int | str:
        reason = ""
        for failures in range(1, patience.attempts + 1):
            try:
                async with self._answered(name, {"Range": "bytes=0-0"}) as response:
                    total = _content(response, 0).total
                    return "its size is not told" if total is None else total
            except ShardError as error:
                return str(error)
            except BusyError as error:
                reason = str(error)
                await asyncio.sleep(max(patience.pause(failures), error.after))
        return f"{reason}; {patience.attempts} attempts in vain"

    async def _listed(self) -> set[str]:
        """Tars that the server's own page of the folder links; none where it has no such page."""
        with contextlib.suppress(BusyError, ShardError):
            async with self._answered("", {}) as response:
                page = b""
                async for block in response.content.iter_chunked(BLOCK):
                    page += block
                    if len(page) > LISTING_LIMIT:
                        return set()
                return set(_LINK.findall(page.decode("utf-8", "replace")))
        return set()


def _onward(asked: Asked, url: URL, location: str) -> URL:
    """Where a redirect leads."""
    onward = url.join(URL(location))
    asked.follow(url.scheme, onward.scheme)
    return onward


def _content(response: aiohttp.ClientResponse, asked: int) -> Content:
    """Where the answer's content belongs. Raises OtherError where it is of no use."""
    found = http_rules.content(response.status, response.headers, asked)
    if found is None:
        raise OtherError("the server cannot continue where it was cut")
    return found
