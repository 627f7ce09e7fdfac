"""What a recipe states about each image: its tables first, then the image's path, then its constants.

In: sorted files and the tables beside them. Out: `Stated` for the build, and counts of what fitted nothing.
Two sources that name different patients for one image are an error: patients would straddle splits.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssl_retina import labels, pseudonyms
from ssl_retina.archive.recipe import text
from ssl_retina.archive.recipe.model import ATTRIBUTES, Recipe, States, TableRule
from ssl_retina.archive.recipe.sorting import Image, Sorted, first_fitting, sort
from ssl_retina.archive.scan import Found
from ssl_retina.archive.statements import attributes, cells
from ssl_retina.archive.statements import table as archive_table
from ssl_retina.archive.statements.attributes import Attributes
from ssl_retina.archive.statements.matching import Stated
from ssl_retina.errors import InputError

UNKNOWN = "unknown"
SHOWN = 3
Said = dict[str, str]
"""Attribute -> what is stated about it, as text."""


@dataclass(frozen=True)
class Applied:
    """found: the scan, sorted out. stated: about each image. remarks: counts. notes: lines for a person."""

    found: list[Found]
    stated: Stated
    remarks: Counter[str]
    notes: tuple[str, ...]


def apply(recipe: Recipe, source: Path, found: Sequence[Found], overridden: Collection[str] = ()) -> Applied:
    """Sort the files of a source and state what the recipe knows of them.

    overridden: attributes that are given by hand for all files; the recipe is silent about them. Raises
    InputError where no file is an image of the recipe, a table that it needs is absent or has other columns,
    or its sources contradict each other about a patient.
    """
    recipe = recipe.without(overridden)
    done = sort(recipe, found)
    if not done.kept:
        raise InputError(_no_image(recipe))
    counts: Counter[str] = Counter()
    tables, absent = _tables(recipe, source, found=found, counts=counts)
    texts = _texts(recipe, done, tables=tables, counts=counts)
    _refuse_contradictions(recipe, counts)
    titles = {name: f"the {name} that the recipe {recipe.name} states" for name in texts}
    values, unknown = cells.parse(texts, titles)
    counts.update({f"unknown_{name}": count for name, count in unknown.items()})
    counts["unknown_eye"] -= counts["eye_conflict"]
    stated = {
        number: Attributes(**{name: column[at] for name, column in values.items()})
        for at, number in enumerate(done.kept)
    }
    return Applied(done.found, stated, +counts, (*_notes(recipe, done), *absent))


def _texts(
    recipe: Recipe, done: Sorted, *, tables: Sequence["_Table"], counts: Counter[str]
) -> dict[str, list[str]]:
    """Attribute -> what is said of each image; counted is what fitted nothing."""
    texts: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    there = any(table.rows for table in tables)
    for image in done.images():
        rows = [(table.title, table.of(image)) for table in tables]
        said = _said(recipe, image, rows=rows, counts=counts)
        for name in ATTRIBUTES:
            texts[name].append(said.get(name, ""))
        counts["files_without_table_row"] += there and not any(row for _, row in rows)
        counts["names_unlike_pattern"] += bool(recipe.paths) and image.rule is None
    counts["eye_conflict"] = texts["eye"].count(UNKNOWN)
    counts["table_rows_without_file"] = sum(len(table.rows) - len(table.used) for table in tables)
    return texts


@dataclass
class _Table:
    """One table's rows by what they speak of, and which of them found an image."""

    rule: TableRule
    title: str
    rows: dict[str, Said] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def of(self, image: Image) -> Said:
        """What the table says of an image, or nothing."""
        key = pseudonyms.normalise(text.template(self.rule.fits).fill(image.parts))
        if not key or key not in self.rows:
            return {}
        self.used.add(key)
        return self.rows[key]


def _tables(
    recipe: Recipe, source: Path, *, found: Sequence[Found], counts: Counter[str]
) -> tuple[list[_Table], list[str]]:
    """All tables that are there, read; and a line for each that is not."""
    tables: list[_Table] = []
    absent: list[str] = []
    for number, rule in enumerate(recipe.tables):
        fitting = [at for at in first_fitting(rule.table, found) if not found[at].reason]
        where = " or ".join(rule.table)
        if not fitting and rule.required:
            raise InputError(
                f"recipe {recipe.name}: its table {where} is not below the source: put it there, or give "
                "another recipe"
            )
        if not fitting:
            absent.append(f"recipe {recipe.name}: no table {where} here, nothing is taken from it")
        table = _Table(rule, f"tables.{number}")
        for at in fitting:
            content = archive_table.raw(source / found[at].path, f"recipe {recipe.name}: its table {where}")
            _read(recipe, table, content=content, counts=counts)
        tables.append(table)
    return tables, absent


