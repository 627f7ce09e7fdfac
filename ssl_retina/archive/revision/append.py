"""An archive has grown: its new files become new shards of the set, and what is there stays as it is.

In: the archive, a complete set of it, the same settings. Out: the set with more shards. An old shard is
written anew only where a new file is another copy of one of its photographs, an exact or a near one, joins
patients who were apart, or comes before a visit that the set holds.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_retina import files, shards
from ssl_retina.archive import build, dedup, exchange, longtail, output, pack, provenance, stage
from ssl_retina.archive.build import Archive, Listener, Settings, Totals
from ssl_retina.archive.chunk_store import Record
from ssl_retina.archive.duplicates import copies
from ssl_retina.archive.filters import NearDuplicates
from ssl_retina.archive.revision import growth, revise, visits
from ssl_retina.archive.revision.near_again import Growing
from ssl_retina.archive.revision.older import Older
from ssl_retina.archive.revision.withdraw import DERIVED, files_of_several
from ssl_retina.shard_index import OWN_FACTS, manifest
from ssl_retina.shards import Index, Reader

APPENDED = "appended"
GROWN = ("listing", "attributes")
"""What may differ from the settings of the set: the files, and what is stated of them."""
NO_VISIT = "visit_unknown"
EYE_CONFLICT = "eye_conflict"
WORKERS = frozenset((pack.UNCROPPED, NO_VISIT, *dedup.FROM_FILES))
"""Remarks of a set that its samples do not hold: new files add to them."""


def append(source: Path, out: Path, settings: Settings, listener: Listener) -> Totals:
    """Take in what is new in the archive, or finish what an interrupted append began.

    Raises InputError where there is no set yet, StateError for a set of other settings, files of the set that
    were changed or are gone, and sets whose ages, sexes or days were decided over all patients; nothing is
    changed then.
    """
    output.require_set(out)
    archive = build.survey(source, out, settings, listener)
    with output.speaking("--out", out), files.lock(out):
        exchange.finish(out)
        index = shards.read_index(out)
        identity = archive.identity(settings)
        output.require_same(out, index.facts.get("made_from", {}), identity, but=GROWN)
        output.require_intact(out, index)
        growth.require_plain(index)
        with listener.during("comparing the archive with the set") as passing:
            grown = growth.of(archive, index, passing)
        if grown.new.found:
            chunks = _first_stage(grown.new, index, identity, settings, listener)
            with listener.during("taking the new files into the set"):
                _take_in(grown, index, identity, settings, chunks)
        else:
            listener.note("the archive holds no file that is not in the set")
        shutil.rmtree(out / output.WORK_NAME, ignore_errors=True)
        return Totals(**shards.read_index(out).facts["totals"])


def _take_in(
    grown: growth.Growth, index: Index, identity: Mapping[str, Any], settings: Settings, chunks: int
) -> None:
    """The second stage for the new files, then the exchange."""
    work = grown.new.job.work
    reader = Reader(index)
    try:
        several = files_of_several(index.folder / shards.LEDGER_NAME)
        growth.require_same_patients(grown, index, reader, several)
        new, dated = _new(grown, chunks, reader, several)
        older = Older(reader, several, dated)
        count = sum(1 for _ in older.records())

        def everything() -> Iterator[Record]:
            yield from older.records()
            yield from (record for _, record in new.records())

        groups = copies.same_pixels(everything())
        near = older.near()
        if settings.filters.near_duplicates != NearDuplicates.OFF:
            growing = Growing(older, work, grown.order, settings.workers)
            near = _near(growing, new, groups, count)
        resolution = dedup.resolve(everything, copies.with_near(groups, near, ()), rule=settings.rule)
        growth.require_addable(index, resolution, (n for n in groups.repeated if n < count))
        folder = exchange.begin(index.folder)
        revised = revise.rewrite(index, reader, older.changes(resolution), folder)
        plan = pack.Plan(
            *(work, folder, settings.name, settings.samples_per_shard),
            first_shard=1 + max(int(shard.url[-10:-4]) for shard in index.shards),
            first_number=count,
        )
        counts = pack.pack(plan, new.records(), resolution)
        _join_ledgers(index.folder, folder)
        totals = _totals(index, counts, resolution, grown.new.remarks, new.without_visit())
        facts = _facts(index, totals, identity, settings)
        taken = longtail.taken_out((one for _, one in new.records()), resolution, count)
        revise.index_again(index, revised, folder, _with_taken(facts, taken))
    finally:
        reader.close()
    exchange.commit(index.folder, [*revised.removed, *DERIVED], {})


def _new(
    grown: growth.Growth, chunks: int, reader: Reader, several: Mapping[str, str]
) -> tuple["_New", dict[str, int]]:
    """The new records, and the visits of the set's files among which new ones are to find their place."""
    known = {one for _, facts in revise.every(reader) for one in revise.owners(facts)}
    work = grown.new.job.work
    made = (record for _, record in stage.records(work, chunks))
    visiting = {one["patient"] for one in made if one.get("visit_order") is not None} & known
    found = visits.again(grown, reader, several, visiting)
    dated = {file: order for orders in found.values() for file, order in orders.items()}
    return _New(work, chunks, frozenset(visiting - found.keys())), dated


