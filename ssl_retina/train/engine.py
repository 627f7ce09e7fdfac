"""DeepSpeed as a training step: one optimiser step over all ranks, and its whole state.

In: a method's module, its AdamW and how steps are cut. Out: forward, backward, step, and weights and
moments as full fp32 tensors by name, which load on any number of ranks at any ZeRO stage. Where the parts
of a tensor lie is known to `zero.py`; no other file speaks to DeepSpeed.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger
from torch import Tensor, nn

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.errors import CheckpointError
from ssl_retina.train import settings, zero
from ssl_retina.train.reduction import Reduction
from ssl_retina.train.spikes import Kept, Spike, Watch

MOMENTS = ("exp_avg", "exp_avg_sq")


@contextlib.contextmanager
def process_group(timeout: timedelta = timedelta(minutes=30)) -> Iterator[None]:
    """Join the other ranks, and leave them in order: without that, one run in three ends in SIGABRT.

    Nested calls use the group that is there. DeepSpeed's shared-memory op needs a compiler, so it is
    declared absent before it is looked for (assigning the table also saves the probe of all ops). After an
    error nobody is waited for: the others may hang in a collective that this rank will never enter.
    """
    if dist.is_joined():
        yield
        return
    _quiet()
    deepspeed.ops.__compatible_ops__ = {}
    with warnings.catch_warnings(), dist.joined(timeout):
        # DeepSpeed calls what torch renames; nothing that a user could mend
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch\.distributed|deepspeed)\.")
        deepspeed.init_distributed(dist_backend=dist.backend(), auto_mpi_discovery=False)
        try:
            yield
            dist.barrier()
        finally:
            deepspeed.comm.destroy_process_group()  # torch's own would leave DeepSpeed with dead groups


def _quiet() -> None:
    """DeepSpeed logs to stdout, where `--json` belongs: errors only, and (without a handler) to stderr."""
    logger.setLevel(logging.ERROR)
    for handler in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
        logger.removeHandler(handler)


@dataclass(frozen=True)
class State:
    """What the optimiser step depends on, gathered: full fp32 tensors on the CPU, by parameter name.

    weights: the method's state dict. moments: `exp_avg/NAME` and `exp_avg_sq/NAME`. steps: how often
    AdamW really stepped (its bias correction hangs on it). Empty mappings on ranks other than the first.
    window: what the next steps are held against, on every rank.
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    steps: int
    window: Kept = Kept()


