"""Losses of a student that learns what a teacher says, over prototypes.

In: scores and targets of one rank. Out: a scalar in fp32, whose mean over ranks is the global batch's loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist


class Distilled(NamedTuple):
    """Cross entropy of a student with its teacher; detached: how sharp the teacher is, what is left to learn.

    prototypes_used: share of the prototypes that is some row's largest, over all ranks.
    """

    loss: Tensor
    teacher_entropy: Tensor
    divergence: Tensor
    prototypes_used: Tensor

    def logs(self) -> dict[str, Tensor]:
        """The three scalars by name."""
        return {
            "teacher_entropy": self.teacher_entropy,
            "divergence": self.divergence,
            "prototypes_used": self.prototypes_used,
        }


def view_distillation(student: Tensor, targets: Tensor, *, temperature: float) -> Distilled:
    """Every view (views, batch, prototypes) learns what the teacher says of the other global views.

    Caron et al. 2021, eq. 3 and algorithm 1: the mean over pairs of different views. `targets` (global
    views, batch, prototypes) are distributions; the student's first views are the same.
    """
    with torch.autocast(student.device.type, enabled=False):
        log = (student.float() / temperature).log_softmax(dim=-1)
        crossed = -torch.einsum("tbk,vbk->tv", targets, log)
        pairs = crossed.numel() - len(targets)
        loss = (crossed.sum() - crossed.diagonal().sum()) / (pairs * student.shape[1])
        return _distilled(loss, torch.special.entr(targets).sum(dim=-1).mean(), targets)


def _distilled(loss: Tensor, entropy: Tensor, targets: Tensor) -> Distilled:
    """The pairs hold every target equally often, so what exceeds their entropy is their divergence."""
    largest = targets.flatten(0, -2).argmax(dim=-1)
    seen = dist.total(targets.new_zeros(targets.shape[-1]).index_fill(0, largest, 1.0)) > 0
    return Distilled(loss, entropy, loss.detach() - entropy, seen.float().mean())


def patch_distillation(student: Tensor, targets: Tensor, real: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy at hidden patches (batch, most, prototypes), of which `real` (batch, most) bool count.

    The mean over each sample's own, then over samples (Zhou et al. 2022, iBOT, eq. 2, and the authors' code).
    """
    with torch.autocast(student.device.type, enabled=False):
        log = (student.float() / temperature).log_softmax(dim=-1)
        crossed = -torch.einsum("bmk,bmk->bm", targets, log)
        weight = real / real.sum(dim=1, keepdim=True).clamp(min=1)
        return (crossed * weight).sum(dim=1).mean()


def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the patches' likenesses are from those that a teacher sees, both (batch, patches, width).

    Simeoni et al. 2025 (DINOv3), section 4.2: the squared Frobenius distance of the matrices of cosines of
    the patches of a view; as in the authors' code its mean over entries and views, which their weight is for.
    """
    with torch.autocast(student.device.type, enabled=False):
        own, known = (functional.normalize(one.float(), dim=-1) for one in (student, teacher))
        return (own @ own.mT - known @ known.mT).square().mean()


def koleo(vectors: Tensor) -> Tensor:
    """Differential entropy of (batch, width) by nearest neighbours (Sablayrolles et al. 2019, eq. 3).

    Vectors have length 1 first; neighbours are sought among those of all ranks. Of a distance d the square
    has 1e-8 added: what has a copy in the batch gets a small gradient in place of an endless one.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        own = functional.normalize(vectors.float(), dim=1)
        everyone, start = dist.gather(own)  # (world * batch, width)
        place = start + torch.arange(len(own), device=own.device)
        itself = place[:, None] == torch.arange(len(everyone), device=own.device)
        similar = (own.detach() @ everyone.detach().T).masked_fill(itself, -torch.inf)
        nearest = everyone.index_select(0, similar.argmax(dim=1))
        return -0.5 * ((own - nearest).square().sum(dim=1) + 1e-8).log().mean()
