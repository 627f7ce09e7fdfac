"""Where an export can come from, as `pull` sees it; the simplest one is a folder.

In: which file is wanted. Out: that file's bytes at the end of a part file, continued where it stops.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ssl_retina.errors import InputError
from ssl_retina.models import pretrained
from ssl_retina.models.pretrained import SUMS_NAME
from ssl_retina.release.hub.contents import Wanted

BLOCK = 1 << 20


class Tell(NamedTuple):
    """Who is told of the work: `progress(name, bytes so far, bytes in all or None)`, `note(sentence)`."""

    progress: Callable[[str, int, int | None], None] = lambda *_: None
    note: Callable[[str], None] = lambda _: None


class Source(Protocol):
    """One place that holds an export."""

    @property
    def shown(self) -> str:
        """How messages name it: without passwords and tokens."""
        ...

    def origin(self) -> Mapping[str, str]:
        """What `pulled.json` says; empty where the place is nobody else's business."""
        ...

    def fetch(self, wanted: Wanted, part: Path, tell: Tell) -> None:
        """Bring a file to its end in `part`, which may hold its beginning. Digests are checked by the caller.

        Raises InputError where the place does not give it.
        """
        ...


@dataclass(frozen=True)
class Folder:
    """An export in a folder of this machine."""

    path: Path

    @property
    def shown(self) -> str:
        """The folder as the user wrote it."""
        return str(self.path)

    def origin(self) -> Mapping[str, str]:
        """Nothing: a path of this machine stays out of what may travel on."""
        return {}

    def fetch(self, wanted: Wanted, part: Path, tell: Tell) -> None:
        """Copy; a copy starts anew."""
        file = self.path / wanted.name
        if not file.is_file():
            if wanted.digest is None and pretrained.is_run(self.path):
                raise InputError(pretrained.no_export(self.path))
            raise not_there(self.shown, wanted.name)
        with _reading(file):
            total = file.stat().st_size
        if total > wanted.limit:
            raise too_large(self.shown, wanted, total)
        done = 0
        with part.open("wb") as taken:
            for block in _blocks(file):
                taken.write(block)
                done += len(block)
                tell.progress(wanted.name, done, total)


def _blocks(file: Path) -> Iterator[bytes]:
    """A file's content; only its own errors are those of the source, not those of the disk it goes to."""
    with _reading(file):
        stream = file.open("rb")
    with stream:
        while True:
            with _reading(file):
                block = stream.read(BLOCK)
            if not block:
                return
            yield block


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def validator_of(part: Path) -> Path:
    """Where a source notes which version of a file a part began with."""
    return part.with_name(f"{part.name}.validator")


def forget(part: Path) -> None:
    """Remove a part and what is known of it."""
    part.unlink(missing_ok=True)
    validator_of(part).unlink(missing_ok=True)


def not_there(shown: str, name: str) -> InputError:
    """The sentence for a file that a place does not hold."""
    if name == SUMS_NAME:
        return InputError(f"{shown} holds no {SUMS_NAME}: it is no export of ssl-retina; check the address")
    return InputError(f"{shown} holds no {name}, though its {SUMS_NAME} names it: push the export again")


def did_you_mean_address(text: str, schemes: Sequence[str]) -> str:
    """`did you mean http://HOST/PATH? ` for an address that is written almost right, else nothing."""
    for scheme in schemes:
        head = scheme.rstrip("/")
        if text.startswith(head):
            return f"did you mean {scheme}{text.removeprefix(head).lstrip('/')}? "
    if "http://" in schemes and re.match(r"[\w.-]+:\d+(/|$)", text):
        return f"did you mean http://{text}? "
    return ""


def too_large(shown: str, wanted: Wanted, size: int) -> InputError:
    """The sentence for a file that is larger than any export's."""
    return InputError(
        f"{shown}: {wanted.name} has {size} bytes, more than the {wanted.limit} that are read of such a file"
    )
