"""A recipe: where the images, patients, eyes and labels of one kind of archive are; checked as a whole.

In: YAML. Out: a frozen `Recipe`, or ConfigError with every mistake, its file and line.
"""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from ssl_retina import labels
from ssl_retina.archive.recipe import text
from ssl_retina.archive.statements import attributes
from ssl_retina.config import Section
from ssl_retina.config_text import Key
from ssl_retina.errors import InputError

ATTRIBUTES = tuple(attributes.PARSERS)
"""What a recipe can state about an image: patient, eye, device, visit, split, modality, age, sex."""


def _glob(value: str) -> str:
    text.glob(value)
    return value


def _pattern(value: str) -> str:
    text.path_pattern(value)
    return value


def _template(value: str) -> str:
    text.template(value)
    return value


def _task(value: str) -> str:
    try:
        labels.parse_task(value)
    except InputError as error:
        raise ValueError(str(error).removeprefix("--task ")) from None
    return value


def _one_or_several(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("at least one")
    return value


def _reason(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z ,-]{1,59}", value):
        raise ValueError("2 to 60 letters, blanks, commas and -: these words stand in the ledger")
    return value


def _page(value: str) -> str:
    if value != "none" and not re.fullmatch(r"https://\S+", value):
        raise ValueError(f"an https:// address, or none, not {value!r}")
    return value


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Reason = Annotated[str, AfterValidator(_reason)]
Page = Annotated[str, AfterValidator(_page)]
Glob = Annotated[str, AfterValidator(_glob)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Template = Annotated[str, AfterValidator(_template)]
Task = Annotated[str, AfterValidator(_task)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_one_or_several), AfterValidator(_some)]
Tasks = Annotated[tuple[Task, ...], AfterValidator(_some)]


class States(Section):
    """What is stated about an image: constants, or templates of a path's parts or a table's columns."""

    patient: Template | None = None
    eye: Template | None = None
    device: Template | None = None
    visit: Template | None = None
    split: Template | None = None
    modality: Template | None = None
    age: Template | None = None
    sex: Template | None = None

    def given(self) -> Iterator[tuple[str, str]]:
        """The attributes that are stated, each with its template."""
        for name in ATTRIBUTES:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def without(self, names: Collection[str]) -> "States":
        """The same, silent about some attributes."""
        return self.model_copy(update=dict.fromkeys(names))


class Skip(Section):
    """Files that are left out. why: short plain words; they stand in the ledger."""

    files: Globs
    why: Reason


class PathRule(Section):
    """What a path states. The first rule that fits a file counts, and names its parts."""

    fits: Pattern
    states: States = States()


class TableRule(Section):
    """What the rows of a table state.

    table: where it lies below the source; of several globs the first that fits a file. required: without it
    there is no run. rows, fits: a row speaks of the images for which both are the same text; `rows` is filled
    from the row's columns, `fits` from the parts of the path.
    """

    table: Globs
    required: bool = True
    rows: Template
    fits: Template = "{stem}"
    states: States


class LabelTable(Section):
    """Graders' labels: they stay where they are, `probe` reads them there.

    table: of several globs the first that fits a file. file, patient, split: columns. images: where names
    are not unique, images that the table speaks of: their folder goes before the name. tasks: as `--task`.
    """

    table: Globs
    file: Words
    images: Globs | None = None
    patient: Words | None = None
    split: Words | None = None
    tasks: Tasks


class Recipe(Section):
    """Everything about one kind of archive; `docs/recipes.md` explains each field."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
    title: Words
    licence: Words
    citation: Words
    page: Page
    consent: Words = "not stated"
    verified: bool
    traps: tuple[Words, ...] = ()
    images: Globs
    skip: tuple[Skip, ...] = ()
    paths: tuple[PathRule, ...] = ()
    tables: tuple[TableRule, ...] = ()
    states: States = States()
    values: dict[str, dict[str, str | None]] = {}
    labels: tuple[LabelTable, ...] = ()
    no_labels: Words | None = None

    def facts(self) -> dict[str, Any]:
        """What an index tells of the recipe that made it."""
        names = ("name", "title", "licence", "citation", "page", "consent", "verified")
        return {name: getattr(self, name) for name in names}

    def without(self, names: Collection[str]) -> "Recipe":
        """The same, silent about some attributes: those that are given by hand."""
        paths = (rule.model_copy(update={"states": rule.states.without(names)}) for rule in self.paths)
        tables = (rule.model_copy(update={"states": rule.states.without(names)}) for rule in self.tables)
        states = {"paths": tuple(paths), "tables": tuple(tables), "states": self.states.without(names)}
        return self.model_copy(update=states)


def crossed(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Mistakes between fields, each with the key it stands at."""
    yield from _unknown_parts(recipe)
    yield from _values(recipe)
    if bool(recipe.labels) == bool(recipe.no_labels):
        yield ("labels",), "either labels, or no_labels with the reason why probe cannot read them"
    asked = {labels.parse_task(task).column for table in recipe.labels for task in table.tasks}
    for number, rule in enumerate(recipe.tables):
        for name, value in (("rows", rule.rows), *rule.states.given()):
            for column in asked & set(text.template(value).fields):
                at = ("tables", str(number), *(() if name == "rows" else ("states",)), name)
                yield at, f"{column!r} is a label of this recipe: labels never go into shards"


def _unknown_parts(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    named: set[str] = set(text.GIVEN_PARTS)
    for number, rule in enumerate(recipe.paths):
        own = set(text.path_pattern(rule.fits).groupindex)
        named |= own
        yield from _states(rule.states, {*text.GIVEN_PARTS, *own}, ("paths", str(number), "states"))
    yield from _states(recipe.states, set(text.GIVEN_PARTS), ("states",))
    for number, table in enumerate(recipe.tables):
        at = ("tables", str(number))
        if not text.template(table.rows).fields:
            yield (*at, "rows"), "names no column, such as {image}"
        yield from _unknown(table.fits, named, (*at, "fits"))
        if not text.template(table.fits).fields:
            yield (*at, "fits"), "names no part of a path, such as {stem}"


def _states(states: States, known: set[str], at: Key) -> Iterator[tuple[Key, str]]:
    for name, value in states.given():
        yield from _unknown(value, known, (*at, name))


def _unknown(value: str, known: set[str], at: Key) -> Iterator[tuple[Key, str]]:
    for field in text.template(value).fields:
        if field not in known:
            yield at, f"no part {field!r} here; there are: {', '.join(sorted(known))}"


def _values(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Value maps and constants must be understood, else they would be dropped in every file."""
    for name, mapping in recipe.values.items():
        if name not in ATTRIBUTES:
            yield ("values", name), f"no such attribute; there are: {', '.join(ATTRIBUTES)}"
            continue
        for written, value in mapping.items():
            if value is not None and not _understood(name, value):
                yield ("values", name, written), f"{value!r} is no known {name}"
    for at, states in _all_states(recipe):
        for name, value in states.given():
            meant = recipe.values.get(name, {}).get(value, value)
            if not text.template(value).fields and meant is not None and not _understood(name, meant):
                yield (*at, name), f"{value!r} is no known {name}"


def _all_states(recipe: Recipe) -> Iterator[tuple[Key, States]]:
    for number, rule in enumerate(recipe.paths):
        yield ("paths", str(number), "states"), rule.states
    for number, table in enumerate(recipe.tables):
        yield ("tables", str(number), "states"), table.states
    yield ("states",), recipe.states


def _understood(name: str, value: str) -> bool:
    return attributes.PARSERS[name](value) not in (None, "unknown")
