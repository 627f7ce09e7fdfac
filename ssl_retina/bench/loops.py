"""Ways of taking a training step: this trainer's, and two loops of PyTorch's around the same method.

In: a config, a batch on the device. Out: trainers whose `step` does all of a step: forward, backward, update.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, Method, Output
from ssl_retina.train import optim, setup
from ssl_retina.train.engine import Engine


class Trainer(Protocol):
    """One way of taking a step."""

    def step(self, clock: Clock) -> None:
        """Forward, backward and update on the batch."""
        ...


class Ours:
    """The trainer's own engine: DeepSpeed, as `train.loop` uses it."""

    def __init__(self, run: Run, batch: Batch) -> None:
        self.method, _ = setup.build_method(run)
        self._batch, self._rate = batch, run.optim.learning_rate
        optimizer = _adamw(self.method, run)
        self._engine = Engine(self.method, optimizer, run=run, micro_batch=len(batch.keys))

    def step(self, clock: Clock) -> None:
        """As `train.loop` does."""
        output = self._engine.forward(self._batch, clock)
        self._engine.backward(output.loss)
        if self._engine.step(self._rate):
            cast(Method, self.method).after_step(clock, self._engine.weights)


class Plain:
    """PyTorch's own loop on one device: autocast, backward, clip, AdamW."""

    def __init__(self, run: Run, batch: Batch) -> None:
        method, _ = setup.build_method(run)
        self.method, self._batch = method.to(dist.device()), batch
        self._called: nn.Module = self.method
        self._optimizer = _adamw(self.method, run)
        self._clip, self._precision = run.optim.clip_norm, run.train.precision

    def step(self, clock: Clock) -> None:
        """As PyTorch's documents do."""
        with lowered(self._precision):
            output: Output = self._called(self._batch, clock)
        output.loss.backward()  # type: ignore[no-untyped-call]
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        cast(Method, self.method).after_step(clock, _Weights())


def distributed(run: Run, batch: Batch) -> Plain:
    """The same loop around PyTorch's DistributedDataParallel: what several GPUs would run without DeepSpeed.

    Gradients are views of its buckets, which saves it a copy; the process group is open, be it of one rank.
    """
    trainer = Plain(run, batch)
    trainer._called = DistributedDataParallel(trainer.method, gradient_as_bucket_view=True)
    return trainer


@contextlib.contextmanager
def lowered(precision: str) -> Iterator[None]:
    """bf16 by autocast where a run has it."""
    with torch.autocast(dist.device().type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


class _Weights:
    """`contract.Weights` where the parameters are the masters."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        return parameter

    @torch.no_grad()
    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        own: list[Tensor] = list(teacher.parameters())
        if own:  # a teacher without a head
            torch._foreach_lerp_(own, list(student.parameters()), 1 - momentum)


def _adamw(method: nn.Module, run: Run) -> torch.optim.AdamW:
    return optim.adamw(method, cast(nn.Module, method.encoder), run.optim)
