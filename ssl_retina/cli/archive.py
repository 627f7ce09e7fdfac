"""The verb `shard`: an archive of raw files -> de-identified shards. Registers `inspect` too."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_retina.cli import console, inspect

if TYPE_CHECKING:
    from ssl_retina.archive.settings import Totals

SECONDS_BETWEEN_LINES = 10.0

EPILOG = (
    "Example: ssl-retina shard photos --table labels.csv --map 'file=Image Name' --map patient=Patient "
    "--out out/photos"
)

REMARKS = {
    "no_patient": "photographs without a patient id: each is its own group",
    "id_conflict": "photographs that lie under several patients: those patients are one group",
    "split_conflict": "photographs that lie in several splits",
    "eye_conflict": "photographs with contradicting eyes: their eye is unknown",
    "eye_unknown": "photographs without a known eye",
    "unknown_eye": "cells of the eye column that are none of R, L, OD, OS, right, left",
    "unknown_visit": "cells of the visit column without a number or date (year first)",
    "unknown_modality": "cells of the modality column that were not understood",
    "table_rows_without_file": "rows of the table without a file",
    "table_rows_ambiguous": "rows of the table whose bare file name fits several files (give relative paths)",
    "table_rows_of_one_file": "rows of the table that speak of a file again",
    "files_without_table_row": "files without a row in the table",
    "names_unlike_pattern": "file names that do not follow the pattern, or no path rule of the recipe",
    "no_field_of_view": "photographs without a found field of view: nothing of them was made black",
    "device_unknown": "photographs whose device was dropped: no maker's word, or it looks like a person",
    "devices_dropped": "more than 64 different devices: that is free text, none was written",
}

HINTS = {
    "skipped_by_recipe": " (the ledger says which for what reason)",
    "not_retinal": " (no fundus photograph and no OCT; declare them in the table, or --keep-other)",
}


class Chroma(StrEnum):
    """Chroma subsampling of JPEG."""

    HALF = "420"
    FULL = "444"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("shard", epilog=EPILOG)(shard)
    inspect.register(app)


def _list_recipes(named: str | None) -> str | None:
    """Print the shipped recipes where the word is `list`; no SRC is needed for that."""
    if named != "list":
        return named
    from rich.console import Console
    from rich.table import Table

    from ssl_retina.archive import recipe

    screen = Console(highlight=False)
    shown = Table("recipe", "for", "licence", "verified")
    for name in recipe.shipped_names():
        one = recipe.load(name)
        shown.add_row(name, one.title, one.licence, "yes" if one.verified else "no")
    screen.print(shown)
    raise typer.Exit


def shard(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder with the raw files.")],
    out: Annotated[Path, typer.Option(help="Folder for shards, index and ledger.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|list",
            help="Where everything is in a known kind of archive; list shows them all. What is given by "
            "hand counts before it.",
            callback=_list_recipes,
            is_eager=True,
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV about the files; label columns are never taken.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", help="ours=Theirs: file, patient, eye, device, visit, split or modality."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="What bare file names state, such as '{patient}_{eye}'; {_} is skipped."),
    ] = None,
    size: Annotated[int, typer.Option(help="Longest side of a stored image in pixels.")] = 512,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 92,
    chroma: Annotated[Chroma, typer.Option(help="JPEG chroma subsampling.")] = Chroma.HALF,
    lossless: Annotated[bool, typer.Option("--lossless", help="Store PNG.")] = False,
    keep_other: Annotated[
        bool, typer.Option("--keep-other", help="Keep pictures that look like no retina (letters, screens).")
    ] = False,
    site: Annotated[str, typer.Option(help="Name of the site: goes into every pseudonym.")] = "",
    key_file: Annotated[
        Path | None, typer.Option(help="The site's key; default: the user's own, made on first use.")
    ] = None,
    id_map: Annotated[
        Path | None, typer.Option(help="Write the way back from pseudonyms here (0600, keep it safe).")
    ] = None,
    name: Annotated[str, typer.Option(help="How the shards' names begin.")] = "retina",
    samples_per_shard: Annotated[int, typer.Option(help="Images in one tar.")] = 2048,
    processes: Annotated[int | None, typer.Option(help="Worker processes; default: all cores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON on stdout.")] = False,
) -> None:
    """Turn an archive into de-identified WebDataset shards; a second start continues a killed one."""
    from ssl_retina.archive import build
    from ssl_retina.archive import recipe as recipes
    from ssl_retina.archive.encode import Encoding
    from ssl_retina.archive.table import parse_map
    from ssl_retina.errors import InterruptedRunError

    settings = build.Settings(
        recipe=None if recipe is None else recipes.load(recipe),
        table=table,
        columns=parse_map(columns or []),
        pattern=pattern,
        size=size,
        encoding=Encoding(quality, chroma.value, lossless),
        samples_per_shard=samples_per_shard,
        keep_other=keep_other,
        site=site,
        name=name,
        key_file=key_file,
        id_map=id_map,
        processes=processes,
    )
    advice: list[str] = []
    try:
        with _progress() as progress:
            listener = build.Listener(console.note, progress, advice.append)
            totals = build.build(source, out, settings, listener)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; the same command continues") from None
    _summary(totals, out)
    for line in advice:
        console.note(line)
    if json:
        console.result(totals.counts())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, otherwise a plain line now and then."""
    if not console.NOTES.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console.NOTES) as bar:
        task = bar.add_task("files", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines() -> Callable[[int, int], None]:
    began = time.monotonic()
    last = began

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last = now
            console.note(f"{done:,} of {total:,} files, {now - began:.0f} s")

    return line


def _summary(totals: "Totals", out: Path) -> None:
    counts = totals.counts()
    shown = ", ".join(f"{counts[name]:,} {name}" for name in ("scanned", "written", "rejected", "duplicates"))
    console.note(f"{shown}; {totals.patients:,} patients; shards: {totals.shards:,} in {out}")
    for reason, count in sorted(totals.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        console.note(f"  rejected {count:,}: {reason}{HINTS.get(reason, '')}")
    left_out = totals.reasons.get("skipped_by_recipe", 0)
    if 2 * (counts["rejected"] - left_out) > counts["scanned"] - left_out:
        console.note("WARNING: more than half of the files were rejected: is this the right folder?")
    for remark, count in sorted(totals.remarks.items()):
        console.note(f"  {count:,} {REMARKS.get(remark, remark)}")
    if not totals.patients:
        console.note("  no patient ids: statistics will be image-level (probe --patient none)")
    console.note(f"next: ssl-retina inspect {out}")
