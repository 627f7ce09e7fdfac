"""The proof of a set: `manifest.json` chains what it was made from to the digest of every file of it.

In: a folder whose tars, table and ledger are written, and facts of the archive step. Out: the manifest, which
the index names by its SHA-256; or every place at which the chain is broken, as sentences.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_retina import files, shards
from ssl_retina.shards import Index

KIND = "ssl-retina-manifest"
VERSION = 1
SEALED = "manifest_sha256"
"""The index's own field for the manifest's SHA-256; it is left out of the index's digest in the manifest."""
OUTCOMES = {"written": "written", "rejected": "rejected", "duplicate": "duplicates"}
"""Outcome of a ledger line -> where the totals count it."""


def seal(folder: Path, facts: Mapping[str, Any], index: Mapping[str, Any], table_sha256: str) -> str:
    """Write the manifest of a set whose index is about to be written; give the manifest's SHA-256.

    facts: what the set was made from and with (plain values). index: the content of `index.json` but for
    SEALED. table_sha256: of `positions.npy`.
    """
    ledger = folder / shards.LEDGER_NAME
    digests = {one["url"]: one["sha256"] for one in index["shardlist"]}
    digests[shards.POSITIONS_NAME] = table_sha256
    content = {
        **facts,
        "kind": KIND,
        "version": VERSION,
        "sources": {
            "rule": "HMAC-SHA-256 under the key over each file's bytes; SHA-256 over these in ledger order",
            **sources(lines(ledger)),
        },
        "files": {**digests, shards.LEDGER_NAME: files.sha256(ledger)},
        "index": index_sha256(index),
    }
    path = folder / shards.MANIFEST_NAME
    files.write_json(path, content, files.mode_beside(folder))
    return files.sha256(path)


def index_sha256(index: Mapping[str, Any]) -> str:
    """SHA-256 of an index's content without SEALED, so that manifest and index can name each other."""
    ours = {name: value for name, value in index["ssl_retina"].items() if name != SEALED}
    text = json.dumps({**index, "ssl_retina": ours}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content(path: Path) -> Any:
    """What a JSON file of ours holds."""
    return json.loads(path.read_bytes())


def lines(ledger: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ledger, one after the other. Raises ValueError for one that is no JSON object."""
    with ledger.open(encoding="utf-8") as stream:
        for text in stream:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("a ledger line that is no object")
            yield line


def sources(ledger: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many ledger lines there are, and one digest over the keyed digests of their files' bytes."""
    digest, count = hashlib.sha256(), 0
    for line in ledger:
        digest.update(f"{line['key']} {line.get('source', '')}\n".encode())
        count += 1
    return {"lines": count, "digest": digest.hexdigest()}


def verify(index: Index, *, hashes: bool) -> list[str]:
    """Where the chain from the sources to the index is broken; empty also for a set that has no manifest.

    With `hashes` the ledger is read too: its digest, its sources, and whether its outcomes add up (law 1).
    """
    path = index.folder / shards.MANIFEST_NAME
    promised = index.facts.get(SEALED)
    if promised is None:
        return [f"{path.name} belongs to another {shards.INDEX_NAME}"] if path.exists() else []
    if not path.is_file():
        return [f"{path.name} is missing"]
    if files.sha256(path) != promised:
        return [f"{path.name} has other bytes than {shards.INDEX_NAME} promises (SHA-256)"]
    content = json.loads(path.read_bytes())
    wrong = list(_wrong_index(index, content))
    return [*wrong, *(_wrong_ledger(index, content) if hashes else ())]


def _wrong_index(index: Index, content: Mapping[str, Any]) -> Iterator[str]:
    """Digests that the manifest and the index tell differently."""
    listed = {shard.url: shard.sha256 for shard in index.shards}
    listed[shards.POSITIONS_NAME] = str(index.facts.get("positions_sha256"))
    sealed = {name: digest for name, digest in content["files"].items() if name != shards.LEDGER_NAME}
    for name in sorted({*listed, *sealed}):
        if listed.get(name) != sealed.get(name):
            yield f"{name} is another one in {shards.MANIFEST_NAME} than in {shards.INDEX_NAME}"
    if index_sha256(json.loads((index.folder / shards.INDEX_NAME).read_bytes())) != content["index"]:
        yield f"{shards.INDEX_NAME} was changed after {shards.MANIFEST_NAME} was written"


def _wrong_ledger(index: Index, content: Mapping[str, Any]) -> Iterator[str]:
    ledger = index.folder / shards.LEDGER_NAME
    if not ledger.is_file():
        yield f"{ledger.name} is missing"
        return
    if files.sha256(ledger) != content["files"][shards.LEDGER_NAME]:
        yield f"{ledger.name} has other bytes than {shards.MANIFEST_NAME} promises (SHA-256)"
        return
    counts: Counter[str] = Counter()
    if sources(_counted(lines(ledger), counts)) != {
        name: content["sources"][name] for name in ("lines", "digest")
    }:
        yield f"{ledger.name} tells of other source files than {shards.MANIFEST_NAME}"
    totals = index.facts.get("totals", {})
    for outcome, name in OUTCOMES.items():
        if counts[outcome] != totals.get(name):
            yield f"{ledger.name} has {counts[outcome]} lines {outcome!r}, the totals say {totals.get(name)}"
    if counts["written"] != index.samples:
        yield f"{ledger.name} has {counts['written']} lines 'written' for {index.samples} samples"


def _counted(ledger: Iterable[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in ledger:
        counts[str(line.get("outcome"))] += 1
        yield line
