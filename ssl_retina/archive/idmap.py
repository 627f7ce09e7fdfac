"""The way back from pseudonyms, for the site alone: a CSV of mode 0600 outside the output, only when asked.

In: a finished build, its scan and its table. Out: `kind,pseudonym,original` for every image and patient but
those who were withdrawn.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import namesakes, process
from ssl_retina.archive.found import Found
from ssl_retina.archive.namesakes import Lying
from ssl_retina.archive.rejection import WITHDRAWN
from ssl_retina.archive.statements.matching import Stated
from ssl_retina.archive.worker import Job
from ssl_retina.errors import InputError
from ssl_retina.shard_index import manifest
from ssl_retina.shards import Index

HEADER = ("kind", "pseudonym", "original")


def check_place(path: Path, source: Path, out: Path) -> None:
    """Refuse an id map that would travel with any shards, lie in the archive, or replace another file."""
    for folder, what in ((out, "the output"), (source, "the source")):
        if path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--id-map {path} lies inside {what} {folder}: it must stay apart from it")
    pseudonyms.check_key_place(path, out, "--id-map")
    if not path.parent.is_dir():
        raise InputError(f"--id-map {path}: its folder does not exist")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(",".join(HEADER).encode())):
        raise InputError(f"--id-map {path} exists and is no id map: it is not replaced")


def write(path: Path, out: Path, *, job: Job, found: Sequence[Found], stated: Stated) -> int:
    """Write the map of a complete output; give how many patients of it nothing names any more.

    Patients whom only the files name are read from their files, until one of them does.
    """
    index = shards.read_index(out)
    given = {one.patient for one in stated.values() if one.patient is not None}
    marks = frozenset(index.facts.get(WITHDRAWN, ()))
    gone = {raw for raw in given if pseudonyms.withdrawal_mark(job.key, raw, job.site) in marks}
    pictures = _pictures(out, job, found, [at for at, one in stated.items() if one.patient in gone])
    patients = {pseudonyms.patient(job.key, raw, job.site): raw for raw in given - gone}
    holders = _patients(index)
    wanted = _wanted(holders, pictures, patients)
    if wanted:
        with process.pool(1) as executor:
            patients |= executor.submit(namesakes.originals, job, wanted).result()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(("image", key, one.path) for key, one in pictures.files.items())
    writer.writerows(("image", key, f"{one.path} {place}") for key, (one, place) in pictures.parts.items())
    writer.writerows(("patient", pseudonym, patients[pseudonym]) for pseudonym in sorted(patients))
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"), mode=0o600)
    return len(set(holders.values()) - patients.keys())


@dataclass(frozen=True)
class _Pictures:
    """By key: files, and the pictures of files that hold several. Nothing of patients who were withdrawn."""

    files: Mapping[str, Found]
    parts: Mapping[str, Lying]


def _pictures(out: Path, job: Job, found: Sequence[Found], gone: Collection[int]) -> _Pictures:
    """All that may be named; gone: rows of the scan that are stated to be of somebody withdrawn."""
    rows = {pseudonyms.image(job.key, one.path, job.site): one for one in found}
    for number in gone:
        rows.pop(pseudonyms.image(job.key, found[number].path, job.site), None)
    parts: dict[str, Lying] = {}
    theirs: set[str] = set()
    for line in manifest.lines(out / shards.LEDGER_NAME):
        file = line.get("file", line["key"])
        if line["reason"] == WITHDRAWN:
            theirs.add(file)
        elif file in rows and "place" in line:
            parts[line["key"]] = (rows[file], line["place"])
    return _Pictures({key: one for key, one in rows.items() if key not in theirs}, parts)


def _patients(index: Index) -> dict[str, str]:
    """Key -> patient of every photograph of the output, aliases included, that has one."""
    reader = shards.Reader(index)
    try:
        facts = (reader.facts(number) for number in range(len(reader)))
        everyone = (one for sample in facts for one in (sample, *sample["aliases"]))
        return {one["key"]: one["patient"] for one in everyone if one["patient"]}
    finally:
        reader.close()


def _wanted(
    holders: Mapping[str, str], pictures: _Pictures, known: Collection[str]
) -> dict[str, list[Lying]]:
    """Pseudonym -> one picture of theirs in each of their files, for the patients nothing states."""
    wanted: dict[str, dict[str, Lying]] = {}
    for key, patient in holders.items():
        lying = pictures.parts.get(key)
        if lying is None and key in pictures.files:
            lying = (pictures.files[key], "")
        if patient not in known and lying is not None:
            wanted.setdefault(patient, {}).setdefault(lying[0].path, lying)
    return {patient: list(places.values()) for patient, places in wanted.items()}
