"""The way back from pseudonyms, for the site alone: a CSV of mode 0600 outside the output, only when asked.

In: a finished build, its scan and its table. Out: `kind,pseudonym,original` for every image and patient.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import process, worker
from ssl_retina.archive.matching import Stated
from ssl_retina.archive.scan import Found
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
    """Write the map of a complete output. Patients that only DICOM files name are read from one file each."""
    images = {pseudonyms.image(job.key, one.path, job.site): one.path for one in found}
    given = (one.patient for one in stated.values() if one.patient is not None)
    patients = {pseudonyms.patient(job.key, raw, job.site): raw for raw in given}
    wanted = {patient: images[key] for key, patient in _patients(out).items() if patient not in patients}
    if wanted:
        with process.pool(1) as executor:
            raws = executor.map(worker.raw_patient, [job.source / one for one in wanted.values()])
            patients.update(zip(wanted, raws, strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(("image", key, original) for key, original in images.items())
    writer.writerows(("patient", pseudonym, patients[pseudonym]) for pseudonym in sorted(patients))
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"), mode=0o600)


def _patients(out: Path) -> dict[str, str]:
    """Key -> patient of every photograph of the output, aliases included, that has one."""
    reader = shards.Reader(shards.read_index(out))
    try:
        facts = (reader.facts(number) for number in range(len(reader)))
        everyone = (one for sample in facts for one in (sample, *sample["aliases"]))
        return {one["key"]: one["patient"] for one in everyone if one["patient"]}
    finally:
        reader.close()
