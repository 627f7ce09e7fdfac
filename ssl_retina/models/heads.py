"""What methods put behind the encoder and throw away after training.

In: tokens of the encoder, or a vector of an image. Out: what the method's loss compares.
"""

import math
from collections.abc import Sequence

import torch
from lightly.models.modules.heads import ProjectionHead
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina import dist
from ssl_retina.contract import Encoder
from ssl_retina.models import blocks, rows


class PatchDecoder(nn.Module):
    """MAE's decoder (He et al. 2022, section 3): shallow, narrow, and it alone sees mask tokens.

    lightly's decoder gives the blocks, the mask token, the fixed sine-cosine positions and the paper's
    initialisation; the projections around it and the recomputation of its blocks are ours.
    """

    def __init__(self, encoder: Encoder, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.prefix_tokens = encoder.prefix_tokens
        self.checkpointing = encoder.checkpointing
        self.embed = nn.Linear(encoder.width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=encoder.grid**2,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_prefix_tokens=encoder.prefix_tokens,
        )
        blocks.want_last(self.decoder.blocks[-1])
        self.predict = nn.Linear(width, 3 * encoder.patch_size**2)
        for linear in (self.embed, self.predict):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, keep: Tensor, hidden: Tensor) -> Tensor:
        """Predict the hidden patches (batch, hidden, 3 * patch_size**2), each pixel row by row, RGB last.

        tokens: (batch, prefix + visible, encoder width); keep, hidden: patch numbers from `masking`. Blocks
        know no order but tokens' places: what is visible goes first, what is asked for last.
        """
        places = self.decoder.pos_embed.expand(len(keep), -1, -1)  # (batch, prefix + patches, width), fixed
        prefix, patches = places[:, : self.prefix_tokens], places[:, self.prefix_tokens :]
        seen = self.embed(tokens) + torch.cat((prefix, rows.take(patches, keep)), dim=1)
        asked = self.decoder.mask_token + rows.take(patches, hidden)  # (batch, hidden, width)
        full = torch.cat((seen, asked), dim=1)
        *blocks_before, last = self.decoder.blocks
        last.wanted = hidden.shape[1]
        for block in (*blocks_before, last):
            full = blocks.run(block, full, recompute=self.checkpointing)
        predicted: Tensor = self.predict(self.decoder.norm(full))
        return predicted


def mlp(widths: Sequence[int], *, last_affine: bool) -> ProjectionHead:
    """Linear layers of these widths, each with batch norm over all ranks, ReLU between: lightly's module.

    With `last_affine` it is lightly's SimCLRProjectionHead (Chen et al. 2020, batch norm after the last
    layer as in the authors' code). Without, the last batch norm has no weight and bias, as in the projector
    and the predictor of MoCo v3 for ViTs (Chen, Xie, He 2021, section 5, and the authors' code); lightly's
    MoCoProjectionHead has them there. Linear layers have no bias, which batch norm would remove.
    """
    last = len(widths) - 2
    return ProjectionHead(
        [
            (
                given,
                wanted,
                dist.BatchNorm1d(wanted, affine=last_affine or number < last),
                nn.ReLU() if number < last else None,
            )
            for number, (given, wanted) in enumerate(zip(widths, widths[1:], strict=False))
        ]
    )


class Prototypes(nn.Module):
    """The last layer of `DINOHead`: the cosines between vectors and learned directions.

    weight: (prototypes, width); only its rows' directions count, as under torch's weight norm with its
        lengths fixed at 1. gain: a learned length of each, or None.
    begins: share of the run after which they learn. Until then the optimiser keeps their moments and moves
        nothing (`train.optim`), as DINOv2's authors do; without gradients instead, its bias correction
        would be used up, and the first steps would be several times too long.
    """

    def __init__(self, width: int, prototypes: int, *, fixed_length: bool, begins: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(prototypes, width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.gain = None if fixed_length else nn.Parameter(torch.ones(prototypes))
        self.begins = begins

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., prototypes) of (..., width).

        Under autocast bf16 cosines of directions that were made in fp32, as DINOv2's authors have half ones:
        their losses take `.float()` first and divide by the temperature then, and so do `targets` and
        `losses.distillation`. An fp32 product would take no memory (the softmax is fp32 anyway), but leave
        the fast path of the largest product of matrices behind the encoder.
        """
        cosines = functional.linear(
            functional.normalize(vectors.float(), dim=-1), functional.normalize(self.weight, dim=1)
        )
        return cosines if self.gain is None else cosines * self.gain


class DINOHead(nn.Module):
    """Three layers with GELU down to a bottleneck, then prototypes (Caron et al. 2021, section 3.1).

    No batch norm. lightly's DINOProjectionHead has the same shape; its weight norm hangs its product on the
    module as a plain tensor, of which ZeRO 3 knows nothing, and it freezes by removing gradients, which
    DeepSpeed has taken by then.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        begins: float,
        fixed_length: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = Prototypes(bottleneck, prototypes, fixed_length=fixed_length, begins=begins)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (..., prototypes) of (..., width)."""
        logits: Tensor = self.prototypes(self.mlp(tokens))
        return logits
