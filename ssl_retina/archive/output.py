"""The output folder of a build: whose it is, whether it can be continued, and how it is left clean.

In: a folder and what identifies a run. Out: fresh, to be continued or complete; StateError for anything else.
"""

import contextlib
import errno
import json
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from ssl_retina import files, shard_index, shards
from ssl_retina.archive import exchange
from ssl_retina.errors import InputError, StateError
from ssl_retina.shards import Index

WORK_NAME = ".work"
PLAN_NAME = "plan.json"
WRONG_SHOWN = 3


class Found(StrEnum):
    """What the output holds."""

    NOTHING = "nothing"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"


@contextlib.contextmanager
def speaking(option: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says about a path that the user gave into a sentence that names it.

    Raises StateError for a full disk, InputError for everything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateError(
                f"the disk of {path} is full. Make room, then run the same command again: it continues"
            ) from None
        raise InputError(f"{option} {path} cannot be read or written: {error.strerror or error}") from None


def claim(out: Path, identity: Mapping[str, Any], tools: Mapping[str, str]) -> Found:
    """Look at an output under its lock and make it ours, with its work folder.

    identity: settings, key fingerprint, digests of listing and attributes. tools: versions that decide the
    bytes; they must stay the same within one build. Raises StateError for an output of something else.
    """
    exchange.finish(out)
    _sweep(out)
    return join(out, identity, tools)


def join(out: Path, identity: Mapping[str, Any], tools: Mapping[str, str]) -> Found:
    """What `claim` does, without the lock, and without sweeping up: for one of several processes (slices)."""
    if (out / shards.INDEX_NAME).exists():
        made = shards.read_index(out).facts.get("made_from")
        _compare(out, made if isinstance(made, dict) else {}, identity)
        shutil.rmtree(out / WORK_NAME, ignore_errors=True)
        return Found.COMPLETE
    work = out / WORK_NAME
    plan = {**identity, **{f"{name} version": version for name, version in tools.items()}}
    if (work / PLAN_NAME).exists():
        _compare(out, json.loads((work / PLAN_NAME).read_bytes()), plan)
        return Found.UNFINISHED
    foreign = [path for path in out.iterdir() if not path.name.startswith(".")]
    if foreign:
        raise StateError(f"{out} holds {len(foreign)} files of something else: give an empty or new --out")
    work.mkdir(exist_ok=True)
    content = json.dumps(plan, indent=1, sort_keys=True).encode()
    if not files.write_first(work / PLAN_NAME, content):  # another slice was faster
        _compare(out, json.loads((work / PLAN_NAME).read_bytes()), plan)
        return Found.UNFINISHED
    return Found.NOTHING


def require_same(
    out: Path, made: Mapping[str, Any], wanted: Mapping[str, Any], *, but: Collection[str]
) -> None:
    """Raise StateError where a set was made with other settings; what stands in `but` may differ."""
    same = ({name: value for name, value in one.items() if name not in but} for one in (made, wanted))
    _compare(out, *same)


def require_intact(out: Path, index: Index) -> None:
    """Compare a complete output with its index and its totals, but for hashes. Raises StateError."""
    wrong = shard_index.verify(index, hashes=False)
    if not (out / shards.LEDGER_NAME).is_file():
        wrong.append(f"{shards.LEDGER_NAME} is missing")
    if index.samples != index.facts["totals"]["written"]:
        wrong.append(
            f"{shards.INDEX_NAME} lists {index.samples} samples of {index.facts['totals']['written']}"
        )
    if wrong:
        raise StateError(
            f"{out} was complete and is damaged: {'; '.join(wrong[:WRONG_SHOWN])}"
            f"{f' and {len(wrong) - WRONG_SHOWN} more' if len(wrong) > WRONG_SHOWN else ''}. Bring the files "
            "back from a copy, or remove that folder and run the same command again: it makes the same bytes"
        )


def _compare(out: Path, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse other settings, naming each that differs."""
    differing = [name for name in sorted({*made, *wanted}) if made.get(name) != wanted.get(name)]
    if "key_fingerprint" in differing:
        differing = ["key_fingerprint"]  # all digests are keyed: they differ with it
    if differing:
        shown = "; ".join(_difference(name, made.get(name), wanted.get(name)) for name in differing)
        raise StateError(
            f"{out} was made with other settings or from another archive: {shown}. Give another --out, or "
            "remove that folder to make it anew"
        )


def _difference(name: str, made: object, wanted: object) -> str:
    words = {
        "listing": "the files of the source have other names or sizes now, or the recipe leaves out others",
        "attributes": "what the table and the pattern (or the recipe) state is different",
        "key_fingerprint": "another key",
        "pixel_digest": "another version of ssl-retina made it, which tells equal photographs by another "
        "digest: copies would not be found",
        "ids": "another version of ssl-retina made it, which reads patient ids by another rule: one "
        "patient would become two",
    }
    return words.get(name, f"{name} was {made}, is {wanted}")


def _sweep(out: Path) -> None:
    """Remove what a killed run left half written."""
    for folder in (out, out / WORK_NAME):
        for path in folder.glob(".*.tmp-*"):
            path.unlink(missing_ok=True)


def drop_leftovers(out: Path) -> None:
    """Remove what killed runs left in a complete set: pixels and pseudonyms of everybody lie there."""
    _sweep(out)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(out / WORK_NAME)


def require_set(out: Path) -> None:
    """Raise InputError where there is no set yet that could grow; nothing is read or made."""
    with speaking("--out", out):
        there = any((out / name).exists() for name in (shards.INDEX_NAME, shards.EXCHANGE_NAME))
    if not there:
        raise InputError(
            f"{out} holds no complete set yet, and --append adds to one: make it with the same command "
            "without --append"
        )


def drop_shards(out: Path) -> None:
    """Remove the shards of an interrupted run, since a chunk is made anew and they may not fit it."""
    for path in shard_index.tars(out):
        path.unlink(missing_ok=True)  # another slice may have done so


def finish(out: Path) -> None:
    """Remove the work folder: the index stands."""
    shutil.rmtree(out / WORK_NAME)


def make_folders(out: Path) -> list[Path]:
    """Create `out`, for this user alone, and its parents; give those that were not there, deepest first."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(mode=files.PRIVATE_FOLDER, parents=True, exist_ok=True)
    return made


def warn_if_open(out: Path, note: Callable[[str], None]) -> None:
    """Say that other users can read a folder that was there before: it is the user's to close."""
    if stat.S_IMODE(out.stat().st_mode) & 0o007:
        note(f"WARNING: every user of this machine can read {out}: chmod 700 {out}")


def withdraw(out: Path, made: list[Path]) -> None:
    """Leave the place as it was before a build that wrote nothing."""
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    (out / shards.LEDGER_NAME).unlink(missing_ok=True)
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return
