"""What a config's method will really be fed, as a picture to judge: do lesions survive the views?

In: the opened data of a config. Out: a PNG with a row for each of some photographs: as stored, with its
field of view, then its views at successive epochs, through the trainer's own stream and `finish`.
"""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_retina import files, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data import views
from ssl_retina.data.images import Undecodable
from ssl_retina.data.loader import Source
from ssl_retina.data.stream import SCAN, Photograph, Stream
from ssl_retina.report.view_words import CAMERA_LEGEND, camera_in_words, changes_in_words, recipe_in_words

ROWS = 8
VIEWS = 6
"""Views in a row: three epochs of a pair."""

CELL = 192
GAP, LINE, FONT, SMALL = 6, 18, 13, 11
PAPER, INK, RIM = (255, 255, 255), (30, 30, 30), (90, 200, 255)
CHUNK = 1 << 20

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Row:
    """One photograph, its views (each (3, size, size) in [0, 1]), and the lines below each."""

    title: str
    photograph: Photograph
    views: Sequence[Tensor]
    words: Sequence[Sequence[str]]


def write(source: Source, path: Path, title: str) -> None:
    """Draw the views of this config's training stream into `path`, whole; `title` heads the picture.

    Raises ShardError for damaged shards.
    """
    stream = _even(source)
    rows = [
        dataclasses.replace(row, title=f"{row.photograph.modality}, as stored")
        for row in _rows(stream, _spread(source))
    ]
    _save(_sheet(rows, (title, *recipe_in_words(stream.spec)), stream.spec), path)


def write_every(source: Source, path: Path, title: str) -> None:
    """Draw every named recipe into `path`: a row for one photograph of each modality, the same throughout.

    The views are as many and as large as the config's method asks for. Raises ShardError for damaged shards.
    """
    stream, rows = _even(source), []
    places = _one_of_each(stream, _spread(source))
    spec = dataclasses.replace(stream.spec, local_views=0, crop_scale=None)
    for recipe in views.RECIPES:
        own = dataclasses.replace(spec, recipe=recipe)
        drawn = _rows(Stream(stream.sets, stream.order, own), places)
        rows += [dataclasses.replace(row, title=f"{recipe}, {row.photograph.modality}") for row in drawn]
    lines = (f"{title}; every recipe", CAMERA_LEGEND)
    _save(_sheet(rows, lines, spec), path)


def _even(source: Source) -> Stream:
    """The training stream with every sample once an epoch: with weights, some do not come."""
    trained = source.stream
    return Stream(trained.sets, trained.order.evenly(), trained.spec)


