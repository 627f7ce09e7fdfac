"""Dark and bright marks on a retina: lesions where the eye is ill, harmless streaks where it is not.

Every photograph gets a dark and a bright area to spend, drawn from the same distribution whether the eye
is ill or not. Disease decides only the shape and the arrangement, so that mean colour gives nothing away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_retina.synthetic.anatomy import Eye, Points, Stroke

DARK_AREA = (0.035, 0.075)
BRIGHT_AREA = (0.02, 0.05)
"""Area to spend, in squared retina units (the field has about 3.1): ranges of a uniform draw."""
REACH = 0.85


@dataclass(frozen=True)
class Blob:
    """A filled shape: its outline (n, 2)."""

    outline: Points


@dataclass(frozen=True)
class Marks:
    """What lies on the retina at one visit. `lesions` counts the marks that a disease made."""

    dark: tuple[Blob | Stroke, ...]
    bright: tuple[Blob | Stroke, ...]
    cup: float
    lesions: int


def draw_marks(eye: Eye, disease: str, *, grade: int, visit: int, generator: np.random.Generator) -> Marks:
    """The marks of one visit, from the eye's own generator: they grow, and earlier ones are still there."""
    growth = 0.85 + 0.15 * visit
    dark_area = growth * float(generator.uniform(*DARK_AREA))
    bright_area = growth * float(generator.uniform(*BRIGHT_AREA))
    large_cup = float(generator.uniform(0.7, 0.85))
    first, second = generator.spawn(2)
    cup = large_cup if disease == "glaucoma" else eye.cup
    if disease == "scar":
        return Marks(*_scar(dark_area, bright_area, first), cup, 1)
    dots = list(_dots(eye, dark_area, first)) if disease in ("retinopathy", "mild") else []
    if disease == "mild":
        dots = dots[:3]
    dark: list[Blob | Stroke] = [*dots]
    if disease != "retinopathy":
        dark += _streaks(eye, dark_area - area_of(dots), first)
    flecks: list[Blob] = []
    if disease == "drusen" or grade == 3:
        flecks = list(_drusen(bright_area, second) if disease == "drusen" else _exudates(bright_area, second))
    bright = flecks or _sheen(eye, bright_area, second)
    lesions = len(dots) + len(flecks) + int(disease == "glaucoma")
    return Marks(tuple(dark), tuple(bright), cup, lesions)


def area_of(marks: Sequence[Blob]) -> float:
    """Sum of the blobs' areas (shoelace formula)."""
    total = 0.0
    for blob in marks:
        x, y = blob.outline.T
        total += abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return total


def _outline(centre: Points, radius: float, *, roughness: float, generator: np.random.Generator) -> Blob:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    rough = generator.uniform(-1, 1, 20)
    reach = radius * (1 + roughness * (rough + np.roll(rough, 1) + np.roll(rough, -1)) / 2)
    return Blob(centre + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _spot(generator: np.random.Generator, near: float = 0.0, far: float = REACH) -> Points:
    angle, distance = generator.uniform(0, 2 * np.pi), np.sqrt(generator.uniform(near**2, far**2))
    return np.array([0.25 + distance * np.cos(angle), distance * np.sin(angle)])


def _clear_of_disc(eye: Eye, spot: Points) -> bool:
    return bool(np.hypot(*(spot - np.asarray(eye.disc))) > 1.5 * eye.disc_radius)


def _dots(eye: Eye, area: float, generator: np.random.Generator) -> Iterator[Blob]:
    """Microaneurysms and haemorrhages: round dark dots, loosely gathered around a few centres."""
    centres = [_spot(generator, 0.15, 0.7) for _ in range(3)]
    while area > 0:
        radius = float(generator.choice([0.022, 0.03, 0.042], p=[0.5, 0.35, 0.15]))
        spot = centres[int(generator.integers(3))] + generator.normal(0, 0.24, 2)
        if np.hypot(spot[0] - 0.25, spot[1]) < REACH and _clear_of_disc(eye, spot):
            area -= np.pi * radius**2
            yield _outline(spot, radius, roughness=0.15, generator=generator)


def _streaks(eye: Eye, area: float, generator: np.random.Generator) -> Iterator[Stroke]:
    """Harmless: choroidal vessels that shine through, the dark colour of haemorrhages in long lines."""
    while area > 0:
        start, heading = _spot(generator), generator.uniform(0, 2 * np.pi)
        length, width = generator.uniform(0.25, 0.5), generator.uniform(0.010, 0.015)
        line = _line(start, heading, length=length, generator=generator)
        if _clear_of_disc(eye, start) and np.all(np.hypot(line[:, 0] - 0.25, line[:, 1]) < REACH + 0.08):
            area -= 2 * width * length
            yield Stroke(line, 1.4 * width, 0.6 * width)


def _line(start: Points, heading: float, *, length: float, generator: np.random.Generator) -> Points:
    turns = heading + np.cumsum(generator.normal(0, 0.2, 9))
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 9
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _exudates(area: float, generator: np.random.Generator) -> Iterator[Blob]:
    """Hard exudates: small crisp bright flecks in rings near the macula."""
    centre, ring = generator.normal(0, 0.2, 2) - [0.1, 0], generator.uniform(0.12, 0.22)
    while area > 0:
        radius, angle = generator.uniform(0.012, 0.024), generator.uniform(0, 2 * np.pi)
        spot = centre + (ring + generator.normal(0, 0.035)) * np.array([np.cos(angle), np.sin(angle)])
        area -= np.pi * radius**2
        yield _outline(spot, float(radius), roughness=0.35, generator=generator)


def _drusen(area: float, generator: np.random.Generator) -> Iterator[Blob]:
    """Drusen: round bright spots gathered at the macula."""
    while area > 0:
        radius, spot = generator.uniform(0.016, 0.034), generator.normal(0, 0.17, 2)
        area -= np.pi * radius**2
        yield _outline(spot, float(radius), roughness=0.08, generator=generator)


def _sheen(eye: Eye, area: float, generator: np.random.Generator) -> Iterator[Stroke]:
    """Harmless: reflexes of the nerve fibres, the bright colour of exudates in arcs around the macula."""
    while area > 0:
        reach, start = generator.uniform(0.3, 0.75), generator.uniform(0, 2 * np.pi)
        angle = start + np.linspace(0, generator.uniform(0.25, 0.45) / reach, 10)
        line = reach * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        width = generator.uniform(0.008, 0.013)
        if all(_clear_of_disc(eye, point) for point in line):
            area -= 2 * width * reach * (angle[-1] - angle[0])
            yield Stroke(line, 1.4 * width, 0.6 * width)


def _scar(dark: float, bright: float, generator: np.random.Generator) -> tuple[tuple[Blob], tuple[Blob]]:
    """A rare one: a chorioretinal scar, pale within and dark around; both areas are spent on it."""
    centre = _spot(generator, 0.25, 0.6)
    inner = _outline(centre, float(np.sqrt(bright / np.pi)), roughness=0.2, generator=generator)
    outer = _outline(centre, float(np.sqrt((dark + bright) / np.pi)), roughness=0.15, generator=generator)
    return (outer,), (inner,)


def marks_generator(seed: int, patient: int, *, right: bool, ill: bool) -> np.random.Generator:
    """The generator of an eye's marks: one for its healthy and one for its ill visits."""
    return np.random.default_rng([seed, 3, patient, int(right), int(ill)])
