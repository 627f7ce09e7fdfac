"""What a build is told and what it answers.

In: the options of `ssl-retina shard`. Out: `Settings` that are checked, `Totals` that add up.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ssl_retina.archive.filters import Filters
from ssl_retina.archive.identity.disclosure import DATES, Rule
from ssl_retina.archive.pixels import ocr
from ssl_retina.archive.pixels.encode import Encoding
from ssl_retina.archive.recipe import Recipe
from ssl_retina.archive.selection import Selection
from ssl_retina.errors import InputError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
SMALLEST_SIZE, LARGEST_SIZE = 32, 4096
SECONDS_BETWEEN = 10.0
"""No stretch of a run is silent for longer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How an archive becomes shards.

    recipe: what is known about this kind of archive; table and pattern are by hand and count before it.
    table, columns: a CSV about the files, and which column is which (`{"patient": "Patient"}`).
    pattern: what the bare file names state, such as `{patient}_{eye}`.
    size: side of the written squares in pixels. samples_per_shard: images of one tar.
    selection: which pictures of a file with several.
    full_decode: decode every pixel of JPEGs that are stored far smaller, too.
    keep_other: keep pictures that look like neither a photograph nor a scan of a retina.
    keep_text: keep pictures that bear a line of letters. ocr: look for words in every picture.
    filters: what is marked, taken out, spared and weighted.
    site: goes into every pseudonym; name: begins the shards' names.
    key_file, id_map: the site's key; where to write the way back, if at all. processes: None is all cores.
    k, dates: `disclosure.Rule`.
    """

    recipe: Recipe | None = None
    table: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    size: int = 512
    encoding: Encoding = field(default_factory=Encoding)
    samples_per_shard: int = 2048
    selection: Selection = field(default_factory=Selection)
    full_decode: bool = False
    keep_other: bool = False
    keep_text: bool = False
    ocr: bool = False
    filters: Filters = field(default_factory=Filters)
    site: str = ""
    name: str = "retina"
    key_file: Path | None = None
    id_map: Path | None = None
    processes: int | None = None
    k: int | None = None
    dates: str = "order"

    def __post_init__(self) -> None:
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise InputError(f"--size {self.size}: from {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
        if self.samples_per_shard < 1:
            raise InputError(f"--samples-per-shard {self.samples_per_shard}: at least 1")
        if self.processes is not None and self.processes < 1:
            raise InputError(f"--processes {self.processes}: at least 1")
        if self.k is not None and self.k < 1:
            raise InputError(f"--k {self.k}: at least 1 (1 makes nothing unknown)")
        if self.dates not in DATES:
            raise InputError(f"--dates {self.dates}: one of {', '.join(DATES)}")
        if self.columns and self.table is None:
            own = f"; the recipe {self.recipe.name} maps its own tables" if self.recipe else ""
            raise InputError(
                f"--map says which column of a table is which: give the table too (--table CSV){own}"
            )
        for option, word in (("--name", self.name), ("--site", self.site or "none")):
            if not NAME_PATTERN.fullmatch(word):
                raise InputError(f"{option}: up to 32 letters, digits, - and _")
        if self.ocr:
            ocr.require()

    @property
    def workers(self) -> int:
        """How many worker processes are asked for."""
        return self.processes or _cores()

    @property
    def enough(self) -> int:
        """Pixels that both sides of a JPEG keep in decoding: half as much again as is stored; 0: all."""
        return 0 if self.full_decode else self.size * 3 // 2

    @property
    def rule(self) -> Rule:
        """What may be written of a patient beside the pictures."""
        return Rule(self.k, self.dates)

    def decisive(self) -> dict[str, Any]:
        """What decides the bytes of the output, beside the archive, its table and the key.

        What a recipe states and leaves out is in the digests of the attributes and of the listing.
        """
        return {
            **({"recipe": self.recipe.name} if self.recipe else {}),
            "size": self.size,
            "quality": None if self.encoding.lossless else self.encoding.quality,
            "chroma": None if self.encoding.lossless else self.encoding.chroma,
            "lossless": self.encoding.lossless,
            "samples_per_shard": self.samples_per_shard,
            "keep_other": self.keep_other,
            "frames": self.selection.frames,
            "pages": self.selection.pages,
            "also": sorted(self.selection.also),
            "full_decode": self.full_decode,
            "keep_text": self.keep_text,
            **({"ocr": True} if self.ocr else {}),
            **self.filters.decisive(),
            "site": self.site,
            "name": self.name,
            "k": self.k,
            "dates": self.dates,
        }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Totals:
    """What became of every picture; scanned = written + rejected + duplicates. A file has one or more.

    patients: different known patients among the photographs. reasons: rejected by reason. remarks: what
    else was counted, such as eye_conflict or table_rows_without_file.
    """

    scanned: int
    written: int
    rejected: int
    duplicates: int
    patients: int
    shards: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.scanned == self.written + self.rejected + self.duplicates, self
        assert self.rejected == sum(self.reasons.values()), self

    def counts(self) -> dict[str, int]:
        """The six numbers of `--json`."""
        names = ("scanned", "written", "rejected", "duplicates", "patients", "shards")
        return {name: getattr(self, name) for name in names}


def _ignore(*_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Listener:
    """Who is told how a build goes: notes for a person, (files done, files in all), and what comes next."""

    note: Callable[[str], None] = _ignore
    progress: Callable[[int, int], None] = _ignore
    advise: Callable[[str], None] = _ignore

    @contextmanager
    def during(self, what: str) -> Iterator["Passing"]:
        """Note every SECONDS_BETWEEN that `what` goes on; gives what counts things that pass meanwhile."""
        passing = Passing()
        began = time.monotonic()

        def tell() -> None:
            done = f"{passing.count:,} done, " if passing.count else ""
            self.note(f"{what}: {done}{time.monotonic() - began:.0f} s")

        with nullcontext() if self.note is _ignore else beating(tell):
            yield passing


class Passing:
    """Counts things on their way."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, things: Iterable[T]) -> Iterator[T]:
        """The things as they are."""
        for thing in things:
            yield thing
            self.count += 1

    def add(self, count: int) -> None:
        """Take things into account that passed elsewhere."""
        self.count += count


@contextmanager
def beating(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` every SECONDS_BETWEEN, from a thread of its own, until the work is done."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(SECONDS_BETWEEN):
            tell()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
