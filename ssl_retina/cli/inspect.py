"""Verb `inspect`: what a folder of shards holds, and everything that is wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_retina.cli import console

if TYPE_CHECKING:
    from ssl_retina.data.inspection import Report

WORDS_SHOWN = 12
PROOF = {
    "manifest": "manifest.json: source files, settings, key, ledger, shards and index are one chain",
    "none": "no manifest.json: an earlier version or another tool made the set, from what is not proven",
    "broken": "manifest.json: the chain is broken, see below",
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("inspect")(inspect)


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The shards.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    write_index: Annotated[
        bool, typer.Option("--write-index", help="First index the tars: makes any WebDataset readable here.")
    ] = False,
    datasheet: Annotated[
        Path | None, typer.Option(help="Also write a page (HTML) about the set here; it shows photographs.")
    ] = None,
) -> None:
    """Verify shards: counts, hashes, structure, every image decoded; show what they hold.

    All damage is named at once, by shard and sample; the exit code is 4 if there is any.

    Example: ssl-retina inspect out/shards --json
    """
    from ssl_retina.errors import ShardError

    try:
        report = _looked_at(folder, write_index)
    except OSError as error:
        where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        raise ShardError(f"{folder}{where} cannot be read or written: {error.strerror or error}") from None
    if as_json:
        console.result(report.as_json())
    else:
        _show(report)
    if report.damage:
        listed = "\n".join(f"  {sentence}" for sentence in report.damage)
        raise ShardError(f"{len(report.damage)} findings in {folder}\n{listed}")
    if datasheet is not None:
        _write_datasheet(folder, datasheet)


def _write_datasheet(folder: Path, path: Path) -> None:
    from ssl_retina import shards
    from ssl_retina.archive.settings import Listener
    from ssl_retina.errors import InputError
    from ssl_retina.report import datasheet

    try:
        with Listener(console.note).during("making the datasheet"):
            datasheet.write(shards.read_index(folder), path)
    except OSError as error:
        raise InputError(f"--datasheet {path} cannot be written: {error.strerror or error}") from None
    console.note(f"datasheet: {path}")


def _looked_at(folder: Path, write_index: bool) -> "Report":
    from ssl_retina import shards
    from ssl_retina.data import inspection

    if write_index:
        with console.progress("indexed", None) as advance:
            index = inspection.write_index(folder, advance=advance)
        console.note(f"{folder / shards.INDEX_NAME} written: {index.samples} samples")
    total = shards.read_index(folder).samples
    with console.progress("inspected", total) as advance:
        return inspection.inspect(folder, advance=advance)


def _show(report: "Report") -> None:
    """The report as lines for a person."""
    print(f"samples   {report.samples} in {report.shards} shards, {report.bytes / 1e6:.1f} MB")
    print(f"patients  {_patients(report)}")
    for column, words in report.columns.items():
        print(f"{column:9} {_counts({word or 'not declared': count for word, count in words.items()})}")
    print(f"pixels    {_counts(report.sizes)}")
    if report.ignored:
        print(f"ignored   {_counts({f'.{suffix}': count for suffix, count in report.ignored.items()})}")
    print(f"index     {report.digest}")
    print(f"proof     {PROOF[report.proof]}")
    print("damage    none" if not report.damage else f"damage    {len(report.damage)} findings")


def _patients(report: "Report") -> str:
    """How many patients, and groups where these are others; a foreign set may have groups only."""
    if not report.patients:
        alone = report.groups == report.samples
        return "unknown: each photograph its own group" if alone else f"unknown, {report.groups} groups"
    if report.groups == report.patients:
        return str(report.patients)
    lone = " (photographs without a patient count too)" if report.groups > report.patients else ""
    return f"{report.patients}, {report.groups} groups that share no photograph{lone}"


def _counts(words: Mapping[str, int]) -> str:
    """`fundus 60, oct 4`: the most frequent first, a long rest as a number."""
    ordered = sorted(words.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{word} {count}" for word, count in ordered[:WORDS_SHOWN])
    rest = len(ordered) - WORDS_SHOWN
    return shown + (f", and {rest} others" if rest > 0 else "")
