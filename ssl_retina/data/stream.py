"""Positions -> a batch of uint8 views: looks up, reads, decodes, crops. Runs in the loader's processes.

In: places of the global order. Out: a Batch, and the keys of samples that did not decode and were replaced.
A pure function of positions, sets and seed; only open files are kept between calls.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_retina import positions, shards
from ssl_retina.contract import ORIGIN, UNKNOWN, Batch, ViewSpec
from ssl_retina.data import memory, origin, recipes, views
from ssl_retina.data.geometry import View
from ssl_retina.data.images import Encoded, Undecodable, opened
from ssl_retina.data.order import Order
from ssl_retina.errors import InputError, ShardError
from ssl_retina.shards import Index, Reader

REPLACEMENTS_IN_A_ROW = 100
NUMBERS = (int, float)  # a tuple: `int | float` would be made anew, and looked into slowly, for every number
LEAST_RADIUS, FARTHEST = 0.5, 1e6
"""Pixels: what a field of view can be."""
PIXELS = ("global_views", "local_views")
"""What of a batch is large."""
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

    def without_pixels(self) -> "Loaded":
        """The same for a reader that has the memory of the pixels itself (`Stream.views_in`)."""
        if self.batch is None:
            return self
        return replace(self, batch=replace(self.batch, global_views=torch.empty(0), local_views=None))

    def __getstate__(self) -> dict[str, Any]:
        """To another process all but pixels go by value: a shared tensor costs both of them a connection."""
        batch: dict[str, Any] = {} if self.batch is None else vars(self.batch)
        small = {
            name: value.numpy()
            for name, value in batch.items()
            if isinstance(value, Tensor) and (name not in PIXELS or not value.numel())
        }
        return {**vars(self), "batch": {**batch, **small}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts: dict[str, Any] = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in state["batch"].items()
        }
        vars(self).update(state, batch=Batch(**parts) if parts else None)


@dataclass(frozen=True)
class Photograph:
    """One sample, its image not yet decoded."""

    key: str
    group: int
    encoded: Encoded
    field: Sequence[float] | None
    modality: str
    origin: tuple[int, ...]
    device: int

    @property
    def scan(self) -> bool:
        """Whether it is an OCT B-scan; whatever else, unknown ones too, is taken for a photograph."""
        return self.modality == SCAN


class Sets:
    """Several sets as one: rows count through them. Can be sent to another process, opens files there."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._promised = tuple((index.folder, index.digest, index.opener) for index in indexes)
        self._ends = list(itertools.accumulate(index.samples for index in indexes))
        named = {word for index in indexes for word in index.columns["device"]}
        self.devices = tuple(sorted(named - {positions.UNKNOWN, ""}))
        self._devices = {word: number for number, word in enumerate(self.devices)}
        self._readers: dict[int, Reader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def photograph(self, row: int) -> Photograph:
        """Read one sample. Raises ShardError for damaged sets, Undecodable for a bad image."""
        reader, local = self._place(row)
        encoded = opened(reader.image(local), reader.suffix(local))
        row_of = reader.row(local)
        facts, group = reader.facts(local), row_of["group"]
        field = _four_numbers(facts.get("field_of_view"))
        words = reader.index.columns
        modality, eye, device = (words[name][row_of[name]] for name in ("modality", "eye", "device"))
        kin = origin.read(facts, group=group, eye=eye, scan=modality == SCAN)
        number = self._devices.get(device, UNKNOWN)
        return Photograph(reader.key(local), group, encoded, field, modality, kin, number)

    def key(self, row: int) -> str:
        """The key of one sample."""
        reader, local = self._place(row)
        return reader.key(local)

    def _place(self, row: int) -> tuple[Reader, int]:
        number = bisect.bisect_right(self._ends, row)
        reader = self._reader(number)
        return reader, row - self._ends[number] + len(reader)

    def _reader(self, number: int) -> Reader:
        if number not in self._readers:
            folder, digest, opener = self._promised[number]
            index = replace(shards.read_index(folder), opener=opener)
            if index.digest != digest:
                raise ShardError(f"{folder} was indexed anew since the run started: start again")
            self._readers[number] = Reader(index)
        return self._readers[number]


def _four_numbers(field: object) -> Sequence[float] | None:
    """A field of view as our archive step writes it; anything else in a foreign JSON is unknown.

    JSON of others may hold NaN and numbers of 400 digits; a centre far away and a radius of nothing mean
    nothing either.
    """
    if not isinstance(field, list) or len(field) != 4 or not all(type(part) in NUMBERS for part in field):
        return None
    if not all(abs(part) <= FARTHEST for part in field):  # which no NaN is
        return None
    return field if min(field[2:]) >= LEAST_RADIUS else None


class Stream:
    """A dataset for torch's DataLoader whose items are whole micro-batches, asked for by their positions.

    `shuffled` False gives the order's sample number p at position p and replaces nothing.
    """

    def __init__(self, sets: Sets, order: Order, spec: ViewSpec, *, shuffled: bool = True) -> None:
        recipes.recipe(spec)
        self.sets, self.order, self.spec, self.shuffled = sets, order, spec, shuffled

    @property
    def seed(self) -> int:
        """What order and views are drawn from."""
        return self.order.seed

    def pixel_bytes(self, samples: int) -> int:
        """How much memory the views of so many samples fill."""
        return sum(map(math.prod, self._shapes(samples)))

    def views_in(self, room: Tensor, samples: int) -> tuple[Tensor, Tensor | None]:
        """The global and the local views that a batch of so many samples has in `room`, as in `Batch`."""
        global_pixels, local_pixels = memory.laid_out(room, self._shapes(samples))
        return _planes(global_pixels), _planes(local_pixels) if self.spec.local_views else None

    def __getitem__(self, positions: Positions) -> Loaded:
        """The batch of these positions; what the user can mend becomes its message, to cross processes."""
        return self.fill(positions, None)

    def fill(self, positions: Positions, room: Tensor | None) -> Loaded:
        """As an item, its pixels in `room`, (bytes,) of `pixel_bytes` at least, if one is given."""
        try:
            return self.load(positions, room)
        except (ShardError, InputError) as error:
            return Loaded(None, trouble=str(error))

    def load(self, positions: Positions, room: Tensor | None = None) -> Loaded:
        """Read, decode and crop (batch,) positions."""
        places = torch.from_numpy(positions)
        global_views, local_views = views.plan(self.spec, self.seed, places)
        if room is None:
            room = torch.empty(self.pixel_bytes(len(positions)), dtype=torch.uint8)
        drawn = _Drawn((*global_views, *local_views), memory.laid_out(room, self._shapes(len(positions))))
        keys, groups, origins, devices, scans, replaced = [], [], [], [], [], []
        for number, row in enumerate(self._rows(positions).tolist()):
            photograph, skipped = self._photograph(row, int(positions[number]), partial(drawn.draw, number))
            keys.append(photograph.key)
            groups.append(photograph.group)
            origins.append(photograph.origin)
            devices.append(photograph.device)
            scans.append(photograph.scan)
            replaced += skipped
        global_pixels, local_pixels = self.views_in(room, len(positions))
        batch = Batch(
            global_views=global_pixels,
            local_views=local_pixels,
            keys=tuple(keys),
            position=places,
            group=torch.tensor(groups, dtype=torch.int64),
            field_of_view=torch.from_numpy(drawn.fields[: len(global_views)]),
            colours=views.colours(self.spec, self.seed, places, scans=scans),
            local_field_of_view=torch.from_numpy(drawn.fields[len(global_views) :]) if local_views else None,
            cameras=views.cheap_cameras(self.spec, self.seed, places, scans=scans),
            origin=torch.tensor(origins, dtype=torch.int64).view(len(keys), len(ORIGIN)),
            device=torch.tensor(devices, dtype=torch.int64),
        )
        return Loaded(batch, tuple(replaced))

    def _shapes(self, samples: int) -> list[memory.Shape]:
        """(views, samples, size, size, 3) of the global and of the local views."""
        spec = self.spec
        kinds = ((spec.global_views, spec.global_size), (spec.local_views, spec.local_size))
        return [(count, samples, size, size, 3) for count, size in kinds]

    def _rows(self, positions: Positions) -> Positions:
        return self.order.row_at(positions) if self.shuffled else self.order.row_of(positions)

    def _photograph(
        self, row: int, position: int, draw: Callable[[Photograph], None]
    ) -> tuple[Photograph, list[str]]:
        """Draw a position's sample, or that of the next position that decodes (the same on every rank)."""
        replaced: list[str] = []
        while len(replaced) < (REPLACEMENTS_IN_A_ROW if self.shuffled else 1):
            try:
                photograph = self.sets.photograph(row)
                draw(photograph)
                return photograph, replaced
            except Undecodable as error:
                key, reason = self.sets.key(row), str(error)
                replaced.append(key)
                position += 1
                row = int(self._rows(np.array([position]))[0]) if self.shuffled else row
        raise ShardError(f"sample {key} cannot be decoded ({reason}): ssl-retina inspect names all")


class _Drawn:
    """The pixels (views, batch, size, size, 3) and fields (views, batch, 4) while a batch is filled."""

    def __init__(self, drawn: Sequence[View], pixels: Sequence[Tensor]) -> None:
        self.views = drawn
        self.global_pixels, self.local_pixels = pixels
        self.fields = np.empty((len(drawn), pixels[0].shape[1], 4), dtype=np.float32)
        self._places = (*self.global_pixels.numpy(), *self.local_pixels.numpy())

    def draw(self, number: int, photograph: Photograph) -> None:
        self.fields[:, number] = views.draw(
            photograph.encoded,
            self.views,
            number,
            out=[place[number] for place in self._places],
            field=photograph.field,
            scan=photograph.scan,
        )


def _planes(pixels: Tensor) -> Tensor:
    """The same memory as (views, batch, 3, size, size): the colours of a pixel stay side by side in it."""
    return pixels.permute(0, 1, 4, 2, 3)


def as_positions(start: int, count: int) -> Positions:
    """`count` neighbouring places of the global order."""
    return np.arange(start, start + count, dtype=np.int64)
