"""A process that ends itself with -9 at the n-th file operation, as a power cut would."""

import os
import signal
import warnings
from collections.abc import Callable

from ssl_retina.archive import pack

OPERATIONS = ("replace", "mkdir", "unlink", "rmdir", "link")


class Bomb:
    """Ends this process with -9 at the n-th event; events stand before file operations and samples."""

    def __init__(self, at: int) -> None:
        self.left = at

    def tick(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., object]) -> Callable[..., object]:
        def both(*arguments: object, **named: object) -> object:
            self.tick()
            return call(*arguments, **named)

        return both


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # fork beside threads: the child only writes files
        return os.fork()


def killed(at: int, work: Callable[[Bomb], object]) -> bool:
    """Do `work` in a forked process that ends at event `at`; False where it ran through."""
    child = fork()
    if child == 0:
        bomb = Bomb(at)
        for name in OPERATIONS:
            setattr(os, name, bomb.before(getattr(os, name)))
        pack.TarWriter.write = bomb.before(pack.TarWriter.write)
        try:
            work(bomb)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0
