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
_SECRETS = (
    (re.compile(r"(?<=://)[^/\s?#]*@"), f"{HIDDEN}@"),
    (re.compile(r"(://[^\s?#,\]'\"]*\?)[^\s#,\]'\"]+"), rf"\g<1>{HIDDEN}"),
)


@dataclass(frozen=True)
class Address:
    """A set below an http(s), s3 or gs address. As text it has neither user, password nor query."""

    whole: str = field(repr=False)

    def __str__(self) -> str:
        return masked(self.whole)

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
        return str(self) != self.whole

    def of(self, name: str) -> str:
        """The address of a file of the set, secrets included; a query goes to every file."""
        parts = urlsplit(self.whole)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def masked(text: str) -> str:
    """Any text without what stands in the addresses in it before `@` and behind `?`."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def place(value: object) -> Path | Address:
    """A folder, or an address that can be read. Raises ValueError with a sentence."""
    if isinstance(value, Path | Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"should be a folder or an address, not {value!r}")
    if "://" not in value:
        return Path(value)
    try:
        parts = urlsplit(value)
        fits = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half a bracket
        raise ValueError(f"{masked(value)} is no address that can be read: https://HOST/PATH") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"{masked(value)} is not read; a folder is, or one of {known}")
    bucket = parts.scheme in ("s3", "gs")
    if not fits or parts.fragment or (bucket and (parts.query or "@" in parts.netloc)):
        form = f"{parts.scheme}://BUCKET/PATH (who may read it is told by the environment, not here)"
        raise ValueError(f"{masked(value)} should be {form if bucket else 'https://HOST/PATH'}")
    return Address(value.rstrip("/") if not parts.query else value)


Place = Annotated[Path | Address, PlainValidator(place), PlainSerializer(str, return_type=str)]
"""A field of a config that takes both; what is written out is masked."""
