"""What is new in an archive that has grown, and whether a set can take it in.

In: the archive as it is now, a complete set of what it was. Out: the archive's new files, or StateError.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import containers, dedup, ledger, worker
from ssl_retina.archive.build import Archive
from ssl_retina.archive.duplicates.copies import COPIES_LIMIT
from ssl_retina.archive.rejection import WITHDRAWN
from ssl_retina.archive.settings import Passing
from ssl_retina.errors import StateError
from ssl_retina.shard_index import weights
from ssl_retina.shards import Index, Reader


def require_plain(index: Index) -> None:
    """Rare combinations and first days were decided over all patients: more of them change that."""
    whole = {
        "min_quality": ("reject",),
        "balance": (None,),
        "rare": (None,),
        "near_duplicates": ("mark", "off"),
    }
    made = index.facts["made_from"]
    if weights.CLUSTERS in index.facts:
        raise StateError(
            f"{index.folder} is balanced by embeddings, which new files have none of: ssl-retina balance "
            f"{index.folder} --undo first, and balance again afterwards"
        )
    if any(made.get(name, usual[0]) not in usual for name, usual in whole.items()):
        raise StateError(
            f"{index.folder} was made with --min-quality, --balance, --rare or --near-duplicates merge: what "
            "they take is decided over all files. Make a new set (another --out)"
        )
    if (
        index.facts.get("anonymity", {}).get("k") is not None
        or index.facts["made_from"].get("dates") == "shift"
    ):
        raise StateError(
            f"{index.folder} carries ages, sexes or days: what is rare, and which visit is first, is decided "
            "over all files. Make a new set (another --out)"
        )


@dataclass(frozen=True)
class Growth:
    """whole: the archive as it is now; new: its new files alone. order: file -> its number in the scan."""

    whole: Archive
    new: Archive
    order: Mapping[str, int]


def of(archive: Archive, index: Index, passing: Passing) -> Growth:
    """What is new. Raises StateError where one in use is gone or any was changed."""
    known, gone, used = ledger.files_of(index.folder / shards.LEDGER_NAME)
    fresh: list[int] = []
    order: dict[str, int] = {}
    changed = 0
    with closing(containers.Reader(archive.job.source)) as reader:
        for number, one in enumerate(passing(archive.found)):
            file = pseudonyms.image(archive.job.key, one.path, archive.job.site)
            order[file] = number
            if file in known:
                digest = known.pop(file)  # none where the file could not be read then
                changed += bool(digest) and worker.digest(archive.job, one, reader) != digest
            elif file not in gone:
                fresh.append(number)
    missing = (known.keys() | (gone - order.keys())) & used
    if changed or missing:
        raise StateError(
            f"{changed} files of the set were changed and {len(missing)} are missing in the archive: an "
            "append only adds. Bring them back, take patients out with ssl-retina withdraw, or make a new set"
        )
    stated = {at: archive.stated[number] for at, number in enumerate(fresh) if number in archive.stated}
    marks = frozenset(index.facts.get(WITHDRAWN, ()))
    job = dataclasses.replace(archive.job, withdrawn=marks)
    new = Archive(job, [archive.found[number] for number in fresh], stated, archive.remarks)
    return Growth(archive, new, order)


def require_addable(index: Index, resolution: dedup.Resolution, repeated: Iterable[int]) -> None:
    """Refuse new files that bring what was decided over all files without them.

    repeated: photographs of the set that are now among more copies than one photograph has.
    """
    if resolution.release.k is not None:
        raise StateError(
            f"the new files have ages or sexes, which {index.folder} has not: what is rare is decided over "
            "all files. Make a new set (another --out), or leave age and sex out of --map"
        )
    if any(True for _ in repeated):
        raise StateError(
            f"with the new files a photograph of {index.folder} has {COPIES_LIMIT} copies or more, as a "
            "test picture has: find out what it is, take it out of the archive, or make a new set"
        )


def require_same_patients(growth: Growth, index: Index, reader: Reader, several: Mapping[str, str]) -> None:
    """Refuse a table that states other patients for the set's photographs than it did: one would be two."""
    job = growth.whole.job
    other = 0
    for row in range(len(reader)):
        facts = reader.facts(row)
        for one in (facts, *facts["aliases"]):
            number = growth.order.get(several.get(one["key"], one["key"]))
            stated = None if number is None else growth.whole.stated.get(number)
            if one["patient"] is not None and stated is not None and stated.patient is not None:
                other += one["patient"] != pseudonyms.patient(job.key, stated.patient, job.site)
    if other:
        raise StateError(
            f"tables or names now state other patients for {other} photographs of {index.folder} than when "
            "it was made (such as 65.0, which is 65 only in a column without fractions). Mend the table, or "
            "make a new set (another --out)"
        )
