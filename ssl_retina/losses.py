"""Losses that lightly lacks or shapes differently. All of them compute in fp32, also under autocast.

In: predictions and targets of one rank. Out: a scalar, whose mean over ranks is the global batch's loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lightly.models import utils
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist, relations
from ssl_retina.relations import Related


def patch_regression(
    predicted: Tensor, target: Tensor, *, normalise: bool, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error over patches (batch, patches, values), He et al. 2022, section 3.

    `normalise`: each target patch is first brought to mean 0 and variance 1 (unbiased, epsilon 1e-6 as in
    the paper's code), so that predicting nothing costs about 1 and faint structure counts as much as
    strong. Every sample must bring the same number of patches; then two halves of a batch average to it.
    `weight` (batch, patches), not the paper's: a sample's loss is the weighted mean of its patches, and 0
    where nothing of it has weight; samples count alike, so that halves average as before.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        target = target.float()
        if normalise:
            target = utils.normalize_mean_var(target)
        errors = (predicted.float() - target).square()
        if weight is None:
            return errors.mean()
        total = weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        return ((weight * errors.mean(dim=2)).sum(dim=1) / total).mean()


def local_contrast(patches: Tensor) -> Tensor:
    """The standard deviation of the pixels of (batch, patches, pixels * 3), the mean of three colours."""
    pixels = patches.float().view(*patches.shape[:2], -1, 3)
    return pixels.std(dim=2, correction=0).mean(dim=2)


MOST_STRUCTURE = 4.0
"""In means of a sample: a reflex or the disc's rim must not take the whole loss."""


