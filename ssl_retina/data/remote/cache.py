"""A bounded folder of fetched files that all processes of a node share: one fetches, the others wait.

In: a path in the cache, its size, a function that fetches it. Out: an open descriptor, which lives on when
the file is evicted. A part file is its own lock (flock), so that it is nobody's when its process dies.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files
from ssl_retina.data.remote.fetching import Part
from ssl_retina.errors import InputError, ShardError

GUARD = ".guard"
PART, FAILED = ".part", ".failed"
WAIT_SECONDS = 0.1
NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))
"""What some network file systems answer."""
GIB = 2**30


@dataclass(frozen=True)
class Cache:
    """`limit`: bytes of shards that lie in `folder`, those that are being fetched included."""

    folder: Path
    limit: int

    def claim(self) -> None:
        """Make the folder, private, and remove what dead processes left. Raises InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=files.PRIVATE_FOLDER)
            with self._guard():
                for left in [*self.folder.glob(f"*/.*{PART}"), *self.folder.glob(f"*/.*{FAILED}")]:
                    _remove_dead(left)
        except OSError as error:
            hint = ": give a folder on a disk of this machine" if error.errno in NO_LOCKS else ""
            raise InputError(f"data.cache: {self.folder} cannot be used ({error.strerror}){hint}") from None

    def there(self, path: Path, size: int | None) -> int | None:
        """A descriptor of a fetched file, which counts as used now; None where there is none of that size."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if size is not None and os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return descriptor

    def opened(self, path: Path, size: int | None, fetch: Callable[[Part], None]) -> int:
        """A descriptor of `path`, fetched where it is not there. Raises ShardError, also another process's.

        size: makes room for that many bytes; None for a table of the set, which the limit does not count.
        """
        asked = time.time()
        try:
            while True:
                descriptor = self.there(path, size)
                if descriptor is not None:
                    return descriptor
                with _held(_part_of(path)) as part:
                    descriptor = None if part is None else self.there(path, size)
                    if descriptor is None and part is not None:
                        _refuse_failed(path, asked)
                        descriptor = self._fetched(path, size, part, fetch=fetch)
                if descriptor is not None:
                    return descriptor
        except OSError as error:
            raise ShardError(self._unwritten(path.name, error)) from None

    def _fetched(self, path: Path, size: int | None, part: int, *, fetch: Callable[[Part], None]) -> int:
        """Give a part, which this process holds, its bytes and its name; a descriptor to read it from."""
        failed = _failed_of(path)
        try:
            if size is not None:
                os.ftruncate(part, 0)  # the rest of a killed process would count beside what it becomes
                self._admit(path, part, size)
            arrived = Part(part)
            fetch(arrived)
            os.ftruncate(part, arrived.done)
            os.fsync(part)
            descriptor = os.open(_part_of(path), os.O_RDONLY | os.O_CLOEXEC)  # evicted or not from here on
            os.replace(_part_of(path), path)
            failed.unlink(missing_ok=True)
        except ShardError as error:
            with contextlib.suppress(OSError):
                failed.write_text(str(error))
            raise
        return descriptor

    def _admit(self, path: Path, part: int, size: int) -> None:
        """Make room for a part and give it its full length, which counts from now on.

        The least recently used go first. Where all that lies there is being fetched, this waits for it.
        """
        while True:
            with self._guard():
                held, entries = self._entries()
                over = sum(entry.st_size for _, entry in entries) + held + size - self.limit
                for evicted, entry in sorted(entries, key=lambda one: one[1].st_mtime_ns):
                    if over <= 0:
                        break
                    evicted.unlink(missing_ok=True)
                    over -= entry.st_size
                if over <= 0:
                    os.ftruncate(part, size)
                    return
                if not held:
                    raise ShardError(self._too_small(path.name, size))
            time.sleep(WAIT_SECONDS)

    def _entries(self) -> tuple[int, list[tuple[Path, os.stat_result]]]:
        """Bytes that living processes are fetching now, and every other fetched shard; dead parts go."""
        held: dict[tuple[int, int], int] = {}
        for part in self.folder.glob(f"*/.*.tar{PART}"):
            with contextlib.suppress(FileNotFoundError):
                seen = part.stat()
                if seen.st_size and not _remove_dead(part):
                    held[_file(seen)] = seen.st_size
        entries = []
        for path in self.folder.glob("*/*.tar"):
            with contextlib.suppress(FileNotFoundError):
                entry = path.stat()
                if _file(entry) not in held:  # a part that became a shard meanwhile counts once
                    entries.append((path, entry))
        return sum(held.values()), entries

    def _unwritten(self, name: str, error: OSError) -> str:
        if error.errno in files.NO_ROOM:
            return (
                f"the disk of {self.folder} has no room for {name} ({error.strerror}): make room, lower "
                "data.cache_gib, or give another data.cache"
            )
        return f"{name} cannot be kept in {self.folder} ({error.strerror}): give another data.cache"

    def _too_small(self, name: str, size: int) -> str:
        return f"data.cache_gib ({self.limit / GIB:.3g}) is too small for {name} of {amount(size)}: raise it"

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Counting and evicting is one process's at a time."""
        descriptor = os.open(self.folder / GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def amount(count: int) -> str:
    """Bytes for a person."""
    return f"{count / GIB:.3g} GiB" if count >= GIB / 10 else f"{count / 2**20:.3g} MiB"


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{PART}")


def _failed_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{FAILED}")


@contextlib.contextmanager
def _held(part: Path) -> Iterator[int | None]:
    """The part's descriptor, held by this process alone; None where it became something else meanwhile.

    What is still a part at the end is removed before it is let go.
    """
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not _is_still(part, descriptor):
            yield None
            return
        try:
            yield descriptor
        finally:
            if _is_still(part, descriptor):
                part.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _file(entry: os.stat_result) -> tuple[int, int]:
    """The file itself, whatever its name is by now."""
    return entry.st_dev, entry.st_ino


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_dead(path: Path) -> bool:
    """Remove a file that no living process holds, and say whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, descriptor):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _refuse_failed(path: Path, asked: float) -> None:
    """Who waited while another process tried in vain does not try as long again."""
    with contextlib.suppress(FileNotFoundError):
        if _failed_of(path).stat().st_mtime > asked:
            raise ShardError(_failed_of(path).read_text())
