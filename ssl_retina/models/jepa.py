"""I-JEPA's own parts: which patches are context and which are predicted, and the predictor.

In: where the run stands, samples' positions, tokens of the context. Out: patch numbers, predicted tokens.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ssl_retina.contract import Clock, Encoder
from ssl_retina.models import blocks

TRIES = 8
"""Layouts drawn for a sample, of which the first is taken that leaves enough context."""


class Sizes(NamedTuple):
    """Height and width of every target block, and the side of the context block, in patches."""

    height: int
    width: int
    context: int


class Drawn(NamedTuple):
    """Patch numbers: `context` (batch, kept), ascending, and `targets` (batch, blocks, height * width)."""

    context: Tensor
    targets: Tensor


@dataclass(frozen=True)
class BlockPlan:
    """The multi-block masking of Assran et al. 2023, section 3, in shapes that depend on the step alone.

    grid: patches on a side. kept: patches of context in every sample. count: target blocks a sample. Scales
    are shares of the grid's area; `aspect` is height to width of the target blocks.

    Sizes are drawn by step, the same for all samples, as in the authors' code; in evaluation they are the
    middle ones, so that held-out losses compare. Places are drawn by sample. What the context block has left
    beside the targets differs from sample to sample, and the authors cut it to the least of a rank's batch;
    here it is cut to `kept` by noise, and a layout that leaves fewer is drawn again. Where TRIES of them do,
    all targets lie upon the first: a mask is a function of step and sample, never of its neighbours.
    """

    grid: int
    kept: int
    count: int
    target_scale: tuple[float, float]
    aspect: tuple[float, float]
    context_scale: tuple[float, float]

    @property
    def room(self) -> int:
        """Patches of the smallest context block that one target block of the largest size leaves."""
        area = self.target_scale[1] * self.grid**2
        largest = max(self._sides(area, ratio) for ratio in self.aspect)
        side = self.sizes((0.0, 0.0, 0.0)).context
        return side**2 - math.ceil(largest)

    @staticmethod
    def _sides(area: float, ratio: float) -> float:
        """What rounding both sides up by half a patch would cover."""
        return (math.sqrt(area * ratio) + 0.5) * (math.sqrt(area / ratio) + 0.5)

    def sizes(self, draws: tuple[float, ...]) -> Sizes:
        """Sizes from three numbers in [0, 1): target scale, aspect, context scale."""
        scale, aspect, context = (
            low + draw * (high - low)
            for draw, (low, high) in zip(
                draws, (self.target_scale, self.aspect, self.context_scale), strict=True
            )
        )
        area = scale * self.grid**2
        height, width = (
            min(max(round(math.sqrt(side)), 1), self.grid) for side in (area * aspect, area / aspect)
        )
        return Sizes(height, width, min(round(math.sqrt(context) * self.grid), self.grid))

    def draw(self, clock: Clock, position: Tensor, *, fixed: bool) -> Drawn:
        """The blocks of each sample; `fixed`: of the middle sizes."""
        sizes = self.sizes((0.5, 0.5, 0.5) if fixed else _drawn_sizes(clock))
        around = self._inside(clock.uniform("context_place", position, 2), (sizes.context, sizes.context))
        places = clock.uniform("target_places", position, TRIES * self.count * 2)
        layouts = places.view(len(position), TRIES, self.count, 2)
        apart = self._inside(layouts, (sizes.height, sizes.width))  # (batch, tries, count, patches)
        free = around[:, None] & ~apart.any(dim=2)  # (batch, tries, patches)
        enough = free.sum(dim=2) >= self.kept
        chosen = enough.int().argmax(dim=1)  # the first that is; 0 where none is
        sample = torch.arange(len(position), device=position.device)
        target = apart[sample, chosen]  # (batch, count, patches)
        target = torch.where(enough.any(dim=1)[:, None, None], target, target[:, :1])
        left = around & ~target.any(dim=1)
        noise = clock.uniform("context", position, self.grid**2).masked_fill(~left, 2.0)
        context = noise.argsort(dim=1, stable=True)[:, : self.kept].sort(dim=1).values
        numbers = target.int().argsort(dim=2, descending=True, stable=True)
        return Drawn(context, numbers[:, :, : sizes.height * sizes.width])

    def _inside(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., patches) bool: the block of that size at a place drawn by (..., 2), anywhere in the grid."""
        line = torch.arange(self.grid, device=draws.device)
        hit = []
        for axis, side in enumerate(size):
            start = (draws[..., axis, None] * (self.grid - side + 1)).long()
            hit.append((line >= start) & (line < start + side))  # (..., grid)
        return (hit[0][..., :, None] & hit[1][..., None, :]).flatten(-2)


def _drawn_sizes(clock: Clock) -> tuple[float, ...]:
    """Three numbers of the step, on the CPU: sizes are shapes, and nothing waits for the device.

    Also where work is counted on fake tensors, which have no content that a shape could follow.
    """
    with unset_fake_temporarily():
        return tuple(clock.uniform("block_sizes", torch.tensor([clock.step]), 3)[0].tolist())


class Predictor(nn.Module):
    """A narrow ViT that tells a target block's tokens from the context's (Assran et al. 2023, section 3).

    lightly's MAE decoder gives the blocks, the mask token, the fixed sine-cosine positions and their first
    values (the authors draw matrices from a normal of 0.02 and scale them down by depth).
    """

    def __init__(self, encoder: Encoder, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.prefix_tokens = encoder.prefix_tokens
        self.checkpointing = encoder.checkpointing
        self.embed = nn.Linear(encoder.width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=encoder.grid**2, embed_dim=width, depth=depth, num_heads=heads, num_prefix_tokens=0
        )
        self.predict = nn.Linear(width, encoder.width)
        for linear in (self.embed, self.predict):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, drawn: Drawn) -> Tensor:
        """(batch, blocks, area, encoder width) of the context's tokens (batch, prefix + kept, encoder width).

        Every block is predicted by itself, from a mask token at each of its places; prefix tokens are left
        out (the paper's encoder has none).
        """
        places = self.decoder.pos_embed[0]  # (patches, width)
        context = self.embed(tokens[:, self.prefix_tokens :]) + places[drawn.context]
        asked = self.decoder.mask_token + places[drawn.targets]  # (batch, blocks, area, width)
        count = asked.shape[1]
        both = torch.cat((context[:, None].expand(-1, count, -1, -1), asked.to(context.dtype)), dim=2)
        sequence = both.flatten(0, 1)  # (batch * blocks, kept + area, width)
        for block in self.decoder.blocks:
            sequence = blocks.run(block, sequence, recompute=self.checkpointing)
        predicted: Tensor = self.predict(self.decoder.norm(sequence[:, context.shape[1] :]))
        return predicted.view(len(tokens), count, -1, predicted.shape[-1])
