"""The verb `probe`: what weights are worth on a small labelled set, with intervals over patients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.cli import console
from ssl_retina.cli.options import (
    Exclude,
    FileColumn,
    KeyFile,
    Labels,
    Patient,
    Resamples,
    ResultAsJson,
    Shards,
    Split,
)

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = (
    "Example: ssl-retina probe out/model random mean-colour pixel-pca --data out/shards --labels labels.csv "
    "--task glaucoma=Label:GON+ --patient Patient --out out/probe"
)

STRADDLING = "straddling.txt"


class LeaveOut(StrEnum):
    """What whole kinds of photographs are told apart by."""

    DEVICE = "device"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("probe", epilog=EPILOG)(probe)


def probe(
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="WEIGHTS...",
            help="Folder of an export, a timm name, random, mean-colour or pixel-pca; the first is compared "
            "with each other one.",
        ),
    ],
    data: Shards,
    labels: Labels,
    task: Annotated[
        list[str],
        typer.Option(
            help="NAME=SPEC; SPEC is COLUMN:VALUE, COLUMN>=NUMBER, COLUMN:ordinal or a column. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for probe.json, report.md and probe.png.")],
    patient: Patient = None,
    split: Split = None,
    file: FileColumn = None,
    key_file: KeyFile = None,
    exclude: Exclude = None,
    leave_out: Annotated[
        LeaveOut | None,
        typer.Option(
            help="Score each device by probes that never saw it nor its patients, instead of folds."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, resamples and random weights.")] = 0,
    resamples: Resamples = 2000,
    json: ResultAsJson = False,
) -> None:
    """Judge frozen features by logistic regression and kNN: AUROC, AUPRC, kappa, paired differences."""
    from ssl_retina import files
    from ssl_retina.probe import run
    from ssl_retina.probe.material import Settings

    files.claim_folder(out, ("probe.json", "probe.png", STRADDLING, files.LOCK_NAME), "a probe's output")
    left_out = leave_out and leave_out.value
    settings = Settings(data, labels, patient, split, file, key_file, exclude, left_out)
    with straddling_listed(out), _progress() as advance:
        result = run.probe(weights, task, settings, resamples=resamples, seed=seed, advance=advance)
    _write(result, out)
    if json:
        console.result(result)
    else:
        show(result)
    console.note(f"written: {out / 'probe.json'}, report.md, probe.png")


@contextmanager
def straddling_listed(out: Path) -> Iterator[None]:
    """Write a file for `--exclude` where patients lie in training and in test, and name it."""
    from ssl_retina import files
    from ssl_retina.errors import StateError
    from ssl_retina.probe.splits import StraddlingError

    try:
        yield
    except StraddlingError as error:
        path = out / STRADDLING
        files.write_bytes(path, "".join(f"{key}\n" for key in error.keys).encode())
        raise StateError(f"{error}. {path} lists all {len(error.keys)}: --exclude {path}") from None


def _write(result: dict[str, Any], out: Path) -> None:
    """Write the three files, `probe.json` last."""
    from ssl_retina import files
    from ssl_retina.probe import report

    out.mkdir(parents=True, exist_ok=True)
    with files.lock(out):
        with files.whole(out / "probe.png") as temporary:
            report.figure(result, temporary)
        files.write_bytes(out / "report.md", report.markdown(result).encode())
        files.write_json(out / "probe.json", result)


def show(result: dict[str, Any]) -> None:
    """Print the tables and what has to be read with them."""
    from rich.console import Console

    from ssl_retina.probe import report

    screen = Console(highlight=False)
    for task in result["tasks"]:
        screen.print(report.heading(task, result["level"]), markup=False, style="bold")
        _table(screen, list(report.rows(task)))
        if "by_device" in task:
            _table(screen, list(report.device_rows(task)))
        if task["differences"]:
            _table(screen, list(report.difference_rows(task)))
    for line in report.footer(result):
        screen.print(line, markup=False)


def _table(screen: "Console", rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in rows[0]:
        table.add_column(Text(name))
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    screen.print(table)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A line that counts on a terminal, otherwise one line for each WEIGHTS."""
    if not console.NOTES.is_terminal:
        told: set[str] = set()

        def tell(name: str, done: int) -> None:
            if name not in told:
                told.add(name)
                console.note(f"features of {name} ...")

        yield tell
        return
    with console.NOTES.status("reading labels") as status:
        yield lambda name, done: status.update(f"features of {name}: {done} photographs")
