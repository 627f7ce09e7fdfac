"""What `shard` costs a core: its own first stage, its parts, and the bare library calls on the same files.

In: folders of photographs. Out: seconds of every part and ratios, all of one run and one process. Seconds
are of the processor, waiting is not counted; every few files go through all ways in turn, so that what others
do to the machine's caches and clock slows all of them.
"""

import dataclasses
import io
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from threadpoolctl import threadpool_limits

from ssl_retina.archive import chunk_store, containers, readers, worker
from ssl_retina.archive.found import Found
from ssl_retina.archive.pixels import clean, features, look, quality, text
from ssl_retina.archive.pixels.encode import Encoding, encode
from ssl_retina.archive.readers import images
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.scan import scan
from ssl_retina.archive.settings import Settings
from ssl_retina.bench.plans import require_positive
from ssl_retina.errors import InputError

PARTS = ("read", "decode", "field_of_view", "encode", "hash", "judge")
"""field_of_view: found, cropped and shrunk. judge: quality, look for near duplicates, features, letters."""

TOGETHER = 8
"""Files of a turn: as many as the smallest chunk of a build has."""

Seconds = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """files: at most so many of each folder, evenly spread. rounds: times that everything is measured."""

    files: int = 48
    rounds: int = 3
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        require_positive(self, "files", "rounds")


def measure(folder: Path, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Measure one folder. Raises InputError where it holds no photograph that Pillow reads."""
    chosen = _chosen(folder, plan.files)
    rounds = []
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="ssl-retina-") as work:
        job = _job(folder, Path(work), plan.settings)
        for number in range(plan.rounds):
            turns = [chosen[at : at + TOGETHER] for at in range(0, len(chosen), TOGETHER)]
            rounds.append(_sum(_turn(job, files, number, advance) for files in turns))
    size = sum(one.size for one in chosen)
    return {
        "folder": folder.name,
        "files": len(chosen),
        "megabytes": size / 1e6,
        **_told(rounds, chosen, size),
    }


def _told(rounds: Sequence[Seconds], chosen: Sequence[Found], size: int) -> dict[str, Any]:
    """Medians over the rounds; of the ratio all of them, since it is what a reader wants to believe."""
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    ratios = [one["shard"] / one["bare"] for one in rounds]
    in_full = [one["shard"] / one["bare_in_full"] for one in rounds]
    parts = {name: median[name] / len(chosen) for name in PARTS}
    return {
        "images_per_second_and_core": len(chosen) / median["shard"],
        "megabytes_per_second_and_core": size / 1e6 / median["shard"],
        "seconds_an_image": {"shard": median["shard"] / len(chosen), "bare": median["bare"] / len(chosen)},
        "parts": parts,
        "rest": median["shard"] / len(chosen) - sum(parts.values()),
        "ratio_to_bare": statistics.median(ratios),
        "ratios": ratios,
        "ratio_to_bare_in_full": statistics.median(in_full),
    }


def _chosen(folder: Path, most: int) -> list[Found]:
    """Photographs of the folder that the bare calls can read too, evenly spread over the scan."""
    every = [one for one in scan(folder) if not one.reason and one.member is None]
    step = max(1, len(every) // most)
    chosen = [one for one in every[::step] if _readable(folder / one.path)][:most]
    if not chosen:
        raise InputError(f"{folder} holds no JPEG, PNG, TIFF or BMP photograph of its own to measure with")
    return chosen


def _readable(path: Path) -> bool:
    try:
        content = readers.content(path)
        if images.kind(content) is None:
            return False
        pixels = readers.parts(content, path.name)[0].decode().pixels
        return clean.clean(pixels, None, 64).modality == "fundus"
    except Rejected:
        return False


def _job(folder: Path, work: Path, settings: Settings) -> worker.Job:
    return worker.Job(
        source=folder,
        work=work,
        key=secrets.token_bytes(32),
        site="",
        size=settings.size,
        encoding=settings.encoding,
        selection=dataclasses.replace(settings.selection, enough=settings.enough),
    )


def _turn(job: worker.Job, chosen: Sequence[Found], number: int, advance: Callable[[int], None]) -> Seconds:
    """Seconds of a few files: the first stage, its parts, the bare calls twice; the order rotates."""
    ways: list[Callable[[], Seconds]] = [
        lambda: _stage(job, chosen),
        lambda: _sum(_parts(job, one) for one in chosen),
        lambda: _sum({"bare": _bare(job, one, job.selection.enough)} for one in chosen),
        lambda: _sum({"bare_in_full": _bare(job, one, 0)} for one in chosen),
    ]
    seconds: Seconds = {}
    for at in range(len(ways)):
        seconds |= ways[(number + at) % len(ways)]()
    advance(len(chosen))
    return seconds


def _stage(job: worker.Job, chosen: Sequence[Found]) -> Seconds:
    """`shard`'s own first stage, what it writes included."""
    chunk = chunk_store.Chunk(0, tuple((one, None) for one in chosen))
    with closing(containers.Reader(job.source)) as reader:
        begun = time.process_time()
        worker.process_chunk(job, chunk, reader)
        return {"shard": time.process_time() - begun}


def _parts(job: worker.Job, found: Found) -> Seconds:
    """The same calls one by one."""
    watch = _Watch()
    content = readers.content(job.source / found.path)
    watch.lap("read")
    picture = readers.parts(content, found.path, job.selection)[0].decode()
    watch.lap("decode")
    cleaned = clean.clean(picture.image, None, job.size)
    watch.lap("field_of_view")
    encode(cleaned.image, job.encoding)
    watch.lap("encode")
    clean.pixels_xxh128(picture.drawn)
    watch.lap("hash")
    _judge(cleaned)
    watch.lap("judge")
    return watch.seconds


def _judge(cleaned: clean.Cleaned) -> None:
    quality.assess(cleaned.image, cleaned.field_of_view)
    features.of(cleaned.image, cleaned.field_of_view)
    seen = look.look(cleaned.image, cleaned.field_of_view)
    if seen is not None:
        look.perceptual_hash(seen)
    if cleaned.field_of_view is None:
        text.bears_text(cleaned.pixels)


def _bare(job: worker.Job, found: Found, enough: int) -> float:
    """Pillow alone: open, decode as `enough` says, upright, shrink and encode in the same way; seconds."""
    begun = time.process_time()
    opened = Image.open(io.BytesIO((job.source / found.path).read_bytes()))
    if enough:
        opened.draft(None, (enough, enough))
    image = ImageOps.exif_transpose(opened).convert("RGB")
    share = min(1.0, job.size / max(image.size))
    if share < 1:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    _save(image, job.encoding)
    return time.process_time() - begun


def _save(image: Image.Image, encoding: Encoding) -> None:
    stream = io.BytesIO()
    if encoding.lossless:
        image.save(stream, "PNG", compress_level=6)
    else:
        chroma = {"420": "4:2:0", "444": "4:4:4"}[encoding.chroma]
        image.save(stream, "JPEG", quality=encoding.quality, subsampling=chroma)


def _sum(measured: Iterator[Seconds]) -> Seconds:
    total: Seconds = {}
    for one in measured:
        for name, seconds in one.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


class _Watch:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = now - self._last
        self._last = now
