"""Some photographs of a shard set, chosen over its devices, for a contact sheet.

In: the index of a set. Out: decoded pictures. Callers decide whether pictures may be shown at all.
"""

import io

import numpy as np
from PIL import Image

from ssl_retina.metrics import Integers
from ssl_retina.shards import Index, Reader


def spread(index: Index, *, each: int) -> list[Image.Image]:
    """`each` pictures of every device, evenly spread over its photographs, device after device."""
    reader = Reader(index)
    try:
        rows = [row for code in range(len(index.columns["device"])) for row in _rows(reader, code, each)]
        return [_decoded(reader.image(row)) for row in rows]
    finally:
        reader.close()


def _rows(reader: Reader, code: int, each: int) -> list[int]:
    found: Integers = np.flatnonzero(np.asarray(reader.positions["device"]) == code)
    if not len(found):
        return []
    places = np.linspace(0, len(found) - 1, min(each, len(found))).round().astype(int)
    chosen: list[int] = found[places].tolist()
    return chosen


def _decoded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")
