"""The site's key as the archive step takes it: from a place of its own, and told once when it is new.

In: `--key-file`, or none. Out: the key's bytes.
"""

from collections.abc import Callable
from pathlib import Path

from ssl_retina import pseudonyms
from ssl_retina.archive import output


def read(named: Path | None, out: Path, note: Callable[[str], None]) -> bytes:
    """The key. Raises StateError for one that lies in shards or a checkout, and as `pseudonyms.read_key`."""
    path = named or pseudonyms.default_key_file()
    with output.speaking("key file", path):
        pseudonyms.check_key_place(path, out)
        new = not path.exists()
    key = pseudonyms.read_key(named)
    if new:
        note(
            f"a first key was made: {path}, fingerprint {pseudonyms.fingerprint(key)}. Keep a copy in a safe "
            "place: without it no labels are joined and nobody can be withdrawn. Other machines of this site "
            f"need the same file (--key-file or {pseudonyms.KEY_VARIABLE}), not one of their own"
        )
    return key
