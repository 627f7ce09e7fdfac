"""Taking some tokens of a sequence, or patches of an image, with gradients that are gathered too.

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


def side_by_side(images: Tensor, index: Tensor, size: int) -> Tensor:
    """(batch, 3, size, taken * size): patches at index (batch, taken) of images (batch, 3, H, W) in a row.

    What embeds patches does the work of these alone then. Images have no gradient.
    """
    batch, colours, height, width = images.shape
    across = width // size
    tiles = images.reshape(batch, colours, height // size, size, across, size).permute(0, 2, 4, 1, 3, 5)
    sample = torch.arange(batch, device=index.device)[:, None]
    taken = tiles[sample, index // across, index % across]  # (batch, taken, 3, size, size)
    return taken.permute(0, 2, 3, 1, 4).reshape(batch, colours, size, -1)


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


def _taken(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def _spread(tokens: Tensor, index: Tensor, count: int) -> Tensor:
    """Every place fetches its token, or the zeros that are put behind the last one."""
    batch, taken, width = tokens.shape
    numbers = torch.arange(taken, device=index.device).expand(batch, -1)
    places = index.new_full((batch, count), taken).scatter(1, index, numbers)
    return _taken(torch.cat((tokens, tokens.new_zeros((batch, 1, width))), dim=1), places)
