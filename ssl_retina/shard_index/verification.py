"""What differs between a set and its index, each difference as a sentence that begins with the shard."""

from pathlib import Path

from ssl_retina import files, shards
from ssl_retina.errors import ShardError
from ssl_retina.shard_index import manifest
from ssl_retina.shard_index.walk import require_file, tars
from ssl_retina.shards import Index, Shard


def verify(index: Index, *, hashes: bool) -> list[str]:
    """Every difference between a set and its index; empty if there is none.

    Missing, extra and empty shards, other sizes, another position table, a broken chain of the manifest and,
    with `hashes`, other bytes (reads everything once). Each sentence begins with the name of the file.
    """
    wrong = [sentence for shard in index.shards for sentence in _differences(index.folder, shard, hashes)]
    named = {shard.url for shard in index.shards}
    for path in tars(index.folder):
        if path.name not in named:
            wrong.append(f"{path.name} is not in {shards.INDEX_NAME}")
    return wrong + _wrong_positions(index) + manifest.verify(index, hashes=hashes)


def _differences(folder: Path, shard: Shard, hashes: bool) -> list[str]:
    path = folder / shard.url
    try:
        require_file(path)
    except ShardError as error:
        return [f"{error}; {shard.nsamples} samples are lost"]
    size = path.stat().st_size
    if size != shard.filesize:
        return [f"{shard.url} has {size} bytes, {shards.INDEX_NAME} promises {shard.filesize}"]
    if hashes and files.sha256(path) != shard.sha256:
        return [f"{shard.url} has other bytes than {shards.INDEX_NAME} promises (SHA-256)"]
    return []


def _wrong_positions(index: Index) -> list[str]:
    path = index.folder / shards.POSITIONS_NAME
    if not path.is_file():
        return [f"{path.name} is missing"]
    if files.sha256(path) != index.facts.get("positions_sha256"):
        return [f"{path.name} belongs to another {shards.INDEX_NAME} (SHA-256)"]
    try:
        shards.read_positions(index)
    except ShardError as error:
        return [f"{path.name}: {error}"]
    return []
