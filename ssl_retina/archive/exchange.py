"""Other files for a complete set: all of them or none, whenever the process is killed (law 9).

In: new files in a folder of their own inside the set. Out: the set with them. The list of what is to happen
is written last and makes it certain: before it nothing has happened, after it the next start finishes.
"""

import json
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_retina import files, shards

READY_NAME = "ready.json"


def begin(out: Path) -> Path:
    """An empty folder for the new files. The caller holds the lock of `out` and has called `finish`."""
    folder = out / shards.EXCHANGE_NAME
    folder.mkdir()
    folder.chmod(stat.S_IMODE(out.stat().st_mode))
    return folder


def commit(out: Path, removed: Sequence[str], answer: Mapping[str, Any]) -> None:
    """Put every file of the folder into the set and remove others; `answer` is what `finish` would give."""
    folder = out / shards.EXCHANGE_NAME
    plan = {"put": sorted(path.name for path in folder.iterdir()), "removed": sorted(removed)}
    files.write_json(folder / READY_NAME, {**plan, "answer": dict(answer)}, mode=0o600)
    finish(out)


def finish(out: Path) -> dict[str, Any] | None:
    """Complete an exchange that was certain, or drop one that was not; give its answer, or None.

    Without an index the folder is no set (`shards/FORMAT.md`): the index goes first and comes back last.
    """
    folder = out / shards.EXCHANGE_NAME
    if not folder.is_dir():
        return None
    answer: dict[str, Any] | None = None
    if (folder / READY_NAME).is_file():
        plan = json.loads((folder / READY_NAME).read_bytes())
        answer = plan["answer"]
        if (folder / shards.INDEX_NAME).exists():
            _apply(out, folder, plan)
    shutil.rmtree(folder)
    files.sync_folder(out)
    return answer


def _apply(out: Path, folder: Path, plan: Mapping[str, Sequence[str]]) -> None:
    (out / shards.INDEX_NAME).unlink(missing_ok=True)
    for name in plan["removed"]:
        (out / name).unlink(missing_ok=True)
    for name in plan["put"]:
        if name != shards.INDEX_NAME and (folder / name).exists():
            os.replace(folder / name, out / name)
    files.sync_folder(out)
    os.replace(folder / shards.INDEX_NAME, out / shards.INDEX_NAME)
    files.sync_folder(out)
