"""The verb `dedup`: which samples of one set are copies of samples of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_retina.cli import console

if TYPE_CHECKING:
    from ssl_retina.shards import Index

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
    if _decoded(own) != _decoded(other):
        console.note(
            "WARNING: the sets were made with another --size or --full-decode: of large JPEGs exact copies "
            "are found as near ones, and of OCT and other pictures none. Make both with --full-decode"
        )
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


def _decoded(index: "Index") -> tuple[object, ...]:
    """What decides at which scale a large JPEG was decoded, and so what its digest is of."""
    made = index.facts.get("made_from", {})
    return (0,) if made.get("full_decode") else (made.get("size"), made.get("full_decode"))
