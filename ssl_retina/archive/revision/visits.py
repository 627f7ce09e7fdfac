"""The visits of a set's patients, found again in the archive: a set keeps their order alone, and no dates.

In: the archive as it is now, the set, patients of whom new photographs have come. Out: where the archive
still tells the same order of visits, that order, so that a new visit finds its place in it.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from typing import Any

from ssl_retina.archive import containers, readers, worker
from ssl_retina.archive.build import Archive
from ssl_retina.archive.identity import deidentify
from ssl_retina.archive.rejection import Rejected, Unforeseen
from ssl_retina.archive.revision import revise
from ssl_retina.archive.revision.growth import Growth
from ssl_retina.shards import Reader

Told = list[tuple[str, bool, int | None]]
"""Of one patient: file, whether it is a sample, its visit there."""


def again(
    growth: Growth, reader: Reader, several: Mapping[str, str], patients: Collection[str]
) -> dict[str, dict[str, int]]:
    """Patient -> file -> order of its visit. A patient whose visits in the set are others is left out.

    That is so where a table that stated them is another now, or was given then and is not now.
    """
    found: dict[str, dict[str, int]] = {}
    with closing(containers.Reader(growth.whole.job.source)) as source:
        for patient, told in _told(reader, several, patients).items():
            files = dict.fromkeys(file for file, _, _ in told)
            orders = {file: _order(growth, file, patient, source) for file in files}
            known = {file: order for file, order in orders.items() if order is not None}
            if _fits(told, known):
                found[patient] = known
    return found


def _told(reader: Reader, several: Mapping[str, str], patients: Collection[str]) -> dict[str, Told]:
    told: dict[str, Told] = {patient: [] for patient in patients}
    for _, facts in revise.every(reader):
        for one in (facts, *facts["aliases"]):
            if one["patient"] in told:
                file = several.get(one["key"], one["key"])
                told[one["patient"]].append((file, one is facts, facts["visit"]))
    return told


def _fits(told: Told, orders: Mapping[str, int]) -> bool:
    """Whether these orders are those that the samples have; of aliases no visit is kept."""
    places = {order: place for place, order in enumerate(sorted(set(orders.values())))}
    visits: Iterable[tuple[Any, Any]] = (
        (visit, places[orders[file]] if file in orders else None) for file, sample, visit in told if sample
    )
    return all(visit == place for visit, place in visits)


def _order(growth: Growth, file: str, patient: str, source: containers.Reader) -> int | None:
    """What table, name or the file itself say of the visit; a file is read where the others are silent."""
    number = growth.order.get(file)
    if number is None:
        return None
    archive = growth.whole

    def said(facts: Mapping[str, str]) -> int | None:
        path, stated = archive.found[number].path, archive.stated.get(number)
        who = deidentify.identify(path, stated, facts, key=archive.job.key, site=archive.job.site)
        return who.visit_order if who.patient == patient else None

    order = said({})
    if order is not None:
        return order
    try:
        with Unforeseen():
            return said(_facts(archive, number, source))
    except Rejected:
        return None


def _facts(archive: Archive, number: int, source: containers.Reader) -> Mapping[str, str]:
    """What the file's first picture states of itself. Raises Rejected."""
    found = archive.found[number]
    content = worker.content_of(archive.job, found, source)
    parts = readers.parts(content, found.path, archive.job.selection)
    return parts[0].decode().facts if parts else {}
