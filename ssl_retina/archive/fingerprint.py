"""The bytes of a source file -> a keyed digest: which file became which sample, for who holds the key only.

In: an open stream. Out: 26 base32 digits of an HMAC-SHA-256. Without the key nobody can confirm that a file
he holds is in the set.
"""

import base64
import hashlib
import hmac
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20


def of_stream(key: bytes, stream: BinaryIO) -> str:
    """Read the stream to its end in blocks. Raises OSError."""
    digest = hmac.new(key, b"source\0", hashlib.sha256)
    while block := stream.read(BLOCK):
        digest.update(block)
    return base64.b32encode(digest.digest()[:16]).decode("ascii").rstrip("=").lower()


def of_file(key: bytes, path: Path) -> str:
    """The digest of a file, or "" where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return of_stream(key, stream)
    except OSError:
        return ""
