"""`--task NAME=SPEC` and a labels file -> a class for each row, and in words what counts as positive."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_retina.errors import InputError
from ssl_retina.labels.table import Table

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none"))
LEVELS = 20
LISTED = 10

Kind = Literal["binary", "ordinal", "classes"]


@dataclass(frozen=True)
class Task:
    """One question to a labels file; `rule` is what makes a positive, or how the column is read."""

    name: str
    spec: str
    column: str
    rule: Literal["equals", ">=", "<=", ">", "<", "ordinal", "column"]
    value: str = ""


def parse_task(text: str) -> Task:
    """Read `NAME=SPEC`: `Label:GON+`, `dr_grade>=2`, `dr_grade:ordinal` or a bare column."""
    name, equals, spec = text.partition("=")
    if not equals or not spec or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise InputError(
            f"--task {text!r}: a task is written NAME=SPEC, such as glaucoma=Label:GON+, "
            "referable=dr_grade>=2, grade=dr_grade:ordinal or disease=disease"
        )
    threshold = re.fullmatch(r"(.+?)\s*(>=|<=|>|<)\s*([-+]?\d+(?:\.\d+)?)", spec)
    if threshold:
        column, rule, value = threshold.groups()
        return Task(name, spec, column.strip(), rule, value)  # type: ignore[arg-type]
    column, colon, value = (part.strip() for part in spec.rpartition(":"))
    if colon and value == "ordinal":
        return Task(name, spec, column, "ordinal")
    return Task(name, spec, column, "equals", value) if colon else Task(name, spec, spec, "column")


@dataclass(frozen=True)
class Target:
    """What a task asks of each row of a labels file.

    values: (rows,) int64, the class of each row, -1 where the file says nothing.
    classes: their names; of a binary task (negative, positive).
    """

    task: Task
    kind: Kind
    classes: tuple[str, ...]
    values: NDArray[np.int64]

    @property
    def positive(self) -> str:
        """What counts as positive, or which classes there are, in words."""
        if self.kind == "binary":
            return self.classes[1]
        return ("grades " if self.kind == "ordinal" else "classes ") + ", ".join(self.classes)


def target(task: Task, table: Table) -> Target:
    """Read a task's column. Raises InputError where its values do not fit the task."""
    cells = table.column(task.column)
    known = np.array([cell.casefold() not in MISSING for cell in cells])
    if not known.any():
        raise InputError(f"task {task.name}: column {task.column!r} is empty")
    if task.rule == "equals":
        return _equals(task, cells, known)
    if task.rule in (">=", "<=", ">", "<"):
        return _threshold(task, cells, known)
    return _levels(task, cells, known)


def _equals(task: Task, cells: Sequence[str], known: NDArray[np.bool_]) -> Target:
    values = np.where(known, np.array([cell == task.value for cell in cells], np.int64), -1)
    if not (values == 1).any():
        raise InputError(
            f"task {task.name}: column {task.column!r} never holds {task.value!r}; it holds {listed(cells)}"
        )
    if not (values == 0).any():
        raise InputError(_one_class(task, f"only {task.value!r}"))
    return Target(task, "binary", (f"not {task.value}", f"{task.column} = {task.value}"), values)


def _one_class(task: Task, held: str) -> str:
    return f"task {task.name}: column {task.column!r} holds {held}, and a task needs two classes"


def listed(cells: Sequence[str]) -> str:
    """The values of a column for a message; only how many where they are many: they may be ids (law 8)."""
    found = sorted(set(cells))
    return ", ".join(map(repr, found)) if len(found) <= LISTED else f"{len(found)} different values"


def _threshold(task: Task, cells: Sequence[str], known: NDArray[np.bool_]) -> Target:
    numbers, limit = _numbers(task, cells, known), float(task.value)
    compare = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}[task.rule]
    values = np.where(known, compare(numbers, limit), -1).astype(np.int64)
    named = f"{task.column} {task.rule} {task.value}"
    if len(sides := set(values.tolist()) - {-1}) < 2:
        raise InputError(
            _one_class(task, f"{'only' if 1 in sides else 'no'} values {task.rule} {task.value}")
        )
    return Target(task, "binary", (f"not {named}", named), values)


def _levels(task: Task, cells: Sequence[str], known: NDArray[np.bool_]) -> Target:
    """A column as it stands: two values are a binary task, more are classes, or grades if ordinal."""
    ordinal = task.rule == "ordinal"
    found = {cell for cell, there in zip(cells, known, strict=True) if there}
    numeric = ordinal or all(_number(cell) is not None for cell in found)
    keys: list[Any]
    if numeric:
        keys = [float(number) for number in _numbers(task, cells, known)]
    else:
        keys = list(cells)
    levels = sorted({key for key, there in zip(keys, known, strict=True) if there})
    if len(levels) > LEVELS:
        raise InputError(
            f"task {task.name}: column {task.column!r} holds {len(levels)} different values, not classes; "
            f"ask for a threshold ({task.column}>=NUMBER) or one value ({task.column}:VALUE)"
        )
    if len(levels) < 2:
        raise InputError(_one_class(task, "one value only"))
    place = {level: number for number, level in enumerate(levels)}
    values = np.array([place[key] if there else -1 for key, there in zip(keys, known, strict=True)], np.int64)
    names = tuple(f"{level:g}" if numeric else str(level) for level in levels)
    if ordinal:
        return Target(task, "ordinal", names, values)
    if len(names) > 2:
        return Target(task, "classes", names, values)
    return Target(task, "binary", (names[0], f"{task.column} = {names[1]}"), values)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _numbers(task: Task, cells: Sequence[str], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The column as numbers, NaN where the cell is missing; text in it is an error that counts it."""
    numbers = [_number(cell) for cell in cells]
    wrong = sum(number is None and there for number, there in zip(numbers, known, strict=True))
    if wrong:
        raise InputError(
            f"task {task.name}: {wrong} values of column {task.column!r} are not numbers; "
            f"use {task.column}:VALUE for a column of words"
        )
    return np.array([np.nan if number is None else number for number in numbers])
