"""Raw files -> shards: the page to read first about the archive step.

Scan, state (table and file names), stage 1 (worker processes make chunks), stage 2 (duplicates, groups,
visits; shards, ledger, index). Restartable after every file operation; the same archive, table, settings
and key give the same bytes.
"""

import dataclasses
import hashlib
import hmac
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import features

from ssl_retina import files, pseudonyms, shard_index, shards
from ssl_retina.archive import dedup, idmap, matching, output, pack, slices, stage, table
from ssl_retina.archive.matching import Stated
from ssl_retina.archive.scan import Found, scan
from ssl_retina.archive.settings import Listener, Settings, Totals
from ssl_retina.archive.worker import IO, Job
from ssl_retina.errors import InputError

__all__ = ["Listener", "Settings", "Totals", "build"]

TOOLS = ("ssl-retina", "numpy", "pillow", "pydicom")
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


def build(source: Path, out: Path, settings: Settings, listener: Listener = SILENT) -> Totals:
    """Make the shards of an archive in `out`, or finish what an interrupted run began there.

    An output that is complete already is left as it is. Raises InputError (nothing to work on; nothing is
    written then), StateError (output of something else, another writer, key, full disk) and
    BadInputLimitError (storage that fails).
    """
    return _built(source, out, settings, listener, _first_stage)


def merge(source: Path, out: Path, settings: Settings, listener: Listener = SILENT) -> Totals:
    """The second stage alone, when all slices are made. Raises StateError that names those that are not."""
    return _built(source, out, settings, listener, _slices_made)


def build_slice(
    source: Path, out: Path, settings: Settings, part: slices.Slice, listener: Listener = SILENT
) -> int:
    """The first stage of one slice of the archive; give the number of its files. Raises as `build` does."""
    archive = survey(source, out, settings, listener)
    with output.speaking("--out", out):
        output.make_folders(out)
        made_from, used = identity(archive, settings), tools()
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
                progress = Progress(listener, rows - left, rows)
                stage.run(archive.job, wanted, processes=settings.workers, progress=progress.add)
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
                _write_id_map(settings.id_map, archive, out)
    if not totals.written:
        output.withdraw(out, made)
        raise InputError(_no_image(totals))
    return totals


def _write_id_map(path: Path, archive: Archive, out: Path) -> None:
    with output.speaking("--id-map", path):
        idmap.write(path, out, job=archive.job, found=archive.found, stated=archive.stated)


def survey(source: Path, out: Path, settings: Settings, listener: Listener) -> Archive:
    """Check every input; nothing is written yet but a first key."""
    found = _separate_twins(list(scan(source)))
    if not found:
        raise InputError(f"the source {source} is empty: give the folder that holds the photographs")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} lies inside the source {source}: the shards would become its input")
    if settings.id_map is not None:
        with output.speaking("--id-map", settings.id_map):
            idmap.check_place(settings.id_map, source, out)
    stated, remarks = _stated(found, settings, listener)
    key_file = settings.key_file or pseudonyms.default_key_file()
    with output.speaking("key file", key_file):
        pseudonyms.check_key_place(key_file, out)
    job = Job(
        source=source,
        work=out / output.WORK_NAME,
        key=pseudonyms.read_key(settings.key_file),
        site=settings.site,
        size=settings.size,
        encoding=settings.encoding,
        keep_other=settings.keep_other,
        selection=settings.selection,
    )
    return Archive(job, found, stated, remarks)


def _separate_twins(found: list[Found]) -> list[Found]:
    """Two paths that are one in NFC would be one key: reject the later one, under a key of its own."""
    for number in matching.collisions(found):
        twin = found[number]
        found[number] = dataclasses.replace(twin, path=f"{twin.path}\0{number}", reason=SAME_NAME)
    return found


def _stated(found: Sequence[Found], settings: Settings, listener: Listener) -> tuple[Stated, Counter[str]]:
    """What table and file names state about the files."""
    given: Stated = {}
    named: Stated = {}
    remarks: Counter[str] = Counter()
    if settings.table is not None:
        content = table.read(settings.table, settings.columns)
        listener.note(table.describe(content))
        given, counts = matching.from_table(found, content)
        remarks.update(counts)
    if settings.pattern is not None:
        named, counts = matching.from_pattern(found, settings.pattern)
        remarks.update(counts)
    stated, counts = matching.merged(given, named)
    return stated, remarks + counts


