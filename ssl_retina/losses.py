"""Losses that lightly lacks or shapes differently. All of them compute in fp32, also under autocast.

In: predictions and targets of one rank. Out: a scalar, whose mean over ranks is the global batch's loss.
"""

from typing import NamedTuple

import torch
from lightly.models import utils
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist


def patch_regression(predicted: Tensor, target: Tensor, *, normalise: bool) -> Tensor:
    """Mean squared error over patches (batch, patches, values), He et al. 2022, section 3.

    `normalise`: each target patch is first brought to mean 0 and variance 1 (unbiased, epsilon 1e-6 as in
    the paper's code), so that predicting nothing costs about 1 and faint structure counts as much as
    strong. Every sample must bring the same number of patches; then two halves of a batch average to it.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        target = target.float()
        if normalise:
            target = utils.normalize_mean_var(target)
        return (predicted.float() - target).square().mean()


class Contrast(NamedTuple):
    """A contrastive loss, and (detached) how near the positives are and how often they are the nearest."""

    loss: Tensor
    positive_similarity: Tensor
    contrast_top1: Tensor

    def logs(self) -> dict[str, Tensor]:
        """The two scalars by name."""
        return {"positive_similarity": self.positive_similarity, "contrast_top1": self.contrast_top1}


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Contrast:
    """NT-Xent of two views (batch, width), Chen, Kornblith, Norouzi, Hinton 2020, eq. 1.

    Each of the 2 * batch vectors of this rank has to find its other view among those of all ranks but
    itself. The mean over ranks is the loss of the global batch. lightly's NTXentLoss gives the same
    (tests/test_losses.py); it is not used because it brings collectives of its own, builds its mask on the
    CPU, waits for the device to index by it, and follows autocast into bf16.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = functional.normalize(torch.cat((first, second)).float(), dim=1)  # (2 * batch, width)
        everyone, start = dist.gather(own)  # (world * 2 * batch, width)
        place = start + torch.arange(len(own), device=own.device)
        similar = own @ everyone.T  # (2 * batch, world * 2 * batch)
        itself = place[:, None] == torch.arange(len(everyone), device=own.device)
        logits = (similar / temperature).masked_fill(itself, -torch.inf)
        return _contrast(logits, place.roll(len(first)), temperature)


def moco_contrast(query: Tensor, key: Tensor, *, temperature: float) -> Contrast:
    """`ctr` of MoCo v3 (Chen, Xie, He 2021, algorithm 1) of (batch, width): 2 t * cross entropy.

    Each query of this rank has to find its own key among those of all ranks. Keys get no gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries = functional.normalize(query.float(), dim=1)
        keys, start = dist.gather(functional.normalize(key.detach().float(), dim=1))  # (world * batch, width)
        place = start + torch.arange(len(queries), device=queries.device)
        found = _contrast(queries @ keys.T / temperature, place, temperature)
        return found._replace(loss=2 * temperature * found.loss)


def _contrast(logits: Tensor, positive: Tensor, temperature: float) -> Contrast:
    """Cross entropy of (rows, columns) with `positive` (rows,), the column of each row's other view."""
    similarity = logits.detach().gather(1, positive[:, None]) * temperature
    nearest = logits.detach().argmax(dim=1) == positive
    return Contrast(functional.cross_entropy(logits, positive), similarity.mean(), nearest.float().mean())


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
