"""Running timm's transformer blocks: drop path from factors that are handed in, recomputation if asked.

In: one block, tokens, and for each sample the factors of the block's two branches. Out: tokens.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

VARIANTS = 64
"""Ways in which one block may be called in a run: shapes, gradient or none, drop path or none."""


class DropPath(nn.Module):
    """Stands where timm's DropPath stands: scales each sample's branch by 0 or 1 / keep.

    timm draws these factors from torch's generator; here they are drawn outside, by position. Without
    them (evaluation, plain use of the ViT) the branch passes unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """(batch, tokens, width), multiplied in fp32 also where the branch is bf16."""
        return branch if self.scale is None else branch * self.scale


def compile_all(method: nn.Module, *, steady: bool, backend: str = "inductor") -> int:
    """Compile each of timm's blocks in a method, where it stands; gives how many there are.

    Block by block, since all of one shape share one compilation; names and values of parameters stay. What
    cannot be compiled fails in the first pass. Where shapes are not `steady`, any number of tokens is served.
    """
    # torch's own 8 could be too few, and the rest would run as it was without a word: it fails instead
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    found = of(method)
    for block in found:
        block.compile(backend=backend, dynamic=False if steady else None)
    return len(found)


def of(method: nn.Module) -> list[nn.Module]:
    """All of timm's blocks in a module: of encoder, teacher, decoder."""
    return [module for module in method.modules() if isinstance(module, Block)]


def run(block: nn.Module, tokens: Tensor, scales: Tensor | None = None, *, recompute: bool = False) -> Tensor:
    """Give `tokens` (batch, tokens, width) after one block.

    scales: (2, batch, 1, 1) fp32 for the two residual branches, or None. recompute: keep no activations
    of the block and run it again in the backward pass (Chen et al. 2016).
    """
    if not recompute or not torch.is_grad_enabled():
        return _once(block, tokens, scales)
    # no dropout inside: torch's generator need not be kept for the second pass
    tokens_out: Tensor = checkpoint(
        _once, block, tokens, scales, use_reentrant=False, preserve_rng_state=False
    )
    return tokens_out


def _once(block: nn.Module, tokens: Tensor, scales: Tensor | None) -> Tensor:
    """One pass with the factors in place only while it runs.

    They are arguments, so that a recomputation uses those of its own forward pass also where another
    forward pass (a second view, a teacher) came in between.
    """
    if scales is None:
        plain: Tensor = block(tokens)
        return plain
    paths: tuple[Any, Any] = (block.drop_path1, block.drop_path2)
    for path, scale in zip(paths, scales, strict=True):
        path.scale = scale
    try:
        dropped: Tensor = block(tokens)
    finally:
        for path in paths:
            path.scale = None
    return dropped
