"""How well copies of photographs are found: recall by kind of copy, and matches with other photographs.

In: folders of photographs. Some of them are copied in thirteen ways (resized, recompressed, cropped, lit,
mirrored, and several at once); the copies stand among all photographs, as in an archive.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ssl_retina.archive import readers
from ssl_retina.archive.duplicates import near
from ssl_retina.archive.pixels import clean, look
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.scan import scan
from ssl_retina.errors import InputError

LONGEST = 640
"""Pixels of a photograph's longer side before it is copied: copies come from files, not from sensors."""

TWINS = 0.9
"""Correlation of two photographs that are copies of each other beyond doubt: a match with either is right."""

Random = np.random.Generator
Way = Callable[[Image.Image, Random], Image.Image]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every `every`-th photograph, from `offset` on, is copied; the copies are cleaned to `size` pixels."""

    every: int = 8
    offset: int = 4
    size: int = 512

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.offset < self.every:
            raise InputError(f"--every {self.every} --offset {self.offset}: offset from 0 to every - 1")


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A photograph or a copy: its look, the number of the photograph, and the way it was made."""

    look: look.Look | None
    photograph: int
    way: str = ""


def measure(folders: Sequence[Path], plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Measure copies of photographs of all folders together. Raises InputError where none is copied."""
    originals: list[_Seen] = []
    copies: list[_Seen] = []
    for image in _photographs(folders):
        number = len(originals)
        seen = _look(image, plan.size)
        if seen is None:
            continue
        originals.append(_Seen(seen, number))
        if number % plan.every == plan.offset:
            copies += [_Seen(_look(made, plan.size), number, way) for way, made in _made(image, number)]
        advance(1)
    if not copies:
        raise InputError(f"{len(originals)} photographs of a fundus are too few for --offset {plan.offset}")
    return _told(originals, copies)


def _photographs(folders: Sequence[Path]) -> Iterator[Image.Image]:
    """What can be read of the folders, at most LONGEST pixels long."""
    for folder in folders:
        for found in scan(folder):
            if found.reason or found.member is not None:
                continue
            try:
                picture = readers.parts(readers.content(folder / found.path), found.path)[0].decode()
            except Rejected:
                continue
            image = Image.fromarray(picture.pixels)
            image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC, reducing_gap=3.0)
            yield image


def _look(image: Image.Image, size: int) -> look.Look | None:
    """The look of a photograph of a fundus, None of anything else."""
    try:
        cleaned = clean.clean(np.asarray(image), None, size)
    except Rejected:
        return None
    return look.look(cleaned.pixels, cleaned.field_of_view) if cleaned.modality == "fundus" else None


def _told(originals: Sequence[_Seen], copies: Sequence[_Seen]) -> dict[str, Any]:
    seen = [one for one in copies if one.look is not None]
    right, wrong = _matches(originals, seen)
    ways = {}
    for way in WAYS:
        of_way = [number for number, one in enumerate(seen) if one.way == way]
        ways[way] = _share(len(right.intersection(of_way)), sum(one.way == way for one in copies))
    return {
        "photographs": len(originals),
        "copied": len(copies) // len(WAYS),
        "copies": _share(len(right), len(copies)),
        "ways": ways,
        "matches_with_others": wrong,
        "precision": len(right) / max(1, len(right) + wrong),
    }


def _matches(originals: Sequence[_Seen], copies: Sequence[_Seen]) -> tuple[set[int], int]:
    """Copies that match their photograph, and how many matches with others there are."""
    every = [*originals, *copies]
    hashes: NDArray[np.uint8] = np.stack(
        [np.frombuffer(look.perceptual_hash(_sure(one)), np.uint8) for one in every]
    )
    count = len(originals)
    pairs = [pair for pair in near.candidates(hashes) if pair[0] < count]
    scores: dict[tuple[int, int], float] = {}
    for one, other, turned in pairs:
        scores[one, other] = max(_similarity(every, one, other, turned), scores.get((one, other), -1.0))
    right, wrong = set(), 0
    for (one, other), score in scores.items():
        if other < count or score < near.SIMILAR:
            continue
        own = every[other].photograph
        if one == own:
            right.add(other - count)
        elif scores.get((min(one, own), max(one, own)), 0.0) < TWINS:
            wrong += 1
    return right, wrong


def _similarity(every: Sequence[_Seen], one: int, other: int, turned: bool) -> float:
    second = _sure(every[other])
    return look.similarity(_sure(every[one]), look.mirrored(second) if turned else second)


def _sure(one: _Seen) -> look.Look:
    assert one.look is not None
    return one.look


def _share(found: int, total: int) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson 1927)."""
    z, share = 1.96, found / total
    middle = (share + z * z / 2 / total) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / 4 / total**2) / (1 + z * z / total)
    return {"found": found, "of": total, "interval": [max(0.0, middle - half), min(1.0, middle + half)]}


def _made(image: Image.Image, number: int) -> Iterator[tuple[str, Image.Image]]:
    """Every copy of a photograph; what is drawn hangs on its number and the way alone."""
    for place, (way, make) in enumerate(WAYS.items()):
        yield way, make(image, np.random.default_rng((number, place)))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def _resized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, share: float, random: Random) -> Image.Image:
    width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _lit(image: Image.Image, gain: float, gamma: float) -> Image.Image:
    levels = np.clip(gain * np.arange(256) / 255, 0, 1) ** gamma
    return image.point(np.rint(255 * levels).astype(int).tolist() * 3)


def _together(image: Image.Image, random: Random, most: float) -> Image.Image:
    cut = _cropped(image, random.uniform(0, most), random)
    lit = _lit(cut, random.uniform(0.7, 1.3), math.exp(random.uniform(-0.3, 0.3)))
    return _compressed(_resized(lit, random.uniform(0.5, 1)), int(random.integers(40, 91)))


WAYS: dict[str, Way] = {
    "resized to 0.4": lambda image, _: _resized(image, 0.4),
    "resized to 0.7-1.5": lambda image, random: _resized(image, random.uniform(0.7, 1.5)),
    "JPEG quality 30": lambda image, _: _compressed(image, 30),
    "JPEG quality 50-90": lambda image, random: _compressed(image, int(random.integers(50, 91))),
    "cropped 5 %": lambda image, random: _cropped(image, 0.05, random),
    "cropped 10 %": lambda image, random: _cropped(image, 0.10, random),
    "cropped 15 %": lambda image, random: _cropped(image, 0.15, random),
    "half as bright": lambda image, _: _lit(image, 0.5, 1.2),
    "brighter": lambda image, _: _lit(image, 1.4, 0.8),
    "gamma": lambda image, random: _lit(image, 1.0, math.exp(random.uniform(-0.5, 0.5))),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "together": lambda image, random: _together(image, random, 0.10),
    "together and mirrored": lambda image, random: ImageOps.mirror(_together(image, random, 0.15)),
}