class _Buffers:
    """A method's buffers as they were before a step, since a skipped step must not leave its statistics."""

    def __init__(self, method: nn.Module) -> None:
        self._method = method
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember them now."""
        self._kept = [buffer.detach().clone() for buffer in self._method.buffers()]

    def restore(self) -> None:
        """Put back what was remembered."""
        with torch.no_grad():
            for buffer, kept in zip(self._method.buffers(), self._kept, strict=True):
                buffer.copy_(kept)


class Engine:
    """DeepSpeed ZeRO 1, 2 or 3 around a method: fp32 master weights, bf16 only by autocast."""

    def __init__(
        self, method: nn.Module, optimizer: torch.optim.AdamW, *, run: Run, micro_batch: int
    ) -> None:
        self.method = method
        self._engine, *_ = deepspeed.initialize(
            model=method.to(dist.device()),
            optimizer=optimizer,
            config=settings.of(run, micro_batch),
            dist_init_required=False,
        )
        self._zero = self._engine.optimizer
        self._adamw: torch.optim.AdamW = self._zero.optimizer
        self.weights = zero.partitions(run.train.zero_stage, self._zero)
        if run.train.zero_stage < 3 and run.train.offload == "none":
            Reduction(self._zero)
        self._precision = run.train.precision
        self._buffers = _Buffers(method)
        self._losses: list[Tensor] = []  # this rank's, of the step so far
        self.watch = Watch(run.train.spikes)
        if run.train.spikes.enabled:
            self.weights.judge(lambda norm: self.watch.judge(torch.stack(self._losses).mean(), norm))
        self._begins = True  # the next forward pass is the first of a step
        self._start_moments()
        self._engine.train()

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """The method's answer for one micro-batch, for training."""
        if self._begins:
            self._buffers.keep()
            self.weights.begin()
            self._losses.clear()
            self._begins = False
        output = self._engine(batch, clock)
        assert isinstance(output, Output)
        return output

    def backward(self, loss: Tensor) -> None:
        """Gradients of one micro-batch; a loss that is not finite makes all of them NaN.

        That is how a rank tells the others: the NaN travels through the reduction, DeepSpeed's norm check
        sees it on every rank, and the step is skipped on all of them without one more synchronisation.
        """
        detached = loss.detach()
        self._losses.append(detached)
        factor = torch.where(torch.isfinite(detached), 1.0, float("nan")).to(loss.dtype)
        self._engine.backward(loss * factor)

    def step(self, learning_rate: float, weight_decay: float | None = None, *, fraction: float = 1.0) -> bool:
        """Finish a micro-batch; after the last one of a step, update. True where weights really changed.

        `weight_decay` takes the place of the optimiser's own. `fraction`: the share of the run that is done;
        groups that begin later keep their weights, decay included. A spike is skipped as a NaN is; `spike`
        tells. A skipped step also leaves the buffers as they were: a NaN would stay in running statistics.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["scale"] * (fraction >= group["begins"])
            if weight_decay is not None:
                group["weight_decay"] = weight_decay * group["decay"]
        before = self._engine.skipped_steps
        self._begins = self._engine.is_gradient_accumulation_boundary()
        self._engine.step()
        applied = bool(self._engine.was_step_applied()) and self._engine.skipped_steps == before
        if self._begins and not applied:
            self._buffers.restore()
        if applied:
            self.watch.accept()
        return applied

    def spike(self) -> Spike | None:
        """Why the last step was skipped, where its loss and gradient were finite; waits for the device."""
        return self.watch.spike()

    def gradient_norm(self) -> float:
        """The last step's gradient norm over all ranks before clipping; a host synchronisation."""
        return float(self._engine.get_global_grad_norm())

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """The method without gradient, in evaluation mode and the run's precision.

        At stage 3 its passes gather parameters: all ranks must do equally many of the same kind.
        """
        self._engine.eval()
        lowered = torch.autocast(dist.device().type, dtype=torch.bfloat16, enabled=self._precision == "bf16")
        with self.weights.evaluated(self.method), torch.no_grad(), lowered:
            yield self.method
        self._engine.train()

    def state(self) -> State:
        """Gather the state on the first rank, one tensor after the other; all ranks must call."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, tensor in self._tensors().items():
            _keep(weights, name, self.weights.gathered(tensor))
            if tensor.requires_grad:
                for moment in MOMENTS:
                    _keep(moments, f"{moment}/{name}", self.weights.gathered_moment(tensor, moment))
        return State(weights, moments, self._steps(), self.watch.kept())

    def load(self, state: State) -> None:
        """Put a gathered state into this world's partitions; every rank gives the whole state.

        Raises CheckpointError where its tensors are not those of the method.
        """
        tensors = self._tensors()
        _compare(tensors, state.weights)
        for name, tensor in tensors.items():
            self.weights.put(tensor, state.weights[name])
            if tensor.requires_grad:
                for moment in MOMENTS:
                    self.weights.put_moment(tensor, moment, state.moments[f"{moment}/{name}"])
        for entry in self._adamw.state.values():
            entry["step"].fill_(float(state.steps))
        self.watch.restore(state.window)

    def _tensors(self) -> dict[str, Tensor]:
        """The method's parameters and persistent buffers by name, not copied."""
        return dict(self.method.state_dict(keep_vars=True))

    def _start_moments(self) -> None:
        """Give AdamW its zero moments now: DeepSpeed links them to parameters only after a first step.

        A state must be readable before that (the checkpoint of step 0) and settable (a resume).
        """
        for partition in self.weights.stepped():
            entry: dict[str, Any] = {moment: torch.zeros_like(partition.detach()) for moment in MOMENTS}
            steps = torch.tensor(0.0, device=partition.device if self._adamw.defaults["fused"] else "cpu")
            self._adamw.state[partition] = {"step": steps, **entry}
        self.weights.link()

    def _steps(self) -> int:
        counts = {int(entry["step"]) for entry in self._adamw.state.values()}
        assert len(counts) == 1, f"groups stepped unequally: {counts}"
        return counts.pop()


def _keep(tensors: dict[str, Tensor], name: str, full: Tensor | None) -> None:
    """On the first rank, a copy on the CPU that shares no memory: what safetensors writes."""
    if dist.is_first():
        assert full is not None, name
        tensors[name] = full.detach().to(device="cpu", copy=True).contiguous()


def _compare(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    shapes = {name: zero.shape(tensor) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    wrong = sorted({name for name, _ in shapes.items() ^ found.items()})
    if wrong:
        lines = "".join(f"\n  {name}: {found.get(name)} -> {shapes.get(name)}" for name in wrong[:10])
        raise CheckpointError(
            f"{len(wrong)} tensors of the checkpoint are not those of the method (shape then -> now):{lines}"
            "\ncontinue with the version of ssl-retina that began the run, or give another out="
        )
