"""Positions -> a batch of uint8 views: looks up, reads, decodes, crops. Runs in the loader's processes.

In: places of the global order. Out: a Batch, and the keys of samples that did not decode and were replaced.
A pure function of positions, sets and seed; only open files are kept between calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_retina import shards
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.geometry import View
from ssl_retina.data.images import Undecodable, decode
from ssl_retina.data.order import Order
from ssl_retina.errors import ShardError
from ssl_retina.shards import Index, Reader

REPLACEMENTS_IN_A_ROW = 100
SCAN = "oct"
"""The modality, in the index's words, whose up and down is never turned over and that has no colour."""

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Loaded:
    """A batch and the keys of the samples that were replaced; or no batch and why the stream must stop."""

    batch: Batch | None
    replaced: tuple[str, ...] = ()
    trouble: str = ""

    def pin_memory(self) -> "Loaded":
        """The same in page-locked memory; torch's DataLoader asks for it."""
        if self.batch is None:
            return self
        parts = ((part.name, getattr(self.batch, part.name)) for part in fields(self.batch))
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in parts if isinstance(value, torch.Tensor)
        }
        return replace(self, batch=replace(self.batch, **pinned))


@dataclass(frozen=True)
class Photograph:
    """One decoded sample."""

    key: str
    group: int
    image: Image.Image
    field: Sequence[float] | None
    modality: str

    @property
    def scan(self) -> bool:
        """Whether it is an OCT B-scan; whatever else, unknown ones too, is taken for a photograph."""
        return self.modality == SCAN


class Sets:
    """Several sets as one: rows count through them. Can be sent to another process, opens files there."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._promised = tuple((index.folder, index.digest, index.opener) for index in indexes)
        self._ends = np.cumsum([index.samples for index in indexes])
        self._readers: dict[int, Reader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def photograph(self, row: int) -> Photograph:
        """Read and decode one sample. Raises ShardError for damaged sets, Undecodable for a bad image."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        reader = self._reader(number)
        local = row - int(self._ends[number]) + len(reader)
        key = reader.key(local)
        try:
            image = decode(reader.image(local), reader.suffix(local))
        except Undecodable as error:
            raise Undecodable(key, str(error)) from None
        row_of = reader.positions[local]
        field = _four_numbers(reader.facts(local).get("field_of_view"))
        modality = reader.index.columns["modality"][int(row_of["modality"])]
        return Photograph(key, int(row_of["group"]), image, field, modality)

    def _reader(self, number: int) -> Reader:
        if number not in self._readers:
            folder, digest, opener = self._promised[number]
            index = replace(shards.read_index(folder), opener=opener)
            if index.digest != digest:
                raise ShardError(f"{folder} was indexed anew since the run started: start again")
            self._readers[number] = Reader(index)
        return self._readers[number]


def _four_numbers(field: object) -> Sequence[float] | None:
    """A field of view as our archive step writes it; anything else in a foreign JSON is unknown."""
    if isinstance(field, list) and len(field) == 4 and all(isinstance(part, int | float) for part in field):
        return field
    return None


class Stream:
    """A dataset for torch's DataLoader whose items are whole micro-batches, asked for by their positions.

    `shuffled` False gives the order's sample number p at position p and replaces nothing.
    """

    def __init__(self, sets: Sets, order: Order, spec: ViewSpec, *, shuffled: bool = True) -> None:
        views.recipe(spec)
        self.sets, self.order, self.spec, self.shuffled = sets, order, spec, shuffled

    @property
    def seed(self) -> int:
        """What order and views are drawn from."""
        return self.order.seed

    def __getitem__(self, positions: Positions) -> Loaded:
        """The batch of these positions; a ShardError becomes its message, so that it crosses processes."""
        try:
            return self.load(positions)
        except ShardError as error:
            return Loaded(None, trouble=str(error))

    def load(self, positions: Positions) -> Loaded:
        """Read, decode and crop (batch,) positions."""
        places = torch.from_numpy(positions)
        global_views, local_views = views.plan(self.spec, self.seed, places)
        drawn_global = _Drawn.empty(global_views, len(positions))
        drawn_local = _Drawn.empty(local_views, len(positions))
        keys, groups, scans, replaced = [], [], [], []
        rows = self._rows(positions)
        for number, row in enumerate(rows.tolist()):
            photograph, skipped = self._photograph(row, int(positions[number]))
            drawn_global.draw(number, photograph)
            drawn_local.draw(number, photograph)
            keys.append(photograph.key)
            groups.append(photograph.group)
            scans.append(photograph.scan)
            replaced += skipped
        batch = Batch(
            global_views=torch.from_numpy(drawn_global.pixels),
            local_views=torch.from_numpy(drawn_local.pixels) if local_views else None,
            keys=tuple(keys),
            position=places,
            group=torch.tensor(groups, dtype=torch.int64),
            field_of_view=torch.from_numpy(drawn_global.fields),
            colours=views.colours(self.spec, self.seed, places, scans=scans),
            local_field_of_view=torch.from_numpy(drawn_local.fields) if local_views else None,
            cameras=views.cheap_cameras(self.spec, self.seed, places, scans=scans),
        )
        return Loaded(batch, tuple(replaced))

    def _rows(self, positions: Positions) -> Positions:
        return self.order.row_at(positions) if self.shuffled else self.order.row_of(positions)

    def _photograph(self, row: int, position: int) -> tuple[Photograph, list[str]]:
        """The sample at a position, or that of the next position that decodes (the same on every rank)."""
        replaced: list[str] = []
        while len(replaced) < (REPLACEMENTS_IN_A_ROW if self.shuffled else 1):
            try:
                return self.sets.photograph(row), replaced
            except Undecodable as error:
                key, reason = error.args
                replaced.append(key)
                position += 1
                row = int(self._rows(np.array([position]))[0]) if self.shuffled else row
        raise ShardError(f"sample {key} cannot be decoded ({reason}): ssl-retina inspect names all")


@dataclass(frozen=True)
class _Drawn:
    """The pixels (views, batch, 3, size, size) and fields (views, batch, 4) while a batch is filled."""

    views: Sequence[View]
    pixels: NDArray[np.uint8]
    fields: NDArray[np.float32]

    @classmethod
    def empty(cls, drawn: Sequence[View], batch: int) -> "_Drawn":
        size = drawn[0].size if drawn else 0
        pixels = np.empty((len(drawn), batch, 3, size, size), dtype=np.uint8)
        return cls(drawn, pixels, np.empty((len(drawn), batch, 4), dtype=np.float32))

    def draw(self, number: int, photograph: Photograph) -> None:
        for at, view in enumerate(self.views):
            self.fields[at, number] = views.draw(
                photograph.image,
                view,
                number,
                out=self.pixels[at, number],
                field=photograph.field,
                scan=photograph.scan,
            )


def as_positions(start: int, count: int) -> Positions:
    """`count` neighbouring places of the global order."""
    return np.arange(start, start + count, dtype=np.int64)
