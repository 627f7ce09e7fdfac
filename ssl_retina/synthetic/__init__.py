"""Draws a messy archive of eye images with known labels, cameras and faults, for the demo and for tests.

In: a folder and a seed. Out: `archive/` (photographs, B-scans, damaged and doubled files under names that
give patients away), `attributes.csv` and `labels.csv`. Every byte depends on the seed alone. The numbers in
this package were frozen before the first pretraining result on it was seen (`docs/results.md`).
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ssl_retina import files
from ssl_retina.synthetic.bscan import draw_bscan
from ssl_retina.synthetic.cameras import CAMERAS
from ssl_retina.synthetic.cohort import Shot, draw_cohort
from ssl_retina.synthetic.mess import Copy, add_mess, plan_mess
from ssl_retina.synthetic.photograph import draw_photograph
from ssl_retina.synthetic.writing import encode, encode_sixteen_bit

Row = tuple[object, ...]
ATTRIBUTES = ("file", "patient", "eye", "visit", "device", "modality")
LABELS = (
    "file",
    "patient",
    "camera",
    "retinopathy_grade",
    "drusen",
    "glaucoma",
    "scar",
    "referable",
)


@dataclass(frozen=True)
class Drawn:
    """A drawn archive: how many photographs and B-scans; `bad` files hold no eye, `copies` are double."""

    folder: Path
    photographs: int
    scans: int
    bad: int
    copies: int

    @property
    def archive(self) -> Path:
        """The folder of images."""
        return self.folder / "archive"

    @property
    def attributes(self) -> Path:
        """Patient, eye, visit, device and modality of every file."""
        return self.folder / "attributes.csv"

    @property
    def labels(self) -> Path:
        """Diseases of every readable fundus photograph; `referable` is the demo's task."""
        return self.folder / "labels.csv"

    @property
    def files(self) -> int:
        """How many files an archive step must account for."""
        return self.photographs + self.scans + self.bad + self.copies


def draw_archive(folder: Path, *, seed: int = 0) -> Drawn:
    """Draw the archive into `folder`, with all cores; the tables are written last."""
    shots = draw_cohort(seed)
    mess = plan_mess(shots)
    archive = folder / "archive"
    for parent in sorted({(archive / shot.file).parent for shot in mess.shots}):
        parent.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        for _ in pool.map(
            partial(_draw, archive, seed=seed, red_free=mess.red_free), mess.shots, chunksize=12
        ):
            pass
    add_mess(archive, mess)
    _write_table(folder / "attributes.csv", ATTRIBUTES, _attributes(mess.shots, mess.copies, mess.bad))
    _write_table(folder / "labels.csv", LABELS, _labels(mess.shots, mess.copies))
    return summary(folder, seed=seed)


def summary(folder: Path, *, seed: int = 0) -> Drawn:
    """What `draw_archive` with this seed puts into `folder`, without drawing."""
    mess = plan_mess(draw_cohort(seed))
    scans = sum(shot.modality == "oct" for shot in mess.shots)
    return Drawn(folder, len(mess.shots) - scans, scans, len(mess.bad), len(mess.copies))


def _draw(archive: Path, shot: Shot, *, seed: int, red_free: str) -> None:
    if shot.modality == "oct":
        content = encode(shot, draw_bscan(shot, seed))
    elif shot.file == red_free:
        content = encode_sixteen_bit(draw_photograph(shot, seed))
    else:
        content = encode(shot, draw_photograph(shot, seed))
    (archive / shot.file).write_bytes(content)


def _attributes(shots: Sequence[Shot], copies: Sequence[Copy], bad: Sequence[Shot]) -> Iterator[Row]:
    for shot in (*shots, *(copy.filed for copy in copies), *bad):
        device, eyes = "Strata OCT", ("R", "L")
        if shot.modality == "fundus":
            device, eyes = CAMERAS[shot.camera].device, CAMERAS[shot.camera].eyes
        day = shot.patient.visits[shot.visit].isoformat()
        eye = eyes[0 if shot.right else 1]
        yield shot.file, shot.patient.record, eye, day, device, shot.modality


def _labels(shots: Sequence[Shot], copies: Sequence[Copy]) -> Iterator[Row]:
    for shot in (*shots, *(copy.filed for copy in copies)):
        if shot.modality == "fundus":
            single = (int(shot.disease == name) for name in ("drusen", "glaucoma", "scar"))
            camera = CAMERAS[shot.camera].device
            yield shot.file, shot.patient.record, camera, shot.grade, *single, int(shot.referable)


def _write_table(path: Path, header: Sequence[str], rows: Iterator[Row]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    ordered: list[Row] = sorted(rows, key=lambda row: str(row[0]))
    writer.writerows(ordered)
    files.write_bytes(path, stream.getvalue().encode())
