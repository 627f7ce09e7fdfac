"""What an HTTP answer means to a download, whichever library brought it.

In: a status, headers, how much of the file has come already. Out: whether it may be used, where its content
belongs in the file, what to ask for next. Statuses and Content-Range are those of RFC 9110.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ssl_retina.errors import UserError

REDIRECTS = 5
BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))
MISSING = frozenset((404, 410))
LONGEST_ASKED_PAUSE = 60.0
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?:(?P<total>\d+)|\*)")


class BusyError(Exception):
    """What another attempt may mend, perhaps after some seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = min(after, LONGEST_ASKED_PAUSE)


@dataclass(frozen=True)
class Asked:
    """A file of a place: `shown` is the place without secrets, `refuse` what a plain no is raised as.

    hint: what to do where the place wants to know who asks.
    """

    shown: str
    name: str
    refuse: type[UserError]
    hint: str = ""

    def follow(self, before: str, after: str) -> None:
        """A redirect from one scheme to another stays on http(s), and on https where it began there."""
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            raise self.refuse(f"{self.shown} redirects from {before} to {after}, which is not followed")

    def circles(self) -> UserError:
        """More redirects than are followed."""
        return self.refuse(f"{self.shown} sends {self.name} in circles: more than {REDIRECTS} redirects")

    def check(self, status: int, headers: Mapping[str, str]) -> None:
        """Raise BusyError where another attempt may mend it, `refuse` for every other answer without content.

        Which of MISSING is missing is the caller's to say, before.
        """
        if status in BUSY:
            after = headers.get("Retry-After", "")
            raise BusyError(f"status {status}", float(after) if after.isdecimal() else 0.0)
        if status in (401, 403):
            text = f"{self.shown} does not let you read {self.name} (status {status})"
            raise self.refuse(f"{text}: {self.hint}" if self.hint else text)
        if status not in (200, 206, 416):
            raise self.refuse(f"{self.shown} answers {self.name} with status {status}")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise self.refuse(f"{self.shown} sends {self.name} in another encoding than asked for")


class Content(NamedTuple):
    """Where an answer's content begins in the file, and the file's length as far as the server tells.

    ends: there is none, since the file ends where it was asked from.
    """

    start: int
    total: int | None
    ends: bool = False


def content(status: int, headers: Mapping[str, str], asked: int) -> Content | None:
    """What came of asking from byte `asked` on; None where it is of no use: the file must be begun anew."""
    length = headers.get("Content-Length", "")
    if status == 200:
        return Content(0, int(length) if length.isdecimal() else None)
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if status == 416 and found is not None and found["total"] == str(asked):
        return Content(asked, asked, ends=True)
    if status == 416 or found is None or found["first"] != str(asked):
        return None
    return Content(asked, int(found["total"]) if found["total"] else None)


def resuming(start: int, mark: str) -> dict[str, str]:
    """Headers that ask for the rest from `start` on, if the file is still the one that `mark` tells."""
    if start == 0:
        return {}
    return {"Range": f"bytes={start}-", **({"If-Range": mark} if mark else {})}


def mark(headers: Mapping[str, str]) -> str:
    """What If-Range may carry: a strong ETag, or else the time of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")
