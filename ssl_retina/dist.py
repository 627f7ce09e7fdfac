"""Rank, world and the few collectives of this program; a single process needs no process group.

In: tensors or small objects of one rank. Out: what all ranks agree on.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as c10d
from torch import Tensor

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
    tensor = torch.tensor(value, dtype=torch.float64, device=device())
    c10d.all_reduce(tensor, op=c10d.ReduceOp.MAX)
    return float(tensor.item())


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a detached scalar or vector."""
    if not c10d.is_initialized():
        return value.detach()
    total = value.detach().clone()
    c10d.all_reduce(total)
    return total / world_size()


def broadcast(value: Any) -> Any:
    """The first rank's small object, on every rank."""
    if not c10d.is_initialized():
        return value
    holder = [value]
    c10d.broadcast_object_list(holder, src=0, device=device())
    return holder[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's small object, in rank order, on every rank."""
    if not c10d.is_initialized():
        return [value]
    gathered: list[Any] = [None] * world_size()
    c10d.all_gather_object(gathered, value)
    return gathered


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
