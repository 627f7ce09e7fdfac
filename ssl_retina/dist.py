"""Rank, world and the few collectives of this program; a single process needs no process group.

In: tensors or small objects of one rank. Out: what all ranks agree on. `gather`, `total` and `BatchNorm1d`
carry gradients: their backward passes sum over ranks, so that after the data-parallel average of gradients
the gradient is that of the mean of the ranks' losses. Every rank must bring equally many rows; only
`gather` takes unequally many, where no gradient is wanted.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as c10d
from torch import Tensor, nn

from ssl_retina.errors import UserError

T = TypeVar("T")


def is_joined() -> bool:
    """Whether this process belongs to a group already."""
    return bool(c10d.is_initialized())


def backend() -> str:
    """`nccl` where there is a GPU, else `gloo`."""
    return "nccl" if torch.cuda.is_available() else "gloo"


@contextlib.contextmanager
def joined(timeout: timedelta) -> Iterator[None]:
    """Join the process group that the environment names, or a group of one that needs no port.

    Whoever opens it destroys the group; the environment is left as it was found.
    """
    device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else None
    if device is not None:
        torch.cuda.set_device(device)
    if world_size() > 1:
        c10d.init_process_group(backend(), init_method="env://", timeout=timeout, device_id=device)
        yield
        return
    store = c10d.HashStore()  # type: ignore[attr-defined]
    c10d.init_process_group(backend(), store=store, rank=0, world_size=1, timeout=timeout, device_id=device)
    alone = "LOCAL_RANK" not in os.environ
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    try:
        yield
    finally:
        if alone:
            os.environ.pop("LOCAL_RANK", None)


def rank() -> int:
    """This process's number among all."""
    return c10d.get_rank() if c10d.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return c10d.get_world_size() if c10d.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine: which GPU it owns."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this process writes for all."""
    return rank() == 0


def device() -> torch.device:
    """The device of this rank: its GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank())
    return torch.device("cpu")


def barrier() -> None:
    """Wait for all ranks."""
    if c10d.is_initialized():
        c10d.barrier()


def maximum(value: float) -> float:
    """The largest value of all ranks: how a flag of one becomes the decision of all."""
    if not c10d.is_initialized():
        return value
    return float(largest(torch.tensor(value, dtype=torch.float64, device=device())))


def largest(value: Tensor) -> Tensor:
    """The largest over ranks of each element of a detached tensor of one shape."""
    found = value.detach().clone()
    if is_joined():
        c10d.all_reduce(found, op=c10d.ReduceOp.MAX)
    return found


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a detached scalar or vector."""
    return _summed(value.detach()) / world_size() if is_joined() else value.detach()


def mean_part(flat: Tensor) -> Tensor:
    """This rank's of as many equal parts of a flat tensor as there are ranks, their mean; in place."""
    if world_size() > 1:
        c10d.all_reduce(flat.div_(world_size()))
    return flat.chunk(world_size())[rank()]


def broadcast(value: Any) -> Any:
    """The first rank's small object, on every rank."""
    if not c10d.is_initialized():
        return value
    holder = [value]
    c10d.broadcast_object_list(holder, src=0, device=device())
    return holder[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's small object, in rank order, on every rank."""
    gathered: list[Any] = [value] * world_size()
    if c10d.is_initialized():
        c10d.all_gather_object(gathered, value)
    return gathered


def every(value: Tensor) -> Tensor:
    """Every rank's detached tensor of one shape, stacked in rank order: the same bits on all ranks."""
    if not is_joined():
        return value.detach()[None]
    parts = [torch.empty_like(value) for _ in range(world_size())]
    c10d.all_gather(parts, value.detach())
    return torch.stack(parts)


def gather_on_first(part: Tensor) -> list[Tensor] | None:
    """Every rank's equally long detached tensor, in rank order, on the first rank; None on the others."""
    if not c10d.is_initialized():
        return [part.detach()]
    own = part.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(world_size())] if is_first() else None
    c10d.gather(own, parts, dst=0)
    return parts


