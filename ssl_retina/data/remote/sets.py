"""A set of shards at an address, as an Index that is read like a folder's.

In: an address, a cache. Out: the set's tables in the cache, checked and memory-mapped, and an opener that
fetches a shard when it is first read. The address is the user's own; what an index names are plain files.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ssl_retina import files, positions, shards
from ssl_retina.addresses import Address
from ssl_retina.data.remote.cache import GIB, Cache, amount
from ssl_retina.data.remote.fetching import Part, Patience, Transport, Wanted, fetch, say
from ssl_retina.errors import InputError, ShardError
from ssl_retina.shard_index import manifest
from ssl_retina.shards import Index, Shard

INDEX_LIMIT = 1 << 28
HEADER_LIMIT = 1 << 16
"""A table of positions is its rows and a header of numpy's, far shorter than this."""
PATIENCE = Patience()
AT_ONCE = 4
"""So many shards are fetched ahead at the same time."""
_TRANSPORTS = {"http": "web.Web", "https": "web.Web", "s3": "bucket.Bucket", "gs": "bucket.Bucket"}


class RemoteSet:
    """Opens the shards of one set; can be sent to another process, which makes its own connections."""

    def __init__(self, address: Address, cache: Cache, patience: Patience) -> None:
        self.address, self.cache, self.patience = address, cache, patience
        self.folder, self.digest = cache.folder, ""
        self._transport: Transport | None = None
        self._in_use: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_transport": None, "_in_use": None}

    def __call__(self, shard: Shard) -> int:
        """A descriptor of a shard, fetched and checked where it is not in the cache.

        Raises ShardError that names it, or that tells that the set at the address is another one by now.
        """
        try:
            return self.cache.opened(self.folder / shard.url, shard.filesize, self._fetch(shard))
        except ShardError:
            self.refuse_another()
            raise

    @property
    def transport(self) -> Transport:
        """This process's way to the address."""
        if self._transport is None:
            module, name = _TRANSPORTS[self.address.scheme].split(".")
            made = getattr(import_module(f"ssl_retina.data.remote.{module}"), name)
            self._transport = cast(Transport, made(self.address, self.patience))
        return self._transport

    def read(self) -> Index:
        """Bring index, table and manifest into the cache, and keep them there while this process lives."""
        content = self._index(self.patience)
        self.digest = hashlib.sha256(content).hexdigest()
        self.folder = self.cache.folder / f"{_place(self.address)}-{self.digest[:16]}"
        try:
            index = shards.parse_index(self.folder, content)
        except ShardError as error:
            raise ShardError(str(error).replace(str(self.folder), str(self.address))) from None
        self.folder.mkdir(exist_ok=True, mode=files.PRIVATE_FOLDER)
        for wanted in _tables(index, self.address):
            get = partial(fetch, self.transport, wanted, patience=self.patience)
            os.close(self.cache.opened(self.folder / wanted.name, None, get))
        if not (self.folder / shards.INDEX_NAME).is_file():
            files.write_first(self.folder / shards.INDEX_NAME, content, 0o600)
        self._keep()
        return replace(index, opener=self)

    def refuse_another(self) -> None:
        """Raise ShardError where the address has another index by now; nothing where it does not answer."""
        try:
            content = self._index(replace(self.patience, attempts=1))
        except (ShardError, OSError):
            return
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ShardError(f"{self.address} was indexed anew since the run started: start again")

    def _fetch(self, shard: Shard) -> Any:
        wanted = Wanted(shard.url, shard.filesize, shard.filesize, shard.sha256)
        return lambda part: fetch(self.transport, wanted, part, self.patience)

    def _index(self, patience: Patience) -> bytes:
        # in memory: a full disk must not hide that the set is another one by now
        with open(os.memfd_create("index"), "r+b") as stream:
            part = Part(stream.fileno())
            fetch(self.transport, Wanted(shards.INDEX_NAME, INDEX_LIMIT), part, patience)
            return os.pread(stream.fileno(), part.done, 0)

    def _keep(self) -> None:
        """Tell others that this version of the set is in use, and remove older ones that nobody uses."""
        self._in_use = os.open(self.folder / shards.INDEX_NAME, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._in_use, fcntl.LOCK_SH)
        for older in self.cache.folder.glob(f"{_place(self.address)}-*"):
            if older != self.folder:
                _remove_unused(older)


def opened(address: Address, folder: Path | None, gib: float) -> Index:
    """The index of a set at an address, its tables checked and in the cache; no shard is fetched.

    folder: None for the user's own cache. Raises InputError (cache, extras), ShardError.
    """
    cache = Cache((folder or _default()).absolute(), int(gib * GIB))
    cache.claim()
    try:
        return RemoteSet(address, cache, PATIENCE).read()
    except OSError as error:
        raise InputError(f"data.cache: {cache.folder} cannot be used ({error.strerror})") from None


