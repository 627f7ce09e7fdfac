"""A small copy of the layout of IDRiD and HYGD with drawn eyes, and with their traps: names and copies."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssl_retina.archive.build import Settings, build
from ssl_retina.archive.statements.table import parse_map
from ssl_retina.real.sources import Source
from ssl_retina.synthetic.cohort import Shot, draw_cohort
from ssl_retina.synthetic.photograph import draw_photograph

TRAIN, TEST = 24, 14
PATIENTS = 34
SMALL_CAMERA = 2
IDRID = ("file", "split", "dr_grade", "dme_risk")
HYGD = ("Image Name", "Patient", "Label", "Quality Score", "")


@dataclass(frozen=True)
class Eyes:
    """DATA; the IDRiD paths that no trainer may see, and HYGD patients that are one group."""

    data: Path
    forbidden: tuple[str, ...]
    together: tuple[tuple[str, str], ...]


def draw(data: Path) -> Eyes:
    """Two photographs of every HYGD patient, two filed again under another; IDRiD: one in both splits."""
    shots = [shot for shot in draw_cohort(0) if shot.modality == "fundus" and shot.camera == SMALL_CAMERA]
    rows = [
        *_idrid(data / "idrid", "train", shots[:TRAIN]),
        *_idrid(data / "idrid", "test", shots[TRAIN:][:TEST]),
    ]
    _copy(data / "idrid", "test/IDRiD_003.jpg", "train/IDRiD_025.jpg")
    rows.append(("train/IDRiD_025.jpg", "train", "0", "0"))
    _write(data / "idrid" / "labels.csv", IDRID, rows)
    (data / "idrid" / "LICENSE.txt").write_text("as it pleases")
    _hygd(data / "hygd", shots[TRAIN + TEST :])
    tests = tuple(f"test/{_name(number)}" for number in range(1, TEST + 1))
    return Eyes(data, (*tests, "train/IDRiD_025.jpg"), (("1", "7"), ("7", "12")))


def _name(number: int) -> str:
    """The same name occurs in both splits."""
    return f"IDRiD_{number:03d}.jpg"


def _idrid(folder: Path, split: str, shots: Sequence[Shot]) -> list[tuple[str, ...]]:
    rows = []
    for number, shot in enumerate(shots, 1):
        _save(folder / split / _name(number), shot)
        rows.append((f"{split}/{_name(number)}", split, str(number % 5), str(number % 3)))
    return rows


def _hygd(folder: Path, shots: Sequence[Shot]) -> None:
    rows = []
    for patient in range(PATIENTS):
        for picture in range(2):
            name = f"{patient}_{picture}.jpg"
            _save(folder / "images" / name, shots[2 * patient + picture])
            rows.append((name, str(patient), "GON+" if patient % 2 else "GON-", "5.5", ""))
    for source, copy, patient in (("1_0.jpg", "7_2.jpg", "7"), ("12_1.jpg", "7_3.jpg", "7")):
        _copy(folder / "images", source, copy)
        rows.append((copy, patient, "GON+", "4.0", ""))
    _write(folder / "labels.csv", HYGD, rows)


def _save(path: Path, shot: Shot) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph = Image.fromarray(draw_photograph(shot, 0))
    photograph.resize((160, 160)).save(path, quality=90)


def _copy(folder: Path, source: str, target: str) -> None:
    (folder / target).write_bytes((folder / source).read_bytes())


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def shard(source: Source, out: Path, key_file: Path) -> Path:
    """What the verb `shard` does with a set."""
    columns = {"file": source.file, "patient": source.patient, "split": source.split}
    mapped = parse_map([f"{ours}={theirs}" for ours, theirs in columns.items() if theirs])
    settings = Settings(
        table=source.labels, columns=mapped, size=64, key_file=key_file, processes=1, keep_other=True
    )
    build(source.images, out, settings)
    return out


def relabelled(eyes: Eyes, target: Path, forbidden_patients: Sequence[str]) -> Path:
    """DATA again, photographs by link, where the labels of all test photographs are others."""
    for name, column in (("idrid", "file"), ("hygd", "Image Name")):
        folder = target / name
        folder.mkdir(parents=True)
        for entry in (eyes.data / name).iterdir():
            if entry.name != "labels.csv":
                (folder / entry.name).symlink_to(entry)
        with (eyes.data / name / "labels.csv").open(newline="") as stream:
            header, *rows = list(csv.reader(stream))
        for row in rows:
            if name == "idrid" and row[0] in eyes.forbidden:
                row[2] = str(4 - int(row[2]))
            if name == "hygd" and row[1] in forbidden_patients:
                row[2] = "GON-" if row[2] == "GON+" else "GON+"
        assert column in header
        _write(folder / "labels.csv", header, rows)
    return target
