"""What weights inherit of those that they started from: shard sets by digest, and licences.

In: the card of an export. Out: what it was trained on, itself and by way of its start, as far as is known.
The lines that hand this on are written and read here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ssl_retina.models import pretrained

SUM = "SHA-256 of its index"
DRAWN = "- Started from weights drawn at random"
PARTLY = "a part of it"
UNKNOWN = "- What the weights that it started from were trained on is not known here, or not all of it"
WHOLLY = pretrained.chosen_by(None, "none")
_INHERITED = "- By way of the weights that it started from: shard set, "
_STARTED = "- Started from "
_ALL = "- All shard sets of the weights that it started from are named here: "
_OWN = re.compile(r"\bindex `([0-9a-f]{64})`")
_LINE = re.compile(rf"^{_INHERITED}{SUM} `([0-9a-f]{{64}})`(; {PARTLY})?$", re.MULTILINE)


@dataclass(frozen=True)
class Lineage:
    """Shard sets that weights were trained on. partly: those of `digests` of which only a choice was read.

    complete: whether there are no others.
    """

    digests: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    complete: bool = False


def of_card(text: str) -> Lineage:
    """Of an export, by its card: its own shard sets and those that it inherited."""
    own = _OWN.findall(_LINE.sub("", text))
    inherited = _LINE.findall(text)
    lines = text.splitlines()
    whole = {digest for digest, part in inherited if not part} | (set(own) if WHOLLY in lines else set())
    digests = tuple(dict.fromkeys([*own, *(digest for digest, _ in inherited)]))
    started = any(line.startswith(_STARTED) and line != DRAWN for line in lines)
    complete = not started or any(line.startswith(_ALL) for line in lines)
    return Lineage(digests, tuple(one for one in digests if one not in whole), complete)


def lines(given: Lineage) -> list[str]:
    """What the next card says of the lineage of its start."""
    said = [
        f"{_INHERITED}{SUM} `{digest}`{f'; {PARTLY}' if digest in given.partly else ''}"
        for digest in given.digests
    ]
    return [*said, f"{_ALL}{len(given.digests)}" if given.complete else UNKNOWN]


def seen(given: Lineage, digest: str) -> bool | None:
    """Whether weights were trained on all of a shard set; None where that is not known."""
    if digest in given.digests:
        return None if digest in given.partly else True
    return False if given.complete else None


def told(digests: Iterable[str], *, complete: bool) -> str:
    """A line of a receipt."""
    count = len(list(digests))
    if complete:
        return f"  those were trained on {count} shard set(s), whose digests are handed on"
    some = f"; {count} shard set(s) of theirs are, and are handed on" if count else ""
    return f"  what those were trained on is not known here{some}"
