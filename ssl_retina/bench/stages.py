"""Where the time of a sample goes: the parts of our stream and of the plain pipeline, and the device.

In: our stream, positions. Out: seconds of the processor for each part of one image, in this process alone;
what a whole pipeline takes beyond them is its handing over between processes.
"""

import io
import time
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image

from ssl_retina.bench.pipelines import Transform
from ssl_retina.data import native, views
from ssl_retina.data.images import Encoded, Pixels
from ssl_retina.data.stream import Positions, Stream

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"ours": ("read", "decode", "crop", "rest"), "plain": ("read", "decode", "transform")}
)
"""rest: random numbers, order, the empty batch; transform: crops, colours and normalisation. Compiled code
(`data.native`), where it runs, decodes and crops in one call: all of that is crop."""

Seconds = dict[str, float]


class _Timed:
    """An encoded image that knows what its decoding took."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded, self.width, self.height = encoded, encoded.width, encoded.height
        self.seconds = 0.0

    def pixels(self, share: int = 1) -> tuple[Pixels, int]:
        """The image's own."""
        begun = time.process_time()
        found = self._encoded.pixels(share)
        self.seconds += time.process_time() - begun
        return found


def ours(stream: Stream, positions: Positions) -> Seconds:
    """Seconds an image of what a loader process does, part by part."""
    room = torch.zeros(stream.pixel_bytes(len(positions)), dtype=torch.uint8)  # used before, as a loader's is
    begun = time.process_time()
    stream.load(positions, room)
    whole = time.process_time() - begun
    global_views, local_views = views.plan(stream.spec, stream.seed, torch.from_numpy(positions))
    planned = (*global_views, *local_views)
    out = [np.empty((view.size, view.size, 3), np.uint8) for view in planned]
    read = decode = draw = 0.0
    for number, row in enumerate(_rows(stream, positions)):
        begun = time.process_time()
        photograph = stream.sets.photograph(row)
        there = time.process_time()
        timed = _Timed(photograph.encoded)
        encoded = timed if native.library() is None else photograph.encoded
        views.draw(encoded, planned, number, out=out, field=photograph.field, scan=photograph.scan)
        draw += time.process_time() - there
        read, decode = read + there - begun, decode + timed.seconds
    spent = {"read": read, "decode": decode, "crop": draw - decode, "rest": whole - read - draw}
    return {f"ours_{part}": seconds / len(positions) for part, seconds in spent.items()}


def _rows(stream: Stream, positions: Positions) -> list[int]:
    """As many rows as positions; which ones is the same for what they cost."""
    numbers: list[int] = stream.order.row_of(positions % len(stream.order)).tolist()
    return numbers


def plain(stream: Stream, transform: Transform, positions: Positions) -> Seconds:
    """Seconds an image of the plain pipeline's parts; its reading is timed as ours, which is quicker."""
    laps = [0.0, 0.0, 0.0]
    for row in _rows(stream, positions):
        marks = [time.process_time()]
        content = stream.sets.photograph(row).encoded.content
        marks.append(time.process_time())
        image = Image.open(io.BytesIO(content)).convert("RGB")
        marks.append(time.process_time())
        transform(image)
        marks.append(time.process_time())
        laps = [lap + marks[at + 1] - marks[at] for at, lap in enumerate(laps)]
    return {f"plain_{part}": lap / len(positions) for part, lap in zip(PARTS["plain"], laps, strict=True)}


def device(stream: Stream, positions: Positions) -> Seconds:
    """Seconds an image that `finish` takes: of the processor, and by the clock until the device is done."""
    there = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = stream.load(positions).batch
    assert batch is not None
    for _ in range(2):  # the first call on a GPU also loads its kernels
        begun, waited = time.process_time(), time.perf_counter()
        done = views.finish(batch, device=there)
        if there.type == "cuda":
            torch.cuda.synchronize()
        spent, waited = time.process_time() - begun, time.perf_counter() - waited
        del done
    return {"device_processor": spent / len(positions), "device_waited": waited / len(positions)}