def kept(address: Address, digest: str, folder: Path | None) -> Path | None:
    """The folder of a set's tables in the cache, if that version of it is there. Asks nobody."""
    place = (folder or _default()).absolute() / f"{_place(address)}-{digest[:16]}"
    return place if (place / shards.INDEX_NAME).is_file() else None


def verify(remote: RemoteSet, index: Index) -> list[str]:
    """Every difference between what lies at the address and the index; each begins with a file's name.

    Missing, extra and differing shards by size, the table, the manifest. Bytes are checked as they come.
    """
    found = remote.transport.sizes([shard.url for shard in index.shards], remote.patience)
    wrong = []
    for shard in index.shards:
        size = found[shard.url]
        if isinstance(size, str):
            wrong.append(f"{shard.url}: {size}; {shard.nsamples} samples are lost")
        elif size != shard.filesize:
            wrong.append(f"{shard.url} has {size} bytes, {shards.INDEX_NAME} promises {shard.filesize}")
    named = {shard.url for shard in index.shards}
    wrong += [f"{name} is not in {shards.INDEX_NAME}" for name in sorted(set(found) - named)]
    if files.sha256(index.folder / shards.POSITIONS_NAME) != index.facts.get("positions_sha256"):
        wrong.append(f"{shards.POSITIONS_NAME} was changed in the cache: remove {index.folder}")
    return wrong + manifest.verify(index, hashes=False)


def notes(indexes: Sequence[Index]) -> list[str]:
    """A sentence for each set of an address: its bytes, the cache, its bound."""
    return [
        f"{remote.address}: {len(index.shards)} shards, {amount(_bytes(index))}; they are fetched into "
        f"data.cache {remote.cache.folder}, which keeps at most {amount(remote.cache.limit)} (data.cache_gib)"
        for index in indexes
        if isinstance(remote := index.opener, RemoteSet)
    ]


def require_room(
    indexes: Sequence[Index], chosen: Sequence[NDArray[np.uint32]], *, window: int | None = None
) -> None:
    """Refuse a cache that cannot hold at once what is read at once. Raises InputError with the numbers.

    chosen: row numbers, ascending, counted through all sets. window: how many shards the order reads at a
    time; None for all of them.
    """
    sizes: list[int] = []
    remotes = []
    offset = 0
    for index in indexes:
        if isinstance(index.opener, RemoteSet):
            remotes.append(index.opener)
            ends = np.cumsum([offset, *(shard.nsamples for shard in index.shards)])
            used = np.flatnonzero(sum(np.diff(np.searchsorted(rows, ends)) for rows in chosen))
            sizes += [index.shards[number].filesize for number in used.tolist()]
        offset += index.samples
    if not sizes:
        return
    sizes.sort(reverse=True)
    least = sum(sizes if window is None else sizes[: window + AT_ONCE])
    limit = remotes[0].cache.limit
    if least > limit:
        why = (
            "they are drawn from all shards, so all must lie there"
            if window is None
            else f"{window} shards are read at a time (data.shuffle_shards) and {AT_ONCE} fetched meanwhile"
        )
        raise InputError(
            f"data.cache_gib ({limit / GIB:.3g}) is smaller than the {amount(least)} that photographs of "
            f"{', '.join(str(one.address) for one in remotes)} need at once: {why}; raise it"
        )


def _tables(index: Index, address: Address) -> list[Wanted]:
    rows = index.samples * positions.POSITIONS[index.facts["format"]].itemsize
    digest, sealed = index.facts.get("positions_sha256"), index.facts.get(manifest.SEALED)
    if not isinstance(digest, str):
        raise ShardError(
            f"{address}/{shards.INDEX_NAME} does not say which {shards.POSITIONS_NAME} belongs to it: make "
            "it anew where the set lies, ssl-retina inspect DIR --write-index"
        )
    tables = [Wanted(shards.POSITIONS_NAME, rows + HEADER_LIMIT, sha256=digest)]
    if isinstance(sealed, str):
        tables.append(Wanted(shards.MANIFEST_NAME, INDEX_LIMIT, sha256=sealed))
    return tables


def _place(address: Address) -> str:
    """A folder's name from an address, without its secrets: readable, and another one for every address."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', address.name)[:40]}-{digest}"


def _default() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ssl-retina" / "shards"


def _remove_unused(folder: Path) -> None:
    """Remove another version of a set, which may hold photographs that were withdrawn since."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):  # gone already, or in use
        descriptor = os.open(folder / shards.INDEX_NAME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, onerror=_left)
        finally:
            os.close(descriptor)


def _left(_: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """Tell what of an older version could not be removed."""
    if not isinstance(error[1], FileNotFoundError):
        say(f"{path}, of an older version of the set, could not be removed ({error[1]}): remove it yourself")


def _bytes(index: Index) -> int:
    return sum(shard.filesize for shard in index.shards)
