"""The verb `balance`: weights of a complete set by what a first checkpoint sees in it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_retina.cli import console, options

if TYPE_CHECKING:
    from ssl_retina.archive.revision.balance import Balanced

EPILOG = "Example: ssl-retina balance out/shards --embeddings out/features.parquet"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("balance", epilog=EPILOG)(balance)


def balance(
    folder: Annotated[Path, typer.Argument(metavar="SHARDS", help="The set.")],
    embeddings: Annotated[
        Path | None, typer.Option(help="What ssl-retina embed wrote for this set: clusters of these vectors.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back the clusters and weights of ssl-retina shard.")
    ] = False,
    as_json: options.ResultAsJson = False,
) -> None:
    """Draw photographs of every cluster equally often: writes index, table and manifest, and no shard.

    Runs that are trained on the set know it by its index: finish them first. The rare stratum stays as the
    archive step chose it. Killed, the same command finishes.
    """
    from ssl_retina.archive.revision import balance as archive
    from ssl_retina.archive.settings import Listener
    from ssl_retina.errors import InputError
    from ssl_retina.report import pages

    if (embeddings is None) == (not undo):
        raise InputError("give --embeddings FILE (of ssl-retina embed), or --undo")
    listener = Listener(console.note)
    with listener.during("drawing weights"):
        done = archive.undo(folder) if embeddings is None else archive.by_embeddings(folder, embeddings)
    with listener.during("making the datasheet"):
        pages.complete(folder)
    _tell(done, folder)
    if as_json:
        console.result(done.as_json())


def _tell(done: "Balanced", folder: Path) -> None:
    if not done.changed:
        console.note(f"{folder} has these weights already: nothing to do")
    if done.balance is None:
        console.note("no weights: every photograph is drawn equally often")
        return
    sizes = ", ".join(f"{word} {size:,}" for word, size in done.sizes.items())
    console.note(f"drawn equally often, by {done.balance}: {sizes}")
    console.note(f"  the largest weight is {done.heaviest:,.2f} (1 is the mean)")
    console.note(f"next: ssl-retina inspect {folder}")
