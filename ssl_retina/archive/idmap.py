"""The way back from pseudonyms, for the site alone: a CSV of mode 0600 outside the output, only when asked.

In: a finished build, its scan and its table. Out: `kind,pseudonym,original` for every image and patient.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import process, worker
from ssl_retina.archive.found import Found
from ssl_retina.archive.matching import Stated
from ssl_retina.archive.worker import Job
from ssl_retina.errors import InputError

HEADER = ("kind", "pseudonym", "original")


def check_place(path: Path, source: Path, out: Path) -> None:
    """Refuse an id map that would travel with the shards, lie in the archive, or replace another file."""
    for folder, what in ((out, "the output"), (source, "the source")):
        if path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--id-map {path} lies inside {what} {folder}: it must stay apart from it")
    if not path.parent.is_dir():
        raise InputError(f"--id-map {path}: its folder does not exist")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(",".join(HEADER).encode())):
        raise InputError(f"--id-map {path} exists and is no id map: it is not replaced")


def write(path: Path, out: Path, *, job: Job, found: Sequence[Found], stated: Stated) -> None:
    """Write the map of a complete output. Patients that only the files name are read from one file each."""
    rows = {pseudonyms.image(job.key, one.path, job.site): one for one in found}
    parts = {key: (rows[file], place) for key, file, place in _parts(out)}
    given = (one.patient for one in stated.values() if one.patient is not None)
    patients = {pseudonyms.patient(job.key, raw, job.site): raw for raw in given}
    wanted = {
        patient: parts[key][0] if key in parts else rows[key]
        for key, patient in _patients(out).items()
        if patient not in patients
    }
    if wanted:
        with process.pool(1) as executor:
            raws = executor.map(worker.raw_patient, [job] * len(wanted), wanted.values())
            patients.update(zip(wanted, raws, strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(("image", key, one.path) for key, one in rows.items())
    writer.writerows(("image", key, f"{one.path} {place}") for key, (one, place) in parts.items())
    writer.writerows(("patient", pseudonym, patients[pseudonym]) for pseudonym in sorted(patients))
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"), mode=0o600)


def _parts(out: Path) -> Iterator[tuple[str, str, str]]:
    """Key, file and place of every picture that is not the only one of its file, from the ledger."""
    with (out / shards.LEDGER_NAME).open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "file" in line:
                yield line["key"], line["file"], line["place"]


def _patients(out: Path) -> dict[str, str]:
    """Key -> patient of every photograph of the output, aliases included, that has one."""
    reader = shards.Reader(shards.read_index(out))
    try:
        facts = (reader.facts(number) for number in range(len(reader)))
        everyone = (one for sample in facts for one in (sample, *sample["aliases"]))
        return {one["key"]: one["patient"] for one in everyone if one["patient"]}
    finally:
        reader.close()
