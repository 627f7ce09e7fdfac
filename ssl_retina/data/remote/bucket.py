"""Files of a set in a bucket (s3, gs), through fsspec: in pieces, so that what was cut is continued.

In: an address and what is wanted. Out: bytes at the end of a part. Who may read is told by the usual files
and variables of s3fs and gcsfs, never by the address.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import fsspec

from ssl_retina.addresses import Address
from ssl_retina.data.remote.fetching import OtherError, Part, Patience, Wanted
from ssl_retina.errors import InputError, ShardError
from ssl_retina.http_rules import BusyError

PIECE = 1 << 24
_FOREIGN = (
    ("botocore.exceptions", "BotoCoreError"),
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("requests.exceptions", "RequestException"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("aiohttp", "ClientError"),
)
"""Errors of the stores' own clients that are no OSError; those that are not installed are left out."""


class Bucket:
    """A set below an s3:// or gs:// address."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self.shown = str(address)
        self._address = address
        seconds = patience.stall_seconds
        timeouts: dict[str, dict[str, Any]] = {
            "s3": {"config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds}},
            "gs": {"requests_timeout": seconds},
        }
        try:
            self._files: Any = fsspec.filesystem(
                address.scheme, skip_instance_cache=True, use_listings_cache=False, **timeouts[address.scheme]
            )
        except ImportError:
            extra = address.scheme
            raise InputError(
                f"{self.shown}: addresses of {extra}:// need the extra {extra!r} of this package: "
                f"pip install 'ssl-retina[{extra}]'"
            ) from None
        self._failures: tuple[type[Exception], ...] = (OSError, ValueError, *_foreign())

    def receive(self, wanted: Wanted, part: Part) -> None:
        """Pieces until the end of the file; see `fetching.Transport`."""
        there = self._asked(wanted.name, "info")["size"]
        if wanted.size not in (None, there):
            raise OtherError(f"it has {there} bytes, the index promises {wanted.size}")
        ends = min(int(there), wanted.limit + 1)
        while part.done < ends:
            stop = min(part.done + PIECE, ends)
            piece = self._asked(wanted.name, "cat_file", start=part.done, end=stop)
            if not piece:
                return
            part.write(piece, wanted)

    def sizes(self, names: list[str], patience: Patience) -> Mapping[str, int | str]:
        """One listing tells all of them."""
        try:
            listed = self._asked("", "ls", detail=True)
        except BusyError as error:
            return dict.fromkeys(names, str(error))
        found = {str(one["name"]).rsplit("/", 1)[-1]: int(one["size"] or 0) for one in listed}
        tars = {name: size for name, size in found.items() if name.endswith(".tar")}
        return {**tars, **{name: found.get(name, f"{name} is missing at {self.shown}") for name in names}}

    def _asked(self, name: str, what: str, **options: Any) -> Any:
        try:
            return getattr(self._files, what)(self._address.of(name).rstrip("/"), **options)
        except FileNotFoundError:
            raise ShardError(f"{name or 'the folder'} is missing at {self.shown}") from None
        except PermissionError:
            raise ShardError(f"{self.shown} does not let you read {name or 'the folder'}") from None
        except ImportError as error:
            raise InputError(f"{self.shown} cannot be read: {error}") from None
        except self._failures as error:
            raise BusyError(f"the store does not answer ({type(error).__name__})") from None


def _foreign() -> list[type[Exception]]:
    found = []
    for module, name in _FOREIGN:
        try:
            found.append(getattr(import_module(module), name))
        except (ImportError, AttributeError):
            continue
    return found
