"""What methods put behind the encoder and throw away after training.

In: tokens of the encoder, or a vector of an image. Out: what the method's loss compares.
"""

from collections.abc import Sequence

import torch
from lightly.models.modules.heads import ProjectionHead
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from torch import Tensor, nn

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
        self.predict = nn.Linear(width, 3 * encoder.patch_size**2)
        for linear in (self.embed, self.predict):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, keep: Tensor, hidden: Tensor) -> Tensor:
        """Predict the hidden patches (batch, hidden, 3 * patch_size**2), each pixel row by row, RGB last.

        tokens: (batch, prefix + visible, encoder width); keep, hidden: patch numbers from `masking`.
        """
        visible = self.embed(tokens)  # (batch, prefix + visible, width)
        prefix, patches = visible[:, : self.prefix_tokens], visible[:, self.prefix_tokens :]
        count = self.decoder.num_patches
        there = torch.zeros((len(keep), count), dtype=torch.bool, device=keep.device).scatter(1, keep, True)
        full = rows.spread(patches, keep, count)
        full = torch.where(there[..., None], full, self.decoder.mask_token.to(full.dtype))
        full = self.decoder.add_pos_embed(torch.cat((prefix, full), dim=1))
        for block in self.decoder.blocks:
            full = blocks.run(block, full, recompute=self.checkpointing)
        predicted: Tensor = self.predict(self.decoder.norm(rows.take(full, hidden + self.prefix_tokens)))
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
