"""Verb `demo`: the whole path on a synthetic archive, offline, two cores, under five minutes."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.cli import console

if TYPE_CHECKING:
    from rich.console import Console

STEPS = 8
EPILOG = "Example: ssl-retina demo --out out/demo"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("demo", epilog=EPILOG)(demo)


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for everything the demo makes; a second run goes on there.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Go the whole path on a drawn archive: shard, inspect, pretrain, export, probe, and a page about it.

    Offline, without a GPU, under five minutes on two cores. Each step is shown as the command that does it.
    """
    from ssl_retina.demo import path

    with interruptible("demo"):
        record = path.walk(out, Told(STEPS))
    if as_json:
        console.result(record)
        return
    _print(record)


@contextlib.contextmanager
def interruptible(name: str) -> Iterator[None]:
    """Let a signal end the step that runs, so that it can save; the same command goes on from there."""
    from ssl_retina.errors import InterruptedRunError

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted; the same {name} command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    """On SIGTERM: out through every `finally`, so that the step that runs can save."""
    del frame
    sys.exit(128 + number)


class Told:
    """Tells the person at the terminal, on stderr, what is done and with which command; `steps` in all."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def note(self, text: str) -> None:
        """A line before the first step."""
        console.NOTES.print(text, style="cyan", markup=False, soft_wrap=True)

    def begin(self, number: int, name: str, what: str, command: str) -> None:
        """One heading, and the command to type."""
        console.NOTES.print(
            f"\n[{number}/{self._steps}] {name}: {what}", style="bold", markup=False, soft_wrap=True
        )
        if command:
            console.NOTES.print(f"$ {command}", style="cyan", markup=False, soft_wrap=True)

    def end(self, number: int, summary: str, seconds: float) -> None:
        """What came of it."""
        del number
        console.NOTES.print(f"-> {summary}  ({seconds:.0f} s)", style="green", markup=False, soft_wrap=True)


def _print(record: dict[str, Any]) -> None:
    """The table and what it proves, on stdout."""
    from rich.console import Console

    from ssl_retina.probe import report

    screen = Console(highlight=False)
    task = record["task"]
    screen.print()
    screen.print(f"{task['name']}: {_asked(task)}", markup=False, style="bold")
    _table(screen, task, report.shown)
    screen.print(record["verdict"]["sentence"], markup=False)
    screen.print(f"\n{record['seconds']:.0f} seconds in all. The page: {record['page']}", markup=False)
    screen.print("Your own archive begins with: ssl-retina shard PHOTOGRAPHS --out SHARDS", markup=False)


def _asked(task: dict[str, Any]) -> str:
    return (
        f"AUROC of a logistic probe, {task['tested_images']} photographs of {task['tested_patients']} "
        "patients, 95 % intervals over patients"
    )


def _table(screen: "Console", task: dict[str, Any], shown: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("weights", "AUROC", "the export less this")
    differences = {one["against"]: one for one in task["differences"] if one["probe"] == "logistic"}
    for one in task["results"]:
        if one["probe"] != "logistic":
            continue
        name = one["weights"]
        less = shown(differences[name]["metrics"]["auroc"], sign="+") if name in differences else ""
        table.add_row(Text(name), shown(one["metrics"]["auroc"]), less)
    screen.print(table)
