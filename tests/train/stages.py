"""One rank of a group that steps real engines at every ZeRO stage: many small cases in one start.

`python stages.py FOLDER SUITE ...`: what each case ended with goes to FOLDER/CASE.pt, from the first rank.
Every world sees the same global batches of 12 random images, so their results can be compared.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch
from torch import Tensor, nn

from ssl_retina import dist, launch, methods
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, ViewSpec, uniform
from ssl_retina.train import optim, settings, setup
from ssl_retina.train.engine import Engine, State, process_group

BATCH = 12
"""Shared evenly by 1, 2 and 3 ranks."""

STEPS = 4
BROKEN = 2
"""In this step the last rank's loss is NaN."""

DISTILLED = {"hidden": 37, "bottleneck": 11, "prototypes": 45, "local_views": 2, "momentum": 0.7}
OPTIONS: dict[str, dict[str, Any]] = {
    "mae": {"decoder_width": 20, "decoder_depth": 1, "decoder_heads": 5},
    "simclr": {"projector_hidden": 33, "projector_out": 7},
    "mocov3": {"hidden": 37, "out": 13, "momentum": 0.7},
    **dict.fromkeys(("dino", "ibot"), DISTILLED),
    "dinov2": {**DISTILLED, "gram": {"begin_step": 1, "every_steps": 1}},
    "vicreg": {"hidden": 33, "out": 17},
    "mae_contrast": {"decoder_width": 20, "decoder_depth": 1, "decoder_heads": 5, "projector_hidden": 33},
    "ijepa": {"predictor_width": 20, "predictor_depth": 1, "predictor_heads": 5, "momentum": 0.7},
}
"""Odd widths: 2 ranks divide neither the matrices nor the biases; 3 ranks divide next to nothing."""

BITING = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_prefetch_bucket_size": 50_000,
}
"""Every parameter is cut, and released as soon as a model of 300 million parameters would release it."""


def run(name: str, stage: int, precision: str = "fp32", **changes: Any) -> Run:
    """The tiny config of a method with all that stage 3 could stumble over."""
    method = {"name": name, "recipe": "mae", **OPTIONS.get(name, {})}
    fixed = {"data__batch_size": BATCH, "train__zero_stage": stage, "train__precision": precision}
    return tiny.run(Path("shards"), Path("out"), method=method, **{**fixed, **changes})


THOROUGH = ("mae", "mocov3", "dinov2")
"""A decoder; batch norm and a teacher; small crops, hidden patches and two teachers."""


def batch(config: Run, number: int, *, views: ViewSpec) -> Batch:
    """This rank's share of a global batch."""
    own = BATCH // dist.world_size() // config.train.accumulate
    position = number * BATCH + dist.rank() * own + torch.arange(own)

    def drawn(name: str, count: int, size: int) -> Tensor:
        images = [uniform(7, name, position, 3 * size * size, view) for view in range(count)]
        return torch.stack(images).view(count, own, 3, size, size) * 4 - 2

    large = drawn("image", views.global_views, views.global_size)
    small = drawn("small", views.local_views, views.local_size) if views.local_views else None
    return Batch(large, small, ("k",) * own, position, position, torch.zeros(len(large), own, 4))


@contextmanager
def biting() -> Iterator[None]:
    """Stage 3 as `BITING` has it."""
    with mock.patch.dict(settings.STAGE_3, BITING):
        yield


