"""Verb `withdraw`: take a patient out of a set of shards; tell which runs have seen them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.cli import console, options

if TYPE_CHECKING:
    from ssl_retina.archive.revision.withdraw import Withdrawal
    from ssl_retina.release.exposure import Exposed


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("withdraw")(withdraw)


def withdraw(
    folder: Annotated[Path, typer.Argument(metavar="SHARDS", help="The set.")],
    patient: Annotated[str, typer.Option(help="The patient's id as the archive writes it; it is not kept.")],
    key_file: options.KeyFile = None,
    site: Annotated[str | None, typer.Option(help="Site whose id it is; default: the set's own.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Also list the runs and exports in this folder that have seen the set."),
    ] = None,
    as_json: options.ResultAsJson = False,
) -> None:
    """Take a patient out: shards, index, ledger and manifest. Killed, the same command finishes.

    Photographs that other patients share go too. The archive itself, copies of the set elsewhere, id maps and
    features stay as they are: remove the patient there as well. Files of theirs that come later are refused.

    Example: ssl-retina withdraw out/shards --patient 65 --runs runs
    """
    from ssl_retina.archive.revision import withdraw as archive
    from ssl_retina.archive.settings import Listener
    from ssl_retina.release import exposure
    from ssl_retina.report import pages

    if runs is not None:
        exposure.check(runs)
    listener = Listener(console.note)
    with listener.during("taking the patient out"):
        done = archive.withdraw(folder, patient, key_file=key_file, site=site)
    with listener.during("making the datasheet"):
        pages.complete(folder)
    found = None if runs is None or not os.path.exists(runs) else exposure.find(runs, done.earlier)
    _tell(done, folder)
    if runs is not None:
        _tell_runs(found, runs)
    if as_json:
        console.result(_result(done, found))


def _result(done: "Withdrawal", found: "list[Exposed] | None") -> dict[str, Any]:
    from ssl_retina.release.exposure import MEANING

    seen = None if found is None else [one.as_json() for one in found]
    named = any(one.kind != "unread" for one in found or ())
    return {**done.as_json(), "seen_by": seen, "meaning": MEANING if named else None}


def _tell(done: "Withdrawal", folder: Path) -> None:
    if done.again:
        console.note(f"this patient was withdrawn from {folder} before: nothing to do")
        return
    if done.samples:
        console.note(
            f"{done.samples:,} photographs taken out ({done.files:,} files with copies and rejected ones), "
            f"{done.left:,} left; shards rewritten: {done.rewritten:,}, removed: {done.removed:,}"
        )
    else:
        _tell_none(done, folder)
    if done.shared:
        console.note(f"  {done.shared:,} of them also lay under {_patients(done.sharers)}: they went too")
    if done.regrouped:
        console.note(f"  {done.regrouped:,} photographs of others stand in another group now")
    console.note("  the archive still holds the files: remove them there too, and in copies and backups")
    console.note(
        "  id maps (shard --id-map) and features (embed) that were written before still name the patient or "
        "match the photographs: remove those files, or write them anew"
    )
    console.note(f"next: ssl-retina inspect {folder}")


def _patients(count: int) -> str:
    return f"{count:,} other patient{'s' if count != 1 else ''}"


def _tell_none(done: "Withdrawal", folder: Path) -> None:
    rejected = f" but {done.files:,} rejected files of theirs, now called withdrawn" if done.files else ""
    console.note(
        f"WARNING: {folder} holds no photograph of this patient{rejected}: nothing was taken out of shards. "
        "A keyed mark of this id is kept: files of theirs that come later are refused. Was the id written as "
        "the table, the file names or the DICOM tags have it (capitals, outer spaces and leading zeros do "
        "not matter; 65 where a table writes 65.0 and no fractions), and --site as the set was made? If not, "
        "run this again with the right one"
    )


def _tell_runs(found: "list[Exposed] | None", runs: Path) -> None:
    from ssl_retina.release.exposure import MEANING

    if found is None:
        console.note(f"WARNING: {runs} does not exist: no run and no export was looked at. Give --runs DIR")
        return
    if not found:
        console.note(f"no run and no export in {runs} names this set")
        return
    for one in found:
        if one.kind == "unread":
            console.note(
                f"  NOT LOOKED INTO: {one.path} (it cannot be listed, or lies too deep): it may hold some"
            )
            continue
        which = f": {', '.join(one.checkpoints)}" if one.checkpoints else ""
        console.note(f"  seen by {one.kind} {one.path}{which}")
    if any(one.kind != "unread" for one in found):
        console.note(MEANING)
