"""What the ledger of a complete set says about the files it was made from.

In: `ledger.jsonl`. Out: which files an append must find again, and which it must not.
"""

from pathlib import Path

from ssl_retina.archive.rejection import WITHDRAWN
from ssl_retina.shard_index import manifest


def files_of(ledger: Path) -> tuple[dict[str, str], set[str], set[str]]:
    """File -> digest of its bytes; the files that were withdrawn; those that gave a photograph.

    Withdrawn files have no digest here. They, and files that were rejected, may be there or not.
    """
    known: dict[str, str] = {}
    withdrawn: set[str] = set()
    used: set[str] = set()
    for line in manifest.lines(ledger):
        file = line.get("file", line["key"])
        if line["reason"] == WITHDRAWN:
            withdrawn.add(file)
        else:
            known[file] = line.get("source", "")
        if line["outcome"] != "rejected":
            used.add(file)
    return {file: digest for file, digest in known.items() if file not in withdrawn}, withdrawn, used
