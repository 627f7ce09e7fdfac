"""One rank of a group that trains many small runs in one start, since a start costs ten seconds.

`python ranks.py FOLDER`: runs every case of `CASES` on the shards in FOLDER/shards, into FOLDER/NAME.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import factory
import stages
import tiny
import torch

from ssl_retina import dist, launch
from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.errors import UserError
from ssl_retina.methods import mae
from ssl_retina.train import loop
from ssl_retina.train.engine import process_group
from ssl_retina.train.signals import Stop


class StopAfter(Stop):
    """A signal that arrives on one rank alone, before the end of its n-th step."""

    def __init__(self, steps: int, *, rank: int, number: int = signal.SIGUSR1) -> None:
        self._left = steps if dist.rank() == rank else 10**9
        self._number = number
        super().__init__()

    @property
    def signal(self) -> int:
        """Read once a step by the loop."""
        self._left -= 1
        return self._number if self._left == 0 else 0

    @signal.setter
    def signal(self, number: int) -> None:
        """Real signals are of no interest here."""


@contextmanager
def broken_at(steps: set[int], *, rank: int) -> Iterator[None]:
    """The loss is NaN in these steps on one rank alone."""
    forward = mae.Method.forward

    def broken(self: mae.Method, batch: Batch, clock: Clock) -> Output:
        output = forward(self, batch, clock)
        if clock.step in steps and dist.rank() == rank and self.training:
            return Output(output.loss + torch.tensor(float("nan")), features=output.features)
        return output

    with mock.patch.object(mae.Method, "forward", broken):
        yield


def train(folder: Path, name: str, stop: Stop | None = None, **changes: Any) -> dict[str, Any]:
    """One run; what it ended with goes to NAME.json."""
    run = tiny.run(folder / "shards", folder / name, **changes)
    try:
        summary = loop.pretrain(run, stop or Stop())
        end: dict[str, Any] = {"ended": "done", "steps": summary.steps, "from": summary.started_at}
    except UserError as error:
        end = {"ended": type(error).__name__, "code": error.exit_code, "message": str(error)}
    if dist.is_first():
        (folder / f"{name}.json").write_text(json.dumps(end))
    dist.barrier()
    return end


def copied(folder: Path, name: str, new: str) -> None:
    """A copy of a run folder, for another ending."""
    if dist.is_first():
        shutil.copytree(folder / name, folder / new)
    dist.barrier()


def resumed(folder: Path) -> None:
    """Stopped by a signal to one rank after step 6 (no step that is saved anyway), then continued."""
    train(folder, "resumed", StopAfter(6, rank=dist.world_size() - 1))
    copied(folder, "resumed", "half")
    if dist.is_first():
        shutil.copy(folder / "resumed.json", folder / "half.json")
    dist.barrier()
    train(folder, "resumed", data__workers=1, train__zero_stage=2)


def one_broken(folder: Path) -> None:
    """A NaN on the last rank in steps 4 and 5, and after a resume between the two."""
    with broken_at({4, 5}, rank=dist.world_size() - 1):
        train(folder, "broken")
        train(folder, "broken-resumed", StopAfter(5, rank=0))
        train(folder, "broken-resumed")


def hopeless(folder: Path) -> None:
    """NaN from step 6 on: three in a row are the limit, and a resume after two of them does not forget."""
    with broken_at(set(range(6, 99)), rank=0):
        train(folder, "hopeless", StopAfter(8, rank=0))
        train(folder, "hopeless")


def neighbours(folder: Path, name: str, stage: int) -> None:
    """With labels for the online kNN, of which every rank computes a share."""
    key = folder / "key"
    if dist.is_first():
        factory.write_key(key)
    labels = factory.make_labels(folder / f"labels-{dist.rank()}.csv", samples=tiny.SAMPLES, patients=23)
    dist.barrier()
    tracking = {"tracking__labels": str(labels), "tracking__task": "sick=grade>=1"}
    with mock.patch.dict(os.environ, {"SSL_RETINA_KEY_FILE": str(key)}):
        train(folder, name, train__zero_stage=stage, **tracking)


def cut(folder: Path) -> None:
    """Stage 3 with every parameter cut; the same stopped and continued."""
    with stages.biting():
        neighbours(folder, "zero3", 3)
        train(folder, "zero3-resumed", StopAfter(6, rank=0), train__zero_stage=3)
        train(folder, "zero3-resumed", train__zero_stage=3)


CASES: dict[str, Callable[[Path], object]] = {
    "whole": lambda folder: train(folder, "whole", data__workers=1),
    "zero2": lambda folder: neighbours(folder, "zero2", 2),
    "cut": cut,
    "accumulated": lambda folder: train(folder, "accumulated", train__accumulate=2),
    "bf16": lambda folder: train(folder, "bf16", train__precision="bf16"),
    "resumed": resumed,
    "one_broken": one_broken,
    "hopeless": hopeless,
}


def everything(folder: Path) -> None:
    """All cases on however many ranks there are; then the halves that another world left."""
    for case in CASES.values():
        case(folder)
    for half in sorted(folder.glob("from-*")):
        train(folder, half.name)


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        everything(Path(sys.argv[1]))
