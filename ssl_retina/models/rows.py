"""Taking some tokens of a sequence and putting them back, with gradients that are gathered too.

In: tokens and token numbers, different ones in every sample. Out: the tokens at them. torch's own `gather`
adds its gradients up by `scatter_add`; where the same bits are wanted again, a GPU sorts every single element
for that. Token numbers of one sample differ, so each gradient has one place, and to fetch it from there is
exact.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(batch, taken, width) of tokens (batch, count, width); index (batch, taken), in a row all different."""
    taken: Tensor = _Take.apply(tokens, index)
    return taken


def spread(tokens: Tensor, index: Tensor, count: int) -> Tensor:
    """(batch, count, width), zero but for tokens (batch, taken, width) at index (batch, taken)."""
    full: Tensor = _Spread.apply(tokens, index, count)
    return full


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = tokens.shape[1]
        return _taken(tokens, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _spread(gradient, index, ctx.count), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(index)
        return _spread(tokens, index, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return _taken(gradient, index), None, None


def _taken(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def _spread(tokens: Tensor, index: Tensor, count: int) -> Tensor:
    """Every place fetches its token, or the zeros that are put behind the last one."""
    batch, taken, width = tokens.shape
    numbers = torch.arange(taken, device=index.device).expand(batch, -1)
    places = index.new_full((batch, count), taken).scatter(1, index, numbers)
    return _taken(torch.cat((tokens, tokens.new_zeros((batch, 1, width))), dim=1), places)
