"""Which files of a scan are the recipe's images, which are left out and why, what their paths are made of.

In: `Found` rows. Out: the same rows, those that are no images with a reason for the ledger (law 1).
"""

import dataclasses
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssl_retina import pseudonyms
from ssl_retina.archive.recipe import text
from ssl_retina.archive.recipe.model import PathRule, Recipe
from ssl_retina.archive.scan import Found

SKIPPED = "skipped_by_recipe"
"""The reason in the ledger; the recipe's own words are the detail."""

TABLE = "a table of the recipe"
UNNAMED = "none of the images the recipe names"


Rules = Sequence[tuple[re.Pattern[str], PathRule]]


@dataclass(frozen=True, slots=True)
class Image:
    """A file that is an image: its number in the scan, its path's parts, the rule that its path follows."""

    number: int
    parts: Mapping[str, str]
    rule: PathRule | None


@dataclass(frozen=True)
class Sorted:
    """found: the rows, sorted out. kept: the images' numbers. skipped: how many files for each reason."""

    found: list[Found]
    kept: Sequence[int]
    skipped: Mapping[str, int]
    rules: Rules

    def images(self) -> Iterator[Image]:
        """The images one by one: a million of them are never held."""
        for number in self.kept:
            yield _image(number, _spelled(self.found[number].path), self.rules)


def sort(recipe: Recipe, found: Sequence[Found]) -> Sorted:
    """Every row of the scan; one that could not be read anyway keeps its reason."""
    tables = {number for globs in _table_globs(recipe) for number in first_fitting(globs, found)}
    images = _any(recipe.images)
    skips = [(_any(skip.files), skip.why) for skip in recipe.skip]
    rows = list(found)
    kept = array("Q")
    skipped: Counter[str] = Counter()
    for number, one in enumerate(found):
        if one.reason:
            continue
        path = _spelled(one.path)
        why = TABLE if number in tables else next((why for files, why in skips if files.fullmatch(path)), "")
        if not why and not images.fullmatch(path):
            why = UNNAMED
        if why:
            rows[number] = dataclasses.replace(one, reason=f"{SKIPPED}: {why}")
            skipped[why] += 1
        else:
            kept.append(number)
    rules = [(text.path_pattern(rule.fits), rule) for rule in recipe.paths]
    return Sorted(rows, kept, skipped, rules)


def first_fitting(globs: Iterable[str], found: Sequence[Found]) -> list[int]:
    """The files that the first glob with any fits, by their numbers."""
    for glob in globs:
        compiled = text.glob(glob)
        fitting = [number for number, one in enumerate(found) if compiled.fullmatch(_spelled(one.path))]
        if fitting:
            return fitting
    return []


def _table_globs(recipe: Recipe) -> list[tuple[str, ...]]:
    return [*(rule.table for rule in recipe.tables), *(labels.table for labels in recipe.labels)]


def _any(globs: Iterable[str]) -> re.Pattern[str]:
    """One expression for all globs."""
    expressions = [text.glob(glob).pattern for glob in globs]
    return re.compile("|".join(f"(?:{one})" for one in expressions), re.DOTALL | re.IGNORECASE)


def _spelled(path: str) -> str:
    """A path in the one spelling of its accents; most have none, and a scan has a million."""
    return path if path.isascii() else pseudonyms.normalise_path(path)


def _image(number: int, path: str, rules: Rules) -> Image:
    parts = text.parts_of(path)
    for pattern, rule in rules:
        match = pattern.fullmatch(path)
        if match:
            return Image(number, parts | match.groupdict(default=""), rule)
    return Image(number, parts, None)
