"""An archive has grown: its new files become new shards of the set, and what is there stays as it is.

In: the archive, a complete set of it, the same settings. Out: the set with more shards. An old shard is
written anew only where a new file is another copy of one of its photographs or joins patients who were apart.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import (
    build,
    containers,
    copies,
    dedup,
    exchange,
    ledger,
    output,
    pack,
    provenance,
    revise,
    stage,
    worker,
)
from ssl_retina.archive.build import Archive, Listener, Settings, Totals
from ssl_retina.archive.rejection import WITHDRAWN
from ssl_retina.archive.withdraw import DERIVED, files_of_several
from ssl_retina.archive.worker import Record
from ssl_retina.errors import StateError
from ssl_retina.shard_index import OWN_FACTS, manifest
from ssl_retina.shards import Index, Reader

APPENDED = "appended"
GROWN = ("listing", "attributes")
"""What may differ from the settings of the set: the files, and what is stated of them."""
NO_VISIT = "visit_unknown"


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
        _require_plain(index)
        grown = _grown(archive, index)
        if grown.found:
            _take_in(grown, index, identity, settings, listener)
        else:
            listener.note("the archive holds no file that is not in the set")
        shutil.rmtree(out / output.WORK_NAME, ignore_errors=True)
        return Totals(**shards.read_index(out).facts["totals"])


def _require_plain(index: Index) -> None:
    """Rare combinations and first days were decided over all patients: more of them change that."""
    whole = {
        "min_quality": ("reject",),
        "balance": (None,),
        "rare": (None,),
        "near_duplicates": ("mark", "off"),
    }
    made = index.facts["made_from"]
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


def _grown(archive: Archive, index: Index) -> Archive:
    """The archive's new files alone. Raises StateError where one in use is gone or any was changed."""
    known, gone, used = ledger.files_of(index.folder / shards.LEDGER_NAME)
    fresh: list[int] = []
    changed = 0
    with closing(containers.Reader(archive.job.source)) as reader:
        for number, one in enumerate(archive.found):
            file = pseudonyms.image(archive.job.key, one.path, archive.job.site)
            if file in known:
                changed += worker.digest(archive.job, one, reader) != known.pop(file)
            elif file not in gone:
                fresh.append(number)
    missing = known.keys() & used
    if changed or missing:
        raise StateError(
            f"{changed} files of the set were changed and {len(missing)} are missing in the archive: an "
            "append only adds. Bring them back, take patients out with ssl-retina withdraw, or make a new set"
        )
    stated = {at: archive.stated[number] for at, number in enumerate(fresh) if number in archive.stated}
    marks = frozenset(index.facts.get(WITHDRAWN, ()))
    job = dataclasses.replace(archive.job, withdrawn=marks)
    return Archive(job, [archive.found[number] for number in fresh], stated, archive.remarks)


def _take_in(
    grown: Archive, index: Index, identity: Mapping[str, Any], settings: Settings, listener: Listener
) -> None:
    """Both stages for the new files, then the exchange."""
    chunks = _first_stage(grown, index, identity, settings, listener)
    reader = Reader(index)
    try:
        several = files_of_several(index.folder / shards.LEDGER_NAME)
        patients = {one for _, facts in revise.every(reader) for one in revise.owners(facts)}
        new = _New(grown.job.work, chunks, patients)
        old = [0]

        def everything() -> Iterator[Record]:
            old[0] = 0
            for record in _old_records(reader, several):
                old[0] += 1
                yield record
            for _, record in new.records():
                yield record

        groups = copies.with_near(copies.same_pixels(everything()), _near(reader), ())
        resolution = dedup.resolve(everything, groups, rule=settings.rule)
        changes = _changes(reader, several, resolution)
        folder = exchange.begin(index.folder)
        revised = revise.rewrite(index, reader, changes, folder)
        plan = pack.Plan(
            *(grown.job.work, folder, settings.name, settings.samples_per_shard),
            first_shard=1 + max(int(shard.url[-10:-4]) for shard in index.shards),
            first_number=old[0],
        )
        counts = pack.pack(plan, new.records(), resolution)
        _join_ledgers(index.folder, folder)
        totals = _totals(index, counts, resolution, grown.remarks, new.without_visit())
        facts = _facts(index, totals, identity)
        revise.index_again(index, revised, folder, facts)
    finally:
        reader.close()
    exchange.commit(index.folder, [*revised.removed, *DERIVED], {})