def _read(recipe: Recipe, table: _Table, *, content: labels.Table, counts: Counter[str]) -> None:
    """Add the rows of one file. Raises InputError for columns that it has not."""
    rows, states = text.template(table.rule.rows), list(_templates(table.rule.states))
    needed = {name for one in (rows, *(template for _, template in states)) for name in one.fields}
    columns: dict[str, Sequence[str]] = {
        name: _column(recipe, table, content=content, name=name) for name in sorted(needed)
    }
    for name in {name for ours, template in states if ours == "patient" for name in template.fields}:
        columns[name], changed = pseudonyms.whole(columns[name])
        counts[archive_table.WHOLE] += changed
    for at in range(len(content.rows)):
        values = {name: column[at] for name, column in columns.items()}
        key = pseudonyms.normalise(rows.fill(values))
        said = {name: _meant(recipe, name, template.fill(values)) for name, template in states}
        if key:
            earlier = table.rows.get(key)
            table.rows[key] = (
                said if earlier is None else _both(earlier, said, title=table.title, counts=counts)
            )


def _column(recipe: Recipe, table: _Table, *, content: labels.Table, name: str) -> tuple[str, ...]:
    """A column by its name; case and outer spaces do not count."""
    same = [one for one in content.columns if one.strip().casefold() == name.strip().casefold()]
    if not same:
        raise InputError(
            f"recipe {recipe.name}: {table.title} asks for the column {name!r}, which the table "
            f"{' or '.join(table.rule.table)} has not; it has: {content.listing}"
        )
    return content.column(same[0])


def _templates(states: States | None) -> Iterator[tuple[str, text.Template]]:
    for name, value in states.given() if states else ():
        yield name, text.template(value)


def _meant(recipe: Recipe, name: str, written: str) -> str:
    """A value by the recipe's map of values."""
    mapping: Mapping[str, str | None] = recipe.values.get(name, {})
    if written in mapping:
        return mapping[written] or ""
    whole = written.removesuffix(".0")  # a spreadsheet's 1 is read as 1.0 here and there
    return (mapping[whole] or "") if whole in mapping else written


def _said(recipe: Recipe, image: Image, *, rows: Sequence[tuple[str, Said]], counts: Counter[str]) -> Said:
    """What all sources say of one image together: the first word counts, but for contradictions."""
    said: Said = {}
    origin: dict[str, str] = {}
    speakers = list(rows)
    for title, states in (("its path", image.rule.states if image.rule else None), ("states", recipe.states)):
        filled = ((name, template.fill(image.parts)) for name, template in _templates(states))
        speakers.append((title, {name: _meant(recipe, name, value) for name, value in filled}))
    for title, more in speakers:
        for name, value in more.items():
            if value and name not in said:
                said[name], origin[name] = value, title
            elif value and _contradict(name, said[name], value):
                _note_contradiction(said, name, between=f"{origin[name]} and {title}", counts=counts)
    return said


def _both(first: Said, second: Said, *, title: str, counts: Counter[str]) -> Said:
    """Two rows that speak of the same images: what they agree on."""
    both = {name: first.get(name) or value for name, value in second.items()}
    for name, value in second.items():
        if not value or not first.get(name) or first[name] == value:
            continue
        if name in ("patient", "eye", "split") and _contradict(name, first[name], value):
            _note_contradiction(both, name, between=f"rows of {title}", counts=counts)
        elif name not in ("patient", "eye", "split"):
            both[name] = ""
    return both


def _contradict(name: str, first: str, second: str) -> bool:
    """Whether two texts name different patients, eyes or splits; of the rest the first word counts."""
    if name == "patient":
        return pseudonyms.normalise(first) != pseudonyms.normalise(second)
    if name == "eye":
        known = {attributes.eye(first), attributes.eye(second)}
        return known == {"left", "right"}
    return name == "split" and attributes.split(first) != attributes.split(second)


def _note_contradiction(said: Said, name: str, *, between: str, counts: Counter[str]) -> None:
    if name == "eye":
        said["eye"] = UNKNOWN
    else:
        counts[f"contradicted {name} {between}"] += 1


def _refuse_contradictions(recipe: Recipe, counts: Counter[str]) -> None:
    found = [(name, count) for name, count in sorted(counts.items()) if name.startswith("contradicted ")]
    told = "; ".join(
        f"{between} give different {name}s for {count} images"
        for name, between, count in ((*one.split(" ", 2)[1:], count) for one, count in found[:SHOWN])
    )
    if found:
        raise InputError(
            f"recipe {recipe.name}: {told}. Mend the table, or leave one of the two out in a recipe "
            "of your own"
        )


def _notes(recipe: Recipe, done: Sorted) -> list[str]:
    """What was made of the source, in a line; and what is known to go wrong."""
    notes = []
    if not recipe.verified:
        notes.append(
            f"recipe {recipe.name} is not verified: nobody has run it on the real files yet, compare the "
            f"counts with {recipe.page}"
        )
    skipped = "".join(f"; {count:,} left out: {why}" for why, count in sorted(done.skipped.items()))
    notes.append(f"recipe {recipe.name}: {len(done.kept):,} images{skipped}")
    return notes + [f"  known: {trap}" for trap in recipe.traps]


def _no_image(recipe: Recipe) -> str:
    return (
        f"the source holds no image of the recipe {recipe.name}: it looks for {', '.join(recipe.images)} "
        "below the folder that is given as SRC. Is this the set's own folder, unpacked?"
    )