def _build(archive: Archive, out: Path, settings: Settings, listener: Listener, first: FirstStage) -> Totals:
    """Under the lock: both stages, the index last."""
    made_from = identity(archive, settings)
    used = tools()
    if output.claim(out, made_from, used) == output.Found.COMPLETE:
        return _complete(out, listener)
    chunks = first(archive, out, settings, listener)
    work = archive.job.work
    resolution = dedup.resolve(lambda: (record for _, record in stage.records(work, chunks)), settings.rule)
    plan = pack.Plan(work, out, settings.name, settings.samples_per_shard)
    counts = pack.pack(plan, stage.records(work, chunks), resolution)
    scanned = sum(1 for _ in stage.records(work, chunks))
    totals = _totals(scanned, counts, {**archive.remarks}, resolution)
    if totals.written:
        facts = {
            "key_fingerprint": made_from["key_fingerprint"],
            "site": settings.site,
            "ids": pseudonyms.NORMALISATION,
            "made_from": made_from,
            "made_with": made_with(),
            "totals": dataclasses.asdict(totals),
            "anonymity": resolution.release.facts(),
        }
        index = shard_index.write(out, facts, manifest=facts)
        assert index.samples == totals.written, (index.samples, totals)
        output.finish(out)
    return totals


def made_with() -> dict[str, str]:
    """Versions of everything that has a hand in the bytes."""
    return {**tools(), "python": platform.python_version(), "libjpeg": _libjpeg()}


def tools() -> dict[str, str]:
    """Versions that must stay the same within one build."""
    return {name: metadata.version(name) for name in TOOLS}


def _libjpeg() -> str:
    return features.version("libjpeg_turbo") or features.version("jpg") or "unknown"


def _complete(out: Path, listener: Listener) -> Totals:
    """The totals of an output that needs no work, once it was looked at."""
    index = shards.read_index(out)
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
    wanted = stage.missing(archive.job, planned)
    done = total - sum(len(chunk.rows) for chunk in wanted)
    if done:
        listener.note(f"continuing an interrupted run: {done:,} of {total:,} files are done")
    progress = Progress(listener, done, total)
    if wanted:
        output.drop_shards(out)
        stage.run(archive.job, wanted, processes=settings.workers, progress=progress.add)
        stage.require_readable(archive.job.work, len(planned))
    return len(planned)


def _slices_made(archive: Archive, out: Path, settings: Settings, listener: Listener) -> int:
    """All chunks must be there; give their number."""
    planned = stage.chunks(archive.found, archive.stated)
    slices.require_all(out, stage.missing(archive.job, planned))
    return len(planned)


class Progress:
    """Adds up the rows of finished chunks for the listener."""

    def __init__(self, listener: Listener, done: int, total: int) -> None:
        self._listener, self._done, self._total = listener, done, total

    def add(self, rows: int) -> None:
        self._done += rows
        self._listener.progress(self._done, self._total)


def identity(archive: Archive, settings: Settings) -> dict[str, Any]:
    """What an output is made from: it must be the same for a run to be continued. Digests are keyed."""
    key = archive.job.key
    listing = hmac.new(key, b"listing\0", hashlib.sha256)
    for one in archive.found:
        listing.update(f"{one.path}\0{one.size}\0\n".encode("utf-8", "surrogateescape"))
    attributes = hmac.new(key, b"attributes\0", hashlib.sha256)
    for number, stated in sorted(archive.stated.items()):
        attributes.update(f"{number}\0{stated!r}\n".encode("utf-8", "surrogateescape"))
    return {
        **settings.decisive(),
        "format": shards.FORMAT,
        "key_fingerprint": pseudonyms.fingerprint(key),
        "listing": listing.hexdigest(),
        "attributes": attributes.hexdigest(),
    }


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
