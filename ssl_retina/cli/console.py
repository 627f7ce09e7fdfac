"""What every verb prints with: results on stdout, everything else on stderr."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import Progress

NOTES = Console(stderr=True, highlight=False)
LINE_SECONDS = 30.0
"""How often a plain line tells the progress where stderr is no terminal."""


def result(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout: what `--json` promises."""
    json.dump(content, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    NOTES.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told of units done: a bar on a terminal, else a plain line now and then."""
    if NOTES.is_terminal:
        with Progress(console=NOTES, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda units: bar.advance(task, units)
        return
    done, last = 0, time.monotonic()
    begun = last

    def advance(units: int) -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            text = f"{what}: {done}"
            if total:
                text += f" of {total}, about {_spoken((last - begun) * (total - done) / done)} left"
            note(text)

    yield advance


def _spoken(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