def _near(growing: Growing, new: "_New", groups: copies.Groups, first: int) -> dict[int, int]:
    """Near duplicates of old and new photographs; `first` is the number of the first new record."""
    for number, (chunk, record) in enumerate(new.records(), first):
        alone = number not in groups.original and number not in groups.repeated
        if not record.get("reason") and record["look"] and alone:
            growing.add(number, chunk, record)
    return growing.near()


def _first_stage(
    grown: Archive, index: Index, identity: Mapping[str, Any], settings: Settings, listener: Listener
) -> int:
    """Make the chunks of the new files that are missing; give the number of all."""
    work = grown.job.work
    plan = {**identity, **provenance.tools(settings), "index": index.digest}
    path = work / output.PLAN_NAME
    if not path.exists() or manifest.content(path) != plan:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        files.write_json(path, plan)
    planned = stage.chunks(grown.found, grown.stated)
    wanted = stage.missing(grown.job, planned)
    done = len(grown.found) - sum(len(chunk.rows) for chunk in wanted)
    if wanted:
        build.Progress(listener, done, len(grown.found)).run(grown.job, wanted, settings.workers)
        stage.require_readable(work, len(planned))
    return len(planned)


@dataclasses.dataclass(frozen=True)
class _New:
    """The records of the new files. undated: patients whose visits in the set are not known any more: a new
    photograph of theirs gets no visit either.
    """

    work: Path
    chunks: int
    undated: frozenset[str]

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every record with its chunk's number."""
        for chunk, record in stage.records(self.work, self.chunks):
            lost = record.get("patient") in self.undated
            yield chunk, record | {"visit_order": None} if lost else record

    def without_visit(self) -> int:
        """How many lost a visit that was stated."""
        every = (record for _, record in stage.records(self.work, self.chunks))
        return sum(r.get("visit_order") is not None and r["patient"] in self.undated for r in every)


def _join_ledgers(out: Path, folder: Path) -> None:
    """The old lines, then the new ones."""
    new = folder / shards.LEDGER_NAME
    with files.whole(new, files.mode_beside(folder)) as temporary, temporary.open("wb") as stream:
        for path in (out / shards.LEDGER_NAME, new):
            with path.open("rb") as source:
                shutil.copyfileobj(source, stream)


def _totals(
    index: Index,
    counts: Counter[str],
    resolution: dedup.Resolution,
    remarks: Mapping[str, int],
    without_visit: int,
) -> Totals:
    old = Totals(**index.facts["totals"])
    reasons = Counter(old.reasons) + build.reasons(counts)
    told = Counter(remarks) + Counter(resolution.counts)
    patients = told.pop("patients", 0)
    told += Counter({name: old.remarks[name] for name in WORKERS & old.remarks.keys()})
    told += Counter({pack.UNCROPPED: counts[pack.UNCROPPED], NO_VISIT: without_visit})
    cells = remarks.get(EYE_CONFLICT, 0)  # of tables, counted anew over all files; the rest are old samples
    told[EYE_CONFLICT] += max(0, old.remarks.get(EYE_CONFLICT, 0) - cells)
    new = counts[pack.WRITTEN] + counts[pack.REJECTED] + counts[pack.DUPLICATE]
    return Totals(
        scanned=old.scanned + new,
        written=old.written + counts[pack.WRITTEN],
        rejected=old.rejected + counts[pack.REJECTED],
        duplicates=old.duplicates + counts[pack.DUPLICATE],
        patients=patients,
        shards=old.shards + counts["shards"],
        reasons=dict(reasons),
        remarks=dict(+told),
    )


def _facts(index: Index, totals: Totals, identity: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    facts = {name: value for name, value in index.facts.items() if name not in OWN_FACTS}
    facts |= {"totals": dataclasses.asdict(totals), "made_from": dict(identity)}
    facts["made_with"] = provenance.made_with(settings)
    facts["history"] = [*facts.get("history", ()), {"what": APPENDED, "index": index.digest}]
    return facts


def _with_taken(facts: dict[str, Any], taken: longtail.Taken) -> dict[str, Any]:
    """The facts with what filters took out of the new files."""
    both = longtail.together(facts.get("taken_out", {}), taken)
    return facts | ({"taken_out": both} if both else {})
