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
INHERITED = "- Licence of the weights that it started from: "
"""The line of a card that hands licences on; an export's own stands in the head of its card."""
NONE = "none granted by its card"
LIMIT = 300
"""Letters of a licence, written and read."""
_STATED = re.compile(rf"^{INHERITED}(\S.*)$", re.MULTILINE)
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_FIELD = re.compile(r"^license: *(\S.*)$", re.MULTILINE)
_FROM = "; started from: "
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


def licence_of_card(text: str) -> str:
    """What holds for weights that start from an export: its own licence, and those that it inherited."""
    head = _HEAD.match(text)
    stated = None if head is None else _FIELD.search(head[1])
    own = NONE if stated is None else bounded(stated[1], LIMIT // 3)
    given = _STATED.search(text)
    if given is None:
        return own if stated else f"{own}: ask whoever answers for its photographs"
    return bounded(f"{own}{_FROM}{bounded(given[1]).removeprefix(f'{NONE}{_FROM}')}")


def bounded(text: str, limit: int = LIMIT) -> str:
    """A licence on one line; a long one loses its middle, since both ends name licences."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(line) <= limit:
        return line
    return f"{line[: limit // 2 - 5]} [...] {line[-(limit // 2 - 5) :]}"
