"""Which photographs belong together: patients of the shards and of the labels file, joined by union-find.

In: the joined photographs, their JSON and the labels file. Out: one group number for each photograph, and
the level at which a split by these groups is honest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_retina import labels, pseudonyms
from ssl_retina.errors import InputError

NO_PATIENTS = "none"
IMAGE_LEVEL: Literal["image-level, optimistic"] = "image-level, optimistic"

Level = Literal["patient", "image-level, optimistic"]


@dataclass(frozen=True)
class Grouping:
    """One group number for each joined photograph: (photographs,) int64; `about` says where it is from."""

    groups: NDArray[np.int64]
    level: Level
    about: str


def grouping(
    joined: labels.Joined,
    table: labels.Table,
    *,
    records: Sequence[Mapping[str, Any]],
    column: str | None,
) -> Grouping:
    """Group the joined photographs; `records` is the JSON of each, `column` what `--patient` said.

    Patients who share a photograph (an alias, or the shards' `group`) are one group. Raises InputError
    where nothing says which patient a photograph is of, unless the user said that nothing does.
    """
    known = [bool(record.get("patient")) for record in records]
    if column == NO_PATIENTS:
        return _image_level(known)
    column = column or _recognised(table)
    if column is None and not any(known):
        raise InputError(
            "neither the shards nor the labels file say which patient a photograph is of. Name the column "
            f"(--patient COLUMN; there are: {table.listing}), or say that there is none "
            "(--patient none): photographs of one patient may then lie in training and test"
        )
    cells, changed = pseudonyms.whole(table.column(column) if column else ())
    nodes = [
        [_own(number, record), *(_named(cells[row]) for row in rows if cells and cells[row])]
        for number, (record, rows) in enumerate(zip(records, joined.rows, strict=True))
    ]
    lonely = sum(len(names) == 1 and not there for names, there in zip(nodes, known, strict=True))
    return Grouping(components(nodes), "patient", _about(column, any(known), lonely, changed))


def components(nodes: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Number the connected components: two items are together where a chain of shared names links them."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in nodes:
        for name in names[1:]:
            parent[root(name)] = root(names[0])
    roots = [root(names[0]) for names in nodes]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[name] for name in roots], np.int64)


def _image_level(known: Sequence[bool]) -> Grouping:
    if any(known):
        raise InputError(
            f"--patient none: but the shards know the patients of {sum(known)} of {len(known)} photographs; "
            "leave --patient out and they are used"
        )
    return Grouping(np.arange(len(known)), IMAGE_LEVEL, "no patient ids: every photograph by itself")


def _recognised(table: labels.Table) -> str | None:
    found = table.recognised(labels.PATIENT_COLUMNS)
    if len(found) > 1:
        raise InputError(f"which column holds the patients: {', '.join(found)}? Say --patient COLUMN")
    return found[0] if found else None


def _own(number: int, record: Mapping[str, Any]) -> str:
    group = record.get("group")
    return f"shards {group}" if group else f"photograph {number}"


def _named(cell: str) -> str:
    return f"labels {pseudonyms.normalise(cell)}"


def _about(column: str | None, in_shards: bool, lonely: int, changed: int) -> str:
    sources = [f"column {column!r} of the labels file"] if column else []
    sources += ["the shards"] if in_shards else []
    alone = f"; {lonely} photographs without a patient count as one each" if lonely else ""
    read = f"; {changed} rows write a patient like 65.0: read as 65" if changed else ""
    return f"patients of {' and '.join(sources)}{alone}{read}"
