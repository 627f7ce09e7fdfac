"""The only file that speaks to DeepSpeed: one optimiser step over all ranks, and its whole state.

In: a method's module, its AdamW and how steps are cut. Out: forward, backward, step, and weights and
moments as full fp32 tensors by name, which load on any number of ranks.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, Output

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET_ELEMENTS = 25_000_000
"""100 MB of fp32 gradients are reduced at once; DeepSpeed's own 500 M elements would take 2 GB a bucket."""


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
    """

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    steps: int


class MasterWeights:
    """`contract.Weights`: full fp32 masters, and the teacher's step after the student's."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        """The full fp32 master of a parameter; all ranks must ask together."""
        full: Tensor | None = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        return parameter.detach() if full is None else full

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * master, parameter by parameter in fp32."""
        masters = dict(student.named_parameters())
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                assert parameter.dtype == torch.float32, (name, parameter.dtype)
                parameter.lerp_(self(masters[name]), 1 - momentum)


class Engine:
    """DeepSpeed ZeRO 1 or 2 around a method: fp32 master weights, bf16 only by autocast."""

    def __init__(
        self, method: nn.Module, optimizer: torch.optim.AdamW, *, run: Run, micro_batch: int
    ) -> None:
        self.method = method
        self.weights = MasterWeights()
        self._names = {
            name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad
        }
        self._engine, *_ = deepspeed.initialize(
            model=method.to(dist.device()),
            optimizer=optimizer,
            config=_settings(run, micro_batch),
            dist_init_required=False,
        )
        self._zero = self._engine.optimizer
        self._adamw: torch.optim.AdamW = self._zero.optimizer
        self._precision = run.train.precision
        self._start_moments()

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """The method's answer for one micro-batch, for training."""
        self._engine.train()
        output = self._engine(batch, clock)
        assert isinstance(output, Output)
        return output

    def backward(self, loss: Tensor) -> None:
        """Gradients of one micro-batch; a loss that is not finite makes all of them NaN.

        That is how a rank tells the others: the NaN travels through the reduction, DeepSpeed's norm check
        sees it on every rank, and the step is skipped on all of them without one more synchronisation.
        """
        detached = loss.detach()
        factor = torch.where(torch.isfinite(detached), 1.0, float("nan")).to(loss.dtype)
        self._engine.backward(loss * factor)

    def step(self, learning_rate: float) -> bool:
        """Finish a micro-batch; after the last one of a step, update. True where weights really changed."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["scale"]
        before = self._engine.skipped_steps
        self._engine.step()
        return bool(self._engine.was_step_applied()) and self._engine.skipped_steps == before

    def gradient_norm(self) -> float:
        """The last step's gradient norm over all ranks before clipping; a host synchronisation."""
        return float(self._engine.get_global_grad_norm())

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """The method without gradient, in evaluation mode and the run's precision."""
        self._engine.eval()
        lowered = self._precision == "bf16"
        with torch.no_grad(), torch.autocast(dist.device().type, dtype=torch.bfloat16, enabled=lowered):
            yield self.method
        self._engine.train()

    def state(self) -> State:
        """Gather the state on the first rank; all ranks must call."""
        first = dist.is_first()
        weights = {} if not first else {k: _kept(v) for k, v in self.method.state_dict().items()}
        moments: dict[str, Tensor] = {}
        for name, parameter in self._names.items():
            full = self.weights(parameter)
            if first:
                weights[name] = _kept(full)
            for moment in MOMENTS:
                gathered = safe_get_full_optimizer_state(parameter, moment)
                if first:
                    moments[f"{moment}/{name}"] = _kept(gathered)
        return State(weights, moments, self._steps())

    def load(self, state: State) -> None:
        """Put a gathered state into this world's partitions; every rank gives the whole state."""
        self.method.load_state_dict(dict(state.weights), strict=True)
        device = dist.device()
        for name, parameter in self._names.items():
            safe_set_full_fp32_param(parameter, state.weights[name].to(device))
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, state.moments[f"{moment}/{name}"].to(device), moment)
        for entry in self._adamw.state.values():
            entry["step"].fill_(float(state.steps))

    def _start_moments(self) -> None:
        """Give AdamW its zero moments now: DeepSpeed links them to parameters only after a first step.

        A state must be readable before that (the checkpoint of step 0) and settable (a resume).
        """
        for group in self._adamw.param_groups:
            for partition in group["params"]:
                entry: dict[str, Any] = {moment: torch.zeros_like(partition.detach()) for moment in MOMENTS}
                self._adamw.state[partition] = {"step": torch.tensor(0.0), **entry}
        self._zero._lazy_init_hp_params_optimizer_state()

    def _steps(self) -> int:
        counts = {int(entry["step"]) for entry in self._adamw.state.values()}
        assert len(counts) == 1, f"groups stepped unequally: {counts}"
        return counts.pop()


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory: what safetensors writes."""
    return tensor.detach().to(device="cpu", copy=True).contiguous()


def _settings(run: Run, micro_batch: int) -> dict[str, Any]:
    """DeepSpeed's own JSON; users never see it. `gradient_clipping` is always written: its default is 1.0."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": run.train.accumulate,
        "gradient_clipping": run.optim.clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": run.train.zero_stage, "reduce_bucket_size": BUCKET_ELEMENTS},
        "torch_autocast": {
            "enabled": run.train.precision == "bf16",
            "dtype": "bfloat16",
            # by default gradients of linear layers would be rounded to bf16 before they are summed over ranks
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": sys.maxsize,
        "timers": {"throughput": {"enabled": False}},
    }