class Case:
    """One engine, stepped; `found` is what the tests look at."""

    def __init__(self, config: Run, *, state: State | None = None) -> None:
        self.config = config
        self.method, spec = setup.build_method(config)
        exported: Any = self.method.exported()  # type: ignore[operator]
        self.encoder = exported
        self.elements = sum(parameter.numel() for parameter in self.method.parameters())
        self.views = spec
        own = BATCH // dist.world_size() // config.train.accumulate
        trained: Any = self.method.encoder
        adamw = optim.adamw(self.method, trained, config.optim)
        self.engine = Engine(self.method, adamw, run=config, micro_batch=own)
        if state is not None:
            self.engine.load(state)
        self.found: dict[str, Any] = {"losses": [], "norms": [], "applied": [], "evaluated": []}

    def step(self, number: int, *, broken: bool = False) -> None:
        """One optimiser step as the loop does it; `broken`: the last rank's loss is NaN."""
        clock = Clock(number, 10, 3)
        for _ in range(self.config.train.accumulate):
            output = self.engine.forward(batch(self.config, number, views=self.views), clock)
            worst = float("nan") if broken and dist.rank() == dist.world_size() - 1 else 0.0
            self.engine.backward(output.loss + worst)
            applied = self.engine.step(0.001)
        self.found["losses"].append(float(dist.mean(output.loss)))
        self.found["applied"].append(applied)
        self.found["norms"].append(self.engine.gradient_norm() if applied else None)
        if applied:
            self.method.after_step(clock, self.engine.weights)  # type: ignore[operator]

    def evaluate(self) -> None:
        """The loss of a method in evaluation, and the encoder alone, as the online kNN asks it."""
        given = batch(self.config, 99, views=self.views)
        with self.engine.evaluation() as method:
            loss = method(given, Clock(0, 10, 3)).loss
            pooled = self.encoder.pool(self.encoder(given.global_views[0], Clock(0, 1, 0), given.position))
        width = torch.from_numpy(pooled.float().double().numpy()).mean(dim=0)
        self.found["evaluated"].append((float(dist.mean(loss)), dist.mean(width)))

    def end(self, folder: Path, name: str) -> None:
        """The final state, written by the first rank."""
        state = self.engine.state()
        if dist.is_first():
            torch.save({**self.found, **dataclasses.asdict(state)}, folder / f"{name}.pt")
        dist.barrier()


def same(one: State, other: State) -> bool:
    """Bit for bit; True on ranks that hold no state."""
    return one.steps == other.steps and all(
        torch.equal(left[key], right[key])
        for left, right in ((one.weights, other.weights), (one.moments, other.moments))
        for key in left
    )


def held(method: nn.Module) -> dict[str, int]:
    """Elements of parameters on the fullest rank: whole ones, and parts."""
    parameters: list[Any] = list(method.parameters())
    whole = sum(parameter.numel() for parameter in parameters)
    parts = sum(parameter.ds_tensor.numel() for parameter in parameters if hasattr(parameter, "ds_tensor"))
    return {"whole": int(dist.maximum(whole)), "parts": int(dist.maximum(parts))}


def collectives(work: Callable[[], object]) -> list[str]:
    """Names of the collectives that a call makes on this rank."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return [event.key for event in profile.key_averages() if event.key.startswith("c10d::")]


def stepped(folder: Path, case: str, config: Run) -> None:
    """Evaluate, step, break a step, evaluate, save, step: what every method, stage and precision does."""
    one = Case(config)
    one.evaluate()
    for number in range(STEPS):
        before = one.engine.state() if number == BROKEN else None
        one.step(number, broken=number == BROKEN)
        if before is None:
            continue
        half = one.engine.state()
        one.found["unchanged"] = same(before, half)
        if dist.is_first():
            torch.save(dataclasses.asdict(half), folder / f"half-{case}.pt")
        one.evaluate()
    one.found["held"] = held(one.method)
    one.found["elements"] = one.elements
    one.end(folder, case)


def continued(folder: Path, half: Path, stage: int) -> None:
    """The rest of the steps from a saved state; loading gives back what was saved."""
    kept = torch.load(half)
    state = State(kept["weights"], kept["moments"], kept["steps"])
    one = Case(run(half.stem.split("-")[1], stage), state=state)
    loaded = one.engine.state()
    one.found["loaded"] = not dist.is_first() or same(loaded, state)
    one.evaluate()
    for number in range(BROKEN + 1, STEPS):
        one.step(number)
    one.end(folder, f"{half.stem}-at-{stage}")


def taught(stage: int) -> dict[str, Any]:
    """The collectives of the teacher's step and of gathering the state; one master in full."""
    one = Case(run("mocov3", stage))
    one.step(0)
    method: Any = one.method
    return {
        "follow": collectives(partial(method.after_step, Clock(1, 10, 3), one.engine.weights)),
        "state": collectives(one.engine.state),
        "master": one.engine.weights(method.encoder.vit.blocks[0].attn.qkv.weight).clone(),
        "reading": collectives(partial(one.engine.weights, method.encoder.vit.blocks[0].attn.qkv.weight)),
    }


