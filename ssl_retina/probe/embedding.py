"""WEIGHTS and a shard set -> one Parquet file with the features of every chosen photograph.

In: an export's folder, a timm name or an opponent, an index, conditions. Out: a row a photograph, in the
order of the index, written in row groups while they come: memory does not grow with the archive. A
photograph that does not decode is an error that names it; none is left out silently.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ssl_retina import __version__, files, shards
from ssl_retina.contract import Batch
from ssl_retina.data.selection import AS_OPTIONS, select
from ssl_retina.metrics import Integers
from ssl_retina.models import weights
from ssl_retina.probe import features
from ssl_retina.probe.features import Advance, Photographs
from ssl_retina.shards import Index, Reader

ROW_GROUP = 4096
PCA_PHOTOGRAPHS = 10_000
METADATA_KEY = b"ssl_retina"
PRIVACY = (
    "Embeddings of retinal photographs are biometric data: two of the same eye can be matched without the "
    "photographs. Keep this file as the photographs themselves are kept."
)
VOCABULARY = ("modality", "eye", "split")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    """What turns whole images of `size` pixels into rows of numbers, and what it is."""

    size: int
    about: Mapping[str, Any]
    embed: Callable[[Batch], Floats]


@dataclass(frozen=True)
class Chosen:
    """The photographs that are embedded: rows of the index, ascending, and how they are read."""

    index: Index
    rows: Integers
    batch: int
    workers: int | None

    def photographs(self, advance: Advance, rows: Integers | None = None) -> Photographs:
        """All of them, or those `rows`."""
        return Photographs(self.index, self.rows if rows is None else rows, advance, self.batch, self.workers)


def choose(data: Path, *, where: str | None, exclude: Path | None, batch: int, workers: int | None) -> Chosen:
    """Select photographs as `data.where` and `data.exclude` of a config do. Raises what `select` raises."""
    index = shards.read_index(data)
    rows = select([index], where=where, exclude=exclude, named=AS_OPTIONS).train.astype(np.int64)
    return Chosen(index, rows, batch, workers)


def write(name: str, chosen: Chosen, out: Path, *, seed: int, advance: Advance) -> dict[str, Any]:
    """Write the file whole and give its metadata. Raises UserError for weights that cannot be used."""
    embedder = _embedder(name, chosen, seed=seed)
    with contextlib.closing(_groups(name, chosen, embedder, advance)) as groups:
        return _written(groups, chosen, embedder, out)


def _written(
    groups: Iterator[dict[str, Any]], chosen: Chosen, embedder: Embedder, out: Path
) -> dict[str, Any]:
    first = next(groups)
    about = {
        **embedder.about,
        "version": __version__,
        "index": chosen.index.digest,
        "rows": len(chosen.rows),
        "dimensions": first["embedding"].type.list_size,
        "image_size": embedder.size,
        "privacy": PRIVACY,
    }
    schema = _schema(about)
    with (
        files.whole_alone(out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for group in itertools.chain([first], groups):
            writer.write_table(pa.table(group, schema=schema), row_group_size=ROW_GROUP)
    return about


def _schema(about: Mapping[str, Any]) -> pa.Schema:
    text = pa.string()
    fields = [
        pa.field("key", text, nullable=False),
        pa.field("patient", text),
        pa.field("group", text),
        *(pa.field(column, text) for column in VOCABULARY),
        pa.field("embedding", pa.list_(pa.float32(), about["dimensions"]), nullable=False),
    ]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(about, sort_keys=True).encode()})


def _groups(name: str, chosen: Chosen, embedder: Embedder, advance: Advance) -> Generator[dict[str, Any]]:
    """Columns of up to ROW_GROUP rows and a batch, in the order of the index."""
    held: list[Floats] = []
    done = 0
    with contextlib.closing(Reader(chosen.index)) as reader:
        for batch in chosen.photographs(advance).batches(name, embedder.size):
            values = embedder.embed(batch)
            features.check_finite(name, values)
            held.append(values)
            if sum(map(len, held)) >= ROW_GROUP:
                yield _columns(reader, chosen.rows[done:], np.concatenate(held))
                done += sum(map(len, held))
                held = []
        if held:
            yield _columns(reader, chosen.rows[done:], np.concatenate(held))


def _columns(reader: Reader, rows: Integers, values: Floats) -> dict[str, Any]:
    """The columns of the first `len(values)` rows; an unknown patient or an undeclared split is null."""
    numbers = rows[: len(values)].tolist()
    facts = [reader.facts(number) for number in numbers]
    columns: dict[str, Any] = {
        "key": [reader.key(number) for number in numbers],
        "patient": [_word(one.get("patient")) for one in facts],
        "group": [_word(one.get("group")) for one in facts],
    }
    for column in VOCABULARY:
        words = reader.index.columns[column]
        codes = reader.positions[column][numbers]
        columns[column] = [words[code] or None for code in codes.tolist()]
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return columns


def _word(value: object) -> str | None:
    return None if value is None else str(value)


def _embedder(name: str, chosen: Chosen, *, seed: int) -> Embedder:
    if name == features.MEAN_COLOUR:
        return Embedder(
            features.PIXELS,
            {"weights": name, "about": features.ABOUT_COLOUR},
            lambda batch: features.mean_colour(features.flat(batch)),
        )
    if name == features.PIXEL_PCA:
        return _pixel_pca(chosen)
    return _model(name, seed)


def _model(name: str, seed: int) -> Embedder:
    model, about = features.load(name, [name], seed=seed)
    data = model.data
    facts = {
        "weights": Path(name).name if Path(name).is_dir() else name,
        "about": about,
        "sha256_of_tensors": weights.digest(model.module),
        "sha256_of_file": _file_digest(name),
        "mean": list(data.mean),
        "std": list(data.std),
    }

    def embed(batch: Batch) -> Floats:
        return next(features.vectors(model, [batch]))

    return Embedder(data.image_size, facts, embed)


def _file_digest(name: str) -> str | None:
    """The SHA-256 that the export's SHA256SUMS names; timm's own models lie in somebody's cache."""
    path = Path(name) / "model.safetensors"
    return files.sha256(path) if path.is_file() else None


def _pixel_pca(chosen: Chosen) -> Embedder:
    """The probe fits this PCA in each training part; a table has one, of at most PCA_PHOTOGRAPHS."""
    count = min(len(chosen.rows), PCA_PHOTOGRAPHS)
    some = chosen.rows[np.linspace(0, len(chosen.rows) - 1, count).astype(np.int64)]
    read = chosen.photographs(_silent, some).batches(features.PIXEL_PCA, features.PIXELS)
    pixels = np.concatenate([features.flat(batch) for batch in read])
    components = min(features.COMPONENTS, count - 1, pixels.shape[1])
    pca = PCA(n_components=components, svd_solver="randomized", random_state=0).fit(pixels)
    about = f"principal components of the {features.PIXELS} px image, fitted on {count} of these photographs"
    return Embedder(
        features.PIXELS,
        {"weights": features.PIXEL_PCA, "about": about},
        lambda batch: pca.transform(features.flat(batch)).astype(np.float32),
    )


def _silent(name: str, done: int) -> None:
    """The fit is a small part of the time."""
