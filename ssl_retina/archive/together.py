"""Between the stages of the build: the one look at the whole archive.

In: the records of a finished work folder. Out: a `Resolution`: what is rare, what a filter refuses, which
photographs are one, who belongs together.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ssl_retina.archive import dedup, longtail, stage
from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.duplicates import copies, looks
from ssl_retina.archive.filters import NearDuplicates
from ssl_retina.archive.settings import Settings


def resolve(work: Path, chunks: int, settings: Settings, key: bytes) -> dedup.Resolution:
    """What only the whole archive can tell: what is rare, what is refused, which photographs are one."""
    filters = settings.filters

    def records() -> Iterator[Record]:
        return (record for _, record in stage.records(work, chunks))

    strata = longtail.survey(records(), filters)
    groups = copies.same_pixels(records(), strata.refused)
    if filters.near_duplicates != NearDuplicates.OFF:
        without = {*groups.original, *groups.repeated, *strata.refused}
        near = looks.find(work, stage.records(work, chunks), without)
        spared = {groups.original.get(number, number) for number in strata.rare}
        merged = set(near) - spared if filters.near_duplicates == NearDuplicates.MERGE else set()
        groups = copies.with_near(groups, near, merged)
    groups = dataclasses.replace(groups, counts={**groups.counts, **strata.counts})
    rare = frozenset(groups.original.get(number, number) for number in strata.rare)
    rule = dataclasses.replace(settings.rule, secret=key)
    resolution = dedup.resolve(records, groups, clusters=strata.clusters, rule=rule)
    return dataclasses.replace(resolution, rare=rare if filters.rare else None)
