"""Who is in the synthetic archive: patients, eyes, diseases, visits, cameras and file names.

In: a seed. Out: one `Shot` for every photograph and every OCT B-scan. Disease is dealt out evenly within
each camera, so that neither the camera nor its colours say anything about it.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssl_retina.synthetic.cameras import CAMERAS

PATIENTS = 150
SCANNED_PATIENTS = 30
DISEASES = (("retinopathy", 54), ("drusen", 24), ("glaucoma", 14), ("scar", 4), ("mild", 12))
"""Patients of each disease, a long tail; `mild` is retinopathy grade 1 and is not referable."""
REFERABLE = frozenset({"retinopathy", "drusen", "glaucoma", "scar"})
BOTH_EYES = 0.3
LATE_ONSET = 0.2
CAMERA_DEAL = (0, 1, 0, 2, 1, 0, 3, 1, 2, 0, 2, 1, 0, 3, 1, 0, 2, 0, 1, 3)
"""Home cameras in the order in which patients get them: shares 7, 6, 4 and 3 of 20."""
DEAL_SPREAD = 25.0
"""In patients. Exact balance would drive out-of-fold scores of the camera far below one half."""

SURNAMES = (
    "Abendroth", "Bergeron", "Calloway", "Dragomir", "Eskildsen", "Fontanelli", "Grzybowski", "Halvorsen",
    "Iwanaga", "Jankovic", "Kettleburn", "Lindqvist", "Mbeki-Osei", "Nakagawa", "Oyelaran", "Petrosyan",
    "Quispe", "Rasmussen", "Szentgyorgyi", "Thistlewood", "Uzunova", "Vandermolen", "Wolanski", "Yilmazer",
    "Zubiria",
)  # fmt: skip
FORENAMES = (
    "Anneliese", "Bartholomew", "Celestine", "Dimitri", "Eleonora", "Ferdinand", "Guadalupe", "Hyacinth",
    "Isidore",
)  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """One invented person. `diseases` holds, for the right and the left eye, the disease or an empty text."""

    number: int
    record: str
    surname: str
    forename: str
    born: datetime.date
    visits: tuple[datetime.date, ...]
    cameras: tuple[int, ...]
    diseases: tuple[str, str]
    onset: tuple[int, int]


@dataclass(frozen=True)
class Shot:
    """One image to draw. `disease` is what the eye shows at this visit; `file` is below `archive/`."""

    patient: Patient
    eye: str
    visit: int
    camera: int
    modality: str
    disease: str
    file: str

    @property
    def referable(self) -> bool:
        """What the demo's task asks for."""
        return self.disease in REFERABLE

    @property
    def right(self) -> bool:
        """Whether this is a right eye: its disc lies on the right side of the photograph."""
        return self.eye == "right"

    @property
    def grade(self) -> int:
        """Grade of retinopathy, 0 to 3."""
        if self.disease == "retinopathy":
            return 2 + self.patient.number % 2
        return 1 if self.disease == "mild" else 0


def draw_cohort(seed: int) -> tuple[Shot, ...]:
    """All photographs (600) and B-scans (60) of all patients, in the order of the patients' numbers."""
    generator = np.random.default_rng([seed, 1])
    plans = [_patient(number, generator, plan=plan) for number, plan in enumerate(_plans(generator))]
    patients = _with_cameras(plans, generator)
    photographs = [shot for patient in patients for shot in _photographs(patient)]
    scanned = generator.choice(PATIENTS, SCANNED_PATIENTS, replace=False)
    scans = [shot for number in sorted(scanned.tolist()) for shot in _scans(patients[number])]
    return (*photographs, *scans)


def _plans(generator: np.random.Generator) -> list[tuple[str, int, int]]:
    """For every patient the disease, how many eyes have it, and the number of visits, in mixed order."""
    plans: list[tuple[str, int, int]] = []
    for disease, count in (*DISEASES, ("", PATIENTS - sum(count for _, count in DISEASES))):
        both = round(count * BOTH_EYES)
        plans += [(disease, 2 if one < both else 1, 0) for one in range(count)]
    plans = [(disease, eyes, 1 + number % 3) for number, (disease, eyes, _) in enumerate(plans)]
    return [plans[one] for one in generator.permutation(len(plans))]


