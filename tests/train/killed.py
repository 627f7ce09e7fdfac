"""Runs that die of kill -9 at their n-th call to the disk, and are then resumed: many in one start.

`python killed.py CASE FOLDER N N ...`: FOLDER/whole is the uninterrupted run, FOLDER/at-N the other ones.
Each run is a fork of this process, which has everything loaded and computes nothing itself. CASE: `calm`, or
`spiking` with a roll-back.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spike_ranks
import tiny
import torch

from ssl_retina.train import checkpoint, loop
from ssl_retina.train.signals import Stop

CALLS = ("fsync", "rename", "replace", "mkdir", "link", "unlink")


def forked(work: Callable[[], object]) -> int:
    """The exit status of a fork that does `work`."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(case: str, out: Path, killed_at: int | None = None) -> None:
    """One run in this process, which dies before its call number `killed_at`."""
    calls: list[str] = []

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == killed_at:
                os.kill(os.getpid(), 9)
            calls.append(original.__name__)
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    checkpoint.save_file = counted(checkpoint.save_file)
    changes = {"train__spikes": spike_ranks.SETTINGS} if case == "spiking" else {}
    bad = spike_ranks.spiking(spike_ranks.TOGETHER) if case == "spiking" else contextlib.nullcontext()
    with bad:
        loop.pretrain(tiny.run(out.parent / "shards", out, **changes), Stop())
    if killed_at is None:
        print(f"{out.name}: {' '.join(calls)}", flush=True)


def main(case: str, folder: Path, points: list[int]) -> None:
    """The whole run, then each point: killed, and resumed by the same call."""
    torch.set_num_threads(1)
    assert forked(lambda: train(case, folder / "whole")) == 0
    for point in points:
        out = folder / f"at-{point}"
        code = forked(lambda out=out, point=point: train(case, out, point))
        assert code in (-9, 0), code
        if code == -9:
            assert forked(lambda out=out: train(case, out)) == 0, point


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(point) for point in sys.argv[3:]])
