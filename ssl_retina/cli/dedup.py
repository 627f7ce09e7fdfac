"""The verb `dedup`: which samples of one set are copies of samples of another."""

from pathlib import Path
from typing import Annotated

import typer

from ssl_retina.cli import console

EPILOG = "Example: ssl-retina dedup out/train --against out/test --out exclude.txt"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("dedup", epilog=EPILOG)(dedup)


def dedup(
    folder: Annotated[Path, typer.Argument(metavar="SHARDS", help="The set that loses its copies.")],
    against: Annotated[Path, typer.Option(help="The set that stays whole, such as a test set.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the keys here, one a line: data.exclude takes the file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List samples with the same pixels as one of another set, or resized, cropped, lit, mirrored copies."""
    from ssl_retina import files, shards
    from ssl_retina.archive.duplicates import against as comparison
    from ssl_retina.errors import InputError

    own, other = shards.read_index(folder), shards.read_index(against)
    with console.progress("looked at", own.samples + other.samples) as advance:
        copies = comparison.find(own, other, advance=advance)
    if out is not None:
        try:
            files.write_bytes(out, copies.listing().encode())
        except OSError as error:
            raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from None
    console.note(
        f"of {own.samples:,} samples {len(copies.exact):,} are exact and {len(copies.near):,} near "
        f"duplicates of the {other.samples:,} of {against}"
    )
    if as_json:
        console.result({"samples": own.samples, "exact": list(copies.exact), "near": list(copies.near)})
    elif out is None:
        for key in (*copies.exact, *copies.near):
            print(key)
