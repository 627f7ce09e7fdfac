"""Verb `real`: what pretraining is worth on IDRiD and HYGD, on test patients that nothing saw before."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina.cli import console

EPILOG = "Example: ssl-retina real ../shared/data --out out/real"
STEPS = 9


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("real", epilog=EPILOG)(real)


def real(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Folder with idrid/ and hygd/ in it.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[A.B=C ...]", help="With --dev: values that replace those of the shipped config."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for everything that is made; a second run goes on there.")
    ] = Path("out/real"),
    dev: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Try a recipe inside the training patients; no test label is read."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Shard IDRiD and HYGD, hold test patients out, pretrain with three seeds, and judge them once.

    The recipe is configs/pretrain/real_cpu.yaml; two cores, no GPU, below 40 minutes. Nothing is downloaded.
    """
    from ssl_retina.cli.demo import Told, interruptible
    from ssl_retina.errors import InputError
    from ssl_retina.real.sources import sources

    if data is None:
        raise InputError(
            "say in which folder idrid/ and hygd/ lie: make real DATA=FOLDER, or ssl-retina real FOLDER"
        )
    if recipe and dev is None:
        raise InputError("the final table is of the shipped recipe alone: try another one with --dev NAME")
    sources(data)  # an absent folder is told before torch is loaded, which takes seconds
    from ssl_retina.real import path

    listener = Told(STEPS if dev is None else 5)
    with interruptible("real"):
        if dev is None:
            result = path.walk(data, out, listener)
        else:
            result = path.develop(data, out, listener, name=dev, recipe=recipe or ())
    if as_json:
        console.result(result)
        return
    _print(result["tasks"])


def _print(tasks: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssl_retina.real import report

    screen = Console(highlight=False)
    for task in tasks:
        screen.print(f"\n{report.tested(task)}", markup=False, style="bold")
        table = Table(*report.HEAD)
        for row in report.rows(task):
            table.add_row(*(Text(cell) for cell in row))
        screen.print(table)
        screen.print(report.verdict(task), markup=False)
    for line in report.LIMITS:
        screen.print(line, markup=False)
