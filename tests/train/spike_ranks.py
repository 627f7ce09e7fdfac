"""One rank of a group that trains small runs with spikes: skipped, rolled back, stopped, interrupted.

`python spike_ranks.py FOLDER`: every case at ZeRO 1 and 3, on the shards in FOLDER/shards, into FOLDER/NAME.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ranks
import stages
import torch
from ranks import StopAfter

from ssl_retina import dist, launch
from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.methods import mae
from ssl_retina.train.engine import process_group

BATCH = 8
SETTINGS: dict[str, Any] = {
    "window": 4,
    "deviations": 50.0,
    "times_median": 50.0,
    "limit": 3,
    "span": 4,
    "skip_batches": 2,
}
"""Short enough for runs of a dozen steps, and far enough from what these do by themselves."""

ISOLATED = {6: "loss", 9: "gradient"}
"""Batches (from 0) whose loss, or gradient alone, leaps."""
TOGETHER = {8: "loss", 9: "gradient", 10: "loss"}
ENDLESS = dict.fromkeys(range(8, 99), "loss")


@contextmanager
def spiking(batches: dict[int, str]) -> Iterator[None]:
    """The second half of these global batches is bad: where there are two ranks, that of the last one.

    What is added is the samples' own, so that the mean over ranks does not hang on their number.
    """
    forward = mae.Method.forward

    def bad(self: mae.Method, batch: Batch, clock: Clock) -> Output:
        output = forward(self, batch, clock)
        kind = batches.get(int(batch.position[0]) // BATCH)
        if kind is None or not self.training:
            return output
        share = (batch.position % BATCH >= BATCH // 2).float().mean()
        if kind == "loss":
            return Output(output.loss + 1e4 * share, features=output.features)
        steeper = output.loss * 1e5 * share
        return Output(output.loss + (steeper - steeper.detach()), features=output.features)

    with mock.patch.object(mae.Method, "forward", bad):
        yield


def train(folder: Path, name: str, stop: StopAfter | None = None, **changes: Any) -> None:
    """One run with spikes judged as `SETTINGS` say."""
    changes = {"train__spikes": SETTINGS, **changes}
    ranks.train(folder, name, stop, **changes)


def isolated(folder: Path, stage: int) -> None:
    """Two spikes far apart; a checkpoint at every step. The same stopped right behind the first of them."""
    often = {"checkpoint__every_steps": 1, "checkpoint__keep": 20, "train__zero_stage": stage}
    with spiking(ISOLATED):
        train(folder, f"isolated-{stage}", **often)
        train(folder, f"isolated-{stage}-resumed", StopAfter(7, rank=0), **often)
        train(folder, f"isolated-{stage}-resumed", **often)


def together(folder: Path, stage: int) -> None:
    """A roll-back; the same stopped between two spikes, and in the step that rolls back."""
    with spiking(TOGETHER):
        train(folder, f"together-{stage}", train__zero_stage=stage)
        for steps in (10, 1, 99):
            train(folder, f"together-{stage}-resumed", StopAfter(steps, rank=0), train__zero_stage=stage)


def endless(folder: Path, stage: int) -> None:
    """Spikes that no roll-back leaves behind; the same command once more."""
    with spiking(ENDLESS):
        train(folder, f"endless-{stage}", train__zero_stage=stage)
        ranks.copied(folder, f"endless-{stage}", f"endless-{stage}-again")
        train(folder, f"endless-{stage}-again", train__zero_stage=stage)
    changed = {**SETTINGS, "enabled": False}
    ranks.copied(folder, f"endless-{stage}-again", f"endless-{stage}-changed")
    train(folder, f"endless-{stage}-changed", train__zero_stage=stage, train__spikes=changed)


def calm(folder: Path, stage: int) -> None:
    """No spike at all, judged and not judged."""
    train(folder, f"judged-{stage}", train__zero_stage=stage)
    train(folder, f"off-{stage}", train__zero_stage=stage, train__spikes={**SETTINGS, "enabled": False})


def elsewhere(folder: Path) -> None:
    """A roll-back of what waits in the machine's memory, and of parts of a batch."""
    with spiking(TOGETHER):
        train(folder, "together-1-offloaded", train__offload="optimizer")
        with stages.biting():
            train(folder, "together-3-offloaded", train__zero_stage=3, train__offload="parameters")
        train(folder, "together-1-accumulated", train__accumulate=2)


def everything(folder: Path) -> None:
    """All cases; at stage 3 every parameter is cut."""
    cases: tuple[Callable[[Path, int], None], ...] = (isolated, together, endless, calm)
    for stage in (1, 3):
        with stages.biting() if stage == 3 else contextlib.nullcontext():
            for case in cases:
                case(folder, stage)
    elsewhere(folder)


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        assert dist.world_size() > 1
        everything(Path(sys.argv[1]))
