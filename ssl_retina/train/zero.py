"""DeepSpeed's partitions: which part of a tensor lies on this rank, at every ZeRO stage.

In: parameters and buffers of a method that DeepSpeed took over. Out: full fp32 tensors on the first rank,
full tensors put back into the parts of any number of ranks, and teachers that follow their students.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.runtime.zero.partition_parameters import GatheredParameters, ZeroParamStatus
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from ssl_retina import dist

Judge = Callable[[Tensor], Tensor]
"""The gradient norm over all ranks -> what is added to it: 0, or NaN, with which DeepSpeed skips the step."""


class Partitions(Protocol):
    """`contract.Weights`, and one layout of weights and moments over the ranks; all must call together."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        """The full master of one parameter."""
        ...

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * master, in fp32."""
        ...

    def gathered(self, tensor: Tensor) -> Tensor | None:
        """A parameter (its fp32 master where it is trained) or buffer, full on the first rank at least."""
        ...

    def gathered_moment(self, parameter: Tensor, moment: str) -> Tensor | None:
        """One of AdamW's moments of a trained parameter, full on the first rank at least."""
        ...

    def put(self, tensor: Tensor, full: Tensor) -> None:
        """Set a parameter and its master, or a buffer, from the full tensor that every rank gives."""
        ...

    def put_moment(self, parameter: Tensor, moment: str, full: Tensor) -> None:
        """Set one of AdamW's moments of a trained parameter."""
        ...

    def stepped(self) -> list[Tensor]:
        """The flat fp32 tensors of this rank that AdamW steps on, in the order of its groups."""
        ...

    def link(self) -> None:
        """Make AdamW's moments known to the parameters, once they are there."""
        ...

    def begin(self) -> None:
        """Forget the gradients of the last step, before the first backward pass of the next."""
        ...

    def judge(self, judge: Judge) -> None:
        """Let a step be judged by its gradient norm, where DeepSpeed asks whether it is finite."""
        ...

    def evaluated(self, method: nn.Module) -> contextlib.AbstractContextManager[None]:
        """While it is open, the method and its modules can be called outside of a training step."""
        ...


