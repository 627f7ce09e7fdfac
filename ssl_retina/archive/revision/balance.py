"""Other weights for a complete set: by clusters of a first checkpoint's embeddings, or as it was made.

In: a set, the Parquet of `ssl-retina embed`. Out: its index, table and manifest written anew; no shard is.
The clusters stand in the table alone: a sample's JSON keeps what the archive step found. Which photographs
are rare was decided there too, before filters took any out, and stays.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_retina import files, shard_index, shards
from ssl_retina.archive import exchange, output
from ssl_retina.archive.filters import Balance
from ssl_retina.archive.revision import embedded
from ssl_retina.archive.revision.withdraw import DERIVED, earlier
from ssl_retina.errors import ShardError
from ssl_retina.positions import UNKNOWN
from ssl_retina.shard_index import OWN_FACTS, Kept, weights
from ssl_retina.shard_index.manifest import SEALED
from ssl_retina.shards import Index, Reader

BALANCED = "balanced"
Numbers = embedded.Numbers


@dataclass(frozen=True)
class Balanced:
    """balance: the column whose words are drawn equally often, None: no weights. sizes: photographs of each.

    heaviest: the largest weight. changed: whether anything was written. digest: of the index now.
    """

    balance: str | None
    sizes: Mapping[str, int]
    heaviest: float
    changed: bool
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**dataclasses.asdict(self), "sizes": dict(self.sizes)}


def by_embeddings(out: Path, path: Path) -> Balanced:
    """Cluster a set by the vectors of a file and weight it, or finish what an interrupted start began.

    The same file again changes nothing. Raises InputError for a file that does not fit the set, StateError
    for a damaged set and another writer; nothing is changed then.
    """
    with output.speaking("the set", out), files.lock(out):
        exchange.finish(out)
        index = _whole(out)
        found = embedded.read(path, index, earlier(index.facts))
        facts = {**index.facts} | {weights.BALANCE: str(Balance.CLUSTER), weights.CLUSTERS: _about(found)}
        if facts == index.facts:
            return _told(index, changed=False)
        numbers = embedded.clusters(found)
        words = tuple(f"c{number:02d}" for number in range(int(numbers.max()) + 1))
        return _told(_written(index, facts, numbers, words), changed=True)


def undo(out: Path) -> Balanced:
    """Bring back the clusters and weights that the archive step wrote. Raises as `by_embeddings` does."""
    with output.speaking("the set", out), files.lock(out):
        exchange.finish(out)
        index = _whole(out)
        facts = weights.as_made(index.facts)
        if facts == index.facts:
            return _told(index, changed=False)
        words: dict[str, int] = {}
        numbers = np.zeros(index.samples, np.uint16)
        reader = Reader(index)
        try:
            for row in range(len(reader)):
                word = str(reader.facts(row).get("cluster") or UNKNOWN)
                numbers[row] = words.setdefault(word, len(words))
        finally:
            reader.close()
        return _told(_written(index, facts, numbers, tuple(words)), changed=True)


def _about(found: embedded.Embedded) -> dict[str, Any]:
    """What the index says of its clusters: which file, which weights, by digests alone."""
    return {
        "embeddings_sha256": found.sha256,
        "tensors_sha256": found.about.get("sha256_of_tensors"),
        "photographs": len(found.rows),
    }


def _whole(out: Path) -> Index:
    """A damaged set is mended first: its proof would end here else."""
    index = shards.read_index(out)
    wrong = shard_index.verify(index, hashes=False)
    if SEALED in index.facts and not (out / shards.LEDGER_NAME).is_file():
        wrong.append(f"{shards.LEDGER_NAME} is missing")
    if wrong:
        raise ShardError(
            f"{out} is damaged: {'; '.join(wrong[: output.WRONG_SHOWN])}. Nothing was changed: bring those "
            "files back from a copy first (ssl-retina inspect lists all)"
        )
    return index


def _written(index: Index, facts: Mapping[str, Any], numbers: Numbers, words: tuple[str, ...]) -> Index:
    """Exchange index, table and manifest for ones with these clusters (of `words`, by row)."""
    told = {name: value for name, value in facts.items() if name not in OWN_FACTS}
    told["history"] = [*told.get("history", ()), {"what": BALANCED, "index": index.digest}]
    ledger = index.folder / shards.LEDGER_NAME
    folder = exchange.begin(index.folder)
    if ledger.is_file():
        with files.whole(folder / ledger.name, files.mode_beside(folder)) as temporary:
            shutil.copyfile(ledger, temporary)
    restated = dataclasses.replace(index, columns={**index.columns, "cluster": words})
    kept = Kept(restated, frozenset(shard.url for shard in index.shards), numbers)
    new = shard_index.write(folder, told, manifest=told if SEALED in index.facts else None, kept=kept)
    exchange.commit(index.folder, DERIVED, {})
    return dataclasses.replace(new, folder=index.folder)


def _told(index: Index, *, changed: bool) -> Balanced:
    table = shards.read_positions(index)
    balance = index.facts.get(weights.BALANCE)
    words = index.columns[balance] if balance else ()
    counts = np.bincount(table[balance], minlength=len(words)).tolist() if balance else []
    heaviest = round(float(table["weight"].max()), 2) if balance else 1.0
    sizes = dict(sorted(zip(words, counts, strict=True)))
    return Balanced(balance, sizes, heaviest, changed, index.digest)