def _save(sheet: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    sheet.save(content, "PNG")
    files.write_bytes(path, content.getvalue())


def _one_of_each(stream: Stream, places: Sequence[int]) -> list[int]:
    """The first of these places in each modality that decodes."""
    found: dict[str, int] = {}
    for place, row in zip(places, stream.order.row_of(np.array(places)).tolist(), strict=True):
        try:
            found.setdefault(stream.sets.photograph(row).modality, place)
        except Undecodable:
            continue
    return list(found.values())


def _spread(source: Source) -> list[int]:
    """Numbers of chosen samples: ROWS patients, shared by the modalities, spread over the devices.

    Where a modality has fewer patients than its share, the others get the rest.
    """
    known: dict[str, list[int]] = {}
    rows = source.stream.order.every_row()
    for index, offset in zip(source.indexes, source.offsets, strict=True):
        table = shards.read_positions(index)
        own = np.flatnonzero((rows >= offset) & (rows < offset + len(table)))
        records = table[rows[own] - offset]
        for code, word in enumerate(index.columns["modality"]):
            of_word = np.flatnonzero(records["modality"] == code)
            first = of_word[np.unique(records["group"][of_word], return_index=True)[1]]
            ordered = first[np.lexsort((first, records["device"][first]))]
            known.setdefault(word, []).extend(own[ordered].tolist())
    found: list[int] = []
    rising = sorted((places for places in known.values() if places), key=len)
    for left, places in zip(range(len(rising), 0, -1), rising, strict=True):
        count = min(-(-(ROWS - len(found)) // left), len(places))
        found += [places[at] for at in np.linspace(0, len(places) - 1, count).round().astype(int)]
    return found


def _rows(stream: Stream, places: Sequence[int]) -> Iterator[_Row]:
    """The rows of those photographs that decode."""
    epochs = max(VIEWS // (stream.spec.global_views + stream.spec.local_views), 1)
    positions = np.stack([_positions(stream, places, epoch) for epoch in range(epochs)])
    for number, place in enumerate(places):
        try:
            photograph = stream.sets.photograph(int(stream.order.row_of(np.array([place]))[0]))
        except Undecodable:
            continue
        batch = stream.load(positions[:, number]).batch
        assert batch is not None
        done = views.finish(batch, device=torch.device("cpu"))
        shown = [_seen(done.global_views)]
        shown += [] if done.local_views is None else [_seen(done.local_views)]
        by_epoch = [view for epoch in range(epochs) for part in shown for view in part[:, epoch]]
        lines = [
            [tell(row) for row in changes.transpose(0, 1).flatten(0, 1)]
            for changes, tell in ((batch.colours, changes_in_words), (batch.cameras, camera_in_words))
            if changes is not None
        ]
        yield _Row("", photograph, by_epoch, list(zip(*lines, strict=True)) or [()] * len(by_epoch))


def _positions(stream: Stream, places: Sequence[int], epoch: int) -> Integers:
    """Where in the global order these samples stand in an epoch."""
    count, found = len(stream.order), np.empty(len(places), np.int64)
    for start in range(0, count, CHUNK):
        asked = epoch * count + np.arange(start, min(start + CHUNK, count), dtype=np.int64)
        samples = stream.order.number_at(asked)
        order = np.argsort(samples)
        at = np.minimum(np.searchsorted(samples, places, sorter=order), len(samples) - 1)
        here = samples[order[at]] == places
        found[here] = asked[order[at[here]]]
    return found


def _seen(pixels: Tensor) -> Tensor:
    """Normalised views as they look: in [0, 1]."""
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (views.IMAGENET_MEAN, views.IMAGENET_STD))
    return (pixels * std + mean).clamp(0, 1)


def _sheet(rows: Sequence[_Row], lines: Sequence[str], spec: ViewSpec) -> Image.Image:
    cell = spec.global_size * max(round(CELL / spec.global_size), 1)
    columns = 1 + max(len(row.views) for row in rows)
    top = GAP + LINE * len(lines) + GAP
    depth = max((len(words) for row in rows for words in row.words), default=1)
    step_x, step_y = cell + GAP, LINE + cell + LINE * max(depth, 1) + GAP
    sheet = Image.new("RGB", (GAP + columns * step_x, top + len(rows) * step_y), PAPER)
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(FONT), ImageFont.load_default(SMALL)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + number * LINE), line, INK, font)
    per_epoch = spec.global_views + spec.local_views
    for number, row in enumerate(rows):
        y = top + number * step_y
        pen.text((GAP, y), row.title, INK, font)
        sheet.paste(_stored(row.photograph, cell), (GAP, y + LINE))
        for at, view in enumerate(row.views):
            x = GAP + (at + 1) * step_x
            pen.text((x, y), f"epoch {at // per_epoch}, view {at % per_epoch}", INK, font)
            sheet.paste(_picture(view, cell), (x, y + LINE))
            for below, words in enumerate(row.words[at]):
                pen.text((x, y + LINE + cell + 1 + below * LINE), words, INK, small)
    return sheet


def _stored(photograph: Photograph, cell: int) -> Image.Image:
    """The photograph in a square of `cell` pixels, its field of view drawn into it."""
    scale = cell / max(photograph.image.size)
    size = (round(photograph.image.width * scale), round(photograph.image.height * scale))
    small = photograph.image.resize(size, Image.Resampling.LANCZOS)
    if photograph.field is not None and photograph.modality != SCAN:
        x, y, across, down = (part * scale for part in photograph.field)
        ImageDraw.Draw(small).ellipse((x - across, y - down, x + across, y + down), outline=RIM)
    square = Image.new("RGB", (cell, cell))
    square.paste(small, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def _picture(view: Tensor, cell: int) -> Image.Image:
    """The view's own pixels, each as a small square where there is room."""
    pixels = view.mul(255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST)
