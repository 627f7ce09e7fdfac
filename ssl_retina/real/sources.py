"""The two public sets as they lie in DATA: photographs, labels file, and what is asked of them.

In: the folder that the user named. Out: `Source`s, or one sentence that says what is missing. Nothing is
ever downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina.errors import InputError


@dataclass(frozen=True)
class Source:
    """One labelled set.

    images, labels: below DATA. file, patient, split: columns of the labels file; patient None where no ids
    exist, split None where none is declared (half of the patients are then drawn as test patients).
    task: what the probe is asked, as in `probe --task`. about: how the set is called in the report.
    """

    name: str
    about: str
    images: Path
    labels: Path
    file: str
    patient: str | None
    split: str | None
    task: str


def sources(data: Path) -> tuple[Source, Source]:
    """IDRiD and HYGD in `data`. Raises InputError that names the folder and what it lacks."""
    found = (
        Source(
            name="idrid",
            about="IDRiD (Porwal, Pachade, Kokare), CC BY 4.0",
            images=data / "idrid",
            labels=data / "idrid" / "labels.csv",
            file="file",
            patient=None,
            split="split",
            task="referable_dr=dr_grade>=2",
        ),
        Source(
            name="hygd",
            about="Hillel Yaffe Glaucoma Dataset, ODC-By 1.0",
            images=data / "hygd" / "images",
            labels=data / "hygd" / "labels.csv",
            file="Image Name",
            patient="Patient",
            split=None,
            task="glaucoma=Label:GON+",
        ),
    )
    _check(data, found)
    return found


def _check(data: Path, wanted: Sequence[Source]) -> None:
    missing = [
        path
        for source in wanted
        for path, there in ((source.images, source.images.is_dir()), (source.labels, source.labels.is_file()))
        if not there
    ]
    if missing:
        listed = ", ".join(str(path.relative_to(data)) for path in missing)
        raise InputError(
            f"the real photographs are not in {data}: {listed} missing there. Put IDRiD and HYGD beside each "
            "other (idrid/labels.csv, idrid/train, idrid/test, hygd/labels.csv, hygd/images) and name that "
            "folder: make real DATA=FOLDER"
        )
