"""A decoder that may end its own process on damaged input, in a process of its own.

In: a function and what it is called with. Out: what it gives, or `Rejected` where the process was lost: one
bad file must not end a worker (python-gdcm calls abort() on damaged JPEG Lossless and JPEG-LS streams).
"""

import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from ssl_retina.archive import process
from ssl_retina.archive.rejection import Rejected

SECONDS = 120.0
"""A frame that takes longer hangs."""

P = ParamSpec("P")
T = TypeVar("T")


class Isolated:
    """One helper process, started when it is first needed and anew when it was lost."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call `function` over there. Raises what it raises, Rejected where its process was lost."""
        pool = self._pool = self._pool or process.pool(1)
        try:
            return pool.submit(function, *arguments, **named).result(SECONDS)
        except (BrokenProcessPool, TimeoutError):
            self._pool = None
            for child in list((pool._processes or {}).values()):
                child.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise Rejected("malformed", "the decoder was lost") from None


@functools.cache
def helper() -> Isolated:
    """The helper of this process."""
    return Isolated()