def masters_are_parameters(stage: int, precision: str) -> bool:
    """Bit for bit on this rank after some steps, of which one is skipped."""
    one = Case(run("mocov3", stage, precision))
    same = []
    for number in range(STEPS):
        one.step(number, broken=number == BROKEN)
        masters = [(one.engine.weights(parameter), parameter) for parameter in one.method.parameters()]
        same += [torch.equal(master, parameter.detach()) for master, parameter in masters]
    return all(same)


def teaching(folder: Path) -> None:
    """What the teacher's step costs: whole parameters, parts, and parts beside small whole copies."""
    found: dict[str, Any] = {"whole": taught(1), "kept": taught(3)}
    with biting():
        found["cut"] = taught(3)
    found["masters"] = {
        (stage, precision): dist.maximum(not masters_are_parameters(stage, precision)) == 0
        for stage in (1, 2)
        for precision in ("fp32", "bf16")
    }
    if dist.is_first():
        torch.save(found, folder / "taught.pt")
    dist.barrier()


def quick(folder: Path) -> None:
    """The method that has it all: a frozen embedding, a teacher, batch norm, drop path."""
    for stage in (1, 3):
        with biting():
            stepped(folder, f"mocov3-{stage}-fp32", run("mocov3", stage))
    stepped(folder, "mocov3-3-kept", run("mocov3", 3))
    for stage in (1, 2, 3):
        with biting():
            stepped(folder, f"mocov3-{stage}-parts", run("mocov3", stage, train__encoder_batch=4))
    teaching(folder)


def everything(folder: Path) -> None:
    """All methods at all stages; then the settings that change no number.

    One rank does all of it for `THOROUGH` methods, and for the others what two ranks are compared with.
    """
    for name in methods.available():
        if dist.world_size() == 1 and name not in THOROUGH:
            for stage in (1, 3):
                with biting():
                    stepped(folder, f"{name}-{stage}-fp32", run(name, stage))
            continue
        for stage, precision in ((1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (3, "bf16")):
            with biting():
                stepped(folder, f"{name}-{stage}-{precision}", run(name, stage, precision))
        with biting():
            recomputed = run(name, 3, "bf16", train__activation_checkpointing=True)
            stepped(folder, f"{name}-3-recomputed", recomputed)
        stepped(folder, f"{name}-3-kept", run(name, 3))
    with biting():
        for stage in (1, 3):
            accumulated = run("mae", stage, train__accumulate=2, optim__clip_norm=0.01)
            stepped(folder, f"mae-{stage}-accumulated", accumulated)


def continuing(folder: Path) -> None:
    """Every fp32 state in FOLDER that stage 1 or 3 saved, in whatever world, continued at stages 1 and 3.

    One more as a user's run continues: small parameters stay whole beside their parts.
    """
    for half in sorted(folder.glob("half-*-[13]-fp32.pt")):
        for stage in (1, 3):
            with biting():
                continued(folder, half, stage)
    for half in folder.glob("half-mocov3-3-kept.pt"):
        continued(folder, half, 3)


SUITES = {"quick": quick, "everything": everything, "continuing": continuing}


def all_of(suites: Sequence[str], folder: Path) -> None:
    """In the group that this process is in, with kernels that give the same bits again."""
    with setup.deterministic():
        for suite in suites:
            SUITES[suite](folder)


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        all_of(sys.argv[2:], Path(sys.argv[1]))
