"""The verb `shard`: raw files -> de-identified shards. Registers `inspect` and `withdraw` too."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.archive.filters import Balance, Filters, NearDuplicates
from ssl_retina.cli import archive_words, console, inspect, withdraw

if TYPE_CHECKING:
    from ssl_retina.archive.settings import Listener, Totals

SECONDS_BETWEEN_LINES = 10.0

EPILOG = (
    "Example: ssl-retina shard photos --table labels.csv --map 'file=Image Name' --map patient=Patient "
    "--out out/photos"
)


class MinQuality(StrEnum):
    """The lowest class of quality that is written."""

    USABLE = "usable"
    GOOD = "good"


class Chroma(StrEnum):
    """Chroma subsampling of JPEG."""

    HALF = "420"
    FULL = "444"


class Pages(StrEnum):
    """What to do with several pages."""

    REFUSE = "refuse"
    FIRST = "first"
    ALL = "all"


class Dates(StrEnum):
    """What is written of a visit's date."""

    ORDER = "order"
    SHIFT = "shift"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("shard", epilog=EPILOG)(shard)
    inspect.register(app)
    withdraw.register(app)


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
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder, .zip, .tar, .tar.gz or .tgz of raw files.")
    ],
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
        Path | None, typer.Option(help="CSV, Excel or Parquet about the files; labels are never taken.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="ours=Theirs: file, patient, eye, device, visit, split, modality, age or sex."
        ),
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
    frames: Annotated[
        str, typer.Option(help="B-scans taken of an OCT volume: all, every-N or central-N.")
    ] = "all",
    pages: Annotated[
        Pages, typer.Option(help="What to do with a TIFF or GIF of several pages.")
    ] = Pages.REFUSE,
    also: Annotated[
        str,
        typer.Option(help="DICOM kinds that are read only when asked for: vl (photographs), sc (captures)."),
    ] = "",
    full_decode: Annotated[
        bool,
        typer.Option(
            "--full-decode",
            help="Decode JPEGs of more than three times --size in full, not at 1/2, 1/4 or 1/8: slower, and "
            "a copy in another format is an exact duplicate, no near one.",
        ),
    ] = False,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Keep scans and photographs without a rim that bear letters.")
    ] = False,
    ocr: Annotated[
        bool,
        typer.Option(
            "--ocr", help="Reject every picture in which words can be read, photographs included (extra ocr)."
        ),
    ] = False,
    near_duplicates: Annotated[
        NearDuplicates,
        typer.Option(help="Copies that were resized, cropped, lit or mirrored: mark, merge or off."),
    ] = NearDuplicates.MARK,
    min_quality: Annotated[
        MinQuality | None, typer.Option(help="Reject photographs below this class; default: keep all.")
    ] = None,
    balance: Annotated[
        Balance | None, typer.Option(help="Write sampling weights that make these equally frequent.")
    ] = None,
    rare: Annotated[
        str | None,
        typer.Option(help="No filter takes these out: device=NAME, or clusters=0.05 for the rarest 5 %."),
    ] = None,
    site: Annotated[str, typer.Option(help="Name of the site: goes into every pseudonym.")] = "",
    key_file: Annotated[
        Path | None, typer.Option(help="The site's key; default: the user's own, made on first use.")
    ] = None,
    id_map: Annotated[
        Path | None, typer.Option(help="Write the way back from pseudonyms here (0600, keep it safe).")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Rare age, sex, visits, device: unknown below k patients (5 if age or sex are mapped)."
        ),
    ] = None,
    dates: Annotated[
        Dates, typer.Option(help="order: of visits alone. shift: also days since the patient's first visit.")
    ] = Dates.ORDER,
    name: Annotated[str, typer.Option(help="How the shards' names begin.")] = "retina",
    samples_per_shard: Annotated[int, typer.Option(help="Images in one tar.")] = 2048,
    processes: Annotated[int | None, typer.Option(help="Worker processes; default: all cores.")] = None,
    part: Annotated[
        str | None,
        typer.Option("--slice", help="Make the i-th of n parts of the work (i/n), for SLURM arrays."),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="The archive has grown: add shards of its new files to the set.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put the slices together; refused while one is missing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON on stdout.")] = False,
) -> None:
    """Turn an archive into de-identified WebDataset shards; a second start continues a killed one."""
    from ssl_retina.archive import build
    from ssl_retina.archive import recipe as recipes
    from ssl_retina.archive.pixels.encode import Encoding
    from ssl_retina.archive.selection import Selection
    from ssl_retina.archive.statements.table import parse_map

    way = _way(part, append=append, merge=merge, id_map=id_map)
    settings = build.Settings(
        recipe=None if recipe is None else recipes.load(recipe),
        table=table,
        columns=parse_map(columns or []),
        pattern=pattern,
        size=size,
        encoding=Encoding(quality, chroma.value, lossless),
        samples_per_shard=samples_per_shard,
        keep_other=keep_other,
        selection=Selection(frames, pages.value, tuple(filter(None, also.split(",")))),
        full_decode=full_decode,
        keep_text=keep_text,
        ocr=ocr,
        filters=Filters(near_duplicates, str(min_quality or "reject"), balance, rare),
        site=site,
        name=name,
        key_file=key_file,
        k=k,
        dates=dates.value,
        id_map=id_map,
        processes=processes,
    )
    advice: list[str] = []
    with _progress() as progress:
        listener = build.Listener(console.note, progress, advice.append)
        totals = way(source, out, settings, listener)
    if isinstance(totals, int):
        archive_words.slice_made(str(part), totals)
        result = {"slice": part, "files": totals}
    else:
        result = _told(totals, out, listener, advice)
    if json:
        console.result(result)


def _told(totals: "Totals", out: Path, listener: "Listener", advice: Sequence[str]) -> dict[str, Any]:
    """Make the pages of a set and tell what became of every file; the object of `--json`."""
    from ssl_retina.report import pages

    with listener.during("making the datasheet"):
        pages.complete(out)
    return archive_words.summary(totals, out, advice)


def _way(
    part: str | None, *, append: bool, merge: bool, id_map: Path | None
) -> "Callable[..., Totals | int]":
    """What makes the shards; a slice gives the number of its files."""
    from ssl_retina.archive import build, slices
    from ssl_retina.archive.revision import append as grown
    from ssl_retina.errors import InputError

    if (part is not None) + append + merge > 1 or (id_map is not None and (append or part is not None)):
        raise InputError("one of --slice, --merge and --append at a time; --id-map belongs to the last step")
    if part is not None:
        own = slices.parse(part)
        return lambda source, out, settings, listener: build.build_slice(source, out, settings, own, listener)
    return grown.append if append else build.merge if merge else build.build


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, otherwise a plain line now and then; Ctrl-C becomes a sentence."""
    from ssl_retina.errors import InterruptedRunError

    try:
        with _shown() as progress:
            yield progress
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; the same command continues") from None


@contextmanager
def _shown() -> Iterator[Callable[[int, int], None]]:
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