def _first_stage(
    grown: Archive, index: Index, identity: Mapping[str, Any], settings: Settings, listener: Listener
) -> int:
    """Make the chunks of the new files that are missing; give the number of all."""
    work = grown.job.work
    plan = {**identity, **provenance.tools(), "index": index.digest}
    path = work / output.PLAN_NAME
    if not path.exists() or manifest.content(path) != plan:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        files.write_json(path, plan)
    planned = stage.chunks(grown.found, grown.stated)
    wanted = stage.missing(grown.job, planned)
    done = len(grown.found) - sum(len(chunk.rows) for chunk in wanted)
    if wanted:
        progress = build.Progress(listener, done, len(grown.found))
        stage.run(grown.job, wanted, processes=settings.workers, progress=progress.add)
        stage.require_readable(work, len(planned))
    return len(planned)


@dataclasses.dataclass(frozen=True)
class _New:
    """The records of the new files. A patient of the set gets no visit: the older orders are not kept."""

    work: Path
    chunks: int
    patients: set[str]

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every record with its chunk's number."""
        for chunk, record in stage.records(self.work, self.chunks):
            known = record.get("patient") in self.patients
            yield chunk, record | {"visit_order": None} if known else record

    def without_visit(self) -> int:
        """How many lost a visit that was stated."""
        every = (record for _, record in stage.records(self.work, self.chunks))
        return sum(r.get("visit_order") is not None and r["patient"] in self.patients for r in every)


def _old_records(reader: Reader, several: Mapping[str, str]) -> Iterator[Record]:
    """The set's samples as records, each followed by its aliases."""
    nothing: Record = {
        "volume": None,
        "slice": None,
        "slices": None,
        "visit_order": None,
        "remarks": [],
        "notes": [],
    }
    for _, facts in revise.every(reader):
        for one in (facts, *facts["aliases"]):
            own = {} if one is facts else {"eye": "unknown", "device": None}
            owned = {"file": several.get(one["key"], one["key"]), "place": one["key"] in several}
            yield {**nothing, **facts, **one, **own, **owned}


def _near(reader: Reader) -> dict[int, int]:
    """Near duplicates among the old samples: copy -> leader, by their numbers among `_old_records`."""
    numbers: dict[str, int] = {}
    leaders: dict[int, str] = {}
    number = 0
    for _, facts in revise.every(reader):
        numbers[facts["key"]] = number
        if facts.get("near"):
            leaders[number] = facts["near"]
        number += 1 + len(facts["aliases"])
    return {copy: numbers[leader] for copy, leader in leaders.items()}


def _changes(reader: Reader, several: Mapping[str, str], resolution: dedup.Resolution) -> revise.Changes:
    """The old samples that have new copies, or whose group has another name now."""
    changes: revise.Changes = {}
    number = 0
    old = _old_records(reader, several)
    for row, facts in revise.every(reader):
        now = resolution.sample(number, next(old))
        for _ in facts["aliases"]:
            next(old)
        number += 1 + len(facts["aliases"])
        changed = {name: now[name] for name in ("group", "split", "aliases", "id_conflict")}
        if facts["eye"] != "unknown":
            changed["eye"] = now["eye"]
        if any(facts.get(name) != value for name, value in changed.items()):
            changes[row] = {**facts, **changed}
    return changes


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
    told[pack.UNCROPPED] = old.remarks.get(pack.UNCROPPED, 0) + counts[pack.UNCROPPED]
    told[NO_VISIT] = old.remarks.get(NO_VISIT, 0) + without_visit
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


def _facts(index: Index, totals: Totals, identity: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: value for name, value in index.facts.items() if name not in OWN_FACTS}
    facts |= {"totals": dataclasses.asdict(totals), "made_from": dict(identity)}
    facts["made_with"] = provenance.made_with()
    facts["history"] = [*facts.get("history", ()), {"what": APPENDED, "index": index.digest}]
    return facts
