"""One rank of a group that trains the methods whose loss couples a batch; all cases in one start.

`python coupled_ranks.py FOLDER`: whole and resumed runs on the shards in FOLDER/shards, and three steps of
the engine on drawn batches (the second holds a NaN on the last rank), into FOLDER.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import ranks
import tiny
import torch
from torch import Tensor

from ssl_retina import dist, launch
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.train import optim, setup
from ssl_retina.train.engine import Engine, process_group

NAMES = ("simclr", "mocov3", "vicreg", "mae_contrast")
BATCH = 6
"""Three samples a rank on two."""

FEW = 0.02
"""Share of patients that is held out: three photographs, less than a batch, and odd."""


def changes(name: str) -> dict[str, Any]:
    """AdamW's epsilon is larger still than in `tiny`: batch norm takes out what the final norm's bias adds.

    So that bias has no gradient, and rounding noise would move it.
    """
    section = {"method": tiny.METHODS[name], "data__batch_size": BATCH, "data__held_out": FEW}
    return {**section, "optim__epsilon": 1e-3, "optim__learning_rate": 2e-3}


def batch(step: int, *, broken: bool = False) -> Batch:
    """This rank's rows of a step's global batch of drawn pixels; views of a sample resemble each other."""
    count = BATCH // dist.world_size()
    position = torch.arange(count) + step * BATCH + dist.rank() * count
    common = uniform(5, "sample", position, 3 * 32 * 32)
    views = torch.stack([common + uniform(5, "view", position, 3 * 32 * 32, view) for view in range(2)])
    pixels = views.view(2, count, 3, 32, 32) * 2 - 2
    if broken and dist.rank() == dist.world_size() - 1:
        pixels[:, -1, 0, 3, 4] = torch.nan
    unknown = torch.full((2, count, 4), float("nan"))
    return Batch(pixels, None, ("k",) * count, position, position, unknown)


def started(run: Run) -> tuple[Any, Engine]:
    method: Any = setup.build_method(run)[0]
    optimizer = optim.adamw(method, method.encoder, run.optim)
    return method, Engine(method, optimizer, run=run, micro_batch=BATCH // dist.world_size())


def answers(run: Run, steps: int) -> list[dict[str, Any]]:
    """What each step answered and left: loss and logs over ranks, the whole state."""
    method, engine = started(run)
    found = []
    for number in range(steps):
        clock = Clock(number, 10, 0)
        output = engine.forward(batch(number, broken=number == 1), clock)
        engine.backward(output.loss)
        applied = engine.step(1e-3)
        if applied:
            method.after_step(clock, engine.weights)
        state = engine.state()
        scalars = {"loss": output.loss, **output.logs}
        means = {name: dist.mean(value) for name, value in scalars.items()}
        kept: dict[str, Tensor] = {**state.weights, **state.moments}
        found.append({"applied": applied, "scalars": means, "state": kept})
    return found


def kept_local(ctx: Any, gradient: Tensor) -> Tensor:
    """The gather's backward pass of those who forget that other ranks' losses use the rows too."""
    return gradient.chunk(dist.world_size())[dist.rank()]


def own_statistics(norm: Any, values: Tensor) -> tuple[Tensor, Tensor]:
    """Batch norm of each rank for itself."""
    return values.mean(dim=0), values.var(dim=0, unbiased=False)


FAULTS = {
    "no_sum": lambda: mock.patch.object(dist._Gather, "backward", staticmethod(kept_local)),
    "own_norm": lambda: mock.patch.object(dist.BatchNorm1d, "_measured", own_statistics),
}


def everything(folder: Path) -> None:
    for name in NAMES:
        run = tiny.run(folder / "shards", folder / "none", **changes(name))
        for label, fault in {"right": contextlib.nullcontext, **FAULTS}.items():
            with fault():
                found = answers(run, 3 if label == "right" else 1)
            if dist.is_first():
                torch.save(found, folder / f"{name}-{label}.pt")
        cached = tiny.run(folder / "shards", folder / "none", **changes(name), train__encoder_batch=2)
        found = answers(cached, 3)
        if dist.is_first():
            torch.save(found, folder / f"{name}-cached.pt")
        ranks.train(folder, f"{name}-whole", **changes(name))
        last = dist.world_size() - 1
        ranks.train(folder, f"{name}-resumed", ranks.StopAfter(6, rank=last), **changes(name))
        ranks.train(folder, f"{name}-resumed", **changes(name), train__zero_stage=2)


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        everything(Path(sys.argv[1]))
