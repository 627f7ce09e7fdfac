"""The small languages of a recipe: globs, path patterns with named parts, templates that are filled.

In: their text. Out: regular expressions and filled texts; ValueError, in words, for what is not well formed.
Paths are those below the source, with `/`; case never counts, since mirrors change it.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ssl_retina import pseudonyms

GIVEN_PARTS = ("path", "name", "stem", "folder")
"""Parts that every file has: its path, its bare name with and without suffix, its folder's bare name."""

SKIP = "_"
_PART_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WILD = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])")
_FIELD = re.compile(r"\{([^{}|]+)(?:\|(\w+))?\}")
_FILTERS = ("stem",)


def glob(text: str) -> re.Pattern[str]:
    """`train/**/*.jpg`: `**/` is any folders or none, `*` anything inside a name, `?` a character, `[ab]`."""
    _require_inside(text)
    return _compiled(_expression(text))


def path_pattern(text: str) -> re.Pattern[str]:
    """`**/{number:\\d+}_{side}.*`: a glob over the whole path in which `{part}` has a name.

    `{part}` is any text without `/`; `{part:REGEX}` says which; `{_}` is not kept.
    """
    _require_inside(text)
    pieces = re.split(r"\{([^{}]*)\}", text)
    names: list[str] = []
    for at in range(0, len(pieces), 2):
        pieces[at] = _expression(pieces[at])
    for at in range(1, len(pieces), 2):
        name, _, expression = pieces[at].partition(":")
        pieces[at] = _part(name, expression or "[^/]+?", names)
    return _compiled("".join(pieces))


def parts_of(path: str) -> dict[str, str]:
    """The parts that every file has (GIVEN_PARTS)."""
    folders, _, name = path.rpartition("/")
    return {
        "path": path,
        "name": name,
        "stem": pseudonyms.without_suffix(name),
        "folder": folders.rpartition("/")[2],
    }


@dataclass(frozen=True)
class Template:
    """A text with `{field}` in it, such as `{site}-{number}`; `{field|stem}` cuts folders and suffix off."""

    text: str
    pieces: tuple[str, ...]
    fields: tuple[str, ...]
    filters: tuple[str, ...]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with its fields filled; nothing at all where one of them is missing or empty."""
        filled = [values.get(field, "").strip() for field in self.fields]
        if not all(filled):
            return ""
        shown = [_stem(one) if how == "stem" else one for one, how in zip(filled, self.filters, strict=True)]
        return "".join(piece + one for piece, one in zip(self.pieces, (*shown, ""), strict=True))


@functools.cache
def template(text: str) -> Template:
    """Read a template."""
    matches = list(_FIELD.finditer(text))
    if re.search(r"[{}]", _FIELD.sub("", text)):
        raise ValueError(f"{text!r} has a brace without its partner; a field is written {{name}}")
    for match in matches:
        if match[2] and match[2] not in _FILTERS:
            raise ValueError(f"{text!r}: no filter {match[2]!r}; there is: {', '.join(_FILTERS)}")
    borders = [0, *(place for match in matches for place in match.span()), len(text)]
    pieces = tuple(text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True))
    names, filters = (tuple(match[group] or "" for match in matches) for group in (1, 2))
    return Template(text, pieces, names, filters)


def _stem(text: str) -> str:
    return pseudonyms.without_suffix(text.replace("\\", "/").rsplit("/", 1)[-1])


def _require_inside(text: str) -> None:
    """A recipe speaks of files below the source alone."""
    if not text or text.startswith("/") or "\\" in text.split("{")[0] or ".." in text.split("/"):
        raise ValueError(f"{text!r} is no path below the source, with / between folders and without ..")


def _expression(text: str) -> str:
    pieces = _WILD.split(text)
    pieces[::2] = [re.escape(piece) for piece in pieces[::2]]
    pieces[1::2] = [_wild(piece) for piece in pieces[1::2]]
    return "".join(pieces)


def _wild(piece: str) -> str:
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return known.get(piece) or "[" + piece[1:-1].replace("\\", "").replace("!", "^") + "]"


def _part(name: str, expression: str, names: list[str]) -> str:
    if name == SKIP:
        return f"(?:{expression})"
    if not _PART_NAME.fullmatch(name) or name in GIVEN_PARTS:
        given = ", ".join(GIVEN_PARTS)
        raise ValueError(f"a part is named by small letters, digits and _, and not {given}: {name!r}")
    if name in names:
        raise ValueError(f"the part {name!r} stands twice")
    names.append(name)
    return f"(?P<{name}>{expression})"


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.DOTALL | re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error.msg}") from None
