"""What the person at the terminal sees of a run: a bar where there is a terminal, a line now and then else.

Everything goes to stderr, from the first rank only; the other ranks hold a terminal that says nothing.
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS = 30.0
"""A plain line at most this often; the first and the last always."""


class Terminal:
    """Notes and progress of one run of `total` steps."""

    def __init__(self, total: int, *, speaks: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._total = total
        self._speaks = speaks
        self._last_line = -SECONDS
        self._bar: Progress | None = None

    def lengthen(self, total: int) -> None:
        """The run will end at another step: it went back."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=total)

    def start(self, step: int) -> None:
        """Begin to show progress at `step`."""
        if self._speaks and self._console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self._console)
            self._bar.add_task("", total=self._total, completed=step)
            self._bar.start()

    def say(self, text: str) -> None:
        """One note."""
        if self._speaks:
            self._console.print(text, markup=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """The run stands at `step`."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Show a logged step."""
        if not self._speaks:
            return
        text = sentence(line)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=line["step"], description=text)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS or line["step"] == self._total:
            self._last_line = now
            self.say(f"step {line['step']}/{self._total}  {text}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def sentence(line: Mapping[str, Any]) -> str:
    """The few numbers of a line that a person watches."""
    clock = line.get("clock", {})
    shown = (
        ("loss", line.get("loss"), "{:.4f}"),
        ("held-out", line.get("held_out_loss"), "{:.4f}"),
        ("lr", line.get("learning_rate"), "{:.2e}"),
        ("rank", line.get("feature_rank"), "{:.1f}"),
        ("images/s", clock.get("images_per_second"), "{:.1f}"),
        ("data wait", clock.get("data_wait"), "{:.0%}"),
        ("skipped", line.get("skipped") or None, "{:d}"),
    )
    return "  ".join(f"{name} {form.format(value)}" for name, value, form in shown if value is not None)
