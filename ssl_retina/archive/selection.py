"""Which pictures of a file with several are taken, and which kinds of DICOM objects only when asked for.

In: the options `--frames`, `--pages` and `--also`. Out: a checked `Selection`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from ssl_retina.errors import InputError

PAGES = ("refuse", "first", "all")
ALSO = ("vl", "sc")
_FRAMES = re.compile(r"all|(every|central)-([1-9]\d{0,3})")


@dataclass(frozen=True)
class Selection:
    """What is taken of volumes and of files with several pages.

    frames: `all`, `every-N` or `central-N` B-scans of an OCT volume. pages: what to do with a TIFF or GIF of
    several pages: `refuse`, `first` or `all`. also: DICOM kinds that are read only when asked for: `vl`
    (visible light photographs of any part of the body), `sc` (secondary captures).
    enough: a JPEG may be decoded at 1/2, 1/4 or 1/8 while both its sides keep so many pixels; 0: never.
    """

    frames: str = "all"
    pages: str = "refuse"
    also: tuple[str, ...] = ()
    enough: int = 0

    def __post_init__(self) -> None:
        if not _FRAMES.fullmatch(self.frames):
            raise InputError(f"--frames {self.frames}: all, every-N or central-N, such as central-5")
        if self.pages not in PAGES:
            raise InputError(f"--pages {self.pages}: one of {', '.join(PAGES)}")
        if unknown := [kind for kind in self.also if kind not in ALSO]:
            raise InputError(f"--also {','.join(unknown)}: vl, sc or vl,sc")

    def slices(self, count: int) -> Collection[int]:
        """The numbers of the B-scans that are taken of a volume of `count`."""
        match = _FRAMES.fullmatch(self.frames)
        assert match is not None, self.frames
        if match[1] is None:
            return range(count)
        number = int(match[2])
        if match[1] == "every":
            return range((count - 1) % number // 2, count, number)
        start = max(0, (count - number + 1) // 2)
        return range(start, min(count, start + number))


EVERYTHING = Selection()
