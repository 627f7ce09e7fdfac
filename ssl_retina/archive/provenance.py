"""What an output is made from and with: what a build must find unchanged to go on, and what it tells.

In: settings, the scan, what is stated. Out: plain values for the plan, the index and the manifest; digests
are keyed and hold no word of the source.
"""

import contextlib
import hashlib
import hmac
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from PIL import features

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import recipe
from ssl_retina.archive.found import Found
from ssl_retina.archive.pixels import ocr
from ssl_retina.archive.settings import Settings
from ssl_retina.archive.statements.matching import Stated

TOOLS = ("ssl-retina", "numpy", "pillow", "pydicom")
DECODERS = ("python-gdcm", "pylibjpeg", "pyjpegls")
"""Tools that may be there: what they decode is rejected without them."""


def identity(key: bytes, found: Sequence[Found], stated: Stated, settings: Settings) -> dict[str, Any]:
    """What an output is made from: it must be the same for a run to be continued. Digests are keyed."""
    listing = hmac.new(key, b"listing\0", hashlib.sha256)
    for row in found:
        skipped = row.reason if row.reason.startswith(recipe.SKIPPED) else ""
        listing.update(f"{row.path}\0{row.size}\0{skipped}\n".encode("utf-8", "surrogateescape"))
    attributes = hmac.new(key, b"attributes\0", hashlib.sha256)
    for number, one in sorted(stated.items()):
        attributes.update(f"{number}\0{one!r}\n".encode("utf-8", "surrogateescape"))
    return {
        **settings.decisive(),
        "format": shards.FORMAT,
        "pixel_digest": shards.PIXEL_DIGESTS[0],
        "key_fingerprint": pseudonyms.fingerprint(key),
        "ids": pseudonyms.NORMALISATION,
        "listing": listing.hexdigest(),
        "attributes": attributes.hexdigest(),
    }


def tools(settings: Settings) -> dict[str, str]:
    """The versions that decide the bytes of the output."""
    found = {name: metadata.version(name) for name in TOOLS}
    for name in (*DECODERS, *(ocr.PACKAGES if settings.ocr else ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def made_with(settings: Settings) -> dict[str, str]:
    """The same, with what else made the bytes: told, but no reason to begin anew."""
    libjpeg = features.version("libjpeg_turbo") or features.version("jpg") or "unknown"
    return {**tools(settings), "python": platform.python_version(), "libjpeg": libjpeg}
