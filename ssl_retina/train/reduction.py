"""Gradients of a step at ZeRO stages 1 and 2: joined once, measured once; at stage 1 also reduced once.

In: DeepSpeed's optimiser. Out: the same gradients as one flat tensor a group, where DeepSpeed copies each
parameter's three times (into a bucket, into a partition, into a flat tensor), converts each to fp64 for its
norm, and points each parameter anew at the memory where it lies already. On a small model, and on a GPU,
where each of those is a kernel to launch, they are a good part of a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_retina import dist
from ssl_retina.train import optim

ROW = 1024
"""So many squares are added up in fp32, their sums in fp64: a vector of millions in fp32 is off by 1e-4."""

Placed = list[tuple[nn.Parameter, int]]
"""Parameters of a group and where they begin in its flat tensor, in elements, ascending."""


@dataclass(frozen=True)
class Joined:
    """Gradients of a group as DeepSpeed's step takes them without a copy (its `GradPartitionBufferGroup`)."""

    flat_partition: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.flat_partition,))


class Reduction:
    """Takes the place of `reduce_gradients` (stage 1) and `scaled_global_norm` of DeepSpeed's optimiser."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero
        self._groups: list[Placed] = [
            _placed(flat, parameters)
            for flat, parameters in zip(zero.bit16_groups_flat, zero.bit16_groups, strict=True)
        ]
        zero.scaled_global_norm = self.norm
        zero._update_model_bit16_weights = _already_there
        self._buffers: dict[int, Tensor] = {}
        if dist.device().type == "cpu":
            zero._optimizer_step = self.step
        if not zero.partition_gradients:  # stage 1: the hook of each parameter would only count
            for hook in zero._grad_acc_hooks:
                hook.remove()
            zero.reduce_gradients = self.reduce

    @torch.no_grad()
    def reduce(self, pipeline_parallel: bool = False) -> None:
        """After the last backward pass of a step: this rank's part of the ranks' mean gradient."""
        assert not pipeline_parallel
        for number, flat in enumerate(self._zero.bit16_groups_flat):
            joined = _joined(self._groups[number], flat, self._buffers.get(number))
            if flat.device.type == "cpu":  # to get the memory costs as much as to fill it
                self._buffers[number] = joined
            mean = dist.mean_part(joined)
            self._zero.averaged_gradients[number] = Joined(mean)
            for parameter, _ in self._groups[number]:
                parameter.grad = None

    def step(self, number: int) -> None:
        """AdamW on one group."""
        optim.step_in_parts(self._zero.optimizer, number, self._zero.single_partition_of_fp32_groups[number])

    @torch.no_grad()
    def norm(self, norm_type: int = 2) -> Tensor:
        """Of the whole gradient over all ranks, fp32; infinite where any of it is not finite."""
        assert norm_type == 2
        gradients = self._zero.averaged_gradients
        for number, group in gradients.items():
            if not isinstance(group, Joined):
                gradients[number] = Joined(torch.cat([one.reshape(-1) for one in group]))
        own = torch.stack([_squares(group.flat_partition) for group in gradients.values()]).sum()
        found = dist.total(own).sqrt().float()
        return torch.where(found.isfinite(), found, float("inf"))


def _placed(flat: Tensor, parameters: Sequence[nn.Parameter]) -> Placed:
    """Where DeepSpeed laid each parameter, read off its memory."""
    begin, size = flat.data_ptr(), flat.element_size()
    placed = sorted(((one, (one.data_ptr() - begin) // size) for one in parameters), key=lambda one: one[1])
    ends = [0, *(offset + parameter.numel() for parameter, offset in placed)]
    assert all(offset >= end for (_, offset), end in zip(placed, ends, strict=False)), "overlapping"
    assert ends[-1] <= flat.numel(), "outside of the flat tensor"
    return placed


def _joined(placed: Placed, flat: Tensor, into: Tensor | None) -> Tensor:
    """All gradients of a group where their parameters lie in `flat`, with zeros where there is none."""
    parts, end = [], 0
    for parameter, offset in placed:
        gradient = parameter.grad
        gap = offset - end + (parameter.numel() if gradient is None else 0)
        parts += [flat.new_zeros(gap)] if gap else []
        parts += [] if gradient is None else [gradient.reshape(-1)]
        end = offset + parameter.numel()
    return torch.cat([*parts, flat.new_zeros(flat.numel() - end)], out=into)


def _squares(flat: Tensor) -> Tensor:
    """The sum of squares of a flat fp32 tensor, fp64."""
    rows = len(flat) // ROW * ROW
    norms = torch.linalg.vector_norm(flat[:rows].view(-1, ROW), dim=1)
    rest = torch.linalg.vector_norm(flat[rows:])
    return torch.cat((norms, rest[None])).double().square().sum()


def _already_there(group: int) -> None:
    """Parameters are views of the flat tensor since they were put into it."""
