"""How `probe` is called with the labels that lie beside the images: the lines at the end of `shard --recipe`.

In: a recipe, its source and the folder of shards. Out: commands to copy.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_retina.archive.recipe.model import LabelTable, Recipe
from ssl_retina.archive.recipe.sorting import first_fitting
from ssl_retina.archive.scan import Found


def commands(recipe: Recipe, source: Path, *, found: Sequence[Found], out: Path) -> Iterator[str]:
    """A `probe` command for each table of labels that is there; else why there is none."""
    told = False
    for table in recipe.labels:
        for number in first_fitting(table.table, found):
            told = True
            path = source / found[number].path
            if path.is_file():
                yield f"labels: {_command(table, path, file=_file(table, found), out=out)}"
            else:
                where = " or ".join(table.table)
                yield f"labels: {where} lies inside a container; probe reads it where it is unpacked"
    if recipe.no_labels:
        yield f"labels: {recipe.no_labels}"
    elif not told:
        where = " or ".join(" or ".join(table.table) for table in recipe.labels)
        yield f"labels: no table {where} here; probe needs one"


def _file(table: LabelTable, found: Sequence[Found]) -> str:
    """`--file`: the column, behind the folder of its images where a name stands in several folders."""
    images = first_fitting(table.images or (), found)
    folder = found[images[0]].path.rpartition("/")[0] if images else ""
    return f"{folder}/{{{table.file}}}" if folder else table.file


def _command(table: LabelTable, path: Path, *, file: str, out: Path) -> str:
    options = [
        *("--data", str(out), "--labels", str(path), "--file", file),
        *(("--patient", table.patient) if table.patient else ()),
        *(("--split", table.split) if table.split else ()),
        *(word for task in table.tasks for word in ("--task", task)),
    ]
    return f"ssl-retina probe WEIGHTS {' '.join(map(shlex.quote, options))} --out out/probe"