def first_decides(decide: Callable[[], T]) -> T:
    """Ask `decide` on the first rank; every rank gets its answer, or raises its UserError.

    For whatever looks at files: one rank that finds another state than the others would leave them
    waiting in a collective.
    """
    answer: tuple[T | None, UserError | None] = (None, None)
    if is_first():
        try:
            answer = (decide(), None)
        except UserError as error:
            answer = (None, error)
    value, problem = broadcast(answer)
    if problem is not None:
        raise problem
    return value  # type: ignore[no-any-return]


def raise_first(problem: UserError | None) -> None:
    """Raise on every rank the problem of the lowest rank that has one; nothing where none has."""
    for found in gather_objects(problem):
        if found is not None:
            raise found


class Gathered(NamedTuple):
    """Every rank's rows in rank order, and where this rank's begin among them."""

    rows: Tensor
    first: int


def gather(rows: Tensor) -> Gathered:
    """Every rank's (rows, ...), with gradient.

    Without gradient, as in an evaluation, ranks may bring unequally many rows, or none; that costs one more
    small collective, and waits for the device.
    """
    if not is_joined() or world_size() == 1:
        return Gathered(rows, 0)
    if torch.is_grad_enabled():
        return Gathered(_Gather.apply(rows), rank() * len(rows))
    return _gathered_unequal(rows)


def _gathered_unequal(rows: Tensor) -> Gathered:
    """All ranks' rows, filled up to the longest for the collective, and cut again."""
    counts = every(torch.tensor(len(rows), device=rows.device)).tolist()
    filled = rows.new_zeros((max(counts), *rows.shape[1:]))
    filled[: len(rows)] = rows
    cut = [part[:count] for part, count in zip(every(filled), counts, strict=True)]
    return Gathered(torch.cat(cut), sum(counts[: rank()]))


def total(value: Tensor) -> Tensor:
    """The sum over ranks of a tensor of one shape, with gradient."""
    return _Total.apply(value) if is_joined() else value


def _summed(value: Tensor) -> Tensor:
    """A new tensor: the sum over ranks; where there is one, without waking those who would carry it."""
    summed = value.clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        c10d.all_reduce(summed)
    return summed


class _Gather(torch.autograd.Function):
    """All-gather; each rank's rows stand in the losses of all ranks, so their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """(rows, ...) -> (world * rows, ...)."""
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        c10d.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(world * rows, ...) -> (rows, ...)."""
        return _summed(gradient).chunk(world_size())[rank()]


class _Total(torch.autograd.Function):
    """All-reduce by sum; its result stands in the losses of all ranks, so the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Any shape, the same on every rank."""
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The same shape."""
        return _summed(gradient)


class BatchNorm1d(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) over the rows of all ranks; keys as nn.BatchNorm1d.

    torch's SyncBatchNorm refuses CPUs. Statistics are fp32 also under autocast, in two passes (mean, then
    centred squares), and equal on all ranks bit for bit. Running statistics follow as torch's do (unbiased
    variance), except that a batch with statistics that are not finite leaves them as they were: its step is
    skipped on all ranks, and an average would keep the NaN for ever.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, width: int, *, affine: bool = True, epsilon: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise this rank's (rows, width) into fp32 by all ranks' rows, or by the running statistics."""
        with torch.autocast(rows.device.type, enabled=False):
            values = rows.float()
            mean, variance = (
                self._measured(values) if self.training else (self.running_mean, self.running_var)
            )
            normalised = (values - mean) * torch.rsqrt(variance + self.epsilon)
            if self.weight is None or self.bias is None:
                return normalised
            return normalised * self.weight + self.bias

    def _measured(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (width,) over all ranks, with gradient."""
        count = len(values) * (world_size() if is_joined() else 1)
        assert count > 1, "one row has no variance"
        mean = total(values.sum(dim=0)) / count
        variance = total((values - mean).square().sum(dim=0)) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        return mean, variance

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        finite = (mean.isfinite() & variance.isfinite()).all()  # stays on the device
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.copy_(torch.where(finite, running.lerp(new, self.momentum), running))
        self.num_batches_tracked.add_(finite)
