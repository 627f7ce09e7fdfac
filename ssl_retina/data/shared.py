"""Arrays that the loader's processes see without a copy each.

In: a length and a type, or an array. Out: an array in memory that has no name in any folder: processes that
are started with it map the same pages, and the kernel frees them with the last process, however that ends.
"""

import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedArray:
    """One dimension of numbers in an anonymous file in memory; it can be sent along with a new process."""

    def __init__(self, length: int, dtype: DTypeLike) -> None:
        self._length, self._dtype = length, np.dtype(dtype)
        descriptor = os.memfd_create("ssl-retina", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, max(length * self._dtype.itemsize, 1))
        self._open(descriptor)

    @classmethod
    def of(cls, values: NDArray[Any]) -> "SharedArray":
        """A copy of these values."""
        shared = cls(len(values), values.dtype)
        shared.array[:] = values
        return shared

    def _open(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        pages = mmap.mmap(descriptor, max(self._length * self._dtype.itemsize, 1))
        self.array: NDArray[Any] = np.frombuffer(pages, self._dtype, self._length)

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> tuple[Any, int, str]:
        """What a process that is being started gets: the open file, and no values."""
        return reduction.DupFd(self._descriptor), self._length, self._dtype.str

    def __setstate__(self, state: tuple[Any, int, str]) -> None:
        sent, self._length, dtype = state
        self._dtype = np.dtype(dtype)
        self._open(sent.detach())
