"""The Parquet of `ssl-retina embed` -> a cluster for each photograph of the set that it was made from.

In: the file, the index. Out: a number for each row of the table; photographs of one number look alike to the
checkpoint. k-means on vectors of length 1: the farthest-first start of `features` finds single outliers in
hundreds of dimensions (docs/duplicates.md). One seed, one thread: the same file gives the same clusters.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from ssl_retina import files, positions, shards
from ssl_retina.archive.longtail import NO_CLUSTER
from ssl_retina.archive.pixels import features
from ssl_retina.errors import InputError
from ssl_retina.shards import Index

METADATA = b"ssl_retina"
SEED, STARTS = 0, 4
PIECE = 4096
"""Rows that are read at once."""

Floats = NDArray[np.float32]
Numbers = NDArray[np.uint16]


@dataclass(frozen=True)
class Embedded:
    """A file that fits a set. rows: the row of the position table of each of its rows. sha256: of the file.

    about: what `embed` says of the weights.
    """

    path: Path = field(repr=False)
    sha256: str
    rows: NDArray[np.int64]
    samples: int
    about: Mapping[str, Any]


def read(path: Path, index: Index, earlier: Collection[str]) -> Embedded:
    """Open a file and find its photographs in the set; vectors are not read yet.

    earlier: digests of the older indexes of the set. Raises InputError for a file that `embed` did not
    write, or wrote for another set, and where rows are missing, foreign or there twice.
    """
    if not path.is_file():
        raise InputError(f"--embeddings {path}: there is no such file; ssl-retina embed writes one")
    try:
        about = _about(path)
        keys = pq.read_table(path, columns=["key"])["key"].combine_chunks()
    except (pa.ArrowException, OSError, ValueError, KeyError):
        raise InputError(f"--embeddings {path} is no file of ssl-retina embed, or it is damaged") from None
    if about.get("index") not in {index.digest, *earlier}:
        raise InputError(f"--embeddings {path} was made from another set: {_again(index, path)}")
    table = shards.read_positions(index)
    known = pa.array(np.char.decode(table["key"], "ascii"), pa.string())
    found = pyarrow.compute.index_in(keys, value_set=known)
    if found.null_count:
        raise InputError(
            f"--embeddings {path} has {found.null_count} rows of photographs that are not in {index.folder}, "
            f"taken out since or of another set: {_again(index, path)}"
        )
    rows = found.to_numpy(zero_copy_only=False).astype(np.int64)
    _require_whole(path, index, rows, positions.codes(table, "modality"))
    return Embedded(path, files.sha256(path), rows, index.samples, about)


def _about(path: Path) -> dict[str, Any]:
    schema = pq.read_schema(path)
    about = json.loads((schema.metadata or {})[METADATA])
    if not isinstance(about, dict) or schema.field("key").type != pa.string():
        raise ValueError("no metadata of ours")
    if schema.field("embedding").type != pa.list_(pa.float32(), about["dimensions"]):
        raise ValueError("no embeddings of ours")
    return about


def _again(index: Index, path: Path) -> str:
    return f"make it anew (ssl-retina embed WEIGHTS --data {index.folder} --out {path} --replace)"


def _require_whole(path: Path, index: Index, rows: NDArray[np.int64], modality: NDArray[np.integer]) -> None:
    """Each photograph once, and all of a modality or none: `embed --where 'modality == fundus'` is whole."""
    times = np.bincount(rows, minlength=index.samples)
    if not len(rows) or times.max() > 1:
        what = f"{int((times > 1).sum())} photographs twice" if len(rows) else "no rows"
        raise InputError(f"--embeddings {path} has {what}: {_again(index, path)}")
    for code in np.unique(modality[rows]).tolist():
        missing = int(((modality == code) & (times == 0)).sum())
        if missing:
            raise InputError(
                f"--embeddings {path} has no row for {missing} of {int((modality == code).sum())} "
                f"{index.columns['modality'][code]} photographs: {_again(index, path)}; of --where and "
                "--exclude give --where 'modality == ...' alone"
            )


def clusters(embedded: Embedded) -> Numbers:
    """The cluster of every row of the table, NO_CLUSTER where the file has none; 0 is the largest.

    Centres are found on at most `features.SAMPLE` vectors, evenly spread; memory does not grow with the rest.
    Raises InputError for vectors that are not finite.
    """
    step = -(-len(embedded.rows) // features.SAMPLE)
    sample = _every(embedded, step)
    distinct = len(np.unique(sample, axis=0))
    means = KMeans(min(features.CLUSTERS, distinct), n_init=STARTS, random_state=SEED)
    with threadpool_limits(1):
        means.fit(sample)
        found = np.concatenate([means.predict(piece) for piece in _pieces(embedded)])
    order = np.argsort(-np.bincount(found, minlength=means.n_clusters), kind="stable")
    numbers = np.full(embedded.samples, NO_CLUSTER, np.uint16)
    numbers[embedded.rows] = np.argsort(order)[found]
    return numbers


def _every(embedded: Embedded, step: int) -> Floats:
    """Every `step`-th vector of the file."""
    chosen: list[Floats] = []
    start = 0
    for piece in _pieces(embedded):
        chosen.append(piece[-start % step :: step])
        start += len(piece)
    return np.concatenate(chosen)


def _pieces(embedded: Embedded) -> Iterator[Floats]:
    """The vectors at length 1, in the order of the file."""
    with pq.ParquetFile(embedded.path) as file:
        for batch in file.iter_batches(PIECE, columns=["embedding"]):
            flat = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(batch.num_rows, -1)
            if not np.isfinite(vectors).all():
                raise InputError(f"--embeddings {embedded.path} holds numbers that are not finite")
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            yield np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
