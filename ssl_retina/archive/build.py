"""Raw files -> shards: the page to read first about the archive step.

Scan, state (table and file names), stage 1 (worker processes make chunks), stage 2 (duplicates, groups,
visits; shards, ledger, index). Restartable after every file operation; the same archive, table, settings
and key give the same bytes.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_retina import files, pseudonyms, shard_index, shards
from ssl_retina.archive import (
    dedup,
    idmap,
    longtail,
    output,
    pack,
    provenance,
    recipe,
    slices,
    stage,
    together,
)
from ssl_retina.archive.identity import site_key
from ssl_retina.archive.rejection import IO
from ssl_retina.archive.scan import Found, scan
from ssl_retina.archive.settings import Listener, Settings, Totals
from ssl_retina.archive.statements import matching, pattern, table
from ssl_retina.archive.statements.matching import Stated
from ssl_retina.archive.telling import Progress
from ssl_retina.archive.worker import Job
from ssl_retina.errors import InputError

__all__ = ["Listener", "Progress", "Settings", "Totals", "build"]

SAME_NAME = "same_name"
SILENT = Listener()


FirstStage = Callable[["Archive", Path, Settings, Listener], int]


@dataclasses.dataclass(frozen=True)
class Archive:
    """Everything that is known before the first file is opened."""

    job: Job
    found: Sequence[Found]
    stated: Stated
    remarks: Mapping[str, int]

    def identity(self, settings: Settings) -> dict[str, Any]:
        """What the output is made from."""
        return provenance.identity(self.job.key, self.found, self.stated, settings)


def build(source: Path, out: Path, settings: Settings, listener: Listener = SILENT) -> Totals:
    """Make the shards of an archive in `out`, or finish what an interrupted run began there.

    An output that is complete already is left as it is. Raises InputError (nothing to work on; nothing is
    written then), StateError (output of something else, another writer, key, full disk) and
    BadInputLimitError (storage that fails).
    """
    return _built(source, out, settings, listener, _first_stage)


def merge(source: Path, out: Path, settings: Settings, listener: Listener = SILENT) -> Totals:
    """The second stage alone, when all slices are made. Raises StateError that names those that are not."""
    with output.speaking("--out", out):
        slices.require_begun(out)
    return _built(source, out, settings, listener, _slices_made)


def build_slice(
    source: Path, out: Path, settings: Settings, part: slices.Slice, listener: Listener = SILENT
) -> int:
    """The first stage of one slice of the archive; give the number of its files. Raises as `build` does."""
    archive = survey(source, out, settings, listener)
    with output.speaking("--out", out):
        output.make_folders(out)
        made_from, used = archive.identity(settings), provenance.tools(settings)
        if (out / shards.INDEX_NAME).exists():
            output.join(out, made_from, used)
            listener.note(f"{out} is complete already")
            return 0
        with slices.held(out, part):
            output.join(out, made_from, used)
            own = part.own(stage.chunks(archive.found, archive.stated))
            wanted = stage.missing(archive.job, own)
            rows, left = (sum(len(chunk.rows) for chunk in some) for some in (own, wanted))
            if wanted:
                output.drop_shards(out)
                Progress(listener, rows - left, rows).run(archive.job, wanted, settings.workers)
    return rows


def _built(source: Path, out: Path, settings: Settings, listener: Listener, first: FirstStage) -> Totals:
    archive = survey(source, out, settings, listener)
    with output.speaking("--out", out):
        made = output.make_folders(out)
        output.warn_if_open(out, listener.note)
        with files.lock(out):
            slices.refuse_running(out)
            totals = _build(archive, out, settings, listener, first)
            if totals.written and settings.id_map is not None:
                _write_id_map(settings.id_map, archive, out, listener)
    if not totals.written:
        output.withdraw(out, made)
        raise InputError(_no_image(totals))
    if settings.recipe is not None:
        for line in recipe.commands(settings.recipe, source, found=archive.found, out=out):
            listener.advise(line)
    return totals


def _write_id_map(path: Path, archive: Archive, out: Path, listener: Listener) -> None:
    with output.speaking("--id-map", path), listener.during("writing the id map"):
        unnamed = idmap.write(path, out, job=archive.job, found=archive.found, stated=archive.stated)
    if unnamed:
        listener.note(
            f"WARNING: {path} lacks {unnamed:,} patients: none of their files can be read now and names them"
        )


def survey(source: Path, out: Path, settings: Settings, listener: Listener) -> Archive:
    """Check every input; nothing is written yet but a first key."""
    with listener.during("listing the source") as passing:
        found = _separate_twins(list(passing(scan(source))))
    if not found:
        raise InputError(f"the source {source} is empty: give the folder that holds the photographs")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} lies inside the source {source}: the shards would become its input")
    if settings.id_map is not None:
        with output.speaking("--id-map", settings.id_map):
            idmap.check_place(settings.id_map, source, out)
    with listener.during("fitting tables and names to files"):
        found, stated, remarks = _stated(source, found, settings, listener)
    job = Job(
        source=source,
        work=out / output.WORK_NAME,
        key=site_key.read(settings.key_file, out, listener.note),
        site=settings.site,
        size=settings.size,
        encoding=settings.encoding,
        keep_other=settings.keep_other,
        selection=dataclasses.replace(settings.selection, enough=settings.enough),
        keep_text=settings.keep_text,
        ocr=settings.ocr,
    )
    return Archive(job, found, stated, remarks)


def _separate_twins(found: list[Found]) -> list[Found]:
    """Two paths that are one in NFC would be one key: reject the later one, under a key of its own."""
    for number in matching.collisions(found):
        twin = found[number]
        found[number] = dataclasses.replace(twin, path=f"{twin.path}\0{number}", reason=SAME_NAME)
    return found


def _stated(
    source: Path, found: list[Found], settings: Settings, listener: Listener
) -> tuple[list[Found], Stated, Counter[str]]:
    """What table and file names state about the files, and, where they are silent, the recipe."""
    given: Stated = {}
    named: Stated = {}
    remarks: Counter[str] = Counter()
    by_hand: set[str] = set()
    if settings.table is not None:
        content = table.read(settings.table, settings.columns)
        listener.note(table.describe(content))
        given, counts = matching.from_table(found, content)
        by_hand |= content.columns.keys()
        remarks.update(counts)
    if settings.pattern is not None:
        named, counts = matching.from_pattern(found, settings.pattern)
        by_hand |= pattern.compile_pattern(settings.pattern).groupindex.keys()
        remarks.update(counts)
    stated, counts = matching.merged(given, named)
    remarks += counts
    if settings.recipe is not None:
        applied = recipe.apply(settings.recipe, source, found, by_hand)
        for line in applied.notes:
            listener.note(line)
        stated, counts = matching.merged(stated, applied.stated)
        found, remarks = applied.found, remarks + counts + applied.remarks
    return found, stated, remarks


def _build(archive: Archive, out: Path, settings: Settings, listener: Listener, first: FirstStage) -> Totals:
    """Under the lock: both stages, the index last."""
    made_from, used = archive.identity(settings), provenance.tools(settings)
    if output.claim(out, made_from, used) == output.Found.COMPLETE:
        return _complete(out, listener)
    chunks = first(archive, out, settings, listener)
    work = archive.job.work
    with listener.during("looking for copies, groups and visits"):
        resolution = together.resolve(work, chunks, settings, archive.job.key)
    plan = pack.Plan(work, out, settings.name, settings.samples_per_shard)
    with listener.during("writing the shards") as passing:
        counts = pack.pack(plan, passing(stage.records(work, chunks)), resolution)
    scanned = sum(1 for _ in stage.records(work, chunks))
    totals = _totals(scanned, counts, {**archive.remarks}, resolution)
    if totals.written:
        every = (record for _, record in stage.records(work, chunks))
        taken = longtail.taken_out(every, resolution)
        facts = {
            "key_fingerprint": made_from["key_fingerprint"],
            "site": settings.site,
            "ids": pseudonyms.NORMALISATION,
            "made_from": made_from,
            "made_with": provenance.made_with(settings),
            "totals": dataclasses.asdict(totals),
            **({"balance": str(settings.filters.balance)} if settings.filters.balance else {}),
            "anonymity": resolution.release.facts(),
            **({"taken_out": taken} if taken else {}),
            **({"recipe": settings.recipe.facts()} if settings.recipe else {}),
        }
        with listener.during("writing the index") as passing:
            index = shard_index.write(out, facts, manifest=facts, progress=passing.add)
        assert index.samples == totals.written, (index.samples, totals)
        output.finish(out)
    return totals


def _complete(out: Path, listener: Listener) -> Totals:
    """The totals of an output that needs no work, once it was looked at."""
    index = shards.read_index(out)
    with listener.during("looking at the set"):
        output.require_intact(out, index)
    totals = Totals(**index.facts["totals"])
    listener.note(
        f"{out} is complete already, made with the same settings from files of the same names and sizes "
        "(their content was not read again)"
    )
    if unread := totals.reasons.get(IO):
        listener.note(f"{unread:,} files could not be read then: to take them in, give another --out")
    return totals


def _first_stage(archive: Archive, out: Path, settings: Settings, listener: Listener) -> int:
    """Make the chunks that are missing; give the number of all."""
    total = len(archive.found)
    planned = stage.chunks(archive.found, archive.stated)
    with listener.during("looking for what is done already") as passing:
        wanted = stage.missing(archive.job, passing(planned))
    done = total - sum(len(chunk.rows) for chunk in wanted)
    if done:
        listener.note(f"continuing an interrupted run: {done:,} of {total:,} files are done")
    if wanted:
        output.drop_shards(out)
        Progress(listener, done, total).run(archive.job, wanted, settings.workers)
        stage.require_readable(archive.job.work, len(planned))
    return len(planned)


def _slices_made(archive: Archive, out: Path, settings: Settings, listener: Listener) -> int:
    """All chunks must be there; give their number."""
    planned = stage.chunks(archive.found, archive.stated)
    slices.require_all(out, stage.missing(archive.job, planned))
    return len(planned)


def _totals(
    scanned: int, counts: Counter[str], remarks: dict[str, int], resolution: dedup.Resolution
) -> Totals:
    remarks = dict(Counter(remarks) + Counter(resolution.counts))
    patients = remarks.pop("patients", 0)
    if counts[pack.UNCROPPED]:
        remarks[pack.UNCROPPED] = counts[pack.UNCROPPED]
    if resolution.devices_dropped:
        remarks["devices_dropped"] = 1
    return Totals(
        scanned=scanned,
        written=counts[pack.WRITTEN],
        rejected=counts[pack.REJECTED],
        duplicates=counts[pack.DUPLICATE],
        patients=patients,
        shards=counts["shards"],
        reasons=dict(reasons(counts)),
        remarks=remarks,
    )


def reasons(counts: Mapping[str, int]) -> Counter[str]:
    """Rejected files by reason, of the counts of `pack`."""
    prefix = "reason:"
    return Counter({name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)})


def _no_image(totals: Totals) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(totals.reasons.items()))
    return f"the source holds no image that can be used: {totals.scanned} files, all rejected ({listed})"
