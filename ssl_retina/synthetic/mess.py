"""The mess of a real archive: damaged files, photographs filed twice, odd formats.

In: the shots of a cohort. Out: which of them are stored in another format, and what lies beside them.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from ssl_retina.synthetic.cohort import Shot

HTML = b"<!DOCTYPE html>\n<html><head><title>503</title></head><body>Service unavailable</body></html>\n"


@dataclass(frozen=True)
class Copy:
    """A photograph filed a second time: the file `source`, again as `filed`."""

    source: str
    filed: Shot


@dataclass(frozen=True)
class Mess:
    """shots: all to draw. red_free: the file stored with 16 bits. bad: cut, a web page, black."""

    shots: tuple[Shot, ...]
    red_free: str
    copies: tuple[Copy, ...]
    bad: tuple[Shot, ...]


def plan_mess(shots: Sequence[Shot]) -> Mess:
    """Choose what becomes of which shot; no randomness."""
    pictures = [shot for shot in shots if shot.modality == "fundus"]
    halo = [shot for shot in pictures if shot.camera == 0 and shot.visit == 0]
    quadra = [shot for shot in pictures if shot.camera == 3 and shot.visit == 0]
    in_tags = replace(halo[0], file=_beside(halo[0].file, "dcm"))
    red_free = quadra[0].file
    kept = tuple(in_tags if shot is halo[0] else shot for shot in shots)
    suffixes = ("_2.jpg", "_export.jpg", "_3.jpg")
    bad = tuple(
        replace(shot, file=_beside(shot.file, suffix))
        for shot, suffix in zip(halo[2:5], suffixes, strict=True)
    )
    return Mess(kept, red_free, (*_again(halo[6:10]), *_under_another_patient(halo[10:])), bad)


def _beside(file: str, ending: str) -> str:
    stem = PurePosixPath(file).with_suffix("").as_posix()
    return f"{stem}{ending}" if ending.startswith("_") else f"{stem}.{ending}"


def _again(shots: Sequence[Shot]) -> list[Copy]:
    """The same patient's photographs, in the folder of a second export."""
    return [Copy(shot.file, replace(shot, file=f"second_export/{shot.file}")) for shot in shots]


def _under_another_patient(shots: Sequence[Shot]) -> list[Copy]:
    """One photograph filed under a patient with the same labels, and one where the labels contradict."""
    copies = []
    first, ill = (
        next(shot for shot in shots if not shot.disease),
        next(shot for shot in shots if shot.referable),
    )
    for source, taken in ((first, first), (ill, ill)):
        others = (shot for shot in shots if shot.patient is not taken.patient and not shot.disease)
        other = next(others)
        folder = PurePosixPath(other.file).parent
        copies.append(
            Copy(source.file, replace(other, file=f"{folder}/copy_of_{PurePosixPath(source.file).name}"))
        )
    return copies


def add_mess(archive: Path, mess: Mess) -> None:
    """Write the damaged files and the copies beside what was drawn."""
    for copy in mess.copies:
        _put(archive / copy.filed.file, (archive / copy.source).read_bytes())
    cut, page, black = mess.bad
    whole = next(archive / shot.file for shot in mess.shots if _same_visit(shot, cut))
    _put(archive / cut.file, whole.read_bytes()[: whole.stat().st_size // 2])
    _put(archive / page.file, HTML)
    stream = io.BytesIO()
    Image.new("RGB", (560, 560)).save(stream, "JPEG")
    _put(archive / black.file, stream.getvalue())


def _same_visit(shot: Shot, other: Shot) -> bool:
    taken = (shot.patient.number, shot.visit, shot.eye, shot.modality)
    return taken == (other.patient.number, other.visit, other.eye, other.modality)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
