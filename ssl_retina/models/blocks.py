"""Running timm's transformer blocks: drop path from factors that are handed in, recomputation if asked.

In: one block, tokens, and for each sample the factors of the block's two branches. Out: tokens. Images of
several sizes can go through in one pass: their tokens one behind the other, attention within an image.
"""

from typing import Any, NamedTuple

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional
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


class Group(NamedTuple):
    """Images of one size in a pack: how many, and how many tokens each has."""

    images: int
    tokens: int


class GroupedAttention(nn.Module):
    """timm's attention, which over packed tokens (1, all, width) attends within each image alone.

    The products with weights are of all tokens; attention itself is of one group at a time, whose images are
    of equal length, so that it needs no mask. Without groups it is timm's own.
    """

    groups: tuple[Group, ...] = ()
    num_heads: int
    head_dim: int
    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    proj: nn.Module

    def forward(self, x: Tensor, *masks: Any, **named: Any) -> Tensor:
        """(batch, tokens, width), or packed (1, all, width)."""
        if not self.groups:
            plain: Tensor = Attention.forward(self, x, *masks, **named)
            return plain
        width = self.num_heads * self.head_dim
        packed = self.qkv(x[0]).split([group.images * group.tokens for group in self.groups])
        attended = []
        for part, group in zip(packed, self.groups, strict=True):
            split = part.view(*group, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            query, key, value = split.unbind(0)  # (images, heads, tokens, head width)
            found = functional.scaled_dot_product_attention(self.q_norm(query), self.k_norm(key), value)
            attended.append(found.transpose(1, 2).reshape(-1, width))
        projected: Tensor = self.proj(self.norm(torch.cat(attended)))[None]
        return projected


def allow_groups(block: nn.Module) -> None:
    """Let a block take packed tokens; names, values and what it gives otherwise stay."""
    attention: Any = block.attn
    assert type(attention) is Attention, type(attention)
    assert getattr(attention, "gate", None) is None, "no plain ViT has gates"
    attention.__class__ = GroupedAttention


class LastBlock(nn.Module):
    """timm's block where only the last tokens are wanted: the others are keys and values, and no more.

    `wanted` is set before each call. Parameters, names and values are timm's own.
    """

    wanted: int
    attn: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    ls1: nn.Module
    ls2: nn.Module
    drop_path1: nn.Module
    drop_path2: nn.Module
    mlp: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, wanted, width), as timm's block would give them."""
        attention: Any = self.attn
        last = x[:, -self.wanted :]
        heads = (3, attention.num_heads, attention.head_dim)
        split = attention.qkv(self.norm1(x)).unflatten(-1, heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # (batch, heads, tokens, head width)
        query, key = attention.q_norm(query[:, :, -self.wanted :]), attention.k_norm(key)
        found = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        last = last + self.drop_path1(self.ls1(attention.proj(attention.norm(found))))
        answered: Tensor = last + self.drop_path2(self.ls2(self.mlp(self.norm2(last))))
        return answered


def want_last(block: nn.Module) -> None:
    """Make a block a `LastBlock`."""
    attention: Any = block.attn
    assert type(block) is Block, type(block)
    assert type(attention) is Attention, type(attention)
    assert attention.attn_drop.p == attention.proj_drop.p == 0, "dropout"
    block.__class__ = LastBlock


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
    return [module for module in method.modules() if isinstance(module, Block | LastBlock)]


def run(
    block: nn.Module,
    tokens: Tensor,
    scales: Tensor | None = None,
    *,
    recompute: bool = False,
    groups: tuple[Group, ...] = (),
) -> Tensor:
    """Give `tokens` (batch, tokens, width) after one block.

    scales: (2, batch, 1, 1) fp32 for the two residual branches, or None. recompute: keep no activations
    of the block and run it again in the backward pass (Chen et al. 2016). groups: what is packed in tokens
    (1, all, width), with scales (2, 1, all, 1).
    """
    if not recompute or not torch.is_grad_enabled():
        return _once(block, tokens, scales, groups)
    # no dropout inside: torch's generator need not be kept for the second pass
    tokens_out: Tensor = checkpoint(
        _once, block, tokens, scales, groups, use_reentrant=False, preserve_rng_state=False
    )
    return tokens_out


def _once(block: nn.Module, tokens: Tensor, scales: Tensor | None, groups: tuple[Group, ...]) -> Tensor:
    """One pass with the factors and groups in place only while it runs.

    They are arguments, so that a recomputation uses those of its own forward pass also where another
    forward pass (a second view, a teacher) came in between.
    """
    paths: tuple[Any, ...] = () if scales is None else (block.drop_path1, block.drop_path2)
    for path, scale in zip(paths, () if scales is None else scales, strict=True):
        path.scale = scale
    attention: Any = block.attn if groups else None
    if groups:
        attention.groups = groups
    try:
        passed: Tensor = block(tokens)
    finally:
        for path in paths:
            path.scale = None
        if groups:
            attention.groups = ()
    return passed