class Whole:
    """Stages 1 and 2: every parameter is whole on every rank; masters and moments are shared out.

    The parameters are fp32 (bf16 is autocast alone), and after a step DeepSpeed copies every master into
    its parameter: bit for bit the same, so that what is read every step needs no collective.
    """

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        """The full master of one parameter."""
        full: Tensor | None = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        return parameter.detach() if full is None else full

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        """From the student's own parameters, which are what the masters are."""
        followed = dict(student.named_parameters())
        with torch.no_grad():
            own = dict(teacher.named_parameters())
            given: list[Tensor] = [followed[name] for name in own]
            assert all(one.dtype == torch.float32 for one in (*own.values(), *given)), own.keys()
            if own:
                torch._foreach_lerp_(list(own.values()), given, 1 - momentum)

    def gathered(self, tensor: Tensor) -> Tensor:
        """Full on every rank."""
        return self(tensor) if isinstance(tensor, nn.Parameter) else tensor

    def gathered_moment(self, parameter: Tensor, moment: str) -> Tensor:
        """Full on every rank."""
        full: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return full

    def put(self, tensor: Tensor, full: Tensor) -> None:
        """Into the module, and into this rank's part of the masters."""
        with torch.no_grad():
            tensor.copy_(full)
        if tensor.requires_grad:
            safe_set_full_fp32_param(tensor, full.to(tensor.device))

    def put_moment(self, parameter: Tensor, moment: str, full: Tensor) -> None:
        """Into this rank's part."""
        safe_set_full_optimizer_state(parameter, full.to(parameter.device), moment)

    def stepped(self) -> list[Tensor]:
        """One flat tensor a group."""
        return [flat for group in self._zero.optimizer.param_groups for flat in group["params"]]

    def link(self) -> None:
        """DeepSpeed would do it after the first step."""
        self._zero._lazy_init_hp_params_optimizer_state()

    def begin(self) -> None:
        """DeepSpeed does so, but for gradients that wait off the GPU."""
        if self._zero.cpu_offload:
            _forget_gradients(self._zero.single_partition_of_fp32_groups)

    def judge(self, judge: Judge) -> None:
        """DeepSpeed looks at the combined norm."""
        measured = self._zero.scaled_global_norm

        def judged(*args: Any, **kwargs: Any) -> Tensor:
            norm: Tensor = measured(*args, **kwargs)
            return norm + judge(norm)

        self._zero.scaled_global_norm = judged

    def evaluated(self, method: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Nothing is missing at these stages."""
        del method
        return contextlib.nullcontext()


class Cut:
    """Stage 3: every parameter, a frozen one and a teacher's too, is cut into equal parts, one a rank.

    A part is a stretch of the flattened parameter; the last one is padded. Between two uses `parameter.data`
    is empty and `parameter.ds_tensor` holds the part in fp32, a copy of the master where it is trained.
    """

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        """The full master of one parameter."""
        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        """Part by part: a teacher is cut like its student, so no rank needs what another one holds."""
        masters = dict(student.named_parameters())
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                _part(parameter).lerp_(_part(masters[name]), 1 - momentum)
                _forget_full(parameter)

    def gathered(self, tensor: Tensor) -> Tensor | None:
        """Full on the first rank only."""
        return _joined(_part(tensor), tensor) if isinstance(tensor, nn.Parameter) else tensor

    def gathered_moment(self, parameter: Tensor, moment: str) -> Tensor | None:
        """Full on the first rank only."""
        return _joined(safe_get_local_optimizer_state(parameter, moment), parameter)

    def put(self, tensor: Tensor, full: Tensor) -> None:
        """Into this rank's part, and into its master.

        DeepSpeed's setter of a full tensor fails where the tensor does not divide by the ranks, and does
        not know frozen parameters.
        """
        with torch.no_grad():
            if not isinstance(tensor, nn.Parameter):
                tensor.copy_(full)
                return
            part = _part_of(full, tensor)
            _part(tensor).copy_(part)
            _forget_full(tensor)
        if tensor.requires_grad:
            safe_set_local_fp32_param(tensor, part)

    def put_moment(self, parameter: Tensor, moment: str, full: Tensor) -> None:
        """Into this rank's part."""
        safe_set_local_optimizer_state(parameter, _part_of(full, parameter), moment)

    def stepped(self) -> list[Tensor]:
        """DeepSpeed shows them to AdamW only while it steps."""
        flat: list[Tensor] = self._zero.fp32_partitioned_groups_flat
        return flat

    def link(self) -> None:
        """They are looked up in AdamW's own state each time."""

    def begin(self) -> None:
        """DeepSpeed would apply the last gradient again to a parameter that gets none in a step."""
        self._zero.grad_partitions_flat_buffer.zero_()
        if self._zero.offload_optimizer:
            _forget_gradients(self._zero.fp32_partitioned_groups_flat)

    def judge(self, judge: Judge) -> None:
        """DeepSpeed combines the norms of groups by itself; one that is NaN is enough."""
        measured = self._zero._get_norm_groups

        def judged() -> list[Any]:
            first, *others = measured()
            return [first + judge(combine_grad_norm_groups([first, *others])), *others]

        self._zero._get_norm_groups = judged

    @contextlib.contextmanager
    def evaluated(self, method: nn.Module) -> Iterator[None]:
        """Gather what a module uses of another one too (timm's `pos_embed`), as the engine's forward does.

        Afterwards all parameters are cut again: without a backward pass nothing else would release them.
        """
        tables: list[Any] = [module._parameters for module in method.modules()]
        for table in tables:
            table._in_forward = True
        try:
            yield
        finally:
            for table in tables:
                table._in_forward = False
        self._zero.empty_partition_cache()


def partitions(stage: int, zero: Any) -> Partitions:
    """The layout of a ZeRO stage. `zero`: DeepSpeed's optimiser around AdamW."""
    return Cut(zero) if stage == 3 else Whole(zero)


def shape(tensor: Tensor) -> tuple[int, ...]:
    """The full shape of a parameter or buffer, also where the parameter is cut."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def _part(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter, flat and in fp32."""
    part: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    assert part.dtype == torch.float32, part.dtype
    return part


def _part_of(full: Tensor, parameter: Tensor) -> Tensor:
    """What of a full tensor belongs to this rank, padded with zeros."""
    own = _part(parameter)
    begin = dist.rank() * own.numel()
    stretch = full.flatten()[begin : begin + own.numel()]
    part = torch.zeros_like(own)
    part[: stretch.numel()] = stretch
    return part


def _joined(part: Tensor, parameter: Tensor) -> Tensor | None:
    """All ranks' parts put together on the first rank, without the padding; None elsewhere."""
    parts = dist.gather_on_first(part.to(dist.device()))  # what is offloaded lies in the machine's memory
    if parts is None:
        return None
    full = shape(parameter)
    return torch.cat(parts)[: torch.Size(full).numel()].view(full)


def _forget_gradients(masters: list[Tensor]) -> None:
    for master in masters:
        if master.grad is not None:
            master.grad.zero_()


def _forget_full(parameter: Tensor) -> None:
    """Drop the whole copy that small parameters keep between steps: it would no longer be its parts."""
    cut: Any = parameter
    if cut.ds_status == ZeroParamStatus.AVAILABLE:
        cut.partition()
