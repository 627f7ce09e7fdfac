"""A momentum teacher: a copy of the student that follows it slowly and never learns itself.

In: the student's encoder and head, then images. Out: the vectors that the student is to match.
"""

import copy
import math

import torch
from torch import Tensor, nn

from ssl_retina.contract import Clock, Weights


class Teacher(nn.Module):
    """Encoder and head as they were copied, in fp32; no gradient, no drop path, not in the optimiser.

    Its weights are in the method's state dict, so a checkpoint holds them. Its batch norm measures its own
    batches while the student trains (He et al. 2020; the authors' code of MoCo v3).
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.head = copy.deepcopy(head).requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Training mode for the head's batch norm alone: the encoder never drops a path."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, clock: Clock, position: Tensor) -> Tensor:
        """(batch, out) of images (batch, 3, height, width)."""
        target: Tensor = self.head(self.encoder.vectors(images, clock, position))  # type: ignore[operator]
        return target

    @torch.no_grad()
    def tokens(self, images: Tensor, clock: Clock, position: Tensor) -> Tensor:
        """(batch, prefix + patches, width) after the encoder's final norm."""
        tokens: Tensor = self.encoder(images, clock, position)
        return tokens

    def follow(self, encoder: nn.Module, head: nn.Module, *, momentum: float, weights: Weights) -> None:
        """Take a share of 1 - momentum of the student's fp32 master weights."""
        weights.follow(self.encoder, encoder, momentum)
        weights.follow(self.head, head, momentum)


def momentum(start: float, fraction: float) -> float:
    """What a teacher keeps of itself at a share of the run: a cosine from `start` to 1."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * fraction)) / 2


def temperature(start: float, end: float, warmup: float, fraction: float) -> float:
    """Of the teacher's softmax: linear from `start` to `end` over the share `warmup` of the run."""
    return end if fraction >= warmup else start + (end - start) * fraction / warmup
