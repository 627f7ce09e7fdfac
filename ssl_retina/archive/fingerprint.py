"""The bytes of a source file -> a keyed digest: which file became which sample, for who holds the key only.

Without the key nobody can confirm that a file he holds is in the set.
"""

import base64
import hashlib
import hmac


def of_bytes(key: bytes, content: bytes) -> str:
    """26 base32 digits of an HMAC-SHA-256 over the file's bytes."""
    digest = hmac.new(key, b"source\0", hashlib.sha256)
    digest.update(content)
    return base64.b32encode(digest.digest()[:16]).decode("ascii").rstrip("=").lower()
