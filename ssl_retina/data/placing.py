"""Some samples of a batch that lies on a device: taken out and put back without waiting for it.

In: what the host knows (numbers, which samples). Out: the same on the device. A GPU works behind its host; to
ask it for an answer, or to copy out of memory that it cannot read by itself, stops both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ON_CPU, ON_DEVICE = 8, 512
"""Samples that are changed at a time, so that a big batch costs no more memory: few, whose pixels stay in a
processor's caches (5 MB of 224 px), or many where every step costs the start of a kernel (300 MB)."""


def parts(count: int, device: torch.device) -> list[slice]:
    """Which of so many samples are changed at a time there."""
    size = ON_CPU if device.type == "cpu" else ON_DEVICE
    return [slice(start, start + size) for start in range(0, count, size)]


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers on the device, which a GPU fetches by itself: out of page-locked memory."""
    if numbers.device == device:
        return numbers
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def column(numbers: Tensor, images: Tensor) -> Tensor:
    """(batch,) numbers beside images: (batch, 1, 1, 1) on their device."""
    return sent(numbers, images.device).view(-1, 1, 1, 1)


def put(images: Tensor, rows: Sequence[int], changed: Tensor) -> None:
    """Write `changed` (len(rows), ...) over those samples of `images`, in place.

    A kernel or few copy all of them. Where kernels are to be deterministic, as the trainer asks, torch's
    `index_copy_` sorts on a GPU and reads the least and the greatest row back, which waits for the device
    twice a call.
    """
    places = images.unbind()
    torch._foreach_copy_([places[row] for row in rows], list(changed.unbind()))


def bilinear(images: Tensor, height: int, width: int) -> Tensor:
    """(batch, channels, height, width), as torch's `interpolate` gives it: pixels' middles, no smoothing.

    `interpolate`, like `pad`, takes dozens of slow operations on a GPU where kernels are to be deterministic,
    for the sake of a gradient that nobody asks for here; each of these is one.
    """
    return torch.ops.aten.upsample_bilinear2d(images, (height, width), False)  # type: ignore[no-any-return]


def reflected(images: Tensor, beyond: tuple[int, int, int, int]) -> Tensor:
    """With so many pixels more at the left, right, top and bottom, mirrored at the rim."""
    return torch.ops.aten.reflection_pad2d(images, beyond)  # type: ignore[no-any-return]


def repeated(images: Tensor, beyond: tuple[int, int, int, int]) -> Tensor:
    """With so many pixels more at the left, right, top and bottom: those of the rim again."""
    return torch.ops.aten.replication_pad2d(images, beyond)  # type: ignore[no-any-return]
