"""May this folder go out? Asked before anything is sent (F105).

In: a folder. Out: its digests, or a refusal: four names, the promised bytes, weights that are exactly those
of the architecture, and no word of this machine or its user.
"""

import contextlib
import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssl_retina.errors import CheckpointError, InputError, StateError
from ssl_retina.models import pretrained, weights
from ssl_retina.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from ssl_retina.release.export import NAMES
from ssl_retina.release.hub import contents
from ssl_retina.release.hub.contents import ORIGIN_NAME

_PATH = re.compile(r"(?<![\w:/.<~])(?:/(?:[\w.+-]+/)+[\w.+-]|[A-Za-z]:\\\w|~/\w)")
"""An absolute path of a Unix or Windows machine, or one of a home folder; not the path of an address."""


def verify(folder: Path) -> Mapping[str, str]:
    """Name -> digest of an export that may be published.

    Raises InputError, CheckpointError or StateError with what is in the way. Names of files that do not
    belong are counted and not said: they may be names of photographs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that ssl-retina export wrote")
    if pretrained.is_run(folder):
        raise StateError(pretrained.no_export(folder))
    extra = {entry.name for entry in folder.iterdir()} - NAMES - {ORIGIN_NAME}
    if extra:
        what = "1 entry that is" if len(extra) == 1 else f"{len(extra)} entries that are"
        raise StateError(
            f"{folder} holds {what} no part of an export, which is "
            f"{', '.join(sorted(NAMES))}: nothing was sent; take them out, or export again"
        )
    promised = pretrained.read_folder_sums(folder)
    wrong = contents.damaged(folder, promised)
    if wrong:
        raise CheckpointError(
            f"{folder} is not what was exported: {', '.join(wrong)} missing or changed. Export it again"
        )
    pretrained.check_fits(folder)
    _check_words(folder)
    return promised


def _check_words(folder: Path) -> None:
    """Raise InputError where a text names a path, this host or this user's folder, with its line."""
    own = _own_words()
    for name, number, line in _lines(folder):
        if _PATH.search(line) or any(word.search(line) for word in own):
            raise InputError(
                f"{folder / name}, line {number}, names a path, this machine or its user: nothing was sent. "
                f"Export again with a version that leaves it out"
            )


def _own_words() -> list[re.Pattern[str]]:
    """This user's home folder, a folder named after the user, and this host, each as a whole word.

    A host whose name is a plain word (`retina`) is left out: every card would name it.
    """
    words = [socket.gethostname()] if not socket.gethostname().isalpha() else []
    with contextlib.suppress(RuntimeError):  # a user without a home
        words.append(str(Path.home()))
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        words.append(f"/{getpass.getuser()}")
    usable = [word for word in words if len(word) > 2 and word != "localhost"]
    return [re.compile(rf"(?<![\w.]){re.escape(word)}(?![\w.])") for word in usable]


def _lines(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Every line of text in an export: file, number, line."""
    for name in (CARD_NAME, CONFIG_NAME):
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            yield name, number, line
    metadata, tensors = weights.read_header(folder / WEIGHTS_NAME)
    for line in (*metadata, *metadata.values(), *tensors):
        yield WEIGHTS_NAME, 1, line
