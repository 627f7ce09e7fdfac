"""A replacement that dies of kill -9 at its n-th call to the disk, for every n, and is then repeated.

`python killed_pull.py NEW OLD SCRATCH`: both are exports. Whatever the moment, the final name holds the old
export or the new one, whole, or - between two renames - nothing, and the next call ends with the new one.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported

from ssl_retina.release.hub import pull
from ssl_retina.release.hub.sources import Folder

CALLS = ("fsync", "rename", "replace", "mkdir", "link", "unlink", "rmdir")


def dying(new: Path, target: Path, killed_at: int) -> int:
    """The exit status of a fork that pulls, and dies before its call number `killed_at`."""
    child = os.fork()
    if child != 0:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == killed_at:
                os.kill(os.getpid(), 9)
            count += 1
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    pull.pull(Folder(new), target, existing="replace")
    os._exit(0)


def main(new: Path, old: Path, scratch: Path) -> None:
    """Every moment, until a call ends by itself."""
    fresh, before = exported.files(new), exported.files(old)
    moments, gone = 0, 0
    while True:
        target = scratch / f"at-{moments}" / "x"
        shutil.copytree(old, target)
        code = dying(new, target, moments)
        if code == 0:
            break
        assert code == -9, code
        if target.exists():
            assert exported.files(target) in (before, fresh), moments
        else:
            gone += 1
        pull.pull(Folder(new), target, existing="replace")
        assert exported.files(target) == fresh, moments
        assert [path.name for path in target.parent.iterdir()] == ["x"], moments
        moments += 1
    print(f"{moments} moments, {gone} without a target")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
