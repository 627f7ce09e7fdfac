"""Memory that loader processes fill again and again: new shared memory costs a fifth of a sample's time.

In: how many bytes a batch's pixels have. Out: pieces of memory that both sides see, each lent to one batch at
a time; it is free again when nothing that was made of the batch's pixels is left.
"""

import math
import weakref
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]


def shared(size: int) -> Tensor:
    """(size,) uint8 in memory that another process takes over without a copy."""
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def laid_out(memory: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Uint8 tensors of these shapes, one after the other, in (bytes,) `memory`, which must have the room."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = torch.split(memory[: sum(sizes)], sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class Pool:
    """Pieces of shared memory, by their numbers. Only the process that made it lends and takes back."""

    def __init__(self, pieces: int, size: int) -> None:
        self.pieces = [shared(size) for _ in range(pieces)]
        self._free = deque(range(pieces))

    def taken(self) -> int | None:
        """A free piece, which is lent from now on; None where all are."""
        return self._free.popleft() if self._free else None

    def give_back(self, number: int) -> None:
        """Nothing of the piece is used any more."""
        self._free.append(number)

    def lent(self, number: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of this piece as others of the same memory: it is free when they and their views are gone.

        torch keeps the array that a tensor is made from as long as any view of the tensor lives.
        """
        arrays = [tensor.numpy() for tensor in tensors]
        left = [len(arrays)]

        def one_gone() -> None:
            left[0] -= 1
            if not left[0]:
                self.give_back(number)

        for array in arrays:
            weakref.finalize(array, one_gone).atexit = False
        return [torch.from_numpy(array) for array in arrays]
