"""Verb `real`: what pretraining is worth on IDRiD and HYGD, on test patients that nothing saw before."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.cli import console

if TYPE_CHECKING:
    from ssl_retina.real.recipes import Budget, Recipe

EPILOG = "Example: ssl-retina real ../shared/data --methods mae,simclr,dinov2 --out out/real"

Data = Annotated[Path | None, typer.Argument(metavar="DATA", help="Folder with idrid/ and hygd/ in it.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[A.B=C ...]", help="With --dev or --vary: values that replace those of the shipped config."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for everything that is made; a second run goes on there.")]
Methods = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="A row a method, by its small config; simclr if not given."),
]
Dev = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Try a recipe inside the training patients; no test label is read."),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A.B=C",
        help="Compare the recipe with this value to the recipe as it stands, inside the training patients; "
        "may be given several times, each alone is compared.",
    ),
]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Pretrainings of each recipe: 3, with --dev 1, if not given.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="train.steps of every recipe, in place of the shipped 400.")
]
Processes = Annotated[int | None, typer.Option(min=1, help="Ranks of a pretraining: 2 if not given.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("real", epilog=EPILOG)(real)


def real(
    data: Data = None,
    overrides: Overrides = None,
    methods: Methods = None,
    dev: Dev = None,
    vary: Vary = None,
    seeds: Seeds = None,
    steps: Steps = None,
    processes: Processes = None,
    out: Out = Path("out/real"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Shard IDRiD and HYGD, hold test patients out, pretrain with three seeds, and judge them once.

    The recipes are configs/pretrain/real_cpu*.yaml: the same encoder, steps and photographs seen for every
    method. One method takes below 40 minutes on two cores without a GPU, more methods as much longer as they
    cost; --seeds and --steps make it less. Nothing is downloaded.
    """
    from ssl_retina.errors import InputError
    from ssl_retina.real import recipes
    from ssl_retina.real.sources import sources

    if data is None:
        raise InputError(
            "say in which folder idrid/ and hygd/ lie: make real DATA=FOLDER, or ssl-retina real FOLDER"
        )
    _check(overrides or [], dev, vary or [], seeds)
    named = recipes.DEFAULT if methods is None else tuple(name.strip() for name in methods.split(","))
    asked = recipes.of_methods(named)
    if (dev or vary) and len(asked) > 1:
        raise InputError("--dev and --vary are about one recipe: name one method")
    budget = recipes.Budget(
        seeds=seeds or (1 if dev else recipes.SEEDS), steps=steps, processes=processes or recipes.PROCESSES
    )
    if dev:
        asked = (asked[0].with_values(overrides or [], name=dev),)
    elif vary:
        asked = recipes.varied(asked[0].with_values(overrides or []), vary)
    sources(data)  # an absent folder is told before torch is loaded, which takes seconds
    result = _go(data, out, asked, budget, dev=dev is not None, vary=bool(vary))
    if as_json:
        console.result(result)
        return
    _print(result)


def _check(overrides: list[str], dev: str | None, vary: list[str], seeds: int | None) -> None:
    """Refuse words that do not go together."""
    from ssl_retina.errors import InputError

    if overrides and dev is None and not vary:
        raise InputError(
            "the final table is of the shipped recipes alone: try another one with --dev NAME, or compare "
            "one value with --vary A.B=C"
        )
    if dev is not None and vary:
        raise InputError("--dev tries one recipe, --vary compares two: give one of them")
    if dev == "":
        raise InputError("--dev: give the recipe a name")
    if any(one.startswith("seed=") for one in (*overrides, *vary)) and (vary or (seeds or 1) > 1):
        raise InputError("seed: the trainings of a recipe have seeds 0, 1 and so on; say how many by --seeds")


def _go(
    data: Path, out: Path, asked: "tuple[Recipe, ...]", budget: "Budget", *, dev: bool, vary: bool
) -> dict[str, Any]:
    from ssl_retina.cli.demo import Told, interruptible
    from ssl_retina.real import judging, path

    listener = Told(path.count(len(asked), budget, baselines=() if vary else judging.BASELINES))
    with interruptible("real"):
        if dev:
            return path.develop(data, out, listener=listener, recipe=asked[0], budget=budget)
        if vary:
            return path.vary(data, out, listener=listener, arms=asked, budget=budget)
        return path.walk(data, out, listener=listener, asked=asked, budget=budget)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssl_retina.real import report

    screen = Console(highlight=False)
    for task in result["tasks"]:
        screen.print(f"\n{report.tested(task)}", markup=False, style="bold")
        for titles, rows in ((report.head(task), report.rows(task)), (report.BETWEEN, report.between(task))):
            table = Table(*titles)
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            if table.row_count:
                screen.print(table)
        for line in report.verdicts(task):
            screen.print(line, markup=False)
    for recipe in result["recipes"]:
        screen.print(report.of_recipe(recipe), markup=False)
    for line in report.limits(result):
        screen.print(line, markup=False)