def structure_weight(target: Tensor, *, whole: Tensor, strength: float) -> Tensor:
    """How much a patch (batch, patches, pixels * 3) of retina counts by its local contrast: (batch, patches).

    Vessels, disc and lesions have much of it, plain background little. The weight is 1 - strength + strength
    * contrast / mean contrast of the sample's patches, at most MOST_STRUCTURE of them. `whole` (batch,
    patches), bool: patches that are retina to their edge; the others, whose contrast is that of the rim, are
    left out of the mean and get 1.
    """
    with torch.autocast(target.device.type, enabled=False):
        contrast = local_contrast(target)
        known = whole.float()
        mean = (contrast * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
        relative = (contrast / mean[:, None].clamp(min=1e-6)).clamp(max=MOST_STRUCTURE)
        return torch.where(whole, 1 - strength + strength * relative, torch.ones_like(relative))


class Contrast(NamedTuple):
    """A contrastive loss, and (detached) how near the positives are and how often they are the nearest.

    positive_similarity: of each row to its own other view. contrast_top1: the share of rows to which that is
    nearer than every negative. false_negative_rate: of the pairs that the paper's loss takes for negatives,
    the share that are of one patient, whatever was made of them here; None where patients are not told.
    """

    loss: Tensor
    positive_similarity: Tensor
    contrast_top1: Tensor
    false_negative_rate: Tensor | None = None

    def logs(self) -> dict[str, Tensor]:
        """The scalars by name."""
        return {name: value for name, value in self._asdict().items() if name != "loss" and value is not None}


class Kinship(NamedTuple):
    """Who the samples of a batch are (`Batch.kin`) and what a contrast makes of relatives."""

    kin: Tensor
    related: Related


def nt_xent(first: Tensor, second: Tensor, *, temperature: float, kinship: Kinship | None = None) -> Contrast:
    """NT-Xent of two views (batch, width), Chen, Kornblith, Norouzi, Hinton 2020, eq. 1.

    Each of the 2 * batch vectors of this rank has to find its other view among those of all ranks but
    itself. The mean over ranks is the loss of the global batch. lightly's NTXentLoss gives the same
    (tests/test_losses.py); it is not used because it brings collectives of its own, builds its mask on the
    CPU, waits for the device to index by it, and follows autocast into bf16. With `kinship`, both views of a
    relative are treated as `_contrast` says.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = functional.normalize(torch.cat((first, second)).float(), dim=1)  # (2 * batch, width)
        everyone, start = dist.gather(own)  # (world * 2 * batch, width)
        place = start + torch.arange(len(own), device=own.device)
        similar = own @ everyone.T  # (2 * batch, world * 2 * batch)
        itself = place[:, None] == torch.arange(len(everyone), device=own.device)
        logits = (similar / temperature).masked_fill(itself, -torch.inf)
        positive = place.roll(len(first))
        relatives = kinship and _relatives(kinship, views=2, one_sample=(place, positive))
        return _contrast(logits, positive, temperature, relatives)


def moco_contrast(
    query: Tensor, key: Tensor, *, temperature: float, kinship: Kinship | None = None
) -> Contrast:
    """`ctr` of MoCo v3 (Chen, Xie, He 2021, algorithm 1) of (batch, width): 2 t * cross entropy.

    Each query of this rank has to find its own key among those of all ranks. Keys get no gradient. With
    `kinship`, relatives' keys are treated as `_contrast` says.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries = functional.normalize(query.float(), dim=1)
        keys, start = dist.gather(functional.normalize(key.detach().float(), dim=1))  # (world * batch, width)
        place = start + torch.arange(len(queries), device=queries.device)
        relatives = kinship and _relatives(kinship, views=1, one_sample=(place,))
        found = _contrast(queries @ keys.T / temperature, place, temperature, relatives)
        return found._replace(loss=2 * temperature * found.loss)


class _Relatives(NamedTuple):
    """Of (rows, columns): weight as a positive, and whether it is left out. false: (rows,), see Contrast."""

    weight: Tensor
    ignored: Tensor
    false: Tensor


def _relatives(kinship: Kinship, *, views: int, one_sample: Sequence[Tensor]) -> _Relatives:
    """Compare this rank's samples, `views` times each, with those of all ranks.

    one_sample: (rows,) columns of each row's own sample, which is no relative.
    """
    own = kinship.kin.repeat(views, 1)
    everyone, _ = dist.gather(own)
    kinds = relations.kinds(own, everyone, adjacent_within=kinship.related.adjacent_within)
    for place in one_sample:
        kinds.scatter_(1, place[:, None], relations.STRANGER)
    weights, ignored = (
        torch.tensor(by_kind).to(own.device, non_blocking=True)
        for by_kind in (kinship.related.weights(), kinship.related.ignored())
    )
    others = max(len(everyone) - len(one_sample), 1)
    false = (kinds != relations.STRANGER).sum(dim=1).float() / others
    return _Relatives(weights[kinds], ignored[kinds], false)


def _contrast(
    logits: Tensor, positive: Tensor, temperature: float, relatives: _Relatives | None = None
) -> Contrast:
    """Cross entropy of (rows, columns) with `positive` (rows,), the column of each row's other view.

    With relatives, row i's loss is that of Khosla et al. 2020 (Supervised Contrastive Learning, eq. 2,
    `out`), with weights: - sum_p w_ip log(exp(s_ip / t) / sum_a exp(s_ia / t)) / sum_p w_ip. p runs over its
    positives, which are the other view of weight 1 and relatives of the weight of their kind; a over them
    and all negatives; what is ignored is in neither sum. Without weighted relatives it is the paper's loss
    over fewer negatives.
    """
    view = positive[:, None]
    weight = torch.zeros_like(logits) if relatives is None else relatives.weight
    weight = weight.scatter(1, view, 1.0)
    logits = logits if relatives is None else logits.masked_fill(relatives.ignored, -torch.inf)
    likely = logits.log_softmax(dim=1).masked_fill(weight == 0, 0)  # ignored: minus infinity, times 0
    loss = -((weight * likely).sum(dim=1) / weight.sum(dim=1)).mean()
    similarity = logits.detach().gather(1, view) * temperature
    rivals = logits.detach().masked_fill((weight > 0).scatter(1, view, False), -torch.inf)  # noqa: FBT003
    nearest = rivals.argmax(dim=1) == positive
    false = None if relatives is None else relatives.false.mean()
    return Contrast(loss, similarity.mean(), nearest.float().mean(), false)


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
