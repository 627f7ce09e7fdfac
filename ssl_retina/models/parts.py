"""A batch in parts: the activations of one part at a time, computed again in the backward pass.

In: a function of a stretch of samples, their images, how many at a time. Out: what it gives of each.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def in_parts(function: Callable[[slice], T], images: Tensor, at_once: int | None) -> list[T]:
    """`function` of each stretch of at most `at_once` samples of images (batch, ...), in order.

    Cached gradients (GradCache: Gao, Zhang, Han, Callan 2021, section 3): the first pass over a part keeps
    nothing but what comes out; the loss of the whole batch is taken from that; then, part by part, the pass
    is done again with its activations and taken back from the gradient at its end. torch's checkpoint does
    it within one backward pass, so whoever waits for a parameter's gradient (DeepSpeed's reduction at every
    ZeRO stage) gets it once, summed over the parts. The function must give the same twice: it draws nothing
    but by `Clock`, and updates no statistics. Without gradient, only the peak is lower.
    """
    if at_once is None or len(images) <= at_once:
        return [function(slice(0, len(images)))]
    stretches = [slice(begin, begin + at_once) for begin in range(0, len(images), at_once)]
    kind = images.device.type

    def part(stretch: slice) -> T:
        # cast weights are not shared with the other parts: their gradients would be summed in bf16
        lowered = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype=lowered[0], enabled=lowered[1], cache_enabled=False):
            return function(stretch)

    if not torch.is_grad_enabled():
        return [part(stretch) for stretch in stretches]
    return [checkpoint(part, stretch, use_reentrant=False, preserve_rng_state=False) for stretch in stretches]
