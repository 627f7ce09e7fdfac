"""Text about a photograph -> values from closed vocabularies: eye, modality, split, device, age, sex ...

In: cells of a table, parts of a file name, DICOM values. Out: a known value, or nothing; free text never
passes (law 8).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ssl_retina import pseudonyms
from ssl_retina.archive.statements import devices

EYES = {"r": "right", "od": "right", "right": "right", "l": "left", "os": "left", "left": "left"}
MODALITIES = {
    **dict.fromkeys(("fundus", "cfp", "fundus photograph", "fundus photo", "colour fundus"), "fundus"),
    **dict.fromkeys(("color fundus", "color fundus photograph", "colour fundus photograph"), "fundus"),
    **dict.fromkeys(("oct", "octb", "b scan", "bscan", "oct b scan", "oct bscan"), "oct"),
    "other": "other",
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **{
        word: word
        for word in ("tune", "tuning", "holdout", "external", "pretrain", "unlabeled", "unlabelled")
    },
}
NO_PATIENT = frozenset(
    (
        *("anonymous", "anonymized", "anonymised", "anonym", "anon", "deidentified", "de-identified"),
        *("unknown", "none", "null", "nil", "na", "n/a", "nan", "missing", "unassigned", "-", "--", "?", "."),
    )
)
"""What stands in a patient field that names nobody, after normalisation; so do rows of zeros or of x."""

DEVICE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+()-]{0,39}")
DEVICES_LIMIT = 64
_FOLD = re.compile(r"(fold|split|part|set)?[ _-]?(\d{1,2})")
_VISIT = re.compile(
    r"(?:(?:v|vis|visit|exam|session|timepoint|baseline)[ _-]?)?(\d{1,14})(\.0*)?", re.ASCII | re.I
)
SEXES = {"f": "female", "female": "female", "w": "female", "woman": "female"}
SEXES |= {"m": "male", "male": "male", "man": "male"}
TOP_AGE, OLDEST = 90, 130
"""Ages from TOP_AGE on are one bin (45 CFR 164.514(b)(2)(i)(C)); more than OLDEST is no age."""
_AGE = re.compile(r"0*(\d{1,3})(?:[.,]\d+)?\s*(?:y|years?)?", re.ASCII | re.I)
_DATE = re.compile(r"(\d{4})([-./])(\d{1,2})\2(\d{1,2})([T ][\d:.+Z-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a table or a file name states about one photograph; None: nothing is stated.

    patient is raw (it becomes a pseudonym), visit a number to order by, the rest are known words; an eye
    that is stated but not understood is "unknown".
    """

    patient: str | None = None
    eye: str | None = None
    device: str | None = None
    visit: int | None = None
    split: str | None = None
    modality: str | None = None
    age: str | None = None
    sex: str | None = None


def eye(text: str) -> str | None:
    """`right`, `left`, `unknown` for anything but R, L, OD, OS, right, left (any case), None for nothing."""
    word = text.strip().casefold()
    return EYES.get(word, "unknown") if word else None


def modality(text: str) -> str | None:
    """`fundus`, `oct`, `other`, or None."""
    return MODALITIES.get(" ".join(re.split(r"[\s_-]+", text.strip().casefold())))


def split(text: str) -> str | None:
    """The name of a split (train, val, test, fold-3, ...), or None for anything that is none."""
    word = text.strip().casefold()
    fold = _FOLD.fullmatch(word)
    return f"fold-{int(fold[2])}" if fold else SPLITS.get(word)


def device(text: str) -> str | None:
    """A device's name in one spelling, or None where it is no short tame word, or holds a date."""
    word = " ".join(text.split())
    return word if DEVICE_PATTERN.fullmatch(word) and not devices.dated(word) else None


def visit(text: str) -> int | None:
    """A number that orders visits: `3`, `V3`, `visit 3`, or a date (year first) as YYYYMMDD; else None.

    Anything else is not guessed at: the 31 of `Jan 31` would come behind the 1 of `Feb 1`.
    """
    word = text.strip()
    date = _DATE.fullmatch(word)
    if date:
        year, month, day = int(date[1]), int(date[3]), int(date[4])
        return (year * 100 + month) * 100 + day if 1 <= month <= 12 and 1 <= day <= 31 else None
    number = _VISIT.fullmatch(word)
    return int(number[1]) if number else None


def patient(text: str) -> str | None:
    """The id as written, or None where it names nobody (empty, `0000`, `ANONYMOUS`, ...)."""
    bare = "".join(pseudonyms.plain(text).split()).casefold()
    if not bare or bare in NO_PATIENT or re.fullmatch(r"0{2,}|x{2,}", bare):
        return None
    return text if pseudonyms.normalise(text) else None


def age(text: str) -> str | None:
    """Years (`63`, `63.5`, DICOM's `063Y`) as a bin of five years, `60-64`; from 90 on `90+`; else None."""
    number = _AGE.fullmatch(text.strip())
    if not number or int(number[1]) > OLDEST:
        return None
    years = int(number[1])
    return f"{TOP_AGE}+" if years >= TOP_AGE else f"{years // 5 * 5}-{years // 5 * 5 + 4}"


def sex(text: str) -> str | None:
    """`female`, `male`, or None for anything else: so few are neither that the word would name them."""
    return SEXES.get(text.strip().casefold())


PARSERS: Mapping[str, Callable[[str], str | int | None]] = {
    "patient": patient,
    "eye": eye,
    "device": device,
    "visit": visit,
    "split": split,
    "modality": modality,
    "age": age,
    "sex": sex,
}
"""How the text of each attribute becomes a value."""
