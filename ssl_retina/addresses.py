"""Where a set of shards lies: a folder of this machine, or an address of the user's own config.

In: what stands in a config. Out: a Path, or an Address that shows its place and never its secrets, whatever
text it is put into.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import PlainSerializer, PlainValidator

SCHEMES = ("http", "https", "s3", "gs")
HIDDEN = "***"
_BEGIN = re.compile(r"://|(?:https?|s3|gs)(?::/{0,2}|//)", re.IGNORECASE)
"""Where an address begins in a text, also one that is written almost right."""
_USER = re.compile(r"[^/?#@]*@")
_NO_PORT = re.compile(r"[^/?#\[\]]*:(?!\d+(?:\W|$))")


@dataclass(frozen=True)
class Address:
    """A set below an http(s), s3 or gs address. As text it has neither user, password nor query."""

    whole: str = field(repr=False)

    def __str__(self) -> str:
        parts = urlsplit(self.whole)
        user = f"{HIDDEN}@" if "@" in parts.netloc else ""
        shown = parts._replace(
            netloc=user + parts.netloc.rpartition("@")[2], query=HIDDEN if parts.query else "", fragment=""
        )
        return urlunsplit(shown)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def scheme(self) -> str:
        """One of SCHEMES."""
        return urlsplit(self.whole).scheme

    @property
    def name(self) -> str:
        """The last part of the path, or the host."""
        parts = urlsplit(self.whole)
        return parts.path.rstrip("/").rsplit("/", 1)[-1] or (parts.hostname or "")

    @property
    def secret(self) -> bool:
        """Whether something in it must not be shown."""
        parts = urlsplit(self.whole)
        return "@" in parts.netloc or bool(parts.query or parts.fragment)

    def of(self, name: str) -> str:
        """The address of a file of the set, secrets included; a query goes to every file."""
        parts = urlsplit(self.whole)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def masked(text: str) -> str:
    """Any text without what may be secret in the addresses in it: rather too little is shown than too much.

    Nothing is shown behind the first `?` or `#` of an address, and nothing at all from where it begins if
    there are more `@` than the one that ends user and password, or a port that is none.
    """
    begin = _BEGIN.search(text)
    if begin is None:
        return text
    head, tail = text[: begin.end()], text[begin.end() :]
    if user := _USER.match(tail):
        head, tail = f"{head}{HIDDEN}@", tail[user.end() :]
    if "@" in tail or _NO_PORT.match(tail):
        return text[: begin.end()] + HIDDEN
    if cut := re.search(r"[?#]", tail):
        return f"{head}{tail[: cut.end()]}{HIDDEN}"
    return head + tail


def place(value: object) -> Path | Address:
    """A folder, or an address that can be read. Raises ValueError with a sentence that holds no secret."""
    if isinstance(value, Path | Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"should be a folder or an address, not a {type(value).__name__}")
    if "://" not in value:
        if found := _BEGIN.match(value):
            raise ValueError(f"{found[0]}{HIDDEN} is no address that can be read: https://HOST/PATH")
        return Path(value)
    try:
        parts = urlsplit(value)
        shown = f"{parts.scheme}://{HIDDEN if '@' in value else parts.hostname or ''}"
        fits = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", parts.hostname or "")
    except ValueError:  # a port that is no number, half a bracket
        raise ValueError("this is no address that can be read: https://HOST/PATH") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"{shown} is not read; a folder is, or one of {known}")
    if parts.scheme in ("s3", "gs"):
        if not fits or parts.fragment or parts.query or "@" in parts.netloc or ":" in parts.netloc:
            form = f"{parts.scheme}://BUCKET/PATH (who may read it is told by the environment, not here)"
            raise ValueError(f"{shown} should be {form}")
    elif not fits or parts.fragment or "@" in parts.path or (not parts.path and "@" in parts.query):
        # USER:12/34@HOST reads as a host USER with port 12
        form = (
            "https://HOST/PATH (in user, password and path write %40 for @, %2F for /, %3F for ?, %23 for #)"
        )
        raise ValueError(f"{shown} should be {form}")
    return Address(value.rstrip("/") if not parts.query else value)


Place = Annotated[Path | Address, PlainValidator(place), PlainSerializer(str, return_type=str)]
"""A field of a config that takes both; what is written out is masked."""
