"""Losses that tell samples of a batch apart, and who of them are no strangers.

In: vectors of one rank; those of all ranks are gathered here. Out: a scalar in fp32, whose mean over ranks is
the global batch's loss, and how well samples are told apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist, relations
from ssl_retina.relations import Related


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