def _patient(number: int, generator: np.random.Generator, *, plan: tuple[str, int, int]) -> Patient:
    disease, eyes, visits = plan
    first = datetime.date(2014, 1, 6) + datetime.timedelta(days=int(generator.integers(0, 1200)))
    gaps = np.cumsum(np.r_[0, generator.integers(150, 500, visits - 1)])
    affected = [True, True] if eyes == 2 else [bool(side) for side in generator.permutation([True, False])]
    late = [visits > 1 and bool(generator.random() < LATE_ONSET) for _ in affected]
    return Patient(
        number=number,
        record=f"{int(generator.integers(10_000, 999_999)):08d}",
        surname=SURNAMES[int(generator.integers(len(SURNAMES)))],
        forename=FORENAMES[int(generator.integers(len(FORENAMES)))],
        born=datetime.date(1931, 1, 1) + datetime.timedelta(days=int(generator.integers(0, 18_000))),
        visits=tuple(first + datetime.timedelta(days=int(gap)) for gap in gaps),
        cameras=(),
        diseases=(disease if affected[0] else "", disease if affected[1] else ""),
        onset=(visits - 1 if late[0] else 0, visits - 1 if late[1] else 0),
    )


def _with_cameras(patients: Sequence[Patient], generator: np.random.Generator) -> list[Patient]:
    """Deal the cameras over patients in the order of disease, eyes and visits, loosened by DEAL_SPREAD."""

    def stratum(patient: Patient) -> tuple[bool, str, int, int, float]:
        diseases = [disease for disease in patient.diseases if disease]
        name = diseases[0] if diseases else ""
        return (name in REFERABLE, name, len(diseases), len(patient.visits), generator.random())

    ordered = sorted(patients, key=stratum)
    places = np.argsort(np.arange(len(ordered)) + generator.normal(0, DEAL_SPREAD, len(ordered)))
    dealt = list(patients)
    for turn, place in enumerate(places.tolist()):
        patient = ordered[place]
        home = CAMERA_DEAL[turn % len(CAMERA_DEAL)]
        moved = len(patient.visits) == 3 and turn % 4 == 0
        cameras = [home] * len(patient.visits)
        cameras[-1] = (home + 1) % len(CAMERAS) if moved else home
        dealt[patient.number] = replace(patient, cameras=tuple(cameras))
    return dealt


def _shown(patient: Patient, side: int, visit: int) -> str:
    return patient.diseases[side] if visit >= patient.onset[side] else ""


def _photographs(patient: Patient) -> list[Shot]:
    shots = []
    for visit, camera in enumerate(patient.cameras):
        for side, eye in enumerate(("right", "left")):
            file = _file(patient, visit, eye=eye, camera=camera)
            shots.append(Shot(patient, eye, visit, camera, "fundus", _shown(patient, side, visit), file))
    return shots


def _file(patient: Patient, visit: int, *, eye: str, camera: int) -> str:
    """Each camera's software has its own way to put names and dates where they should not be."""
    day, name = patient.visits[visit], f"{patient.surname}_{patient.forename}"
    short = "R" if eye == "right" else "L"
    suffix, eyes = CAMERAS[camera].suffix, CAMERAS[camera].eyes[0 if eye == "right" else 1]
    forms = (
        f"halo_export/{day.year}/{name}_{patient.record}/{eyes}_{day:%Y%m%d}{suffix}",
        f"meridian/{patient.record}/{name.upper()} {patient.born:%d.%m.%Y}/{day:%Y-%m-%d}_{eye}{suffix}",
        f"pocketview/{day:%Y-%m}/{patient.record}-{patient.surname.lower()}-{short}-{visit + 1}{suffix}",
        f"quadra/{patient.surname[0]}/{name}/{patient.record}^{day:%Y%m%d}^{short}{suffix}",
    )
    return forms[camera]


def _scans(patient: Patient) -> list[Shot]:
    visit = len(patient.visits) - 1
    folder = f"oct/{patient.record}_{patient.surname}"
    day = patient.visits[visit]
    return [
        Shot(patient, eye, visit, -1, "oct", _shown(patient, side, visit), f"{folder}/{eye}_{day:%Y%m%d}.png")
        for side, eye in enumerate(("right", "left"))
    ]
