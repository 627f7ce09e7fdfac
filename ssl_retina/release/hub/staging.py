"""A folder that appears whole under its final name, and work that survives a cut (law 9).

In: a target. Out: beside it a hidden folder `.pull-NAME.partial` with what has arrived, which one rename
turns into the target; a process killed at any moment leaves the old target, the new one, or - between two
renames of a replacement - the old one inside the hidden folder, from where the next call brings it back.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_retina import files
from ssl_retina.errors import CheckpointError, InputError, StateError
from ssl_retina.models import pretrained
from ssl_retina.models.pretrained import SUMS_NAME
from ssl_retina.release.export import NAMES
from ssl_retina.release.hub import contents
from ssl_retina.release.hub.contents import ORIGIN_NAME

Existing = Literal["refuse", "replace"]
"""What to do with a target that holds another export."""
Standing = Literal["absent", "same", "damaged", "other"]


@dataclass(frozen=True)
class Stage:
    """The hidden folder of one target: `parts` are on their way, `content` is checked."""

    target: Path
    root: Path

    @property
    def parts(self) -> Path:
        """Beginnings of files, each named by the digest it will have."""
        return self.root / "parts"

    @property
    def content(self) -> Path:
        """Files that are what was promised."""
        return self.root / "content"

    @property
    def replaced(self) -> Path:
        """The earlier target while the new one takes its place."""
        return self.root / "replaced"

    def keep_only(self, promised: Mapping[str, str]) -> None:
        """Forget what an earlier call brought of another content."""
        for part in self.parts.iterdir():
            if part.name.partition(".")[0] not in promised.values():
                part.unlink()
        for file in self.content.iterdir():
            if not contents.Wanted(file.name, promised.get(file.name)).complete(file):
                file.unlink()

    def accept(self, part: Path, name: str) -> None:
        """A part that is what was promised becomes content, on disk."""
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, self.content / name)

    def settle(self, existing: Existing) -> None:
        """Give the content its final name.

        Raises StateError where something has appeared there meanwhile that may not be replaced.
        """
        files.sync_folder(self.content)
        if existing == "replace" and self.target.exists():
            os.rename(self.target, self.replaced)
        try:
            os.rename(self.content, self.target)
        except OSError:
            self._bring_back()
            if self.target.exists():
                raise StateError(f"{self.target} has appeared meanwhile: look at it") from None
            raise
        files.sync_folder(self.target.parent)
        self.discard()

    def recover(self) -> None:
        """Finish or undo what a killed process left half done."""
        if self.target.exists():
            shutil.rmtree(self.replaced, ignore_errors=True)  # the rename of its successor was the last word
        self._bring_back()
        for folder in (self.parts, self.content):
            folder.mkdir(exist_ok=True)

    def _bring_back(self) -> None:
        if self.replaced.exists() and not self.target.exists():
            os.rename(self.replaced, self.target)

    def discard(self) -> None:
        """Remove all that is in the hidden folder but its lock, which is still ours."""
        for folder in (self.parts, self.content, self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what holds nothing that a later call could use."""
        for folder in (self.parts, self.content):
            with contextlib.suppress(OSError):  # it is gone already, or holds something
                folder.rmdir()


@contextlib.contextmanager
def opened(target: Path, verb: str) -> Iterator[Stage]:
    """The stage of a target, locked; it stays for the next call unless it is discarded.

    Raises StateError where another process is at it, InputError where the disk refuses.
    """
    if target.name in ("", ".."):
        raise InputError(f"{target} has no name of its own: give the folder that is to appear")
    check_target(target)
    stage = Stage(target, target.with_name(f".{verb}-{target.name}.partial"))
    with disk(target), files.lock_of_its_own(stage.root):
        stage.recover()
        try:
            yield stage
        finally:
            stage.tidy()


@contextlib.contextmanager
def disk(target: Path) -> Iterator[None]:
    """Turn the disk's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        advice = "Choose another folder"
        if error.errno in files.NO_ROOM:
            advice = "Make room or choose another folder; the same command continues with what arrived"
        raise InputError(
            f"{target} cannot be written ({error.strerror or error}): nothing was put under that name. "
            f"{advice}"
        ) from None


def check_target(target: Path) -> None:
    """Raise StateError where the target is no folder, or holds other things than an export."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise StateError(f"{target} exists and is no folder: choose another one")
    if not target.exists():
        above = next(path for path in target.absolute().parents if path.exists())
        if not above.is_dir():
            raise InputError(
                f"{target} cannot be written: {above} is a file, not a folder; choose another one"
            )
        return
    inside = {entry.name for entry in target.iterdir()}
    if inside and not (SUMS_NAME in inside and inside <= NAMES | {ORIGIN_NAME}):
        raise StateError(f"{target} holds other things than an export: choose another folder, or empty it")


def standing(target: Path, promised: Mapping[str, str]) -> Standing:
    """How what is under the final name compares with what is promised."""
    if not target.exists() or not any(target.iterdir()):
        return "absent"
    try:
        held = pretrained.read_folder_sums(target)
    except (StateError, CheckpointError):
        return "damaged"
    if held != promised:
        return "other"
    return "damaged" if contents.damaged(target, promised) else "same"


def may_write(target: Path, found: Standing, existing: Existing) -> None:
    """Raise StateError where another content would be overwritten without being asked to."""
    if found == "absent" or existing == "replace":
        return
    what = "an export that is damaged" if found == "damaged" else "another export"
    raise StateError(
        f"{target} holds {what}: add --replace to exchange it as a whole, or choose another name"
    )


def sizes(folder: Path, names: Collection[str]) -> dict[str, int]:
    """Bytes of each file."""
    return {name: (folder / name).stat().st_size for name in names}
